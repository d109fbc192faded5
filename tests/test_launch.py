"""Launchers: their settings, and what they refuse. Their processes are killed in tests/faults."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from d2it.config import Config, paths
from d2it.config.recipe import KINDS
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.jobs import local, slurm, slurm_jobs
from d2it.jobs.launch import arrange, launch
from d2it.jobs.launcher import Launcher, Resources, load_launcher
from d2it.jobs.local import LocalJob, TrainingWork, run_here
from d2it.jobs.slurm_training import FRUITLESS, count_starts
from d2it.jobs.submit import make_executor
from d2it.machine.gpus import joinable, visible_gpus
from d2it.runs.plan import Plan, make_plan
from tests.commands import command
from tests.composed import composed

OVERRIDES = [
    "scale=smoke",
    "data.photos.train=28",
    "data.photos.test=7",
    "training.dvae.images=64",
    "training.dvae.batch=4",
    "training.dvae.save_images=4",
    "dvae_loss.gan_start=16",
]
CONSTANT = [*OVERRIDES, "runs.dvae.dvae.ratio=1.0"]  # without thresholds


TWO = "slurm resources.processes=2 resources.gpus=2"  # the smoke scale has two shards


def test_launchers_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_launcher().cluster == "local"
    assert load_launcher("slurm").of("content").gpus == 8
    assert load_launcher("slurm").of("grain").gpus == 1
    shorter = load_launcher("slurm stages.encode.minutes=5")  # its table is also that of others
    assert shorter.of("encode").minutes == 5 != shorter.of("evaluate").minutes
    monkeypatch.setenv("D2IT_LAUNCHER", "slurm")
    assert load_launcher().cluster == "slurm"
    with pytest.raises(UserError, match="did you mean 'slurm'"):
        load_launcher("slrum")
    mine = tmp_path / "mine.yaml"
    mine.write_text("{cluster: local, resources: {procesess: 2}}")
    with pytest.raises(UserError, match="did you mean 'processes'"):
        load_launcher(str(mine)).of("dvae")
    mine.write_text("{cluster: moon}")
    with pytest.raises(UserError, match="mine.yaml.*'local' or 'slurm'"):
        load_launcher(str(mine))
    mine.write_text("{stages: [")
    with pytest.raises(UserError, match="is not YAML"):
        load_launcher(str(mine))
    assert Launcher("local", stages={"dvae": {"processes": 3}}).of("dvae").processes == 3


def test_a_launcher_is_changed_in_words(tmp_path: Path) -> None:
    words = 'slurm resources.account=vision stages.dvae.nodes=2 "resources.extra={mem: 20G}"'
    launcher = load_launcher(words)
    assert launcher.of("dvae").nodes == 2 and launcher.of("content").nodes == 1
    assert launcher.of("dvae").account == "vision" and launcher.of("dit").extra == {"mem": "20G"}
    for wrong, sentence in (
        ("slurm resources.acount=me", r"'resources.acount' \(did you mean 'account'"),
        ("slurm account", "write e.g. resources.partition=gpu"),
        ("slurm cluster.x=1", "no table 'cluster'"),
        ("slurm resources.nodes=two", "must be a whole number"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_launcher(wrong)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    config = composed(*OVERRIDES)
    images = paths.images(config, "photos") / "manifest.json"
    images.parent.mkdir(parents=True)
    images.write_text("{}")
    return make_plan(run_of(composed(*CONSTANT), "dvae"))


def test_what_sbatch_reads(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site may forbid the comment: the job is found by its script too."""
    monkeypatch.setattr(shutil, "which", lambda name: name)
    launcher = load_launcher(
        "slurm resources.partition=gpu resources.account=vision stages.dvae.nodes=2"
        " resources.constraint=a100 'resources.extra={mem: 20G, comment: null}'"
        " stages.dvae.extra.qos=high"
        " 'resources.python=apptainer exec --nv d2it.sif python'"
    )
    executor = make_executor(plan.folder, launcher.of("dvae"))
    written = executor._make_submission_file_text("work", "id")
    options = {line for line in written.splitlines() if line.startswith("#SBATCH")}
    assert options - {option for option in options if "submitit" in option} == {
        f"#SBATCH --job-name={plan.folder.name}",
        "#SBATCH --qos=high",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --time=1440",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=vision",
        "#SBATCH --constraint=a100",
        "#SBATCH --mem=20G",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
    }
    assert "srun --unbuffered" in written and "--kill-on-bad-exit=1" in written
    inside = executor._submitit_command_str
    assert inside.startswith("apptainer exec --nv d2it.sif python -u -m submitit.core._submit ")
    without = make_executor(plan.folder, load_launcher("slurm").of("dvae"))
    comment = f"#SBATCH --comment={(Path.cwd() / plan.folder).resolve()}\n"
    assert comment in without._make_submission_file_text("work", "id")


