"""The published scale, shortened to two steps a stage: everything but its length is the paper's.

    python tests/published_scale.py [FOLDER]    (make test-published)

In a clone of the repository, in FOLDER or one that is deleted, it makes a handful of images in
FFHQ's and in ILSVRC-2012's layout, then lets Snakemake go from them to the evaluations of D²iT-B,
unconditional and class-conditional: 256 px, the published widths, learned variance, both protocols.
A CPU that does not multiply in bf16 trains in fp32: a step in bf16 would take it minutes.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from skimage import data

from d2it.machine.device import multiplies_bf16

ROOT = Path(__file__).parents[1]
WNIDS = ("n01440764", "n01443537")  # the first two classes of ILSVRC-2012
IMAGES = 4  # in each data set
TWO_STEPS: dict[str, int | str] = {"images": 2, "batch": 1, "shards": 1}
LAUNCHER = "local stages.dvae.processes=1 threads=2 device=cpu"
SETTINGS = {
    "scale": "paper",
    "data": {
        "ffhq": {"images": IMAGES},
        "imagenet": {"images": IMAGES, "classes": len(WNIDS), "reference": None},
    },
    "training": dict.fromkeys(("dvae", "grain", "content"), TWO_STEPS),
    "dvae_loss": {"gan_start": 1},  # the second step has the discriminator
    "runs": {
        "grain": {"grain_classes": {"images": 2}},
        "content": {"d2it_b_classes": {"images": 2}},
    },
    "sampling": {"steps": 2, "grain_steps": 2, "block": 2},
    "evaluation": {"n": 2, "seeds": [0], "neighbours": 1},
    "convergence": {"early": {"at": 0.5, "n": 2}, "middle": {"n": 2}, "main": {"n": 2}},
}
RUNS = ("d2it_b", "d2it_b_classes")


def picture(i: int, side: int, kind: str) -> bytes:
    """The i-th crop of a photograph, as a file."""
    photos = (data.astronaut(), data.chelsea(), data.coffee())
    photo, random = photos[i % len(photos)], np.random.default_rng(i)
    y, x = (int(random.integers(0, length - side + 1)) for length in photo.shape[:2])
    file = io.BytesIO()
    Image.fromarray(photo[y : y + side, x : x + side]).save(file, kind)
    return file.getvalue()


def ffhq(folder: Path) -> None:
    """A zip with FFHQ's folders of a thousand, at 256 px, as copies of it are handed on."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i in range(IMAGES):
            archive.writestr(f"00000/img{i:08d}.png", picture(i, 256, "PNG"))


def imagenet(folder: Path) -> None:
    """ILSVRC2012_img_train.tar: a tar of a tar for each class, listed with its own checksum."""
    folder.mkdir(parents=True)
    path = folder / "ILSVRC2012_img_train.tar"
    with tarfile.open(path, "w") as archive:
        for place, wnid in enumerate(WNIDS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for i in range(IMAGES // len(WNIDS)):
                    add(images, f"{wnid}_{i}.JPEG", picture(i + place, 290, "JPEG"))
            add(archive, f"{wnid}.tar", inner.getvalue())
    listed = folder.parents[1] / "sources.csv"
    table = pd.read_csv(listed, dtype=str, keep_default_na=False)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    table.loc[table.name == path.name, ["sha256", "bytes"]] = f"md5:{md5}", str(path.stat().st_size)
    table.to_csv(listed, index=False)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def main(folder: str) -> None:
    clone = Path(folder)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    weights = os.environ | {"D2IT_WEIGHTS": str(ROOT / "data" / "weights")}
    ffhq(clone / "data" / "archives" / "ffhq")
    imagenet(clone / "data" / "archives" / "imagenet")
    if not multiplies_bf16():
        print("This CPU does not multiply in bf16: trained in fp32.")
        TWO_STEPS["precision"] = "fp32"
    settings = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()}"
        for key, value in SETTINGS.items()
    ]
    began = time.monotonic()
    command = ["snakemake", "--cores", "2", *RUNS, "--config", f"launcher={LAUNCHER}", *settings]
    subprocess.run(command, cwd=clone, env=weights, check=True)
    for run in RUNS:
        print((clone / "results" / "paper" / "evaluations" / f"{run}.json").read_text())
    print(f"the published scale, two steps a stage: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(sys.argv[1] if sys.argv[1:] else f"{temporary}/clone")
