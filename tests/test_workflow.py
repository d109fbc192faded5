"""The Snakefile and dvc.yaml: the same commands, the same inputs, and what makes them run again."""

import csv
import functools
import operator
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import PipelineStage

from d2it.config.load import compose, load
from d2it.config.recipe import thresholds_source
from d2it.config.run import run_of
from d2it.snakefile import configure, explain_target, hydra_overrides, unknown_targets
from tests.forked import Forked

ROOT = Path(__file__).parents[1]
SCALES = sorted(path.stem for path in (ROOT / "params" / "scale").glob("*.yaml"))
WIRING = ("Snakefile", "workflow", "profiles", "slurm", "params", "params.yaml", "dvc.yaml")
EVERYTHING = ("all", "all_evaluations")


@dataclass(frozen=True)
class Checkout:
    """The files that orchestrate, in a folder of their own: nothing here trains anything."""

    root: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return Forked(program, *arguments, cwd=self.root).end()

    def snakemake(self, *arguments: str) -> str:
        done = self.run("snakemake", "--cores", "2", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def planned(self, *config: str, targets: Sequence[str] = EVERYTHING) -> set[str]:
        """The commands, without options, that Snakemake would run."""
        options = (*targets, "--config", *config)
        printed = self.snakemake("--dry-run", "--printshellcmds", *options)
        lines = (line.removeprefix("Shell command: ") for line in printed.splitlines())
        return {short(line) for line in lines if line.startswith("d2it ")}

    def pretend(self, *config: str, targets: Sequence[str] = EVERYTHING) -> dict[str, set[str]]:
        """Make Snakemake believe that it made everything. Command -> the inputs it recorded."""
        options = (*targets, "--config", *config)
        for row in self.summary("--summary", *options):
            path = self.root / row["output_file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(row["output_file"])
        self.snakemake("--touch", "--forceall", *options)
        rows = self.summary("--detailed-summary", *options)
        return {
            normalised(row["shellcmd"]): folders(row["input-file(s)"].split(","))
            for row in rows
            if row["shellcmd"] != "-"
        }

    def summary(self, *arguments: str) -> list[dict[str, str]]:
        done = self.run("snakemake", *arguments)
        assert done.returncode == 0, done.stderr
        return [
            row
            for row in csv.DictReader(done.stdout.splitlines(), delimiter="\t")
            if "/" in row["output_file"]
        ]


def normalised(command: str) -> str:
    """Without the file of parameters and the log, in which the two differ."""
    words = shlex.split(command.partition(" 2>&1")[0])
    if "--params" in words:
        words[words.index("--params") + 1] = "FILE"
    return " ".join(words)


def short(command: str) -> str:
    """Verb and target alone."""
    return " ".join(shlex.split(command)[:3])


def folders(files: list[str]) -> set[str]:
    """Snakemake names the manifest of a folder, DVC the folder."""
    return {file.removesuffix("/manifest.json") for file in files if file not in ("-", "")}


def checkout_at(root: Path) -> Checkout:
    for name in (
        *WIRING,
        "data/sources.csv",
        "data/emoji.csv",
        "data/SHA256SUMS",
        "data/published",
        ".dvc/config",
        ".dvcignore",
    ):
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return Checkout(root)


@pytest.fixture(scope="module", autouse=True)
def ordinary_places():
    """What is pretended below must not be written where weights or runs really are."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("D2IT_WEIGHTS", "D2IT_RUNS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return checkout_at(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, dict[str, set[str]]]:
    """A checkout whose default scale is finished, and the inputs of every command."""
    checkout = checkout_at(tmp_path_factory.mktemp("finished"))
    return checkout, checkout.pretend()


def stages_of(checkout: Checkout, scale: str) -> dict[str, PipelineStage]:
    """DVC's stages by command, once all parameters that they name are seen to exist."""
    settings, file = compose([f"scale={scale}"]), checkout.root / "params.yaml"
    file.write_text(yaml.safe_dump(settings))
    stages = Repo(str(checkout.root)).index.stages
    deps = [dep for stage in stages for dep in stage.deps if isinstance(dep, ParamsDependency)]
    assert {dep.fs_path for dep in deps} == {str(file)}
    for name in {name for dep in deps for name in dep.params}:  # DVC would walk all for each
        functools.reduce(operator.getitem, name.split("."), settings)
    return {normalised(written_out(stage)): stage for stage in stages}


def written_out(stage: PipelineStage) -> str:
    """Its command, with what d2it reads in the name that DVC gives it."""
    return stage.cmd.replace('"$DVC_STAGE"', stage.addressing.partition("@")[2])


@pytest.mark.parametrize("scale", SCALES)
def test_dvc_and_snakemake_run_the_same_commands(checkout, scale):
    printed = checkout.planned(f"scale={scale}")
    stages = {short(command) for command in stages_of(checkout, scale)}
    config = load(checkout.root / "params.yaml")
    kinds = (config.runs.grain, config.runs.content, config.runs.dit)
    learnt_from = {run.latents for kind in kinds for run in kind.values()}
    # DVC encodes with every DVAE, also with those that are only there to be evaluated
    idle = {f"d2it encode {run}" for run in config.runs.dvae.keys() - learnt_from}
    # and calibrates every data set, also one whose thresholds another's are
    sources = {thresholds_source(config, run.data) for run in config.runs.dvae.values()}
    idle |= {f"d2it calibrate {data}" for data in config.data.keys() - sources}
    # and leaves a published reference batch to who starts it: a number in its place names no file
    references = {data.reference for data in config.data.values()}
    batches = {f"d2it fetch {name}" for name in references if isinstance(name, str)}
    assert batches == ({"d2it fetch adm_imagenet256"} if scale == "paper" else set())
    # and fetches emoji at any scale
    if "emoji" not in config.data:
        idle.add("d2it fetch twemoji")
    assert batches <= printed and printed - batches == stages - idle


def test_dvc_and_snakemake_read_the_same_files(finished, checkout):
    same_files(checkout, finished[1], "demo")


def test_so_do_they_where_there_are_two_data_sets_and_a_dvae_per_ratio(checkout):
    rules = checkout.pretend("scale=paper", targets=["figure_4", "d2it_b_r0", "dit_l"])
    assert len(rules) > 15
    same_files(checkout, rules, "paper")


def same_files(checkout: Checkout, rules: dict[str, set[str]], scale: str) -> None:
    stages = stages_of(checkout, scale)
    batch = "data/weights/adm_imagenet256.npz"
    for command, inputs in rules.items():
        verb = command.split()[1]
        if command == "d2it fetch adm_imagenet256 --wait":
            continue
        if command.startswith("d2it reference "):
            assert (batch in inputs) == (scale == "paper" and "imagenet" in command)
            inputs = inputs - {batch}
        plain = [dep for dep in stages[command].deps if type(dep) is not ParamsDependency]
        files = {os.path.relpath(dep.fs_path, checkout.root) for dep in plain}
        if verb == "fetch":  # Snakemake sees the digests of sources as parameters
            assert files == {"data/sources.csv"}
        elif verb == "prepare":  # and only the data set emoji needs these
            emoji = {"data/weights/twemoji.zip"}
            assert inputs == (emoji if command.startswith("d2it prepare emoji ") else set())
            assert files == {"data/sources.csv", "data/emoji.csv"} | emoji
        elif verb == "metrics":
            results = Path("results", scale, "evaluations")
            assert files == {str(results)} and {str(Path(file).parent) for file in inputs} == files
        elif verb in ("table", "figure", "page"):  # DVC cannot read the study: it waits for all
            results = Path("results", scale)
            made = ("evaluations", "gallery", "tables", "figures")
            wide = {*(str(results / name) for name in made), "data/published"}
            covered = {file for file in inputs if wide & {str(p) for p in Path(file).parents}}
            assert wide & files and inputs - covered <= files, command
        else:
            assert files == inputs, command


def test_params_yaml_is_what_params_compose_to():
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert written == compose(), "compose it again: d2it config --write params.yaml"


def test_dvc_lists_a_stage_for_every_run(checkout):
    listed = checkout.run("dvc", "stage", "list", "--name-only")
    assert listed.returncode == 0, listed.stderr
    names = listed.stdout.split()
    runs = compose()["runs"]
    for kind, found in runs.items():
        for run in found:
            assert {f"train-{kind}@{run}", f"evaluate-{kind}@{run}"} <= set(names)


def test_dvc_composes_overrides_itself():
    """`dvc exp run -S` reads params/ as .dvc/config says."""
    settings = Repo(str(ROOT)).config["hydra"]
    assert settings["enabled"] is True
    assert (settings["config_dir"], settings["config_name"]) == ("params", "config")


def test_nothing_runs_twice_and_only_what_a_change_reaches_runs_again(finished):
    (checkout, _), (config, _) = finished, configure({})
    assert checkout.planned() == set()

    for path in checkout.root.rglob("*"):  # what git, cp and dvc checkout do
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**10))
    assert checkout.planned() == set()

    other, _ = configure({"ratio": 0.7})
    runs = [run for kind in vars(config.runs).values() for run in kind]
    changed = {run for run in runs if run_of(config, run).recipe != run_of(other, run).recipe}
    planned = checkout.planned("ratio=0.7")
    assert {c.split()[2] for c in planned if c.startswith("d2it train ")} == changed
    assert "dvae" not in changed and "d2it_b" in changed
    assert not {c for c in planned if c.split()[1] in ("prepare", "calibrate", "encode", "fetch")}

    longer = checkout.planned("training={dit: {images: 12800}}")
    reached = {name for name, run in config.runs.dit.items() if run.images is None}
    assert {c.split()[2] for c in longer if c.startswith("d2it train ")} == reached

    steps = checkout.planned("sampling={steps: 10}")
    assert not {c for c in steps if c.startswith("d2it train ")}
    assert "d2it evaluate d2it_b" in steps and "d2it table 3" in steps


