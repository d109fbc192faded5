"""What the README shows of the demo: its picture and its table of results.

python tools/readme.py    # after `make demo`; writes docs/first_screen.png and the README's block
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from d2it.config import Config, load, paths
from d2it.data.photos import read_photo
from d2it.files import atomic_path, read_json, write_text
from d2it.overlay import overlay

RUN, LABEL, SAMPLES = "d2it_l", "one_map", 4
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


def results_block(config: Config) -> None:
    """Table 3 between the README's marks."""
    readme = Path("README.md")
    before, rest = readme.read_text().split("<!-- results -->")
    after = rest.split("<!-- /results -->")[1]
    table = (paths.tables(config) / "table_3.md").read_text().strip()
    block = f"<!-- results -->\n{table}\n<!-- /results -->"
    write_text(readme, before + block + after)


def picture(config: Config) -> None:
    gallery = paths.gallery(config, RUN)
    maps = read_json(gallery / "maps.json", made_by=f"d2it evaluate {RUN}")[LABEL]
    samples = [np.asarray(Image.open(gallery / f"{LABEL}-{i}.png")) for i in range(SAMPLES)]
    pixels, map = photograph()
    asked = np.asarray(maps[0])
    blank = np.full((*samples[0].shape[:2], 3), 255, dtype=np.uint8)
    pictures = [
        (pixels, "a photograph"),
        (overlay(pixels, map), "its grain map: red is fine"),
        (overlay(blank, asked), "a map drawn by the\nDynamic Grain Transformer"),
        *((sample, "painted for that map" if i == 0 else "") for i, sample in enumerate(samples)),
    ]
    figure = Figure(figsize=(2 * len(pictures), 2.5))
    for i, (picture, title) in enumerate(pictures):
        axes = figure.add_subplot(1, len(pictures), i + 1)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.text(0.01, 0.01, config.caption, fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    with atomic_path(Path("docs/first_screen.png")) as path:
        figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    picture(load())
    results_block(load())
