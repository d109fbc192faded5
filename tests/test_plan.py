"""`d2it plan`: its sums are those one does by hand, and every run has a price."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d2it.cli import main
from d2it.config.recipe import KINDS
from d2it.config.run import run_of
from d2it.config.study import ITEMS, load_study
from d2it.cost.disk import latents_disk
from d2it.cost.macs import cost, decoder
from d2it.cost.plan import INCEPTION, plan, price_run, runs_behind
from d2it.cost.rate import rate_of
from d2it.machine.gpus import GPUS
from d2it.models.shapes import DvaeShape
from d2it.report.claims import load_claims, needed
from tests.composed import composed

ROOT = Path(__file__).parents[1]
A800 = rate_of(GPUS["a800"], results=Path("none"))


@pytest.fixture(scope="module")
def config():
    return composed("scale=paper")


@pytest.fixture(scope="module")
def study():
    return load_study()


@pytest.fixture(scope="module")
def whole(config, study):
    return plan(config, study, [], A800)


def priced(found):
    return {price.run: price for price in found.prices}


def test_every_run_of_the_published_scale_is_priced_once(config, whole):
    runs = [run for kind in KINDS for run in getattr(config.runs, kind)]
    prices = priced(whole)
    assert list(prices) == ["ffhq", "imagenet", *runs]
    assert all(prices[run].hours["train"] > 0 and prices[run].parameters for run in runs)
    assert whole.hours == pytest.approx(sum(p.total_hours for p in whole.prices))
    assert list(whole.items) == list(ITEMS)


def test_training_of_dit_xl_by_hand(whole):
    """712 GFLOP an image, 1.792e9 images, a quarter of 312 TFLOP/s."""
    price = priced(whole)["dit_xl_classes"]
    assert 6 * price.gmacs == pytest.approx(712, rel=1e-3)
    assert price.steps == 7_000_000
    by_hand = 712e9 * 1.792e9 / (0.25 * 312e12) / 3600
    assert price.hours["train"] == pytest.approx(by_hand, rel=1e-3)


def test_sampling_of_dit_xl_by_hand(config, whole):
    """8 evaluations of 50,000 images and 3 seeds, 250 steps; guided ones compute twice."""
    images, steps = 50_000 * 3, 250 * (4 * 1 + 4 * 2)
    pixels = decoder(DvaeShape([8], 256, 4, 128, [1, 2, 4, 4, 4], res_blocks=2, attention=[])).macs
    network = priced(whole)["dit_xl_classes"].gmacs * 1e9
    fp32 = 2 * images * 8 * INCEPTION / (0.5 * 19.5e12)
    tf32 = 2 * images * (steps * network + 8 * pixels) / (0.25 * 156e12)
    by_hand = (fp32 + tf32) / 3600
    assert priced(whole)["dit_xl_classes"].hours["evaluate"] == pytest.approx(by_hand)


def test_predicted_maps_cost_their_network(config):
    grain = cost(
        "grain", {"side": 16, "grains": 2, "width": 384, "depth": 12, "heads": 6, "classes": 0}
    )
    dearer = price_run(run_of(config, "d2it_b"), A800).hours["evaluate"]
    constant = price_run(run_of(config, "d2it_b_r100"), A800).hours["evaluate"]
    images = 2 * 10_000 * 3  # averaged and raw weights, three seeds
    by_hand = 2 * images * 250 * grain.macs / (0.25 * 156e12) / 3600
    assert dearer - constant == pytest.approx(by_hand)


@pytest.mark.parametrize(("precision", "rate"), [("fp32", 0.5 * 19.5), ("bf16", 0.25 * 312)])
def test_drawing_images_is_priced_in_its_precision(precision, rate):
    config = composed("scale=paper", f"sampling.precision={precision}")
    price = price_run(run_of(config, "grain"), A800)
    by_hand = 2 * 10_000 * 3 * 250 * price.gmacs * 1e9 / (rate * 1e12) / 3600
    assert price.hours["evaluate"] == pytest.approx(by_hand)


def test_a_table_counts_shared_runs_once(config, study, whole):
    alone = plan(config, study, ["table_3"], A800)
    content = ["d2it_b", "d2it_b_routing", "d2it_b_grain_loss"]
    runs = ["dvae", "dvae_r100", "grain", *content, "dit_b"]
    assert [price.run for price in alone.prices] == ["ffhq", *runs]
    assert alone.hours == pytest.approx(whole.items["table_3"])
    assert set(alone.items) == {"table_3"}
    both = plan(config, study, ["table_3", "d2it_b"], A800)
    assert both.hours == alone.hours
    behind = runs_behind(config, study, ["d2it_b"])
    assert [run.name for run in behind] == ["dvae", "grain", "d2it_b"]


def test_the_prices_in_the_documents_are_the_plans(config, study):
    readme, mini = ((ROOT / page).read_text() for page in ("README.md", "docs/mini.md"))
    paper = plan(config, study, [], rate_of(GPUS["a100"], results=Path("none")))
    asked = f"{paper.hours:,.0f} A100-hours for everything, {paper.items['table_3']:,.0f} for Table"
    assert asked in readme
    small = composed("scale=mini")
    runs, h200 = needed(load_claims(), small), rate_of(GPUS["h200"], results=Path("none"))
    for found in (plan(small, study, runs, h200), plan(small, study, runs[:12], h200)):
        assert f"{found.hours:.1f} GPU-hours and {found.disk.bytes / 1e9:.0f} GB" in mini


def test_disk_of_latents_is_that_of_their_files():
    from d2it.latents.cache import shard_arrays

    header = {"factors": [16, 8], "channels": 4, "side": 32}
    each = sum(
        np.prod(shape) * np.dtype(dtype).itemsize
        for dtype, shape in shard_arrays(header, 1).values()
    )
    shape = {"factors": [16, 8], "size": 256, "latent_channels": 4}
    found = latents_disk(shape, (70_000, 100))
    assert found.bytes == 70_100 * each
    assert found.files == (5 + 1) * 4 + 1


def test_disk_of_states_and_models(config, whole):
    price = priced(whole)["dit_xl_classes"]
    count = price.parameters
    total = count + 256 * 1152  # fixed positions
    assert price.disk["models"].bytes == 4 * total * (2 + 3)
    log = 2 * 300 * (1_792_000_000 // 25_600)
    assert price.disk["states"].bytes == 3 * (8 * total + 8 * count) + 3 * 4 * total + log
    price = priced(whole)["dvae"]  # a discriminator of 2.77 M, with its moments, is in each state
    log = 2 * 300 * (price.images // 25_600)
    assert price.disk["states"].bytes - log == 3 * (16 * price.parameters + 12 * 2_765_633)


def write_benchmark(path, gpu, rows):
    path.write_text(json.dumps({"hardware": {"gpu": gpu}, "rows": rows}))


def test_a_benchmark_of_this_gpu_takes_the_place_of_the_assumption(config, tmp_path):
    path = tmp_path / "training-cuda.json"
    rows = [{"network": "DiT", "size": "B", "tflops": 494.5}, {"network": "peer", "size": "B"}]
    write_benchmark(path, "NVIDIA H200", rows)
    assert rate_of(GPUS["a800"], results=tmp_path).measured == {}
    rate = rate_of(GPUS["h200"], results=tmp_path)
    assert rate.measured == {("dit", "B"): 0.5}
    assumed = rate_of(GPUS["h200"], results=tmp_path / "none")
    halves = [price_run(run_of(config, "dit_b"), r).hours["train"] for r in (rate, assumed)]
    assert halves[1] == pytest.approx(2 * halves[0])
    assert price_run(run_of(config, "dit_b"), rate).mfu == 0.5
    assert price_run(run_of(config, "dit_l"), rate).mfu == 0.25
    for damaged in ("[]", "[" * 10**5, path.read_text().replace("494.5", '"494.5"')):
        path.write_text(damaged)
        assert rate_of(GPUS["h200"], results=tmp_path).measured == {}


def test_the_first_hour_on_a_gpu_measures_every_kind(config, tmp_path):
    rows = [
        {"kind": "dvae", "size": None, "tflops": 98.8},
        {"kind": "grain", "size": "S", "tflops": 98.9},
        {"kind": "content", "size": "XL", "tflops": 395.6},
        {"kind": "dit", "size": "B", "tflops": 197.8},
    ]
    write_benchmark(tmp_path / "first-hour-h200.json", "NVIDIA H200", rows)
    write_benchmark(tmp_path / "first-hour-a100.json", "NVIDIA A100-SXM4-80GB", rows[:1])
    found = {("dvae", ""): 0.2, ("grain", "S"): 0.1, ("content", "XL"): 0.4, ("dit", "B"): 0.2}
    rate = rate_of(GPUS["h200"], results=tmp_path)
    assert rate.measured == pytest.approx(found)
    assert set(rate_of(GPUS["a100"], results=tmp_path).measured) == {("dvae", "")}
    price = price_run(run_of(config, "dvae"), rate)  # model FLOPs alone: two to a MAC, three passes
    by_hand = 6 * price.gmacs * 1e9 * price.images / (0.2 * 494e12) / 3600
    assert price.hours["train"] == pytest.approx(by_hand) and price.mfu == pytest.approx(0.2)
    bench = [{"network": "DiT", "size": "B", "tflops": 494.5}]
    write_benchmark(tmp_path / "training-cuda.json", "NVIDIA H200", bench)
    assert rate_of(GPUS["h200"], results=tmp_path).measured["dit", "B"] == 0.5


def test_checkpointing_is_a_third_more_work_and_less_memory(config):
    spared = composed("scale=paper", "training.dit.checkpointing=true")
    dense, less = (
        price_run(run_of(config, "dit_xl_classes"), A800),
        price_run(run_of(spared, "dit_xl_classes"), A800),
    )
    assert less.hours["train"] == pytest.approx(dense.hours["train"] * 4 / 3)
    assert less.memory_gb < dense.memory_gb and less.hours["evaluate"] == dense.hours["evaluate"]


def test_the_published_scale_fits_80_gb_and_what_does_not_is_said(config, study):
    assert plan(config, study, [], A800).too_large == []
    assert plan(config, study, [], rate_of(GPUS["l40s"], results=Path("none"))).too_large == []
    a100 = rate_of(GPUS["a100-40"], results=Path("none"))  # XL's 39.7 GB leave no room for gaps
    (said,) = plan(config, study, ["dit_xl_classes", "d2it_xl_classes"], a100).too_large[1:]
    assert said.startswith("d2it_xl_classes: training needs 39.7 GB of a GPU's memory and 5% for")
    assert "and A100-40 has 40: set training.content.checkpointing=true" in said
    dense = composed("scale=paper", "training.dvae.checkpointing=false")
    (said,) = plan(dense, study, ["table_3", "dvae_r0"], A800).too_large
    price = price_run(run_of(dense, "dvae"), A800)
    assert said.startswith(f"dvae, dvae_r0, dvae_r100: training needs {price.memory_gb} GB")
    assert "and A800 has 80: set training.dvae.checkpointing=true, which needs 40" in said
    small = plan(config, study, ["d2it_l_classes"], rate_of(GPUS["l4"], results=Path("none")))
    assert len(small.too_large) == 2  # the DVAE, and L
    assert "set training.content.checkpointing=true" in small.too_large[1]
    assert "L4 has 24: use a GPU with more memory" in small.too_large[0]


def test_what_is_missing_is_said_with_the_way_to_get_it(config, study, tmp_path, monkeypatch):
    monkeypatch.setenv("D2IT_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = "\n".join(plan(config, study, ["table_3"], A800).missing)
    assert "put them in data/archives/ffhq" in found and "imagenet" not in found
    assert "`d2it fetch inception`" in found and "`d2it fetch lpips_vgg`" in found
    archives = tmp_path / "data" / "archives" / "ffhq"
    archives.mkdir(parents=True)
    assert "put them in data/archives/ffhq" in "\n".join(
        plan(config, study, ["table_3"], A800).missing
    )
    (archives / "images.zip").touch()
    assert "ffhq" not in "\n".join(plan(config, study, ["table_3"], A800).missing)


def test_what_imagenet_is_compared_with_is_named_before_it_is_wanted(
    config, study, tmp_path, monkeypatch
):
    monkeypatch.setenv("D2IT_WEIGHTS", str(tmp_path))
    wanted = ("`d2it fetch adm_imagenet256`", "`d2it fetch inception_head`")
    found = "\n".join(plan(config, study, ["dit_xl_classes"], A800).missing)
    assert all(command in found for command in wanted)
    ffhq = "\n".join(plan(config, study, ["table_3"], A800).missing)
    assert not any(command in ffhq for command in wanted)
    for name in ("adm_imagenet256.npz", "inception_head.pt"):
        (tmp_path / name).touch()
    found = "\n".join(plan(config, study, ["dit_xl_classes"], A800).missing)
    assert not any(command in found for command in wanted)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpu", "a8000"], "There is no GPU 'a8000' (did you mean 'a800'?)"),
        (["tabel_3"], "There is no table, figure or run 'tabel_3' at scale smoke (did you mean"),
        (["--mfu", "40"], "--mfu 40 is not a share of the peak: give 0.4 for 40 %."),
        (["--scale", "papr"], "There is no scale 'papr' (did you mean 'paper'?)"),
    ],
)
def test_mistakes(arguments, sentence, capsys):
    rest = [] if "--scale" in arguments else ["scale=smoke"]
    assert main(["plan", *arguments, *rest]) == 2
    assert sentence in capsys.readouterr().err


def test_the_command():
    command = [sys.executable, "-X", "importtime", "-m", "d2it", "plan", "table_1", "--json"]
    command += ["--scale", "paper", "--gpu", "a800", "ratio=0.7"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    found = json.loads(done.stdout)
    assert found["scale"] == "paper" and found["gpu"]["name"] == "a800"
    assert [price["run"] for price in found["prices"]][-2:] == ["d2it_l", "dit_l"]
    assert all(price["memory_gb"] > 0 for price in found["prices"] if price["kind"] != "data")
    assert "| torch\n" not in done.stderr


def test_the_page(capsys):
    assert main(["plan", "--scale=paper", "--gpu=a800", "table_1"]) == 0
    page = capsys.readouterr().out
    assert "25% of 312 TFLOP/s in" in page and "Table 1" in page and "GB/GPU" in page
    assert max(map(len, page.splitlines())) <= 100