def test_results_in_a_clone_do_not_stand_for_the_networks_behind_them(checkout):
    """Evaluations, tables and figures come with git; models, latents and images do not."""
    every = checkout.planned()
    kept = ("evaluations/", "metrics.json", "tables/", "figures/", "index.html")
    for row in checkout.summary("--summary", *EVERYTHING):
        name = row["output_file"]
        if name.removeprefix("results/demo/").startswith(kept):
            (checkout.root / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout.root / name).write_text(name)
    assert (checkout.root / "results/demo/tables/table_3.csv").exists()
    assert checkout.planned() == every

    figures = checkout.planned(targets=["all_tables", "all_figures"])  # what `make demo` makes
    assert {command for command in every if command.split()[1] in ("train", "table")} <= figures
    one = checkout.planned(targets=["table_5"])
    assert {c.split()[2] for c in one if c.split()[1] == "train"} == {"dvae", "grain", "d2it_l"}
    assert {"d2it evaluate d2it_l", "d2it table 5"} <= one
    assert "d2it train d2it_b_r0" in checkout.planned(targets=["d2it_b_r0"])


def test_models_that_a_clone_holds_are_not_trained_again(finished):
    """As after `make pull`: everything is there, and Snakemake was told so."""
    checkout, _ = finished
    checkout.snakemake("--touch", "--forceall", "all_tables", "all_figures")
    assert checkout.planned(targets=["all_tables", "all_figures"]) == set()
    unfit = "launcher=slurm resources.nodes=3"  # it trains nothing, and need not
    assert checkout.planned(unfit, targets=["all_tables"]) == set()
    (checkout.root / "results/demo/models/d2it_l/manifest.json").unlink()
    again = checkout.planned(targets=["all_tables"])
    (checkout.root / "results/demo/models/d2it_l/manifest.json").write_text("again")
    assert {"d2it train d2it_l", "d2it evaluate d2it_l", "d2it table 5"} <= again
    assert "d2it train dvae" not in again
    checkout.snakemake("--touch", "--forceall", *EVERYTHING)


