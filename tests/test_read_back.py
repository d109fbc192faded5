"""What a stage has written and another reads: of the right counts, types and ranges, or one
sentence with the cure.
"""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2it.config import load, paths
from d2it.config.run import run_of
from d2it.config.study import Samples
from d2it.errors import UserError
from d2it.evaluation.gallery import write_gallery
from d2it.evaluation.reference import open_reference
from d2it.files import MANIFEST, file_digest, read_sealed, write_json, write_sealed
from d2it.grains import calibrate as calibration
from d2it.grains.thresholds import Thresholds
from d2it.images.packed import PackedImages
from d2it.latents.cache import Latents
from d2it.latents.encode import encode
from d2it.report.figures import read_gallery
from d2it.report.page_pictures import of_run
from d2it.runs.plan import make_plan
from d2it.runs.verify import verify_made
from d2it.sampling.pipeline import Drawn
from d2it.units import Units
from tests.commands import command
from tests.tiny_world import OVERRIDES, build_world, enter

CONFIG = load(overrides=OVERRIDES)
RUN = run_of(CONFIG, "dit_b")
IMAGES = paths.images(CONFIG, "photos")
THRESHOLDS = paths.thresholds(CONFIG, "photos")
LATENTS = paths.latents(CONFIG, "dvae")
REFERENCE = paths.reference(CONFIG, "photos")
SCALE = CONFIG.name
GALLERY = paths.gallery(CONFIG, RUN.name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        build_world([RUN.name])
        write_gallery(RUN, {"main": drawn()})
    return folder


def drawn() -> Drawn:
    maps = np.arange(2 * 8 * 8).reshape(2, 8, 8) % 2
    return Drawn(np.zeros((2, 64, 64, 3), np.uint8), maps, np.array([0, 3]))


@pytest.fixture(autouse=True)
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy, to spoil."""
    enter(Path(shutil.copytree(built, tmp_path / "work")), monkeypatch)


def restate(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """By hand, with the digest that goes with it."""
    said = read_sealed(path, made_by="")
    change(said)
    write_sealed(path, said)


def replace(path: Path, content: bytes) -> None:
    """And its entry in the manifest of its folder."""
    path.write_bytes(content)
    entry = {"bytes": len(content), "sha256": file_digest(path)}

    def mend(said: dict[str, Any]) -> None:
        named = said.get("files", {})
        named |= {path.name: entry} if path.name in named else {}
        for split in said.get("splits", {}).values():
            for file in [*split.get("files", []), split.get("labels", {})]:
                file |= entry if file.get("name") == path.name else {}

    restate(path.parent / MANIFEST, mend)


def array(values: Any, dtype: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype))
    return buffer.getvalue()


READ: dict[str, Callable[[], object]] = {
    "prepare photos": lambda: PackedImages.open(IMAGES, "train"),
    "calibrate photos": lambda: Thresholds.load(THRESHOLDS, region=8),
    "encode dvae": lambda: Latents.open(LATENTS, "train"),
    "reference photos": lambda: open_reference(CONFIG, "photos"),
    "evaluate dit_b": lambda: read_gallery(Samples("", "", RUN.name, "main"), CONFIG),
}


def table(said: dict[str, Any]) -> dict[str, Any]:
    return said["tables"]["8"]


def spoilt() -> list[tuple[str, str, Callable[[], object]]]:
    """Who makes it again, what the sentence says, and what is done to it."""
    labels = IMAGES / "train-labels.npy"
    numbers = [*range(7)] * 4  # of 28 photographs
    features = REFERENCE / "features.npy"
    manifests = [
        (IMAGES / MANIFEST, "prepare photos", "count is '28'", "splits.train", {"count": "28"}),
        (IMAGES / MANIFEST, "prepare photos", "not -12288", "splits.train.files.0", {"count": -1}),
        (IMAGES / MANIFEST, "prepare photos", "not 356352", "splits.train.files.0", {"count": 29}),
        (IMAGES / MANIFEST, "prepare photos", "not 0", "", {"size": 0}),
        (IMAGES / MANIFEST, "prepare photos", "labels outside 0..1", "", {"classes": ["a", "b"]}),
        (THRESHOLDS, "calibrate photos", "regions is 0.5", "tables.8", {"regions": 0.5}),
        (THRESHOLDS, "calibrate photos", "must rise", "tables.8", {"quantiles": [1.0, 0.5]}),
        (THRESHOLDS, "calibrate photos", "0 to 5.545 nats", "tables.8", {"quantiles": [0.0, 9.0]}),
        (THRESHOLDS, "calibrate photos", "must rise", "tables.8", {"quantiles": [-1.0, 1.0]}),
        (THRESHOLDS, "calibrate photos", "must rise", "tables.8", {"quantiles": [1.0]}),
        (THRESHOLDS, "calibrate photos", "is 'much'", "tables.8", {"quantiles": ["much"]}),
        (THRESHOLDS, "calibrate photos", "tables is []", "", {"tables": []}),
        (LATENTS / MANIFEST, "encode dvae", "is missing or damaged", "", {"channels": 5}),
        (LATENTS / MANIFEST, "encode dvae", "is missing or damaged", "", {"side": -8}),
        (LATENTS / MANIFEST, "encode dvae", "scale is None", "ratios.0.5", {"scale": None}),
        (LATENTS / MANIFEST, "encode dvae", "cuts is 3", "ratios.0.5", {"cuts": 3}),
        (REFERENCE / MANIFEST, "reference photos", "holds no features", "", {"files": {}}),
        (GALLERY / MANIFEST, "evaluate dit_b", "is 'cat'", "classes", {"main": ["cat"]}),
        (GALLERY / MANIFEST, "evaluate dit_b", "lacks main samples", "classes", {"main": [0]}),
        (GALLERY / MANIFEST, "evaluate dit_b", "lacks main samples", "", {"classes": {}}),
    ]
    found = [
        (by, says, lambda path=path, where=where, new=new: restate(path, put(where, new)))
        for path, by, says, where, new in manifests
    ]
    for says, content in {
        "(27,) of int64, not 28 labels": array(numbers[1:], np.int64),
        "(28,) of float64, not 28 labels": array(numbers, np.float64),
        "has labels outside 0..6": array([7, *numbers[1:]], np.int64),
        "train-labels.npy has labels outside": array([-1, *numbers[1:]], np.int64),
        "train-labels.npy is damaged": b"no array of numbers",
        "labels.npy is damaged": array(numbers, np.int64)[:-9],
        ".npy is damaged": array(np.array([{}] * 28), object),
    }.items():
        found.append(("prepare photos", says, lambda content=content: replace(labels, content)))
    for says, content in {
        "(8, 3) of float32": array(np.zeros((8, 3)), np.float32),
        "(8, 2048) of float64": array(np.zeros((8, 2048)), np.float64),
    }.items():
        found.append(("reference photos", says, lambda content=content: replace(features, content)))
    for says, maps in {
        "main is 'no table'": {"main": "no table"},
        "an entry of an entry of an entry of main is 0.5": {"main": [[[0.5]]] * 2},
        "maps.json is damaged": [],
    }.items():
        content = json.dumps(maps).encode()
        change = lambda content=content: replace(GALLERY / "maps.json", content)  # noqa: E731
        found.append(("evaluate dit_b", says, change))
    picture = GALLERY / "main-1.png"
    found.append(("evaluate dit_b", "main-1.png is damaged", lambda: picture.write_bytes(b"?")))
    return found


def put(where: str, new: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    def change(said: Any) -> None:
        for key in WAYS[where]:
            said = said[key]
        said |= new

    return change


WAYS: dict[str, list[Any]] = {
    "": [],
    "classes": ["classes"],
    "tables.8": ["tables", "8"],
    "ratios.0.5": ["ratios", "0.5"],
    "splits.train": ["splits", "train"],
    "splits.train.files.0": ["splits", "train", "files", 0],
}


@pytest.mark.parametrize("maker", READ)
def test_what_is_sound_is_read(maker: str) -> None:
    assert READ[maker]()


@pytest.mark.parametrize(("maker", "says", "spoil"), spoilt())
def test_what_is_not_as_it_must_be(maker: str, says: str, spoil: Callable[[], object]) -> None:
    spoil()
    with pytest.raises(UserError) as told:
        READ[maker]()
    sentence = str(told.value)
    assert says in sentence and f"d2it {maker}`" in sentence and ". " not in sentence, sentence


UNSAID: dict[str, Callable[[dict[str, Any]], object]] = {
    "ratios is [], but": lambda said: said.update(ratios=[]),
    "ratios is missing": lambda said: said.pop("ratios"),
    "splits is missing": lambda said: said.pop("splits"),
    "splits is [], but": lambda said: said.update(splits=[]),
    "has no split 'train'": lambda said: said["splits"].pop("train"),
}


@pytest.mark.parametrize("says", UNSAID)
def test_latents_of_which_too_little_is_said(says: str) -> None:
    """Nobody who reads them knows more than a sentence, whether they are sealed or not."""
    path = LATENTS / MANIFEST
    restate(path, UNSAID[says])
    said = read_sealed(path, made_by="")
    for write in (write_sealed, write_json):
        write(path, said)
        with pytest.raises(UserError, match=says.replace("[]", r"\[\]")):
            encode(run_of(CONFIG, "dvae"))
        if says.startswith("ratios is []"):
            with pytest.raises(UserError, match="ratios is .*d2it encode dvae"):
                make_plan(RUN)
        else:
            make_plan(RUN)


@pytest.mark.parametrize("maps", [3, None, [], {"main": 3}])
def test_a_page_of_maps_that_are_none(maps: Any) -> None:
    write_json(GALLERY / "maps.json", maps)
    with pytest.raises(UserError, match=r"maps.json is damaged.*d2it evaluate dit_b"):
        of_run(RUN)


@pytest.mark.parametrize(
    ("path", "content", "cure"),
    [
        (IMAGES, {"splits": []}, "prepare photos"),
        (IMAGES, {}, "prepare photos"),
        (REFERENCE, {"files": []}, "reference photos"),
        (LATENTS, {"files": {"train": 3}}, "encode dvae"),
        (GALLERY, {"files": {"maps.json": {}}}, "evaluate dit_b"),
    ],
)
def test_a_manifest_that_names_no_files(path: Path, content: dict[str, Any], cure: str) -> None:
    write_sealed(path / MANIFEST, content)
    said: list[str] = []
    with pytest.raises(UserError, match=f"delete {path} and run `d2it {cure} scale={SCALE}`"):
        verify_made(SCALE, said.append)
    assert f"{path}: damaged: manifest.json" in said


def test_a_damaged_unit_of_a_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are taken as they are, and it is counted again."""
    wanted = THRESHOLDS.read_bytes()
    monkeypatch.setattr(calibration, "UNIT", 8)
    monkeypatch.setattr(calibration, "MANY", 100)
    kept: list[Path] = []

    def keep(units: Units) -> None:
        kept.extend(units.path(unit) for unit in units.all)

    for turn in range(2):
        THRESHOLDS.unlink()
        monkeypatch.setattr(Units, "remove", keep)
        done = command("calibrate", "photos", *OVERRIDES)
        assert done.returncode == 0 and THRESHOLDS.read_bytes() == wanted, done.stderr
        assert done.stderr.count("is damaged: it is computed again") == turn
        content = kept[1].read_bytes()
        kept[1].write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
