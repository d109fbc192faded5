"""Names from settings and files never reach a shell as anything else than words."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from d2it.config.load import compose, load
from d2it.config.typed import check_name
from d2it.errors import UserError
from tests.commands import command
from tests.forked import Forked
from tests.test_workflow import ROOT, Checkout, checkout_at

CANARY = "canary"  # the file that an executed name leaves behind
HOSTILE = [
    f"a | touch {CANARY} | b",
    f"x; touch {CANARY} #",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    "my study",
    f"it's'; touch {CANARY} '",
    f'"; touch {CANARY}; "',
    f"a\ntouch {CANARY}",
    "a@b",
    "../../out",
    "..",
    "-x",
    "ü",
    "x" * 101,
    "",
]
IMAGES = "data/smoke/photos/images/manifest.json"
FEW = ["scale=smoke", "data={photos: {train: 14, test: 7, reference: 7}}"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    for name in ("D2IT_WEIGHTS", "D2IT_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", os.defpath)  # as where no environment is activated
    return checkout_at(tmp_path / "checkout")


def made(checkout: Checkout) -> set[str]:
    """What is there, beside what orchestrates and the logs of who does."""
    return {
        path.relative_to(checkout.root.parent).as_posix()
        for path in checkout.root.parent.rglob("*")
        if path.is_file() and not {".git", ".snakemake", ".dvc"} & set(path.parts)
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(UserError, match="choose another") as told:
        check_name(name, "name")
    assert str(told.value).count(". ") == 0 and "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["dvae", "d2it_b_12_4", "my-study.2", "7", "A" * 100])
def test_a_name(name: str) -> None:
    assert check_name(name, "name") == name


DATA = "data={{photos: {{}}, {}: {{source: photos}}}}"


@pytest.mark.parametrize(
    "setting",
    [*(f"name={json.dumps(name)}" for name in HOSTILE[:7]), DATA.format(json.dumps(HOSTILE[1]))],
)
def test_snakemake_refuses_a_hostile_setting(checkout: Checkout, setting: str) -> None:
    before, settings = made(checkout), ["scale=smoke", setting]
    done = checkout.run("snakemake", "--cores", "1", IMAGES, "--config", *settings)
    assert done.returncode == 1 and made(checkout) == before
    assert "d2it: error: " in done.stderr and "Traceback" not in done.stderr


def test_snakemake_refuses_a_scale_of_a_hostile_name(checkout: Checkout) -> None:
    scales = checkout.root / "params" / "scale"
    (scales / f"`touch {CANARY}`.yaml").write_text((scales / "smoke.yaml").read_text())
    before = made(checkout)
    settings = ["--config", f"scale=`touch {CANARY}`"]
    done = checkout.run("snakemake", "--cores", "1", IMAGES, *settings)
    assert done.returncode == 1 and "choose another" in done.stderr and made(checkout) == before


@pytest.mark.parametrize("folder", ["my runs", f"r$(touch {CANARY})", "r'; touch canary; '"])
def test_a_runs_folder_of_any_name_works(checkout: Checkout, tmp_path: Path, folder: str) -> None:
    runs = str(tmp_path / folder)
    words = ["snakemake", "--cores", "1", IMAGES, "--config", *FEW]
    done = Forked(*words, cwd=checkout.root, D2IT_RUNS=runs).end()
    assert done.returncode == 0, done.stderr
    assert (checkout.root / IMAGES).is_file() and not list(tmp_path.rglob(CANARY))
    assert list(Path(runs, ".params").iterdir())


def test_dvc_executes_no_name(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads params.yaml by itself; our commands refuse the names that they are given."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    names, params = HOSTILE[:8], compose(["scale=smoke"])
    params["data"] |= dict.fromkeys(names, params["data"]["photos"])
    params["dvae_loss"]["perceptual"] = HOSTILE[5]
    (checkout.root / "params.yaml").write_text(yaml.safe_dump(params))
    (checkout.root / "data/weights").mkdir()
    (checkout.root / "data/weights/twemoji.zip").touch()  # which DVC's stage asks for
    before = made(checkout)
    stages = [f"prepare@{name}" for name in names]
    stages.append(f"fetch-lpips@lpips_{HOSTILE[5]}")
    done = checkout.run("dvc", "repro", "--keep-going", "--single-item", *stages)
    told = re.findall("^d2it: error: .* choose another.$", done.stderr, re.M)
    assert done.returncode != 0 and len(told) == len(names), done.stderr
    assert made(checkout) - {"checkout/.gitignore"} == before


def test_rules_and_stages_quote_all_that_they_fill_in() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    commands = re.findall(r'"(d2it .*)"', rules)
    assert len(commands) >= 12
    assert all(field.endswith(":q") for line in commands for field in re.findall("{(.*?)}", line))
    updating = [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    updating = [text for text in updating if " update(" in text and "rule " in text]
    # what is fetched is known by its sha256, whichever copy Snakemake puts back
    updating = [text for text in updating if "rule fetch:" not in text]
    assert len(updating) == 6 and all('2>&1 | " + LOGGED' in text for text in updating)
    stages = re.findall(r"cmd: (.*)", (ROOT / "dvc.yaml").read_text())
    assert len(stages) >= 18
    filled = [line for line in stages if "${" in line]
    assert all(line.split("${")[1].startswith("item}") for line in filled)  # numbers of tables
    assert sum('"$DVC_STAGE"' in line for line in stages) >= 12


def test_a_source_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    header, row, *_ = (ROOT / "data/sources.csv").read_text().splitlines()
    (tmp_path / "data/sources.csv").write_text(f"{header}\n../../evil,{row.partition(',')[2]}\n")
    for words in (["fetch"], ["fetch", "../../evil"], ["verify"], ["verify", "--made", "../x"]):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 2 and "choose another" in done.stderr, done.stderr


@pytest.mark.parametrize("value", ["ü", '/a b/c"d\\e', "$(touch x)", "it's", "[0.3"])
def test_text_needs_no_knowledge_of_hydra(value: str) -> None:
    config = load(overrides=["scale=smoke", f"data.photos.source={value}"])
    assert config.data["photos"].source == value


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ü=3", "There is no setting 'ü': `d2it config` prints them all."),
        ("=3", "There is no setting '': `d2it config` prints them all."),
        ("data..x=3", "There is no setting 'data..x': `d2it config` prints them all."),
        ("ratio=[0.3", "ratio is '[0.3', but must be a number or a list of numbers."),
        ("ratio=1,2", "ratio is given several values: write ratio=[1,2] for a list."),
    ],
)
def test_what_is_no_override_is_said_in_a_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as told:
        load(overrides=["scale=smoke", override])
    assert str(told.value) == sentence