def test_the_slurm_profile_as_it_is_typed(checkout):
    """At the default scale; and a launcher that can train nothing refuses no other stage."""
    printed = checkout.snakemake("--profile", "slurm", "--dry-run", "all_tables")
    assert "Training dvae on 1 node with 1 GPU each" in printed  # as many as it has shards
    unfit = ("--config", "launcher=slurm resources.nodes=3")
    images = "data/demo/photos/images/manifest.json"
    assert "Packing" in checkout.snakemake("--profile", "slurm", "--dry-run", images, *unfit)


def test_the_slurm_profile_keeps_the_users_settings(checkout, monkeypatch):
    parts = ", ".join(f"{kind}: {{shards: 8}}" for kind in ("dvae", "grain", "content", "dit"))
    settings = ("--config", "scale=smoke", f"training={{{parts}}}")  # eight, one to a GPU of a node
    printed = checkout.snakemake("--profile", "slurm", "--dry-run", "all_tables", *settings)
    assert "Scale smoke" in printed
    assert "Training d2it_l on 1 node with 8 GPUs each, in jobs of 1440 minutes" in printed
    small = "slurm resources.processes=1 resources.gpus"
    monkeypatch.setenv("D2IT_LAUNCHER", f"{small}=2 stages.content.nodes=2")
    halves = ("--config", "training={content: {shards: 2}}")
    printed = checkout.snakemake("--profile", "slurm", "--dry-run", "d2it_l", *halves)
    assert "Training d2it_l on 2 nodes with 2 GPUs each" in printed
    words = (*halves, f"launcher={small}=1 stages.content.nodes=2")
    printed = checkout.snakemake("--profile", "slurm", "--dry-run", "d2it_l", *words)
    assert "Training d2it_l on 2 nodes with 1 GPU each" in printed


