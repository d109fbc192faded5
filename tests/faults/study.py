"""A finished study in small, with all that its commands write, and what reads each place next."""

import csv
import shutil
import subprocess
from contextlib import chdir
from pathlib import Path, PurePosixPath

from d2it.config import load
from d2it.config.run import run_of
from d2it.jobs import slurm
from tests.commands import Done, command
from tests.faults.runs import ROOT, SETTINGS, World
from tests.forked import Forked
from tests.loopback import Server
from tools import live_windows

TABLE = "2"
STUDY = [*SETTINGS, "sampling.steps=2", "evaluation.n=7", "data.photos.reference=7"]
DVAE, GRAIN, D2IT, DIT = "dvae", "grain_classes", "d2it_xl_classes", "dit_xl_classes"
DRAWN, WEIGHTS = f"samples/{DIT}", ("inception.pt", "lpips_alex.safetensors")
GIT = ["git", "-c", "user.name=faults", "-c", "user.email=faults@localhost"]

SAMPLE = ["sample", "--run", DIT, "--seeds", "0-6"]
COMPARE = ["evaluate", "--images", DRAWN, "--reference", DRAWN]
FETCH = ["fetch", "inception", "lpips_alex"]
NO_SETTINGS = ("fetch", "verify")
# In git, below data/ -> the files.
TRACKED = {"published": "published/[!R]*", "emoji.csv": "emoji.csv", "SHA256SUMS": "SHA256SUMS"}
PARAMS = "study.yaml"  # the settings, composed once, as for Snakemake's jobs
# Place -> what reads it next. Of `snakemake`, `help` ends once the settings are written.
NEXT = {
    "data/weights": FETCH,
    f"data/published/table_{TABLE}.csv": ["table", TABLE],
    "data/published/": ["table", TABLE],
    "data/emoji.csv": ["prepare", "emoji"],
    "data/SHA256SUMS": ["prepare", "emoji"],
    "data/smoke/photos/images": ["calibrate", "photos"],
    "data/smoke/photos/thresholds.json": ["encode", DVAE],
    "data/smoke/photos/reference": ["evaluate", DIT],
    "data/references": COMPARE,
    "data/smoke/latents": ["train", DIT],
    "results/smoke/models": ["evaluate", D2IT],
    "results/smoke/kept": ["train", DVAE],
    "results/smoke/evaluations": ["table", TABLE],
    "results/smoke/provenance": ["table", TABLE],
    "results/smoke/gallery": ["evaluate", D2IT],
    "results/smoke/windows.json": ["table", TABLE],
    "results/smoke/tables": ["table", TABLE],
    "results/smoke/figures": ["figure", "4"],
    "results/smoke/metrics.json": ["metrics"],
    "results/smoke/samples": ["page"],
    "results/smoke/index.html": ["page"],
    "samples": SAMPLE,
    "runs/.params": ["snakemake", "help"],
    "runs/dvae": ["evaluate", DVAE],
    "runs/grain": ["evaluate", GRAIN],
    "runs/d2it": ["evaluate", D2IT],
    "runs/dit": ["evaluate", DIT],
}
# Nothing rests on these but the page's curves, the seconds in provenance and `d2it status`.
NOTES = r".*/(log\.txt|metrics\.jsonl|config\.yaml|jobs\.json|seconds\.json)"
READS_NOTES = ["status"]


def run(*words: str) -> Done:
    """A command with the settings of this study."""
    if words[0] == "snakemake":
        where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", "."]
        return Forked(*words, *where, "--config", STUDY[0]).end()
    return command(*words, *([] if words[0] in NO_SETTINGS else ["--params", PARAMS]))


def finished_study(world: World, server: Server) -> Path:
    """Four runs with everything on the way to a table, and what is made of them besides."""
    case = world.case("dit", own_data=True)
    for kind in ("dvae", "content", "dit"):
        runs = world.undisturbed[kind].folder / "runs"
        shutil.copytree(runs, case.folder / "runs", dirs_exist_ok=True)
    _own_weights(case.folder / "data", server)
    _own_tables(case.folder / "data")
    names = (DVAE, GRAIN, D2IT, DIT)
    runs = [
        [verb, name] for verb in ("train", "evaluate") for name in names
    ]  # the grain network's is new
    rest = [["keep", DVAE], SAMPLE, COMPARE, NEXT["runs/.params"]]
    shown = [["table", TABLE], ["figure", "4"], ["metrics"], ["page"]]
    with chdir(case.folder):
        Path(PARAMS).write_text(command("config", *STUDY).stdout)
        for words in (["reference", "photos"], *runs, *rest, *shown):
            done = run(*words)
            assert done.returncode == 0, done.stderr
            if words[0] == "reference":
                live_windows.main(STUDY)  # calibrated, and not yet in a table
        slurm.record(run_of(load(overrides=STUDY), DIT).folder, "17", 1, DIT)
        tracked = ["results/smoke/kept", *(f"data/{name}" for name in TRACKED)]
        for words in (["init", "-q"], ["add", *tracked], ["commit", "-qm", "tracked"]):
            subprocess.run([*GIT, *words], check=True)
    return case.folder


def _own_tables(data: Path) -> None:
    (data / "published").mkdir()
    for pattern in TRACKED.values():
        for path in (ROOT / "data").glob(pattern):
            shutil.copyfile(path, data / path.relative_to(ROOT / "data"))


def _own_weights(data: Path, server: Server) -> None:
    """A copy to damage, and a table by which `d2it fetch` finds Inception here, LPIPS nowhere."""
    (data / "weights").unlink()
    (data / "weights").mkdir()
    for name in WEIGHTS:
        for path in (ROOT / "data" / "weights").glob(f"{name}*"):
            shutil.copy2(path, data / "weights")
    server.files["/inception.pt"] = (data / "weights" / "inception.pt").read_bytes()
    table = data / "sources.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    for row in rows:
        if row["name"] in FETCH[1:]:
            row["url"] = server.url(f"/{row['name']}{PurePosixPath(row['url']).suffix}")
            row["mirrors"] = ""
    table.unlink()  # a link
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
