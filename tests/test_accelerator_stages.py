"""All stages but training on a device that is not the CPU: the files that the CPU makes."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import tests.simulated as simulated
from d2it.config import Config, paths
from d2it.config.experiments import Measured
from d2it.config.recipe import sampling_recipe
from d2it.config.run import run_of
from d2it.evaluation import reference
from d2it.evaluation.any_images import compare_pictures
from d2it.evaluation.evaluate import evaluate
from d2it.evaluation.metrics import Gaussian, frechet_distance, inception_score, kernel_distance
from d2it.evaluation.neighbours import nearest_distance, precision_recall
from d2it.evaluation.reference import make_reference
from d2it.grains.calibrate import calibrate
from d2it.latents.encode import encode
from d2it.machine.device import choose_device
from d2it.models import inception
from d2it.models.inception import DIMENSIONS
from d2it.sampling.pipeline import Drawn
from d2it.sampling.trained_run import RunPipeline
from d2it.sampling.write import Request, write_samples
from tests import tiny_world
from tests.simulated import Wait

RUNS = ["grain", "grain_classes", "d2it_b", "d2it_xl_classes", "dit_xl_classes"]
GUIDED = "d2it_xl_classes"
MEASURED = ["dvae", "grain", "d2it_b", GUIDED]
METRICS = "fid,sfid,kid,precision,recall,nearest"
OVERRIDES = [
    f"evaluation.metrics=[{METRICS}]",
    "diffusion.learn_sigma=true",
    "sampling.steps=3",
]


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A study on the CPU in the folder `cpu`, and `there` the working directory, with a copy of it
    from before its evaluations.
    """
    root = tmp_path_factory.mktemp("world")
    cpu, there = root / "cpu", root / "there"
    cpu.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        tiny_world.enter(cpu, patch)
        patch.setattr(tiny_world, "OVERRIDES", [*tiny_world.OVERRIDES, *OVERRIDES])
        config = tiny_world.build_world(RUNS)
        spec = config.runs.content[GUIDED]
        guided = dataclasses.replace(spec, evaluations={"main": Measured(guidance=1.5)})
        config.runs.content[GUIDED] = guided
        shutil.copytree(cpu, there)
        for run in MEASURED:
            evaluate(run_of(config, run))
        patch.chdir(there)
        yield config


def the_same_files(folder: Path) -> None:
    """Those of the working directory and of the CPU's, to the bit."""
    found, expected = (
        {path.relative_to(root): path.read_bytes() for path in files_of(root / folder)}
        for root in (Path(), Path("../cpu"))
    )
    assert found and found == expected


def files_of(path: Path) -> list[Path]:
    return [file for file in [path, *path.rglob("*")] if file.is_file()]


@pytest.mark.parametrize(
    ("make", "made"),
    [
        (lambda config: calibrate(config, "photos"), lambda c: paths.thresholds(c, "photos")),
        (lambda config: encode(run_of(config, "dvae")), lambda c: paths.latents(c, "dvae")),
        (lambda config: make_reference(config, "photos"), lambda c: paths.reference(c, "photos")),
    ],
    ids=["calibrate", "encode", "reference"],
)
def test_data_are_made_as_on_the_cpu(config, make, made):
    path = made(config)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with simulated.chosen(), simulated.waits() as found:
        assert make(config)
    assert found  # it was there
    the_same_files(path)


@pytest.mark.parametrize("run", MEASURED)
def test_evaluations_are_the_cpus(config, run):
    """Pictures and maps to the bit; numbers to the rounding of other products of matrices."""
    with simulated.chosen(), simulated.waits() as found:
        evaluate(run_of(config, run))
    assert found
    the_same_files(paths.gallery(config, run))
    file = paths.evaluation(config, run)
    here, there = (json.loads((root / file).read_text()) for root in (Path("../cpu"), Path()))
    for one in (here, there):
        one["metrics"] = {
            f"{label}/{name}": value
            for label, entry in one["evaluations"].items()
            for name, value in entry.pop("metrics").items()
        }
    assert ("main/obedience" in there["metrics"]) == (run in config.runs.content)
    assert there.pop("metrics") == pytest.approx(here.pop("metrics"), rel=1e-4, abs=1e-6)
    assert there == here


def pipeline_of(config: Config, run: str, measured: dict[str, Any], **sampling: Any) -> RunPipeline:
    sampling_there = dataclasses.replace(config.sampling, **sampling)
    config = dataclasses.replace(config, sampling=sampling_there)
    return RunPipeline(run_of(config, run), Measured(**measured), choose_device())


def draw_there(pipeline: RunPipeline) -> tuple[Drawn, list[int], list[Wait]]:
    """Two blocks, the number of waits before each call of a network, and all waits."""
    marks: list[int] = []
    with simulated.waits() as found:
        for part in (pipeline.maps.grain, pipeline.network):
            if part is not None:
                part.network.register_forward_pre_hook(lambda *_: marks.append(len(found)))
        return pipeline.draw(0, np.arange(8)), marks, found