def test_help_lists_targets_and_needs_no_cores(checkout):
    done = checkout.run("snakemake", "help")
    assert done.returncode == 0
    for name in ("all_tables", "table_1", "table_5", "figure_3", "figure_6", "d2it_b_routing"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "rato=0.7"], "There is no setting 'rato' (did you mean 'ratio'?)"),
        (["--config", "scale=smole"], "There is no scale 'smole' (did you mean 'smoke'?)"),
        (["--config", "launcher=slrum"], "There is no launcher 'slrum'"),
        (["--config", "launcher=slurm resources.nodes=2"], "use resources.nodes=1 resources.pro"),
        (["table_33"], "There is no target 'table_33' (did you mean 'table_3'?)"),
        (["results/demo/models/dit_bb/manifest.json"], "There is no experiment 'dit_bb'"),
        (["results/paper/tables/table_1.csv"], "add `--config scale=paper`"),
    ],
)
def test_a_mistake_is_met_with_one_sentence(checkout, arguments, sentence):
    before = sorted(checkout.root.rglob("*"))
    done = checkout.run("snakemake", "--cores", "1", *arguments)
    said = [line for line in done.stderr.splitlines() if line.startswith("d2it: error: ")]
    assert done.returncode != 0
    assert len(said) == 1 and sentence in said[0]
    assert "Traceback" not in done.stdout + done.stderr
    kept = {
        path
        for path in checkout.root.rglob("*")
        if path.relative_to(checkout.root).parts[0] not in (".snakemake", "runs")
    }
    assert kept == set(before)


def test_settings_become_overrides():
    settings = {"ratio": 0.7, "training": {"dit": {"images": "640"}}, "model": {"factors": [8, 4]}}
    overrides = ["ratio=0.7", "training.dit.images=640", "model.factors=[8,4]"]
    assert hydra_overrides(settings) == overrides
    assert hydra_overrides({"a": {"b": None, "c": True}}) == ["a.b=null", "a.c=true"]


def test_every_unknown_name_is_explained_and_no_known_one(tmp_path, monkeypatch):
    import re

    monkeypatch.setenv("D2IT_RUNS", str(tmp_path))
    config, params = configure({"scale": "smoke"})
    assert params.parent.parent == tmp_path and params.exists()
    pattern = re.compile(unknown_targets(config))
    for known in (
        "results/smoke/models/dvae/manifest.json",
        "results/smoke/evaluations/d2it_b.json",
    ):
        assert not pattern.fullmatch(known)
    for unknown in ("table_9", "results/smoke/evaluations/d2it_bb.json", "results/demo/x/y"):
        assert pattern.fullmatch(unknown)
        assert explain_target(config, unknown)
