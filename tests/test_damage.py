"""What is written is read as it was written, or a sentence says what is damaged and what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from d2it.config import load, paths
from d2it.config.documents import conform
from d2it.config.listed import SUMS
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.evaluation.measure import Evaluated, Evaluator
from d2it.files import (
    FOLDER,
    MANIFEST,
    is_intact,
    read_format,
    read_sealed,
    save_by_umask,
    seal_folder,
    write_format,
    write_json,
    write_sealed,
    write_text,
)
from d2it.grains.calibrate import calibrate
from d2it.images.emoji import emoji_groups
from d2it.images.prepare import prepare
from d2it.runs import provenance
from d2it.runs.evaluations import Evaluations
from d2it.runs.lease import lease
from d2it.runs.verify import verify_made
from d2it.sampling.pipeline import Drawn
from d2it.snakefile import configure
from d2it.units import Unit, Units, divide
from tests.commands import command
from tests.tiny_world import FEW_PHOTOS
from tools import live_windows

ROOT = Path(__file__).parents[1]
IN_GIT = [f"{ROOT / 'data' / name} is intact" for name in ("published", "emoji.csv")]
VALUE = {"images": 64, "recipe": {"ratio": [0.5, 1e-5], "name": "dvae"}, "classes": ["ä", None]}


def test_every_flipped_bit_of_a_sealed_table_is_noticed_or_says_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.json"
    write_sealed(path, VALUE)
    good, noticed = path.read_bytes(), 0
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            found = read_sealed(path, made_by="d2it train dvae")
        except UserError as error:
            noticed += 1
            assert "is damaged: delete it and make it again with `d2it train dvae" in str(error)
        else:  # the digest's own name, or a space
            assert {key: found[key] for key in VALUE} == VALUE
    assert noticed > 0.6 * len(good)  # all else: indentation, and the name


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"a": NaN}', "\ufeff{}", "3"])
def test_what_is_no_table_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "done.json"
    path.write_text(text)
    with pytest.raises(UserError, match="done.json is damaged: delete it and make it again"):
        read_format(path, "d2it-done", 1, made_by="d2it train dvae")


def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    path = tmp_path / "done.json"
    path.mkdir()
    with pytest.raises(UserError, match="done.json is damaged: delete it"):
        read_sealed(path, made_by="d2it train dvae")
    with pytest.raises(UserError, match="done.json is a folder, but a file belongs there"):
        write_text(path, "{}")
    assert [found.name for found in tmp_path.iterdir()] == ["done.json"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"recipe_digest": 3}, "recipe_digest is 3, but must be a name"),
        ({"evaluations": []}, "evaluations is \\[\\], but must be a table"),
        ({"evaluations": {"main": {}}}, "evaluations.main.metrics is missing"),
        ({"evaluations": {"main": {"metrics": {"fid": "4"}, "recipe": {}}}}, "fid is '4'"),
    ],
)
def test_a_shape_that_is_not_kept(change: dict, sentence: str) -> None:
    good = {"recipe_digest": "a", "images": 64, "evaluations": {}}
    conform(Evaluations, good, "d2it_b.json", "")
    with pytest.raises(UserError, match=f"d2it_b.json is damaged \\(.*{sentence}.*: delete it"):
        conform(Evaluations, good | change, "d2it_b.json", "d2it evaluate d2it_b")


NO_RECORD = ["", "[]", "{", "[" * 100_000, '{"host": 3, "pid": 1}', "[3]", '"cpu"', '{"cpu": "x"}']


@pytest.mark.parametrize("text", NO_RECORD)
def test_a_record_on_which_no_result_rests_tells_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds a lease; on what an evaluation from before there were seals was made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heartbeat.json").write_text(text)
    with lease(tmp_path):
        pass
    evaluator = Evaluator(run_of(load(overrides=["scale=smoke"]), "d2it_b"))
    entry = {"metrics": {"fid": 1.0}, "spread": {}, "recipe": {}}
    one = np.zeros(1, np.int64)
    evaluated = Evaluated(**entry, pictures=Drawn(one, one, one))
    evaluator.remember("main", {}, lambda: evaluated)
    folder = evaluator.folder("main", {})
    (folder / MANIFEST).unlink()
    (folder / "devices.json").write_text(text)
    assert evaluator.remember("main", {}, pytest.fail).devices == []


def compute(units: Units) -> list[Unit]:
    """-> the units that were not there."""
    computed: list[Unit] = []

    def one(unit: Unit, advance) -> dict[str, np.ndarray]:
        computed.append(unit)
        return {"numbers": np.arange(unit.span.start, unit.span.stop, dtype=np.float32)}

    units.compute(one, "cpu", "numbers")
    return computed


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_unit_is_computed_again(tmp_path: Path, cut: bool) -> None:
    units = Units(tmp_path / "evaluation", {}, divide("0", range(64), 16))
    assert compute(units) == list(units.all)
    path = units.path(units.all[2])
    good = path.read_bytes()
    path.write_bytes(good[:-9] if cut else good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.warns(UserWarning, match="is damaged: it is computed again"):
        assert compute(units) == [units.all[2]]
    assert units.load(units.all[2])["numbers"].tolist() == list(range(32, 48))
    assert compute(units) == []


def test_an_evaluation_that_is_made_again_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the seconds that it took, which are under no digest."""
    monkeypatch.chdir(tmp_path)
    evaluator = Evaluator(run_of(load(overrides=["scale=smoke"]), "d2it_b"))
    one, made = np.zeros(1, np.int64), []
    for seconds in (1.0, 2.0):
        evaluated = Evaluated({"fid": 1.0}, {}, {}, Drawn(one, one, one), seconds=seconds)
        evaluator.remember("main", {}, lambda evaluated=evaluated: evaluated)
        folder = evaluator.folder("main", {})
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert json.loads(made[-1].pop("seconds.json")) == {"seconds": seconds}
        assert is_intact(folder)
        shutil.rmtree(folder)
    assert made[0] == made[1] and MANIFEST in made[0]


