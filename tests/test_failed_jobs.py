"""A job that fails leaves no result of other settings, which Snakemake would take for its own."""

import os
from pathlib import Path

from tests.forked import Forked
from tests.test_names import FEW, IMAGES, checkout  # noqa: F401
from tests.test_workflow import Checkout

NOWHERE = FEW[1].replace("reference: 7", "reference: 7, source: nowhere, crop: [1, 1]")
OTHERS = FEW[1].replace("reference: 7", "reference: 7, crop: [0.9, 1.0]")
FULL = '#!/bin/sh\ncat > "$2"\nexit 1\n'  # a tee whose disk is full


def test_the_same_command_makes_it_again(checkout: Checkout, tmp_path: Path) -> None:  # noqa: F811
    manifest, tee = checkout.root / IMAGES, tmp_path / "full" / "tee"
    tee.parent.mkdir()
    tee.write_text(FULL)
    tee.chmod(0o755)

    def prepare(settings: str, **environment: str) -> int:
        words = ["--cores", "1", IMAGES, "--config", FEW[0], settings]
        return Forked("snakemake", *words, cwd=checkout.root, **environment).end().returncode

    def verify() -> int:
        return checkout.run("d2it", "verify", "--made", "smoke").returncode

    assert prepare(FEW[1]) == verify() == 0
    first = manifest.read_bytes()
    for _ in range(2):  # the second time too, it is not taken for made
        assert prepare(NOWHERE) == 1 and not manifest.exists()
    assert prepare(FEW[1]) == verify() == 0 and manifest.read_bytes() == first
    full = f"{tee.parent}{os.pathsep}{os.environ['PATH']}"
    assert prepare(OTHERS, PATH=full) == 1 and not manifest.exists()
    assert prepare(OTHERS) == verify() == 0 and manifest.read_bytes() != first