@pytest.mark.parametrize("scale", ["smoke", "demo", "mini", "mini_cpu", "paper"])
def test_the_shipped_launcher_serves_every_scale(
    scale: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job has no more processes than shards, and as many GPUs."""
    monkeypatch.setattr(shutil, "which", lambda name: name)
    config = composed(f"scale={scale}")
    for kind in KINDS:
        most = 1 if kind == "grain" else min(8, getattr(config.training, kind).shards)
        executor = make_executor(plan.folder, arrange(config, load_launcher("slurm"), kind))
        written = executor._make_submission_file_text("work", "id")
        assert f"#SBATCH --ntasks-per-node={most}\n" in written
        assert f"#SBATCH --gpus-per-node={most}\n" in written


def test_an_sbatch_that_outlives_us_is_waited_for(tmp_path: Path) -> None:
    """It holds the lock as its standard input, from the moment at which it is born."""
    lock, standard_input = tmp_path / "lock", os.fstat(0)
    with slurm.submitting(lock):
        sbatch = subprocess.Popen(["sleep", "60"])
    assert os.fstat(0) == standard_input
    with open(lock) as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sbatch.kill()
        sbatch.wait()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_job_gone_when_patience_ends(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_jobs, "COMPLETING", -1.0)
    monkeypatch.setattr(slurm, "queue", list)
    lock = plan.folder / "submit.lock"
    jobs = slurm_jobs.Jobs(plan.folder, plan.run, {}, Resources(), every=60, lock=lock)
    assert jobs._find() is None


def test_a_job_that_never_saves_anything_is_given_up(plan: Plan) -> None:
    for _ in range(2):
        for _ in range(FRUITLESS):
            count_starts(plan, "7")
        (plan.state / f"{plan.training.batch:012d}").mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match=r"started 3 times at 4 images.*minutes.*dvae.save_images"):
        count_starts(plan, "7")
    count_starts(plan, "8")
    for text in ("", "[]", "{}", '{"images": 4, "starts": "3"}'):  # a damaged note: the first start
        (plan.folder / "submitit" / "7_starts.json").write_text(text)
        count_starts(plan, "7")


@pytest.mark.parametrize(
    ("launcher", "sentence"),
    [
        (TWO, "There is no Slurm here"),
        ("slurm resources.gpus=0", "the launcher asks for none: give it `gpus`"),
        (f"{TWO} resources.minutes=2", "2 minutes, but a job is told to save 90 s before"),
        ("local device=cuda", "on a CUDA GPU, and this machine has none"),
        ("slurm resources.nodes=2", "shards is 2; the number of processes must divide it, and 16"),
        ("slurm device=cpu resources.processes=0", "nodes and processes must be at least 1"),
    ],
)
def test_what_cannot_be_launched_leaves_nothing(
    plan: Plan, launcher: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "minutes" in launcher:
        monkeypatch.setattr(shutil, "which", lambda name: name)
    else:
        monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = composed(*CONSTANT)
    with pytest.raises(UserError, match=sentence):
        launch(run_of(config, "dvae"), load_launcher(launcher))
    assert not plan.folder.exists()


def test_the_published_scale_demands_a_gpu() -> None:
    assert composed("scale=paper").accelerator == "cuda"
    assert composed("scale=demo").accelerator == "auto"


def arrange_all(config: Config, words: str) -> None:
    for kind in KINDS:
        arrange(config, load_launcher(words), kind)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "stages.dvae.nodes=2",
            "use stages.dvae.nodes=1, or stages.dvae.processes=4 stages.dvae.g",
        ),
        ("resources.nodes=3", "use resources.nodes=1."),
        ("resources.nodes=16", "use resources.nodes=1."),
        ("resources.processes=6", "use resources.processes=4 resources.gpus=4."),
        ("resources.gpus=4", "8 processes cannot train dvae on 4 GPUs of a node"),
        ("resources.nodes=8", "use resources.nodes=1, or resources.processes=1 resources.gpus=1."),
        (
            "cluster=local device=cpu stages.dvae.processes=3",
            "use --processes 2, or stages.dvae.pr",
        ),
    ],
)
def test_what_cannot_share_a_step_is_told_what_can(words: str, sentence: str) -> None:
    """And what is named then does."""
    config = composed("scale=paper")
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        arrange_all(config, f"slurm {words}")
    named = str(error.value).rpartition("use ")[2].rstrip(".").split(", or ")
    for works in named if "resources" in words and "use" in sentence else ():
        arrange_all(config, f"slurm {words} {works}")


def test_launchers_in_the_documents_can_train_the_published_scale() -> None:
    config, root = composed("scale=paper"), Path(__file__).parents[1]
    files = [*root.glob("docs/*.md"), root / "README.md", root / "params/launcher/slurm.yaml"]
    pattern = re.compile(r"[`\"](slurm [\w.' ]*=[^`\"]+)[`\"]")
    found = {words for file in files for words in pattern.findall(file.read_text())}
    assert len(found) >= 4
    for words in sorted(found):
        arrange_all(config, words)


@pytest.mark.parametrize(
    ("processes", "sentence"),
    [("3", "shards is 2; the number of processes must divide it, and 3 do"), ("0", "at least 1")],
)
def test_a_refused_launcher_runs_nothing(plan: Plan, processes: str, sentence: str) -> None:
    """One sentence before any process is started."""
    words = ["train", "dvae", "--processes", processes, *OVERRIDES, "runs.dvae.dvae.ratio=1.0"]
    done = command(*words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert sentence in done.stderr and not plan.folder.exists()


def test_gpus_are_named_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, slices = ["GPU-8932f937", "GPU-46f0"], ["MIG-7a", "MIG-9b"]
    for names in ([], ["0"], ["0", "3"], whole, slices):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
        assert visible_gpus() == names
        assert joinable(names) == (names if names != slices else slices[:1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    assert visible_gpus() == []


def test_gpus_named_by_uuid_reach_the_processes(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit takes numbers alone; a process sees all names, and takes its own by its place."""

    class Telling(LocalJob):  # pickled by value, since it is local
        def train(self, plan: Plan, wait: bool = False) -> None:
            raise UserError(f"{os.environ['LOCAL_RANK']}: {os.environ['CUDA_VISIBLE_DEVICES']}")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937,GPU-46f0,GPU-0123")
    monkeypatch.setattr(local, "LocalJob", Telling)
    job = TrainingWork(run_of(composed(*CONSTANT), "dvae"), "cuda", 1)
    with pytest.raises(UserError, match="0: GPU-8932f937,GPU-46f0$"):
        run_here(plan, job, 2, visible_gpus()[:2])


def test_a_process_that_is_killed_before_all_have_met_ends_the_others(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(LocalJob):
        def train(self, plan: Plan, wait: bool = False) -> None:
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)  # as for whoever does not come

    monkeypatch.setattr(local, "LocalJob", Dying)
    job, began = TrainingWork(run_of(composed(*CONSTANT), "dvae"), "cpu", 1), time.monotonic()
    with pytest.raises(UserError, match=r"Process 1 of the training of \S+ died .*_1_log"):
        run_here(plan, job, 2, [])
    assert time.monotonic() < began + 60