def test_a_folder_that_is_sealed(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_bytes(b"1234")
    assert is_intact(tmp_path)  # from before there were seals
    seal_folder(tmp_path)
    assert is_intact(tmp_path)
    (tmp_path / "pictures").write_bytes(b"1235")
    assert not is_intact(tmp_path)


@pytest.mark.parametrize("files", [None, [], "pictures", {"pictures": 3}, {"pictures": {}}])
def test_a_seal_that_says_nothing_of_files(tmp_path: Path, files: Any) -> None:
    (tmp_path / "pictures").write_bytes(b"1234")
    said = {} if files is None else {"files": files}
    write_format(tmp_path / MANIFEST, *FOLDER, said)
    assert not is_intact(tmp_path)


def test_a_study_as_its_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The composed settings of Snakemake's jobs: what is edited there is not used, but mended."""
    monkeypatch.setenv("D2IT_RUNS", str(tmp_path / "runs"))
    config, path = configure({"scale": "smoke"})
    assert load(path) == config
    edited = yaml.safe_load(path.read_text()) | {"seed": 7}
    for text in (yaml.safe_dump(edited), "", "a: [1"):
        path.write_text(text)
        with pytest.raises(UserError, match="give the same snakemake command again"):
            load(path)
    assert configure({"scale": "smoke"}) == (config, path)
    assert load(path) == config


def test_an_evaluation_is_the_one_that_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_of(load(overrides=["scale=smoke"]), "d2it_b")
    write_json(run.evaluation, {"fid": 414.85})
    provenance.check(run)  # nothing is recorded
    said: list[str] = []
    verify_made("smoke", said.append)
    record = paths.provenance(run.config, run.name)
    assert said == [f"{run.evaluation}: no record of its sha256 in {record}", *IN_GIT]
    whole = run.evaluation.read_text()
    run.evaluation.write_text(whole[:9])
    with pytest.raises(UserError, match=f"delete {run.evaluation} and run `d2it evaluate d2it_b"):
        verify_made("smoke", lambda _: None)
    run.evaluation.write_text(whole)
    provenance.record(run)
    provenance.check(run)
    verify_made("smoke", lambda _: None)
    run.evaluation.write_text(run.evaluation.read_text().replace("414.85", "415.23"))
    with pytest.raises(UserError, match="is not as it was written .*d2it evaluate d2it_b"):
        provenance.check(run)
    with pytest.raises(UserError, match=f"delete {run.evaluation} and run `d2it evaluate d2it_b"):
        verify_made("smoke", lambda _: None)
    path = paths.provenance(run.config, run.name)
    write_sealed(path, json.loads(path.read_text()) | {"commit": "other"})
    path.write_text(path.read_text().replace("other", "third"))
    with pytest.raises(UserError, match="d2it_b.json is damaged: delete it"):
        provenance.check(run)


def test_models_kept_in_git_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = run_of(load(overrides=["scale=smoke"]), "dvae").kept
    kept.mkdir(parents=True)
    (kept / "model.safetensors").write_bytes(b"1234")
    seal_folder(kept)
    said: list[str] = []
    verify_made("smoke", said.append)
    assert said == [f"{kept} is intact", *IN_GIT]
    (kept / "model.safetensors").write_bytes(b"1235")
    cure = f"delete {kept} and restore it with `git checkout -- {kept}`"
    with pytest.raises(UserError, match=cure):
        verify_made("smoke", said.append)
    assert said[3:] == [f"{kept}: damaged: model.safetensors", *IN_GIT]


def test_a_run_that_has_evaluations_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model came from elsewhere: nothing was trained in its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2IT_RUNS", str(tmp_path / "runs"))
    run = run_of(load(overrides=["scale=smoke"]), "d2it_b")
    write_json(run.evaluation, {"fid": 414.85})
    folder = run.folder / "evaluations" / "main-01234567"
    write_json(folder / "evaluation.json", {"metrics": {}, "recipe": {}})
    seal_folder(folder)
    said: list[str] = []
    verify_made("smoke", said.append)
    assert said[1:] == [f"{folder} is intact", *IN_GIT]
    write_json(folder / "evaluation.json", {"metrics": {"fid": 1.0}, "recipe": {}})
    with pytest.raises(UserError, match=f"delete {folder}"):
        verify_made("smoke", said.append)


@pytest.fixture
def in_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder with its own tables, in a repository."""
    monkeypatch.chdir(tmp_path)
    for name in ("published", "emoji.csv", SUMS):
        source, target = ROOT / "data" / name, tmp_path / "data" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (tmp_path / "results/smoke/models").mkdir(parents=True)
    write_json(paths.thresholds(load(overrides=["scale=smoke"]), "photos"), {})
    git = ["git", "-c", "user.name=d", "-c", "user.email=d@localhost"]
    for words in (["init", "-q"], ["add", "data"], ["commit", "-qm", "tables"]):
        subprocess.run([*git, *words], check=True)
    verify_made("smoke", lambda _: None)
    return tmp_path / "data"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cured(sentence: str) -> None:
    """By the command that a sentence names, and nothing else."""
    [words] = re.findall(r"`(git [^`]+)`", sentence)
    subprocess.run(words.split(), check=True)
    verify_made("smoke", lambda _: None)


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("data/published/[!R]*")))
def test_a_flipped_bit_of_a_published_number(in_git: Path, name: str) -> None:
    folder = in_git / "published"
    flip(folder / name, (folder / name).stat().st_size // 2)
    restored = f"restore it with `git checkout -- {folder}`"
    with pytest.raises(UserError, match=f"delete {folder} and {restored}") as refused:
        verify_made("smoke", lambda _: None)
    cured(str(refused.value))


HARMED = {
    "table_2.csv": lambda path: flip(path, 99),
    SUMS: lambda path: flip(path, path.read_bytes().index(b"table_2") - 9),
    f"no {SUMS}": Path.unlink,
}


@pytest.mark.parametrize("harm", HARMED)
def test_a_table_beside_damaged_numbers_names_a_cure_that_works(in_git: Path, harm: str) -> None:
    folder, words = in_git / "published", ("table", "2", "scale=smoke")
    HARMED[harm](folder / harm.removeprefix("no "))
    done = command(*words)
    told = f"{folder / 'table_2.csv'} is not as it was written (its sha256 is not the one in"
    assert done.returncode == 2 and told in done.stderr
    cured(done.stderr)
    assert command(*words).returncode == 0


@pytest.mark.parametrize("name", ["emoji.csv", SUMS])
def test_a_flipped_bit_of_the_list_of_emoji(in_git: Path, name: str) -> None:
    """Another group of one picture would be other labels, and nothing else would tell."""
    table = in_git / "emoji.csv"
    flip(in_git / name, 40)
    again = f"`git checkout -- {table} {in_git / SUMS}`"
    with pytest.raises(UserError, match=f"delete {table} and restore it with {again}"):
        verify_made("smoke", lambda _: None)
    with pytest.raises(UserError, match="restore both with") as refused:
        emoji_groups()
    cured(str(refused.value))
    assert len(emoji_groups()) == 9


def test_a_flipped_bit_of_the_shares_of_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(overrides=FEW_PHOTOS)
    prepare(config, "photos", 1)
    calibrate(config, "photos")
    live_windows.main(FEW_PHOTOS)
    said: list[str] = []
    verify_made("smoke", said.append)
    path = paths.windows(config)
    assert f"{path} is intact" in said
    path.write_text(path.read_text().replace('"images": ', '"images": 1'))
    again = "python -m tools.live_windows scale=smoke"
    with pytest.raises(UserError, match=f"delete {path} and run `{again}`"):
        verify_made("smoke", said.append)
    write_json(path, {"format": "d2it-windows", "version": 1, "measured": []})
    verify_made("smoke", said.append)
    assert said[-3] == f"{path}: written before it held a digest of itself"


def test_a_group_may_read_what_is_saved(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path, plain = tmp_path / "model.safetensors", tmp_path / "plain"
    plain.touch()
    save_by_umask(save_file, {"a": np.zeros(1)}, path)
    assert path.stat().st_mode == plain.stat().st_mode
