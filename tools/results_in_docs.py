"""Results that documents show: README's picture, one demo, and the table of tested claims.

python -m tools.results_in_docs picture    # docs/first_screen.png, by the packaged weights
python -m tools.results_in_docs demo       # docs/demo/, a copy of what `make demo` has made
python -m tools.results_in_docs claims     # the table in docs/mini.md
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import d2it
from d2it.config import load, paths
from d2it.files import atomic_folder, atomic_path, write_text
from d2it.grains.overlay import overlay
from d2it.images.photos import read_photo
from tools.claims_summary import summary

WEIGHTS = "emoji64"
STUDIES = ("mini", "mini_cpu", "mini_cpu_photos")
PAGE, BEGIN, END = Path("docs/mini.md"), "<!-- claims -->", "<!-- /claims -->"
PHOTO, SIDE, REGION = "cat", 256, 16
EXAMPLE = Path("docs/demo")
LARGE = shutil.ignore_patterns("models", "gallery", ".*")


def photograph() -> tuple[np.ndarray, np.ndarray]:
    """The middle of a photograph, and its grain map at a ratio of one half."""
    import torch

    from d2it.grains.entropy import entropy_map

    photo = read_photo(PHOTO)
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    photo = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
    pixels = np.asarray(photo)
    entropy = entropy_map(torch.tensor(pixels)[None], REGION)[0].numpy()
    return pixels, (entropy > np.median(entropy)).astype(int)


def claims() -> str:
    """A line for each claim, of every study that has a page of them."""
    parts: list[str] = []
    for page in (Path("results") / study / "claims.md" for study in STUDIES):
        if page.exists():
            told = summary(load(overrides=[f"scale={page.parent.name}"]), counts=not parts)
            parts.append(f"{told} All of it: [{page}](../{page}).")
    return "\n\n".join(parts)


def write_claims() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    write_text(PAGE, f"{before}{BEGIN}\n{claims()}\n{END}{rest.split(END)[1]}")


def picture() -> None:
    """A photograph and the first image of each class, above the grain map of each."""
    pipe = d2it.load(WEIGHTS)
    images, maps = pipe.sample(n=len(pipe.classes), seed=0)  # all classes in turn
    shown = [("a photograph", *photograph())]
    shown += zip((f"drawn: {name}" for name in pipe.classes), images, maps, strict=True)
    figure = Figure(figsize=(1.5 * len(shown), 3.2))
    for i, (title, image, map) in enumerate(shown):
        for row, pixels in enumerate((image, overlay(image, map))):
            axes = figure.add_subplot(2, len(shown), row * len(shown) + i + 1)
            axes.imshow(pixels, interpolation="nearest")
            axes.set_title("" if row else title, fontsize=9)
            axes.axis("off")
    figure.tight_layout()
    with atomic_path(Path("docs/first_screen.png")) as path:
        figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def write_example() -> None:
    """What git keeps of a demo: results/ is of whoever runs one."""
    with atomic_folder(EXAMPLE) as folder:
        shutil.copytree(paths.tables(load()).parent, folder, ignore=LARGE, dirs_exist_ok=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        {"picture": picture, "demo": write_example, "claims": write_claims}[name]()
