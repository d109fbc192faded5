"""Bad input met by the real commands: exit code 2, one sentence, and everything as it was."""

import ast
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from d2it import cli
from d2it.errors import SETTINGS, UserError
from d2it.files import file_digest, read_sealed, write_sealed
from tests.commands import Done, command
from tests.forked import Forked
from tests.test_evaluate import pictures
from tests.test_prepare import tree
from tests.tiny_world import OVERRIDES, WEIGHTS, build_world, enter

SHORT = [  # two steps of a DVAE
    *OVERRIDES,
    "training.dvae.images=8",
    "training.dvae.batch=4",
    "training.dvae.save_images=4",
    "dvae_loss.gan_start=4",
]
TRAIN = ["train", "dvae", *SHORT, "--launcher", "local", "--processes", "1"]
THRESHOLDS = Path("data/smoke/photos/thresholds.json")
IMAGES = Path("data/smoke/photos/images")
DVAE = Path("results/smoke/models/dvae")
SMALL = 2**13  # bytes that a file may have: a full disk for whoever has no disk to fill


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        build_world(["dit_b"])
    return folder


@pytest.fixture
def world(built: Path, tmp_path: Path) -> Path:
    """A copy, to spoil."""
    return Path(shutil.copytree(built, tmp_path / "work"))


@pytest.fixture
def begun(world: Path) -> Path:
    """Prepared and calibrated, no more."""
    for path in (world / "results", world / "data/smoke/latents"):
        shutil.rmtree(path)
    return world


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D2IT_RUNS", raising=False)
    monkeypatch.setenv("D2IT_WEIGHTS", str(WEIGHTS))
    monkeypatch.setenv("D2IT_OFFLINE", "1")


