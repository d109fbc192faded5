"""The package as `pip install .` leaves it, without the checkout; its dependencies are ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILT = ("d2it", "params", "data", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md")


def install(folder: Path) -> Path:
    """Build a wheel of the tracked files and install it below `folder`."""
    source, target = folder / "source", folder / "site-packages"
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *BUILT]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    pip = ["-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"]
    into = ["--no-build-isolation", "--python", sys.executable, "--target", str(target)]
    subprocess.run([sys.executable, *pip, *into, str(source)], check=True)
    shutil.rmtree(source)
    return target


def run(target: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The installed command, in a folder that is no checkout."""
    environment = os.environ | {"PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, target / "bin" / "d2it", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
