"""Evaluations: the same bytes however sharded and however often killed; and what they say."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2it import cli
from d2it.config import Config, paths
from d2it.config.experiments import Measured
from d2it.config.recipe import digest
from d2it.config.run import run_of, runs_of
from d2it.evaluation import samples
from d2it.evaluation.any_images import show
from d2it.evaluation.evaluate import EVALUATORS, evaluate
from d2it.evaluation.neighbours import nearest_distance
from d2it.evaluation.reference import held_out_features, make_reference, open_reference
from d2it.files import folder_files, read_json
from d2it.images.packed import open_images
from d2it.jobs.outlook import left
from d2it.latents.encode import encode
from d2it.machine.device import choose_device
from d2it.models.inception import Inception
from d2it.sampling.trained_run import RunPipeline
from tests.forked import Forked
from tests.tiny_world import OVERRIDES, build_world, enter, remembered

RUNS = ["grain", "d2it_b", "dit_b"]
RUN = "d2it_b"


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        yield build_world(RUNS)


@pytest.fixture(scope="module")
def first(config: Config) -> dict[str, bytes]:
    """The files of one evaluation, from nothing."""
    evaluate(run_of(config, RUN))
    return outputs(config)


def outputs(config: Config, run: str = RUN) -> dict[str, bytes]:
    folder = paths.gallery(config, run)
    files = [paths.evaluation(config, run), *sorted(folder.iterdir())]
    return {file.name: file.read_bytes() for file in files}


def forget(config: Config) -> None:
    for path in (paths.runs_folder(), paths.gallery(config, RUN)):
        shutil.rmtree(path, ignore_errors=True)
    paths.evaluation(config, RUN).unlink(missing_ok=True)


def result(config: Config, run: str) -> dict:
    return read_json(paths.evaluation(config, run), made_by="")


def test_what_it_took_is_the_pace_of_what_is_left(config: Config, first: dict[str, bytes]) -> None:
    """Of the latents and the evaluation that were made here, runs of the same kinds."""
    rest, runs = left(config, []), runs_of(config).values()
    others = {run.folder for run in runs if run.kind != "content"}
    assert rest["evaluating"].unmeasured == len(others)
    assert rest["evaluating"].seconds > 0
    dvae = run_of(config, "dvae")
    dvae.folder.mkdir()  # as where it was trained
    shutil.rmtree(dvae.latents)
    encode(dvae)
    rest = left(config, [])
    assert rest["encoding"].seconds > 0 and not rest["encoding"].unmeasured  # of dvae_three


def test_again_from_nothing_is_byte_equal(config: Config, first: dict[str, bytes]) -> None:
    forget(config)
    evaluate(run_of(config, RUN))
    assert outputs(config) == first


def test_other_shards_and_a_kill_change_nothing(
    config: Config, first: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of 16 images instead of all 24; killed after the first, then repeated."""
    config = replace(config, evaluation=replace(config.evaluation, n=24))
    forget(config)
    evaluate(run_of(config, RUN))
    whole = outputs(config)
    forget(config)
    real, begun = samples.one_shard, []

    def killed(evaluator, pipeline, unit, advance):
        begun.append(unit.span.start)
        if begun == [0, 16]:
            raise KeyboardInterrupt
        return real(evaluator, pipeline, unit, advance)

    monkeypatch.setattr(samples, "one_shard", killed)
    monkeypatch.setitem(
        EVALUATORS, "content", lambda evaluator: samples.samples(evaluator, shard=16)
    )
    with pytest.raises(KeyboardInterrupt):
        evaluate(run_of(config, RUN))
    assert not paths.evaluation(config, RUN).exists()
    evaluate(run_of(config, RUN))
    assert begun == [0, 16, 16]
    assert outputs(config) == whole != first
    assert not list(paths.runs_folder().rglob("*.parts"))


