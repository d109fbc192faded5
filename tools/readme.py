"""What the README shows of results: the demo's picture and table, the claims that were tested, and
how fast it is.

python -m tools.readme           # after `make demo`: docs/first_screen.png and all blocks
python -m tools.readme claims    # one of picture, results, claims, speed
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.common import RESULTS, machine, table
from benchmarks.targets import targets
from d2it.config import Config, load, paths
from d2it.data.photos import read_photo
from d2it.data.sources import read_sources
from d2it.files import atomic_path, read_json, write_text
from d2it.overlay import overlay
from d2it.report.claims_page import summary

RUN, SAMPLES = "d2it_xl_classes", (1, 4, 13, 12, 8)
STUDIES = ("mini", "mini_cpu")
PHOTO, SIDE, REGION = "cat", 256, 16


def photograph() -> tuple[np.ndarray, np.ndarray]:
    """The middle of a photograph, and its grain map at a ratio of one half."""
    import torch

    from d2it.grains import entropy_map

    photo = read_photo(PHOTO)
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    photo = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
    pixels = np.asarray(photo)
    entropy = entropy_map(torch.tensor(pixels)[None], REGION)[0].numpy()
    return pixels, (entropy > np.median(entropy)).astype(int)


def results_block() -> str:
    """Table 3 of the default scale."""
    return (paths.tables(load()) / "table_3.md").read_text().strip()


def claims_block() -> str:
    """The claims of every study that has a page of them. What was tried beside: docs/mini.md."""
    parts = []
    for page in (Path("results") / study / "claims.md" for study in STUDIES):
        if not page.exists():
            continue
        told = summary(load(overrides=[f"scale={page.parent.name}"]))
        parts.append(f"{told} All of it: [{page}]({page}).")
    return "\n\n".join(parts) or "None of them has been held against runs yet."


def speed_block() -> str:
    """What was aimed at, as far as it has been measured."""
    rows = [row for target in targets() if (row := target.row(RESULTS))["measured"] != ""]
    where = machine(read_json(RESULTS / "training-cpu.json", made_by="make bench"))
    return f"{table(rows)}\n\nOn {where}."


BLOCKS = {"results": results_block, "claims": claims_block, "speed": speed_block}


def write_block(name: str, text: str) -> None:
    """Between the README's marks of this name."""
    readme, mark, end = Path("README.md"), f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = readme.read_text().split(mark)
    write_text(readme, f"{before}{mark}\n{text}\n{end}{rest.split(end)[1]}")


def picture(config: Config) -> None:
    """A photograph and samples of some classes, above the grain map of each."""
    gallery = paths.gallery(config, RUN)
    header = read_json(gallery / "manifest.json", made_by=f"d2it evaluate {RUN}")
    maps = read_json(gallery / "maps.json", made_by=f"d2it evaluate {RUN}")["main"]
    names = [source.name for source in read_sources().values() if source.group == "photos"]
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
    caption = f"Below: the grain maps; red regions get many codes, blue ones few. {config.caption}"
    figure.text(0.01, 0.01, caption, fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    with atomic_path(Path("docs/first_screen.png")) as path:
        figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    for name in sys.argv[1:] or ("picture", *BLOCKS):
        if name == "picture":
            picture(load())
        else:
            write_block(name, BLOCKS[name]())
