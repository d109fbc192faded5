"""A few pictures of each evaluation with their grain maps, for the figures.

results/<scale>/gallery/<run>/
    <label>-<i>.png  images as drawn
    maps.json        label -> the grain map of each, as lists of rows
    manifest.json    labels of the classes, size and sha256 of every file
"""

from PIL import Image

from d2it.config import paths
from d2it.config.run import Run
from d2it.files import atomic_folder, folder_files, write_format, write_json
from d2it.sampling.pipeline import Drawn

FORMAT, VERSION = "d2it-gallery", 1


def write_gallery(run: Run, pictures: dict[str, Drawn]) -> None:
    with atomic_folder(paths.gallery(run.config, run.name)) as folder:
        for label, drawn in pictures.items():
            for i, image in enumerate(drawn.images):
                Image.fromarray(image).save(folder / f"{label}-{i}.png")
        write_json(folder / "maps.json", {name: d.maps.tolist() for name, d in pictures.items()})
        header = {
            "run": run.name,
            "classes": {name: drawn.labels.tolist() for name, drawn in pictures.items()},
            "files": folder_files(folder),
        }
        write_format(folder / "manifest.json", FORMAT, VERSION, header)