def test_finished_evaluations_are_remembered(
    config: Config, first: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(run_of(config, RUN))
    before = outputs(config)
    monkeypatch.delattr(samples, "one_shard")
    evaluate(run_of(config, RUN))
    assert outputs(config) == before


def test_what_the_file_says(config: Config, first: dict[str, bytes]) -> None:
    found = json.loads(first[f"{RUN}.json"])
    assert (found["format"], found["version"]) == ("d2it-evaluation", 1)
    assert (found["run"], found["kind"], found["scale"]) == (RUN, "content", "smoke")
    assert found["recipe_digest"] == digest(run_of(config, RUN).recipe)
    assert found["ratio"] == 0.5 and found["images"] == 64 and found["split"] == [10, 2]
    assert found["parameters"]["total"] >= found["parameters"]["trainable"] > 0
    assert found["gmacs"]["dense"] > found["gmacs"]["sparse"] > 0
    main = found["evaluations"]["main"]
    metrics, recipe = main["metrics"], main["recipe"]
    assert metrics["fid"] > 0 and 0 < metrics["obedience"] < 1
    assert {"precision", "recall", "epsilon_error_0", "epsilon_error_1"} < set(metrics)
    assert 0.5 < metrics["epsilon_error"] < 2  # predicting no noise errs by 1
    assert set(main["spread"].values()) == {None} and set(main["spread"]) == set(metrics)
    assert recipe["n"] == 8 and recipe["rank_deficient"] is True and recipe["maps"] == "predicted"
    assert (recipe["sampler"], recipe["steps"], recipe["guidance"]) == ("ddim", 2, 1.0)
    model = read_json(paths.model(config, RUN) / "model.json", made_by="")
    assert recipe["weights_sha256"] == model["files"]["model.safetensors"]["sha256"]
    assert recipe["reference_digest"] == open_reference(config, "photos").digest


def test_gallery(config: Config, first: dict[str, bytes]) -> None:
    maps = json.loads(first["maps.json"])
    header = json.loads(first["manifest.json"])
    assert {label: len(some) for label, some in maps.items()} == {"main": 8, "one_map": 8}
    assert all(map == maps["one_map"][0] for map in maps["one_map"])
    assert maps["one_map"][0] in maps["main"]
    assert header["format"] == "d2it-gallery" and set(header["classes"]) == set(maps)
    assert header["files"] == folder_files(paths.gallery(config, RUN))
    files = [paths.gallery(config, RUN) / f"one_map-{i}.png" for i in range(8)]
    shown = np.stack([np.asarray(Image.open(file)) for file in files])
    assert shown.shape == (8, 64, 64, 3) and len(np.unique(shown, axis=0)) == 8


def test_pictures_shown_are_the_images_drawn(config: Config, first: dict[str, bytes]) -> None:
    drawn = RunPipeline(run_of(config, RUN), Measured(), choose_device()).draw(0, np.arange(8))
    files = [paths.gallery(config, RUN) / f"main-{i}.png" for i in range(8)]
    assert np.array_equal(drawn.images, [np.asarray(Image.open(file)) for file in files])


def test_spread_over_seeds(config: Config) -> None:
    seeds = replace(config.evaluation, seeds=[0, 1])
    evaluate(run_of(replace(config, evaluation=seeds), "dit_b"))
    main = result(config, "dit_b")["evaluations"]["main"]
    assert main["spread"]["fid"] > 0 and main["spread"]["epsilon_error"] is None
    evaluate(run_of(config, "dit_b"))
    alone = result(config, "dit_b")["evaluations"]["main"]["metrics"]["fid"]
    deviation = 2**0.5 * abs(main["metrics"]["fid"] - alone)
    assert main["spread"]["fid"] == pytest.approx(deviation)


def test_distance_from_the_training_images_where_it_is_asked_for(
    config: Config, first: dict[str, bytes]
) -> None:
    assert b"nearest" not in first[f"{RUN}.json"]
    asked = replace(config.evaluation, metrics=["fid", "nearest"])
    evaluate(run_of(replace(config, evaluation=asked), "dit_b"))
    found = result(config, "dit_b")["evaluations"]["main"]["metrics"]
    assert {"fid", "nearest"} < found.keys()
    reference = open_reference(config, "photos").features
    held_out = held_out_features(config, "photos", config.evaluation.n)
    assert nearest_distance(held_out, reference) > 0
    # samples of untrained networks are far from every photograph
    assert found["nearest"] > 1
    evaluate(run_of(config, "dit_b"))


def test_of_a_dvae(config: Config) -> None:
    evaluate(run_of(config, "dvae"))
    found = result(config, "dvae")
    assert set(found["evaluations"]) == {"r0", "r0.5", "r1"} and found["ratio"] == "random"
    for label, share in {"r0": 0.0, "r1": 1.0}.items():
        assert found["evaluations"][label]["metrics"]["fine_share"] == share
    middle = found["evaluations"]["r0.5"]
    assert {"rfid", "psnr", "ssim", "lpips", "baseline_psnr"} < set(middle["metrics"])
    assert middle["recipe"]["lpips"] == config.dvae_loss.perceptual
    assert middle["recipe"]["split"] == "test" and middle["recipe"]["n"] == 8


def test_of_a_grain_run(config: Config) -> None:
    evaluate(run_of(config, "grain"))
    main = result(config, "grain")["evaluations"]["main"]
    assert main["metrics"]["fine_share_data"] == pytest.approx(0.5, abs=0.01)
    assert 0 <= main["metrics"]["neighbour_agreement"] <= 1
    assert len(read_json(paths.gallery(config, "grain") / "maps.json", made_by="")["main"]) == 8


def test_reference_is_made_once_and_mended(config: Config) -> None:
    folder = paths.reference(config, "photos")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not make_reference(config, "photos")
    (folder / "features.npy").write_bytes(b"damaged")
    assert make_reference(config, "photos")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    images = open_images(config, "photos", "train")[np.arange(8)]
    features = open_reference(config, "photos").features
    assert np.array_equal(Inception()(images), features)


def pictures(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for i in range(count):
        pixels = random.integers(0, 256 // (1 + i % 3), (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def d2it(*arguments: str) -> int:
    return cli.main([*arguments])


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")  # singular, and meant to be
def test_any_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The FID that clean-fid gives for the same features."""
    from cleanfid.fid import frechet_distance

    ours, theirs = pictures(tmp_path / "a", 6, 0), pictures(tmp_path / "b", 5, 1)
    assert d2it("evaluate", "--images", str(ours), "--reference", str(theirs), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["metrics"]) == {"fid", "kid", "precision", "recall"}
    assert found["recipe"]["protocol"] == "clean" and found["recipe"]["n"] == 6
    sets = [[np.asarray(Image.open(file)) for file in sorted(d.iterdir())] for d in (ours, theirs)]
    features = np.concatenate([*map(remembered("clean"), sets)]).astype(float)
    # All lie in 11 dimensions: in a basis of them clean-fid's matrix root takes no minutes.
    basis = np.linalg.qr(features.T)[0]
    sums = [(x.mean(0), np.cov(x, rowvar=False)) for x in np.split(features @ basis, [6])]
    expected = float(frechet_distance(*sums[0], *sums[1]))
    assert found["metrics"]["fid"] == pytest.approx(expected, rel=1e-3)
    show(found, as_json=False)
    assert "6 images against 5" in capsys.readouterr().out


def test_a_second_protocol_measures_the_same_samples(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the other resizing, against the same images of the reference."""
    assert d2it("evaluate", "dit_b", *OVERRIDES) == 0
    plain = result(config, "dit_b")["evaluations"]["main"]["metrics"]
    assert d2it("evaluate", "dit_b", *OVERRIDES, "data.photos.second_protocol=adm") == 0
    metrics = result(config, "dit_b")["evaluations"]["main"]["metrics"]
    assert d2it("sample", "--run", "dit_b", "--seeds", "0-7", "--out", "drawn", *OVERRIDES) == 0
    capsys.readouterr()
    asked = ["--images", "drawn", "--reference", "photos", "--protocol", "adm", "--metrics", "fid"]
    assert d2it("evaluate", *asked, "--json", *OVERRIDES) == 0
    measured = json.loads(capsys.readouterr().out)["metrics"]["fid"]
    assert metrics == plain | {"fid_adm": measured} and measured != plain["fid"]


BAD = {
    "unknown run": (["d2it_bb"], "did you mean 'd2it_b"),
    "not trained": (["d2it_l"], "make it with `d2it train d2it_l "),
    "other settings": ([RUN, "training.content.learning_rate=1"], "run `d2it train d2it_b "),
    "too few held-out images": (["dvae", "evaluation.n=17"], "lower evaluation.n"),
    "unknown metric": ([RUN, "evaluation.metrics=[fidd]"], "did you mean 'fid'"),
    "other reference": ([RUN, "data.photos.protocol=adm"], "run `d2it reference photos "),
    "its own protocol again": (
        [RUN, "data.photos.second_protocol=clean"],
        "data.photos.second_protocol is clean too",
    ),
    "a batch of one protocol": (
        [RUN, "data.photos.second_protocol=adm", "data.photos.reference=adm_imagenet256"],
        "or data.photos.reference to null",
    ),
    "nothing named": ([], "Name one run, or two sets of images"),
    "one folder": (["--images", "few"], "Name one run, or two sets of images"),
    "no folder": (["--images", "none", "--reference", "some"], "none is neither a folder"),
    "empty folder": (["--images", "empty", "--reference", "some"], "empty holds no images"),
    "one image": (["--images", "few", "--reference", "some"], "at least two images"),
    "fewer than asked": (
        ["--images", "some", "--reference", "some", "--n", "9"],
        "9 images are asked for, but some holds 4",
    ),
    "options of pictures": ([RUN, "--json"], "--json goes with --images, not with a run"),
    "not an image": (["--images", "text", "--reference", "some"], "cannot be read"),
}


@pytest.fixture(scope="module")
def folders(config: Config) -> None:
    pictures(Path("few"), 1, 0)
    pictures(Path("some"), 4, 0)
    Path("empty").mkdir()
    pictures(Path("text"), 2, 0)
    Path("text", "00.png").write_text("no picture")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    case: str, config: Config, folders: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, sentence = BAD[case]
    settings = [] if "--images" in arguments or not arguments else OVERRIDES
    own = [text for text in arguments if "=" in text]
    before = tree()
    assert d2it("evaluate", *[a for a in arguments if a not in own], *settings, *own) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and error.count("d2it: error") == 1
    assert tree() == before


def tree() -> list[str]:
    """Every result and every data file."""
    return sorted(str(path) for root in ("data", "results") for path in Path(root).rglob("*"))


@pytest.mark.parametrize("content", [None, b"not a network"])
def test_weights_missing_or_wrong(config: Config, tmp_path: Path, content: bytes | None) -> None:
    """In a process of its own, which remembers no network."""
    if content:
        (tmp_path / "inception.pt").write_bytes(content)
    places = {"D2IT_WEIGHTS": str(tmp_path), "D2IT_RUNS": str(tmp_path)}
    before = tree()
    done = Forked("d2it", "evaluate", "dit_b", *OVERRIDES, **places).end()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    sentence = "its sha256 differs" if content else "is missing: get it with"
    assert sentence in done.stderr and "`d2it fetch inception`" in done.stderr
    assert tree() == before