@pytest.mark.parametrize(
    ("run", "measured", "sampling"),
    [
        ("d2it_b", {}, {"eta": 0.5}),
        ("d2it_b", {"maps": "random"}, {"sampler": "dpm++"}),
        ("d2it_b", {"maps": "truth"}, {}),
        ("d2it_xl_classes", {"guidance": 1.5}, {"sampler": "ddpm", "guided_channels": 3}),
        ("dit_xl_classes", {"guidance": 1.5}, {"sampler": "ddpm"}),
        ("dit_xl_classes", {}, {"precision": "tf32"}),
    ],
)
def test_samples_are_the_cpus_and_waited_for_at_the_end_of_a_block(config, run, measured, sampling):
    """Each block: whether it is finite, and its pixels. Where a network draws its maps, for these
    too, to know how many windows there are: the only wait between calls of networks.
    """
    theirs = pipeline_of(config, run, measured, **sampling).draw(0, np.arange(8))
    with simulated.chosen():
        pipeline = pipeline_of(config, run, measured, **sampling)
        ours, marks, found = draw_there(pipeline)
    for name in ("images", "maps", "labels"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    first, second = marks[: len(marks) // 2], marks[len(marks) // 2 :]
    looks = int(pipeline.maps.grain is not None)
    assert first[-1] - first[0] == second[-1] - second[0] == looks, found
    copy = "copy to the CPU"
    assert [wait.what for wait in found] == 2 * [*[copy] * looks, "item", copy]


def test_blocks_are_compiled_for_sampling_where_it_is_asked_for(config):
    def compiled(**sampling: Any) -> list[bool]:
        pipeline = pipeline_of(config, "d2it_b", {}, **sampling)
        parts = (pipeline.network, pipeline.maps.grain, pipeline.dvae)
        return [
            any(module._compiled_call_impl is not None for module in part.network.modules())
            for part in parts
        ]

    assert compiled(compile=True) == [False] * 3
    with simulated.chosen():
        assert compiled() == [False] * 3
        assert compiled(compile=True) == [True, True, False]
    asked = dataclasses.replace(config.sampling, compile=True)
    assert sampling_recipe(asked) == sampling_recipe(config.sampling)


def test_samples_in_bf16(config):
    theirs = pipeline_of(config, "d2it_b", {"maps": "truth"}).draw(0, np.arange(8))
    with simulated.chosen():
        pipeline = pipeline_of(config, "d2it_b", {"maps": "truth"}, precision="bf16")
        ours, *_ = draw_there(pipeline)
    apart = ours.images.astype(float) - theirs.images
    assert 0 < np.abs(apart).mean() < 8


def test_a_folder_of_features_is_the_cpus(config):
    """By the pipeline's own command, which keeps no image."""
    request = Request(0, range(2, 6), None, None, "features", "clean")
    write_samples(pipeline_of(config, "d2it_b", {}), request, Path("cpu"))
    with simulated.chosen():
        write_samples(pipeline_of(config, "d2it_b", {}), request, Path("there"))
    for name in ("features.npy", "maps.npy", "grid.png"):
        assert Path("there", name).read_bytes() == Path("cpu", name).read_bytes(), name


def test_folders_are_compared_as_on_the_cpu(config, tmp_path, monkeypatch):
    """Each device with a cache of its own, so that both compute the reference."""
    random = np.random.default_rng(0)
    for name in ("ours", "theirs"):
        np.savez(tmp_path / f"{name}.npz", random.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    found = []
    for device in ("cpu", "sim:0"):
        monkeypatch.setattr(reference, "CACHE", tmp_path / device)
        with simulated.chosen(device), simulated.waits() as waits:
            ours, theirs = (tmp_path / f"{name}.npz" for name in ("ours", "theirs"))
            found.append(compare_pictures(ours, theirs, config, metrics=METRICS.split(",")[:5]))
        assert bool(waits) == (device != "cpu")
    here, there = found
    assert there.pop("metrics") == pytest.approx(here.pop("metrics"), rel=1e-4, abs=1e-6)
    assert there == here


class Classifier(nn.Module):
    """Stands for the file of Inception's head, which is not fetched for tests."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(DIMENSIONS, 1008)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(x)


def test_metrics_take_no_tf32_where_the_environment_allows_it():
    """As TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does. Products in fp64 know none."""
    seen = set()

    class Looking(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), names=None):
            product = function in (torch.Tensor.matmul, torch.Tensor.__matmul__)
            if product and arguments[0].dtype == torch.float32:
                seen.add(torch.get_float32_matmul_precision())
            return function(*arguments, **(names or {}))

    x, y = torch.randn(2, 60, 24).numpy()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with Looking():
            kernel_distance(x, y, simulated.DEVICE)
            assert seen == {"highest"}
            seen.clear()
            nearest_distance(x, y, simulated.DEVICE)
        assert seen == {"highest"} and torch.get_float32_matmul_precision() == "high"
        choose_device()
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_metrics_of_more_images_than_dimensions_and_the_score_of_a_head(tmp_path, monkeypatch):
    """What a study as small as this one does not reach."""
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(Classifier()), tmp_path / "head.pt")
    monkeypatch.setattr(inception, "weights_file", lambda source: tmp_path / "head.pt")
    x, y = torch.randn(120, 24), torch.randn(90, 24) + 0.1
    pool = torch.randn(32, DIMENSIONS).numpy()
    found = [
        (
            frechet_distance(Gaussian.of(x, device), Gaussian.of(y)),
            kernel_distance(x.numpy(), y.numpy(), device),
            *precision_recall(x.numpy(), y.numpy(), 3, device),
            inception_score(inception.Head(device)(pool), split=16),
        )
        for device in ("cpu", simulated.DEVICE)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert all(number > 0 for number in found[0])
