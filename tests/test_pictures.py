"""d2it evaluate --images ... --reference ...: anybody's images, through the real command."""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from d2it import cli
from d2it.config import Config
from d2it.config.recipe import sources_table
from d2it.evaluation.metrics import Gaussian, frechet_distance, inception_score
from d2it.evaluation.neighbours import precision_recall
from d2it.files import file_digest
from d2it.images.packed import open_images
from d2it.models.inception import DIMENSIONS, SPATIAL
from tests.test_fuzz import bomb
from tests.tiny_world import OVERRIDES, WEIGHTS, build_world, enter, remembered


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        config = build_world([])
        pictures(Path("ours"), 6, 0)
        pictures(Path("theirs"), 5, 1)
        yield config


def pictures(folder: Path, count: int, seed: int, size: tuple[int, int] = (64, 64)) -> Path:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for i in range(count):
        pixels = random.integers(0, 256 // (1 + i % 3), (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def read(folder: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(Path(folder).iterdir())])


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]):
    """Run the command -> (exit status, JSON, what it complained of)."""

    def run(images: str, reference: str, *options: str):
        command = ["evaluate", "--images", images, "--reference", reference, "--json", *options]
        capsys.readouterr()
        status = cli.main(command)
        told = capsys.readouterr()
        return status, json.loads(told.out) if status == 0 else None, told.err

    return run


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(Gaussian.of(a), Gaussian.of(b))


