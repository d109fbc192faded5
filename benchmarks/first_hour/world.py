"""What the checks work on: a small data set of noise, its latents, and untrained networks.

Everything but the number of images is a scale's own: resolution, classes, widths, batch. All lies
below the working directory, where the project's own stages look for it.
"""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.first_hour.setting import DRAWN, DVAE, THREE
from d2it.config import Config
from d2it.config.recipe import ratio_key
from d2it.config.run import Run, runs_of
from d2it.files import folder_files, write_json
from d2it.grains.calibrate import calibrate
from d2it.grains.entropy import entropy_map
from d2it.images.packed import open_images
from d2it.images.prepare import prepare
from d2it.latents.cache import Latents, shard_arrays
from d2it.latents.encode import SPLITS, identity, measure, rule_of, shard_of
from d2it.models.architecture import architecture
from d2it.models.store import empty_network, save_model
from d2it.units import Unit


def build(config: Config) -> None:
    """Images, thresholds, networks, latents and the reference, by the project's own stages."""
    (data,) = {config.runs.dvae[name].data for name in (DVAE, THREE)}
    write_noise(Path(config.data[data].source), config, data)
    prepare(config, data, 1)
    calibrate(config, data, 1)
    inputs = {"images": open_images(config, data, "train").digest}
    runs = runs_of(config)
    for seed, run in enumerate((DVAE, THREE, config.runs.content[DRAWN].grain, DRAWN)):
        save_untrained(runs[run], seed, inputs)
    for dvae in (DVAE, THREE):
        write_latents(runs[dvae])


def write_noise(path: Path, config: Config, data: str) -> None:
    """A tar of smooth pictures, each region with grain of its own, that states their classes."""
    dataset, random = config.data[data], np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for split, count in (("train", dataset.train), ("test", dataset.test)):
            for i in range(count):
                label = i * dataset.classes // count
                add(archive, f"{split}/{i:06d}.png", picture(dataset.size, random))
                add(archive, f"{split}/{i:06d}.cls", str(label).encode())


def picture(side: int, random: np.random.Generator) -> bytes:
    smooth = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    base = np.asarray(smooth.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    strength = np.kron(random.uniform(0, 60, (16, 16)), np.ones((side // 16, side // 16)))
    pixels = base + strength[..., None] * random.standard_normal((side, side, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def save_untrained(run: Run, seed: int, inputs: dict[str, str]) -> None:
    """Publish the new network of `run` as if it had been trained."""
    kind, shape, batch = run.kind, architecture(run), run.training.batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = {"model": empty_network(kind, shape).state_dict()}
    save_model(run.model, kind, shape, run.recipe, batch, batch, inputs, weights)


def write_latents(dvae: Run) -> None:
    """Random moments, the images' own entropies, in the form of `d2it encode`."""
    folder, random = dvae.latents, np.random.default_rng(0)
    folder.mkdir(parents=True)
    header: dict[str, Any] = identity(dvae) | {"splits": {}}
    config, region = dvae.config, dvae.factors[0]
    for split in SPLITS:
        images = open_images(config, dvae.data, split)
        shard = shard_of(Unit(split, range(len(images))))
        header["splits"][split] = {"count": len(images), "shards": [shard]}
        pixels = torch.from_numpy(images[np.arange(len(images))])
        known = {
            "labels": images.labels,
            "entropy": entropy_map(pixels, region, config.sigma, config.bins).numpy(),
        }
        for ending, (dtype, shape) in shard_arrays(header, len(images)).items():
            values = known[ending] if ending in known else random.random(shape)
            values.astype(dtype).tofile(folder / f"{shard['name']}-{ending}.bin")
    header |= {"files": folder_files(folder), "ratios": {}}
    rules = {ratio_key(ratio): rule_of(dvae, ratio) for ratio in dvae.spec.ratios}
    header["ratios"] = measure(Latents(folder, "train", header), rules)
    write_json(folder / "manifest.json", header)
