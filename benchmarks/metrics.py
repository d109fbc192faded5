"""Metrics against clean-fid, torch-fidelity and scipy: the same numbers, and how fast.

    python -m benchmarks.metrics

The row of folders goes from PNG files to the number, with one network for both. The other rows take
the same 2048 features of as many images as they name, more and fewer than there are features. Times
are seconds of a call, on the CPU for both. The Inception Scores share a classifier. torch-fidelity
computes KID, precision and recall in fp32, which moves KID; ours sum, and settle doubts, in fp64.
"""

import contextlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.common import arguments, interleaved, kept, use_all_cores, write
from d2it.config import load
from d2it.evaluation import reference
from d2it.evaluation.any_images import compare_pictures
from d2it.evaluation.metrics import (
    Gaussian,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from d2it.evaluation.neighbours import precision_recall
from d2it.machine.device import set_up_cpu
from d2it.models.inception import DIMENSIONS, Inception
from d2it.sources.fetch import weights_file

FOLDERS = (24, 20)  # images
FULL, BELOW, MANY = 4096, 256, 2000  # features, above and below their dimension
LONG, FEW = 5.0, 6  # seconds of a pair of calls, from which on a few rounds are all
Calls = tuple[Callable[[], float], Callable[[], float]]


def features(seed: int, n: int) -> np.ndarray:
    """Correlated, positive and of falling variance, as Inception's are."""
    random, mix = np.random.default_rng(seed), np.random.default_rng(99)
    shared = (
        mix.normal(size=(DIMENSIONS, DIMENSIONS)) / np.arange(1, DIMENSIONS + 1)[:, None] ** 0.5
    )
    return np.abs(random.normal(size=(n, DIMENSIONS)) @ shared + 0.1 * seed).astype(np.float32)


def photographs(folder: Path, seed: int, count: int) -> None:
    """Crops of scikit-image's photographs, so that the network sees real textures."""
    from skimage import data

    folder.mkdir()
    random = np.random.default_rng(seed)
    shown = [data.astronaut(), data.cat(), data.coffee()]
    for i in range(count):
        photograph = shown[i % len(shown)]
        top, left = (random.integers(0, side - 64) for side in photograph.shape[:2])
        Image.fromarray(photograph[top : top + 64, left : left + 64]).save(folder / f"{i:03d}.png")


def of_folders(root: Path) -> Calls:
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    for seed, count in enumerate(FOLDERS):
        photographs(root / str(seed), seed, count)
    config = load()

    def ours() -> float:
        with tempfile.TemporaryDirectory() as cache:
            reference.CACHE = Path(cache)
            with contextlib.redirect_stderr(io.StringIO()):
                found = compare_pictures(root / "0", root / "1", config, metrics=["fid"])
        return float(found["metrics"]["fid"])

    network = InceptionV3W.__new__(InceptionV3W)  # its constructor downloads
    nn.Module.__init__(network)
    network.layers = torch.jit.load(weights_file("inception")).eval().net.layers
    network.resize_inside = False

    def theirs() -> float:
        device = torch.device("cpu")
        options = {"custom_feat_extractor": network, "num_workers": 0, "verbose": False}
        return float(fid.compute_fid(str(root / "0"), str(root / "1"), device=device, **options))

    return ours, theirs


def of_spatial(root: Path) -> Calls:
    """sFID of the folders: the halves of the network, against its layers one by one, by NumPy."""
    from cleanfid.fid import frechet_distance as peer

    images = [
        np.stack([np.asarray(Image.open(file)) for file in sorted((root / name).iterdir())])
        for name in ("0", "1")
    ]
    extractor = Inception("adm")
    layers: Any = torch.jit.load(weights_file("inception")).eval().net.layers

    def plain(some: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = (torch.stack([extractor.resize(image) for image in some]) - 128) / 128
            for name, layer in layers.named_children():
                if name == "mixed_6":
                    return layer.conv(x)[:, :7].permute(0, 2, 3, 1).flatten(1).double().numpy()
                x = layer(x)
        raise AssertionError

    def theirs() -> float:
        found = [plain(some) for some in images]
        # All lie in few dimensions: in a basis of them a matrix root takes no minutes.
        basis = np.linalg.qr(np.concatenate(found).T)[0]
        sums = [((x @ basis).mean(0), np.cov(x @ basis, rowvar=False)) for x in found]
        return float(peer(*sums[0], *sums[1]))

    def ours() -> float:
        a, b = (Gaussian.of(extractor.both(some)["spatial"]) for some in images)
        return frechet_distance(a, b)

    return ours, theirs


def of_frechet(n: int) -> Calls:
    from cleanfid.fid import frechet_distance as peer

    a, b = features(1, n), features(2, n)

    def theirs() -> float:
        sums = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
        return float(peer(*sums[0], *sums[1]))

    return lambda: frechet_distance(Gaussian.of(a), Gaussian.of(b)), theirs


def of_torch_fidelity() -> dict[str, Calls]:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    a, b, c, d = (features(seed, n) for n in (MANY, FULL) for seed in (1, 2))
    x, y, z, w = (torch.from_numpy(each) for each in (a, b, c, d))
    classes = np.random.default_rng(3).normal(size=(DIMENSIONS, 1008)) / DIMENSIONS
    logits = torch.from_numpy(a).double() @ torch.from_numpy(classes)
    quiet = {"verbose": False, "save_cpu_ram": False}

    def fid() -> float:
        statistics = (fid_features_to_statistics(each) for each in (z, w))
        return float(fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"])

    def kid() -> float:
        found = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=MANY, **quiet)
        return float(found["kernel_inception_distance_mean"])

    def precision() -> float:
        found = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=10000, **quiet)
        return float(found["precision"])

    def score() -> float:
        return float(isc_features_to_metric(logits, 10, False)["inception_score_mean"])

    return {
        f"FID, {FULL} features": (lambda: frechet_distance(Gaussian.of(c), Gaussian.of(d)), fid),
        f"KID, {MANY} features": (lambda: kernel_distance(a, b), kid),
        f"precision and recall, {MANY} features": (lambda: precision_recall(a, b)[0], precision),
        f"Inception Score, {MANY} features": (
            lambda: inception_score(logits.log_softmax(1).numpy(), MANY // 10),
            score,
        ),
    }


def compared(what: str, peer: str, calls: Calls, repeats: int) -> dict[str, Any]:
    """A row of the table."""
    named = dict(zip(("ours", "peer"), calls, strict=True))
    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        values = {name: call() for name, call in named.items()}
        long = time.perf_counter() - began > LONG
        rounds = interleaved(named, FEW if long else repeats)
    seconds = {name: statistics.median(spent) for name, spent in rounds.items()}
    return {
        "what": what,
        "peer": peer,
        "ours": values["ours"],
        "the peer's": values["peer"],
        "relative difference": abs(values["ours"] / values["peer"] - 1),
        "ours, s": seconds["ours"],
        "peer, s": seconds["peer"],
        "peer / ours": seconds["peer"] / seconds["ours"],
        "rounds": {name: kept(spent) for name, spent in rounds.items()},
    }


def main() -> None:
    options = arguments(__doc__.split("\n")[0], gpu=False)
    use_all_cores()
    set_up_cpu()  # as every stage does
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of singular matrices
        root, many = Path(folder), " and ".join(map(str, FOLDERS))
        pairs: list[tuple[str, str, Calls]] = [
            (f"FID of folders, {many} images", "clean-fid", of_folders(root)),
            (f"sFID, {many} images", "plain layers", of_spatial(root)),
            (f"Fréchet distance, {BELOW} features", "clean-fid (scipy sqrtm)", of_frechet(BELOW)),
            (f"Fréchet distance, {FULL} features", "clean-fid (scipy sqrtm)", of_frechet(FULL)),
            *((what, "torch-fidelity", calls) for what, calls in of_torch_fidelity().items()),
        ]
        for pair in pairs:
            rows.append(compared(*pair, options.repeats))
            print(rows[-1], flush=True)
    write("metrics", "cpu", {"threads": torch.get_num_threads()}, rows)


if __name__ == "__main__":
    main()