def assert_says(done: Done, *parts: str) -> None:
    """One line is all that is said, and it has all `parts`."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("d2it: error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for part in parts:
        assert part in done.stderr


def assert_refused(words: list[str], cwd: Path, *parts: str, **changes: str) -> None:
    before = tree(cwd)
    assert_says(command(*words, cwd=cwd, **changes), *parts)
    assert tree(cwd) == before


def leftovers(folder: Path) -> list[Path]:
    return [path for end in ("part", "old") for path in folder.rglob(f".*.{end}")]


# Thresholds


def restate(world: Path, **facts: object) -> None:
    path = world / THRESHOLDS
    write_sealed(path, read_sealed(path, made_by="") | facts)


def test_thresholds_of_another_data_set_train_nothing(begun: Path) -> None:
    restate(begun, dataset="cats", images_digest="0" * 64)
    sentence = "was measured on other images than those of photos"
    assert_refused(TRAIN, begun, str(THRESHOLDS), sentence, "again with `d2it calibrate photos ")


def test_thresholds_of_another_patch_size_encode_nothing(world: Path) -> None:
    shutil.rmtree(world / "data/smoke/latents")
    tables = json.loads((world / THRESHOLDS).read_text())["tables"]
    restate(world, tables={"32": tables["8"]})
    sentence = "was measured with regions of 32 px, but 8 is asked for"
    assert_refused(["encode", "dvae", *OVERRIDES], world, sentence, "`d2it calibrate photos ")


# Third-party weights


@pytest.mark.parametrize("cut", [False, True])
def test_perceptual_weights_missing_or_cut_short(begun: Path, cut: bool) -> None:
    folder = begun / "weights"
    folder.mkdir()
    if cut:
        name = "lpips_alex.safetensors"
        (folder / name).write_bytes((WEIGHTS / name).read_bytes()[:-100])
        shutil.copy(WEIGHTS / f"{name}.checked.json", folder)
    said = "its sha256 differs" if cut else "is missing: get it with"
    assert_refused(TRAIN, begun, said, "`d2it fetch lpips_alex`", D2IT_WEIGHTS=str(folder))


# Too few images


def test_too_few_images_to_compare(tmp_path: Path) -> None:
    pictures(tmp_path / "one", 1, 0)
    pictures(tmp_path / "four", 4, 0)
    for ours, theirs, n, sentence in (
        ("four", "four", "1", "--n is 1, but a distance needs at least two images"),
        ("one", "four", "2", "2 images are asked for, but one holds 1"),
        ("four", "four", "5", "5 images are asked for, but four holds 4"),
    ):
        words = ["evaluate", "--images", ours, "--reference", theirs, "--n", n]
        assert_refused(words, tmp_path, sentence)


def test_too_few_images_for_a_reference(tmp_path: Path) -> None:
    one = [*OVERRIDES, "data.photos.train=1"]
    assert command("prepare", "photos", *one, cwd=tmp_path).returncode == 0
    assert_refused(["reference", "photos", *one], tmp_path, "at least two images", "photos gives 1")


# A full disk


def test_full_while_preparing(tmp_path: Path, built: Path) -> None:
    words = ["prepare", "photos", *OVERRIDES]
    assert_says(Forked("d2it", *words, cwd=tmp_path, limit=SMALL).end(), "The disk is full")
    assert not leftovers(tmp_path) and not (tmp_path / IMAGES).exists()
    assert command(*words, cwd=tmp_path).returncode == 0
    assert tree(tmp_path / IMAGES) == tree(built / IMAGES)


def test_full_while_training(begun: Path) -> None:
    data = tree(begun / "data")
    done = Forked("d2it", *TRAIN, cwd=begun, limit=2**16).end()
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("d2it: error: ") == 1, done.stderr
    assert "free some space and run the same command again" in done.stderr.splitlines()[-1]
    assert tree(begun / "data") == data
    assert not leftovers(begun) and not (begun / "results").exists()
    assert command(*TRAIN, cwd=begun).returncode == 0
    assert (begun / DVAE / "manifest.json").is_file()


# Folders that nobody may write to, nor root


def test_training_where_nothing_can_be_written(begun: Path) -> None:
    (begun / "runs").symlink_to("/sys/kernel")
    before = tree(begun / "data")
    assert_says(command(*TRAIN, cwd=begun), "check its permissions")
    assert tree(begun / "data") == before and not (begun / "results").exists()


def test_evaluating_where_nothing_can_be_written(world: Path) -> None:
    (world / "results/smoke/gallery").symlink_to("/sys/kernel")
    before = tree(world / "data"), tree(world / DVAE.parent)
    done = command("evaluate", "dit_b", *OVERRIDES, cwd=world)
    assert_says(done, "check its permissions")
    assert (tree(world / "data"), tree(world / DVAE.parent)) == before
    assert not leftovers(world) and not (world / "results/smoke/evaluations").exists()


def test_a_table_where_nothing_can_be_written(tmp_path: Path) -> None:
    place = tmp_path / "results/smoke/tables"
    place.parent.mkdir(parents=True)
    place.symlink_to("/sys/kernel")
    assert_says(command("table", "1", "scale=smoke", cwd=tmp_path), "check its permissions")
    assert list(place.parent.iterdir()) == [place]


# Steps left out


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["train", "dvae"], "d2it prepare photos"),
        (["train", "d2it_b"], "d2it encode dvae"),
        (["encode", "dvae"], "d2it train dvae"),
        (["evaluate", "d2it_b"], "d2it train d2it_b"),
        (["figure", "3"], "d2it evaluate d2it_"),
    ],
)
def test_what_is_missing_is_named_with_its_command(tmp_path: Path, words, remedy) -> None:
    (tmp_path / "data/smoke").mkdir(parents=True)  # a study that has begun
    assert_refused([*words, "scale=smoke"], tmp_path, "is missing: make it with", f"`{remedy}")


# Damaged models


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-64])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    """No weights at all, of which the header knows nothing wrong."""
    path.write_bytes(b"")
    header = path.with_name("model.json")
    model = read_sealed(header, made_by="")
    model["files"][path.name] = {"bytes": 0, "sha256": file_digest(path)}
    write_sealed(header, model)


def widen(path: Path) -> None:
    """Weights of another network than the header says."""
    header = path.with_name("model.json")
    model = read_sealed(header, made_by="")
    model["architecture"]["channels"] *= 2
    write_sealed(header, model)


@pytest.mark.parametrize(
    ("spoil", "command", "sentence"),
    [
        (widen, "encode", "encoder.conv_in.weight is [16, 3, 3, 3] there, and [32, 3, 3, 3] in"),
        (cut_short, "encode", "is damaged"),
        (flip, "evaluate", "is damaged"),
        (empty, "encode", "is damaged"),
    ],
)
def test_damaged_weights_are_not_used(world: Path, spoil, command, sentence) -> None:
    shutil.rmtree(world / "data/smoke/latents")
    spoil(world / DVAE / "model.safetensors")
    remedy = "make it again with `d2it train dvae "
    assert_refused([command, "dvae", *OVERRIDES], world, sentence, remedy)


# A bit that flipped in place


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("data/smoke/latents/dvae/train-00000-grain1.bin", "d2it encode dvae"),
        ("data/smoke/photos/reference/features.npy", "d2it reference photos"),
        ("results/smoke/models/dit_b/raw.safetensors", "d2it train dit_b"),
    ],
)
def test_a_flipped_bit_is_found_when_everything_is_read(world: Path, file, remedy) -> None:
    whole = command("verify", "--made", "smoke", cwd=world)
    assert whole.returncode == 0 and not whole.stderr
    assert all(line.endswith(" is intact") for line in whole.stdout.splitlines())
    flip(world / file)
    folder = Path(file).parent
    said = f"delete {folder} and run `{remedy} scale=smoke`"
    assert_refused(["verify", "--made", "smoke"], world, said)
    found = command("verify", "--made", "smoke", cwd=world).stdout.splitlines()
    assert len(found) == len(whole.stdout.splitlines()) >= 5
    assert [line for line in found if not line.endswith(" is intact")] == [
        f"{folder}: damaged: {Path(file).name}"
    ]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    assert_refused(["verify", "--made", "smoke"], tmp_path, "Nothing of the scale smoke is here")


def test_advice_is_ready_to_be_typed(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """With the settings that were given, before those of the advice; of a process on Slurm too."""
    advice = f"`d2it reference photos{SETTINGS} data.photos.protocol=adm`"
    error = UserError(f"run {advice}, or `d2it fetch inception`.")
    assert str(error) == (
        "run `d2it reference photos data.photos.protocol=adm`, or `d2it fetch inception`."
    )
    settings = ["scale=smoke", "data.photos.crop=[1, 1]"]
    full = (
        "run `d2it reference photos scale=smoke 'data.photos.crop=[1, 1]' "
        "data.photos.protocol=adm`, or `d2it fetch inception`."
    )
    for sentence in (error.sentence, json.loads(json.dumps(error.sentence))):
        assert cli._complain(UserError(sentence), Namespace(overrides=["dvae", *settings])) == 2
        assert capsys.readouterr().err == f"d2it: error: {full}\n"
    composed = Namespace(params="p.yaml", overrides=[])
    cli._complain(UserError(f"run `d2it train dvae{SETTINGS}`."), composed)
    assert capsys.readouterr().err == "d2it: error: run `d2it train dvae --params p.yaml`.\n"


def test_every_advice_leaves_room_for_settings() -> None:
    """Of all sentences in the code: a command that reads settings has a gap for them."""
    unset = tuple(f"d2it {verb}" for verb in ("fetch", "verify", "grains", "models", "config"))
    for path in Path(cli.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "UserError":
                for advice in re.findall(r"`(d2it [^`]+|\{[^`]+)`", ast.unparse(call)):
                    told = "{SETTINGS}" in advice or "scale=" in advice
                    assert told or advice.startswith(unset), f"{path}: {advice}"
