"""Results that documents show: the README's picture of the demo, the demo itself, and the table of
tested claims.

python -m tools.results_in_docs picture    # docs/first_screen.png, after `make demo`
python -m tools.results_in_docs demo       # docs/demo/, a copy of the same demo
python -m tools.results_in_docs claims     # the table in docs/mini.md
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from d2it.config import Config, load, paths
from d2it.config.run import run_of
from d2it.files import atomic_folder, atomic_path, read_json, write_text
from d2it.grains.overlay import overlay
from d2it.images.photos import read_photo
from d2it.report.figures import class_names
from tools.claims_summary import summary

RUN, SAMPLES = "d2it_xl_classes", (1, 4, 13, 12, 8)
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


def picture(config: Config) -> None:
    """A photograph and samples of some classes, above the grain map of each."""
    gallery = paths.gallery(config, RUN)
    header = read_json(gallery / "manifest.json", made_by=f"d2it evaluate {RUN}")
    maps = read_json(gallery / "maps.json", made_by=f"d2it evaluate {RUN}")["main"]
    names = class_names(config, run_of(config, RUN).data)
    shown = [("a photograph", *photograph())]
    for i in SAMPLES:
        sample = np.asarray(Image.open(gallery / f"main-{i}.png"))
        shown.append((f"drawn: {names[header['classes']['main'][i]]}", sample, np.asarray(maps[i])))
    figure = Figure(figsize=(2 * len(shown), 4.5))
    for i, (title, image, map) in enumerate(shown):
        for row, pixels in enumerate((image, overlay(image, map))):
            axes = figure.add_subplot(2, len(shown), row * len(shown) + i + 1)
            axes.imshow(pixels, interpolation="nearest")
            axes.set_title("" if row else title, fontsize=10)
            axes.axis("off")
    caption = "Below: the grain maps; red regions get many codes, blue ones few. "
    caption += config.caption_of([run_of(config, RUN).data])
    figure.text(0.01, 0.01, caption, fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    with atomic_path(Path("docs/first_screen.png")) as path:
        figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def write_example(config: Config) -> None:
    """What git keeps of a demo: results/ is of whoever runs one."""
    with atomic_folder(EXAMPLE) as folder:
        shutil.copytree(paths.tables(config).parent, folder, ignore=LARGE, dirs_exist_ok=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if name == "claims":
            write_claims()
        else:
            {"picture": picture, "demo": write_example}[name](load())