@pytest.fixture(scope="module")
def adm(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Features by folder, of the protocol `adm`."""
    extractor = remembered("adm")
    return {folder: extractor.both(read(folder)) for folder in ("ours", "theirs")}


def test_adm_measures_fid_and_sfid_and_says_why_there_is_no_inception_score(evaluate, adm) -> None:
    status, found, told = evaluate("ours", "theirs", "--protocol", "adm")
    assert status == 0 and "no more images than features" in told
    assert set(found["metrics"]) == {"fid", "sfid", "kid", "precision", "recall"}
    for metric, kind in (("fid", "features"), ("sfid", "spatial")):
        expected = distance(adm["ours"][kind], adm["theirs"][kind])
        assert found["metrics"][metric] == pytest.approx(expected, rel=1e-6)
    recipe = found["recipe"]
    assert (recipe["protocol"], recipe["n"], recipe["reference_n"]) == ("adm", 6, 5)
    assert recipe["rank_deficient"] is True and recipe["duplicates"] == 0
    assert "d2it fetch inception_head" in recipe["missing"]["inception_score"]
    status, _, told = evaluate("ours", "theirs", "--metrics", "inception_score")
    assert status == 2 and "get it with `d2it fetch inception_head`" in told


def test_a_data_set_is_compared_by_either_resizing(evaluate, adm, config) -> None:
    images = open_images(config, "photos", "train")
    n = config.data["photos"].reference or len(images)
    np.save("train.npy", images[np.arange(n)])
    found = [
        evaluate("ours", which, "--protocol", "adm", "--metrics", "fid", *OVERRIDES)[1]
        for which in ("photos", "train.npy")
    ]
    assert found[0]["recipe"]["protocol"] == "adm" and found[0]["metrics"] == found[1]["metrics"]
    usual = evaluate("ours", "photos", "--metrics", "fid", *OVERRIDES)[1]["metrics"]
    assert usual != found[0]["metrics"]


def test_a_batch_of_images_is_a_folder_of_them(evaluate, adm) -> None:
    np.savez("ours.npz", read("ours"), labels=np.zeros(6, np.int64))
    np.save("ours.npy", read("ours"))
    with zipfile.ZipFile("ours.zip", "w") as file:
        for path in Path("ours").iterdir():
            file.write(path)
    of_files = evaluate("ours", "theirs", "--metrics", "fid")[1]
    for batch in ("ours.npz", "ours.npy", "ours.zip"):
        assert evaluate(batch, "theirs", "--metrics", "fid")[1]["metrics"] == of_files["metrics"]


def test_what_d2it_sample_writes_is_measured_without_its_sheets(evaluate) -> None:
    expected = evaluate("ours", "theirs", "--metrics", "fid")[1]
    shutil.copytree("ours", "sampled/run")
    for sheet in ("grid.png", "overlay.png"):
        Image.new("RGB", (300, 300)).save(f"sampled/run/{sheet}")
    Path("sampled/run/samples.json").write_text("{}")
    for folder in ("sampled", "sampled/run"):
        assert evaluate(folder, "theirs", "--metrics", "fid")[1]["metrics"] == expected["metrics"]
    packed = Path("packed")
    packed.mkdir()
    np.save(packed / "images.npy", read("ours"))
    (packed / "samples.json").write_text("{}")
    assert evaluate("packed", "theirs", "--metrics", "fid")[1]["metrics"] == expected["metrics"]


def test_the_reference_of_a_data_set_by_name(evaluate, config: Config) -> None:
    status, found, _ = evaluate("ours", "photos", *OVERRIDES)
    assert status == 0 and found["recipe"]["reference_n"] == 8
    assert found["recipe"]["reference"] == "photos" and found["recipe"]["protocol"] == "clean"
    of_metrics = evaluate("ours", "photos", "--metrics", "fid", "kid", *OVERRIDES)[1]["metrics"]
    assert of_metrics == {key: found["metrics"][key] for key in ("fid", "kid")}


def test_a_reference_is_computed_once(evaluate, monkeypatch) -> None:
    """Also under other names: what counts is what the files hold."""
    before = evaluate("ours", "theirs", "--metrics", "fid", "sfid")[1]
    Path("renamed").mkdir()
    for i, file in enumerate(sorted(Path("theirs").iterdir())):
        (Path("renamed") / f"{9 - i}.png").write_bytes(file.read_bytes())
    monkeypatch.delattr("d2it.evaluation.reference.write_reference")
    again = evaluate("ours", "renamed", "--metrics", "fid", "sfid")[1]
    assert again["metrics"] == before["metrics"]


def test_copies_are_counted(evaluate) -> None:
    folder = pictures(Path("copied"), 3, 0)
    for name in ("10.png", "11.png"):
        (folder / name).write_bytes((folder / "00.png").read_bytes())
    _, found, told = evaluate("copied", "theirs", "--metrics", "fid")
    assert found["recipe"]["duplicates"] == 2
    assert "2 of 5 images in copied are copies" in told


class StandIn(nn.Module):
    """The interface of the file `inception_head`, as StyleGAN2-ADA's metrics call it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Identity()
        self.output = nn.Linear(DIMENSIONS, 1008)

    def forward(self, img: torch.Tensor, no_output_bias: bool = False) -> torch.Tensor:
        features = self.layers(img).reshape(-1, 2048)
        if no_output_bias:
            logits = nn.functional.linear(features, self.output.weight)
        else:
            logits = self.output(features)
        return logits.softmax(1)


def list_source(name: str, path: Path) -> None:
    """data/sources.csv of the working directory, in which `name` is this very file."""
    with open(sources_table(), newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["name"] == name:
            row["sha256"] = file_digest(path)
    with open("data/sources.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def weights(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder of fetched files of its own, with the real network, and a list of its own."""
    for file in WEIGHTS.glob("inception.*"):
        shutil.copy2(file, tmp_path)
    monkeypatch.setenv("D2IT_WEIGHTS", str(tmp_path))
    yield tmp_path
    Path("data/sources.csv").unlink(missing_ok=True)


@pytest.fixture
def head(weights: Path) -> torch.jit.ScriptModule:
    """A classifier of random weights in the place of the real one."""
    torch.manual_seed(0)
    network = torch.jit.script(StandIn().eval())
    network.save(str(weights / "inception_head.pt"))
    list_source("inception_head", weights / "inception_head.pt")
    return network


def test_the_reference_batch_of_a_data_set(config: Config, weights: Path, adm, evaluate) -> None:
    """Its statistics are the reference, its images the manifold; not without the listed sha256."""
    path = weights / "adm_imagenet256.npz"
    random = np.random.default_rng(6)
    stored = {}
    for kind, suffix, width in (("features", "", DIMENSIONS), ("spatial", "_s", SPATIAL)):
        some = adm["theirs"][kind].mean(0) + random.normal(0, 0.1, (8, width))
        stored[f"mu{suffix}"], stored[f"sigma{suffix}"] = some.mean(0), np.cov(some, rowvar=False)
    np.savez(path, arr_0=read("theirs"), **stored)
    settings = ["scale=smoke", "name=batch", f"data.photos.reference={path.stem}"]
    settings += ["data.photos.protocol=adm", "evaluation.metrics=[sfid]"]
    assert cli.main(["reference", "photos", *settings]) == 2  # of another sha256
    list_source(path.stem, path)
    assert cli.main(["reference", "photos", *settings, "data.photos.size=128"]) == 2
    assert cli.main(["reference", "photos", *settings]) == 0
    asked = ("--metrics", "fid", "sfid", "precision")
    status, found, _ = evaluate("ours", "photos", *asked, *settings)
    assert status == 0 and found["recipe"]["protocol"] == "adm"
    for metric, kind, suffix in (("fid", "features", ""), ("sfid", "spatial", "_s")):
        mean, covariance = (torch.from_numpy(stored[f"{key}{suffix}"]) for key in ("mu", "sigma"))
        expected = frechet_distance(Gaussian.of(adm["ours"][kind]), Gaussian(8, mean, covariance))
        assert found["metrics"][metric] == pytest.approx(expected, rel=1e-6)
    shares = precision_recall(adm["ours"]["features"], adm["theirs"]["features"])
    assert found["metrics"]["precision"] == shares[0]


def test_inception_score_with_a_shared_classifier(evaluate, adm, head) -> None:
    """torch-fidelity's score of the same logits, and the classifier's own probabilities."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    found = evaluate("ours", "theirs", "--protocol", "adm", "--metrics", "inception_score")[1]
    score = found["metrics"]["inception_score"]
    features = torch.from_numpy(adm["ours"]["features"])
    with torch.no_grad():
        logits = features @ head.output.weight.T
        probabilities = head(features, no_output_bias=True)
    peer = isc_features_to_metric(logits, splits=1, shuffle=False)[KEY_METRIC_ISC_MEAN]
    assert score == pytest.approx(peer, rel=1e-5) and score > 1
    assert score == pytest.approx(inception_score(probabilities.log().numpy()), rel=1e-5)
    assert found["recipe"]["inception_head_sha256"] and found["recipe"]["missing"] == {}


BAD = {
    "neither": (["nothing", "theirs"], "nothing is neither a folder, zip, tar or"),
    "no such reference": (
        ["ours", "foto"],
        "data set of scale demo (did you mean 'photos'?)",
    ),
    "another resolution": (["small", "theirs"], "small holds images of 24 x 32 px, theirs of 64"),
    "another size than the data set's": (["small", "photos", *OVERRIDES], "add --any-size"),
    "fewer than FID-10K": (
        ["ours", "theirs", "--metrics", "fid_10k"],
        "10000 images are asked for, but ours holds 6",
    ),
    "two numbers": (["ours", "theirs", "--metrics", "fid_10k", "--n", "5"], "for 5 and 10000"),
    "no metric": (["ours", "theirs", "--metrics", "fidd"], "did you mean 'fid'?"),
    "no reference made": (["ours", "photos"], "make it with `d2it reference photos"),
    "another protocol than a published batch's": (
        [
            "ours",
            "photos",
            "--protocol",
            "adm",
            *OVERRIDES,
            "data.photos.reference=adm_imagenet256",
        ],
        "or set data.photos.reference=null",
    ),
    "no spatial features": (
        ["ours", "photos", "--metrics", "sfid", *OVERRIDES],
        "'evaluation.metrics=[fid,inception_score,precision,recall,sfid]'`",
    ),
    "one image asked for": (["ours", "theirs", "--n", "1"], "--n is 1, but a distance needs"),
    "a decompression bomb": (["bomb", "theirs"], "bomb/bomb.png cannot be read"),
    "cut picture": (["short", "theirs"], "short/00.png cannot be read"),
    "too few by name": (["few", "theirs", "--metrics", "recall"], "more than 3 images"),
    "no archive": (["text.npz", "theirs"], "text.npz cannot be read"),
    "empty archive": (["empty.npz", "theirs"], "empty.npz cannot be read"),
    "cut archive": (["cut.npz", "theirs"], "cut.npz cannot be read"),
    "pickled objects": (["objects.npz", "theirs"], "objects.npz cannot be read"),
    "no images in it": (["none.npz", "theirs"], "in an .npz arr_0, must be"),
    "floats": (["floats.npz", "theirs"], "(2, 64, 64, 3) of float64"),
    "statistics of another network": (["ours", "stats.npz"], "its mu must be (2048,) finite"),
    "no numbers": (["ours", "nan.npz"], "its mu must be (2048,) finite"),
}


@pytest.fixture(scope="module")
def damaged(config: Config) -> None:
    pictures(Path("small"), 4, 0, (24, 32))
    pictures(Path("few"), 2, 0)
    (pictures(Path("bomb"), 2, 0) / "bomb.png").write_bytes(bomb())
    whole = pictures(Path("short"), 2, 0) / "00.png"
    whole.write_bytes(whole.read_bytes()[:-200])
    Path("text.npz").write_text("no archive")
    Path("empty.npz").write_bytes(b"")
    images = read("theirs")[:2]
    np.savez("whole.npz", arr_0=images)
    Path("cut.npz").write_bytes(Path("whole.npz").read_bytes()[:-100])
    np.savez("objects.npz", arr_0=np.array([{"a": 1}, None], dtype=object))
    np.savez("none.npz", images=images)
    np.savez("floats.npz", arr_0=images / 255)
    np.savez("stats.npz", arr_0=images, mu=np.zeros(512), sigma=np.eye(512))
    np.savez("nan.npz", arr_0=images, mu=np.full(2048, np.nan), sigma=np.eye(2048))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, damaged: None, evaluate) -> None:
    arguments, sentence = BAD[case]
    before = sorted(Path("data").rglob("*"))
    status, _, told = evaluate(*arguments)
    assert status == 2 and sentence in told
    assert "Traceback" not in told and told.count("d2it: error") == 1
    assert sorted(Path("data").rglob("*")) == before


def test_other_sizes_where_they_are_allowed(damaged: None, evaluate) -> None:
    status, found, told = evaluate("small", "theirs", "--any-size", "--metrics", "fid")
    assert status == 0 and found["metrics"]["fid"] > 0
    assert "the difference is part of what is measured" in told
