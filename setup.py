"""Everything else of the package is said in pyproject.toml: this puts the study's files into it.

A checkout has them at its root, where people, Snakemake and DVC look; an installed d2it has them in
d2it/shipped (d2it/config/paths.py), so that what stands alone needs no checkout.
"""

from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py

TABLES = tuple(f"{at}/{name}" for at in ("data", "data/published") for name in ("*.csv", "*SUMS"))
SHIPPED = ("params/**/*.yaml", *TABLES)


class WithStudy(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the checkout is there
            return
        for file in (file for pattern in SHIPPED for file in Path().glob(pattern)):
            copy = Path(self.build_lib, "d2it", "shipped", file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copyfile(file, copy)


setup(cmdclass={"build_py": WithStudy})
