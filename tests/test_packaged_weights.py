"""The weights that come with the package: small, whole, every class at every ratio."""

import re
import shlex
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import d2it
from d2it.images.emoji import emoji_groups
from tests.commands import command

ROOT = Path(__file__).parents[1]
FOLDER = Path(d2it.__file__).parent / "weights" / "emoji64"


def test_they_draw_every_class_at_every_ratio():
    torch.set_num_threads(1)
    pipe = d2it.load("emoji64")
    assert pipe.classes == emoji_groups()
    quick, shares = pipe.using(steps=4, sampler="dpm++"), []
    for ratio in (0.0, 0.3, 0.7):
        images, maps = quick.sample(n=8, label="random", seed=0, ratio=ratio)
        assert images.shape == (8, 64, 64, 3) and np.ptp(images) > 100
        shares.append(maps.mean())
    assert shares[0] == 0 and np.allclose(shares, [0, 0.3, 0.7], atol=0.15)
    flags, _ = quick.sample(n=1, label="flags", seed=0)
    assert not np.array_equal(flags, quick.sample(n=1, label="people", seed=0)[0])


def test_the_documented_commands_draw_with_them(tmp_path):
    """As README and docs/export.md have them, but for the steps."""
    text = "".join((ROOT / page).read_text() for page in ("README.md", "docs/export.md"))
    typed = {line.partition("#")[0].strip() for line in text.splitlines()}
    every = [line for line in typed if line.startswith("d2it sample --run emoji64")]
    lines = [line for line in every if "0-511" not in line]  # those of the card take minutes
    assert (len(lines), len(every)) == (2, 3)
    for line in lines:
        done = command(*shlex.split(line)[1:], "--steps", "2", cwd=tmp_path)
        assert done.returncode == 0 and "GMACs a forward pass" in done.stdout, done.stderr
    shown = ROOT / "docs" / "emoji64.png"
    assert Image.open(tmp_path / "sheet.png").size == Image.open(shown).size
    assert len(list((tmp_path / "samples" / "emoji64").glob("0*.png"))) == 8


def test_the_page_repeats_the_cards_numbers():
    card, page = ((ROOT / path).read_text() for path in (FOLDER / "README.md", "docs/export.md"))
    names, main = ([cell.strip() for cell in line.split("|")] for line in re.findall(
        r"^\| (?:evaluation|main) .*$", card, re.M))  # fmt: skip
    row = dict(zip(names, main, strict=True))
    fid, precision, recall = (float(row[name]) for name in ("fid", "precision", "recall"))
    told = f"FID {fid:.1f}, [precision](metrics.md) {precision:.3f}, recall {recall:.3f}."
    assert (row["n"], row["guidance"]) == ("512", "1.0") and told in page


def test_they_are_small():
    """A package index and a clone bear 12 MB."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12e6
