"""Pictures of the page of a scale: images above their grain maps, and loss curves.

Images and training logs are inputs of evaluations, not of the page: what is no longer there is
left out.
"""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from d2it.config import paths
from d2it.config.documents import conform
from d2it.config.recipe import ratio_key
from d2it.config.run import Run
from d2it.config.schema import Config
from d2it.config.study import Samples
from d2it.files import atomic_path, read_json
from d2it.grains.overlay import grid, overlay
from d2it.report.figures import Maps, class_names, read_gallery

ACROSS = 8  # pictures of a sheet
SIDE = 128  # pixels at most that a picture takes in it
POINTS = 100  # of a curve at most
WIDTH, HEIGHT = 300, 60  # of a curve
LOSS = re.compile(r'"images": (\d+),.*?"loss/\w+": ([\d.e+-]+),')  # a whole line's


def of_images(run: Run) -> tuple[Path, str] | None:
    """A sheet of what a DVAE learns from: held-out images with their maps at its main ratio."""
    config, data = run.config, run.data
    folder, thresholds = paths.images(config, data), paths.thresholds(config, data)
    if not (folder / "manifest.json").is_file() or not thresholds.is_file():
        return None
    import torch

    from d2it.grains.entropy import entropy_map
    from d2it.grains.maps import grain_map
    from d2it.grains.thresholds import cuts_of
    from d2it.images.packed import open_images

    images = open_images(config, data, "test")
    if not len(images):
        images = open_images(config, data, "train")
    # spread over the data set, whose classes may stand in order
    pixels = images[np.linspace(0, len(images) - 1, ACROSS).round().astype(int)]
    entropy = entropy_map(torch.from_numpy(pixels), run.factors[0], *config.kernel)
    maps = grain_map(entropy, cuts_of(config, data, run.factors[0], run.main_ratio)).numpy()
    what = f"{images.split} images, at r = {ratio_key(run.main_ratio)}"
    return write_sheet(config, f"images_{data}", list(pixels), maps, len(run.factors)), what


def of_run(run: Run) -> tuple[Path, str] | None:
    """A sheet of the first pictures in a run's gallery; for a DiT, which has no maps, without."""
    maps = paths.gallery(run.config, run.name) / "maps.json"
    if not maps.is_file():
        return None
    made_by = f"d2it evaluate {run.name}"
    labels = conform(Maps, read_json(maps, made_by=made_by), maps, made_by)
    wanted = "main" if run.evaluations else f"r{ratio_key(run.main_ratio)}"
    label = wanted if wanted in labels else min(labels, default=None)
    if label is None:
        return None
    shown = read_gallery(Samples("", "", run.name, label), run.config)
    drawn = () if run.kind == "dit" else shown.maps[:ACROSS]
    path = write_sheet(run.config, run.name, shown.pictures[:ACROSS], drawn, len(run.factors))
    what = f"{'samples' if run.evaluations else 'reconstructions'} of {label}"
    names = class_names(run.config, run.data)
    if getattr(run.spec, "conditional", False):
        what += ": " + ", ".join(names[one] for one in shown.classes[:ACROSS] if one < len(names))
    return path, what


def write_sheet(
    config: Config,
    name: str,
    pictures: Sequence[np.ndarray],
    maps: Sequence[np.ndarray] | np.ndarray,
    grains: int,
) -> Path:
    """results/<scale>/samples/<name>.png: a row of pictures, below each its map."""
    below = [overlay(*pair, grains) for pair in zip(pictures, maps, strict=bool(len(maps)))]
    sheet = Image.fromarray(grid([*pictures, *below], len(pictures)))
    shrink = max(1, pictures[0].shape[0] // SIDE)
    path = paths.samples(config) / f"{name}.png"
    with atomic_path(path) as temporary:
        sheet.reduce(shrink).save(temporary, format="png", optimize=True)
    return path


def loss_curve(run: Run) -> str:
    """The loss over the images seen, as SVG; nothing where its log is not here."""
    points = losses(run.folder / "metrics.jsonl")
    if len(points) < 2:
        return ""
    seen, values = np.array(points).T
    x = WIDTH * seen / seen[-1]
    y = HEIGHT * (values.max() - values) / (np.ptp(values) or 1)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    told = f"Training loss {values[0]:.3g} → {values[-1]:.3g} over {seen[-1]:,.0f} images"
    return (
        f'<figure class="curve"><svg viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}" role="img" '
        f'preserveAspectRatio="none" aria-label="{escape(told)}"><polyline points="{line}"/></svg>'
        f"<figcaption>{escape(told)}</figcaption></figure>"
    )


def losses(path: Path) -> list[tuple[float, float]]:
    """(images seen, loss of the first learner), at most POINTS, each the mean of its lines. A
    resumed run wrote lines again: the last counts.
    """
    if not path.is_file():
        return []
    lines = LOSS.findall(path.read_text(encoding="utf-8", errors="replace"))
    points = sorted({int(images): float(loss) for images, loss in lines}.items())
    parts = np.array_split(np.array(points), min(POINTS, len(points))) if points else []
    return [(float(part[-1, 0]), float(part[:, 1].mean())) for part in parts]
