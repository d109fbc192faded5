"""The first hour on a GPU node: what it judges, refuses and survives.

`make first-hour SIMULATED=1`, a part of continuous integration, runs the checks themselves.
"""

import functools
import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import page
from benchmarks.first_hour import __main__ as first_hour
from benchmarks.first_hour import machine, runner, slurm, steps, together
from benchmarks.first_hour.machine import Device
from benchmarks.first_hour.runner import Check, Done, Runner, checks_of
from benchmarks.first_hour.setting import TRAINED, Found, Setting, trained_runs
from d2it.cost.rate import rate_of
from d2it.errors import UserError
from d2it.machine.gpus import GPUS
from tests.forked import PATIENCE, Forked

A100 = Setting("NVIDIA A100-SXM4-80GB", simulated=False)
SIMULATED = Setting("a simulated device", simulated=True)


class Popen(Forked):
    """As subprocess.Popen is called here, of a process that begins at once."""

    def __init__(self, command, env, cwd=".", stdout=None, **_):
        super().__init__(*command[2:], cwd=cwd, **env)
        self.log = stdout and Path(stdout.name)

    def wait(self, limit=PATIENCE):
        code = super().wait(limit)
        if self.log:
            self.log.write_text("".join(reading.result() for reading in self.told))
        return code


@pytest.fixture
def at_once(monkeypatch):
    ours = SimpleNamespace(**vars(subprocess) | {"Popen": Popen})
    for module in (runner, together):
        monkeypatch.setattr(module, "subprocess", ours)


def test_without_a_gpu_it_says_what_to_do():
    done = Forked("benchmarks.first_hour", CUDA_VISIBLE_DEVICES="").end()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no NVIDIA GPU" in done.stderr and "SIMULATED=1" in done.stderr


def test_without_slurm_it_says_what_to_do():
    done = Forked("benchmarks.first_hour", "--slurm", PATH="/nowhere").end()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "There is no Slurm here" in done.stderr and "on a GPU node" in done.stderr


def test_a_launcher_of_this_machine_submits_nothing(tmp_path, monkeypatch):
    for program in ("sbatch", "srun"):
        (tmp_path / program).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="names no Slurm cluster"):
        slurm.submitted("local", simulated=False)


def test_the_published_sizes_are_those_of_the_paper():
    config = A100.config
    assert trained_runs(config) == list(TRAINED)
    widths = [config.model.sizes[config.runs.content[f"d2it_{s}_classes"].size].width for s in "bl"]
    assert widths == [768, 1024] and config.data["imagenet"].size == 256
    assert config.training.content.batch == 256 and config.sampling.steps == 250


def test_it_fits_an_hour_of_an_a100():
    checks = checks_of(A100)
    assert {check.name for check in checks} >= {f"training {run}" for run in TRAINED}
    assert sum(check.seconds for check in checks) < 3600


def row(run: str, seconds: float, memory: float = 1.0) -> dict:
    kind = A100.plan.price(run).kind
    return {"run": run, "kind": kind, "seconds": seconds, "mfu": 0.3, "memory_gb": memory}


@pytest.mark.parametrize(
    ("setting", "times", "verdict"),
    [
        (A100, 1.2, "right"),
        (A100, 1.3, "slower than planned"),
        (SIMULATED, 1e6, "right"),
        (Setting("a GPU of next year", simulated=False), 1e6, "right"),
    ],
)
def test_steps_are_compared_with_the_plan_of_a_known_gpu(setting, times, verdict):
    seconds = times * setting.plan.step("d2it_xl_classes")
    found = steps.judged(setting, row("d2it_xl_classes", seconds), bad=-1)
    assert found.verdict == verdict
    assert bool(found.planned) is not setting.simulated


def test_more_memory_than_planned_is_wrong_but_not_on_the_cpu():
    planned = A100.plan.price("d2it_xl_classes").memory_gb
    for setting, gigabytes, verdict in (
        (A100, 1.1 * planned, "right"),
        (A100, 1.2 * planned, "wrong: it takes"),
        (SIMULATED, 1.2 * planned, "right"),
    ):
        found = steps.judged(setting, row("d2it_xl_classes", 1e-3, gigabytes), bad=-1)
        assert found.verdict.startswith(verdict)


def test_a_loss_that_is_not_finite_is_wrong():
    verdict = steps.judged(A100, row("dit_b_classes", 1e-3), bad=2).verdict
    assert verdict.startswith("wrong: step 2") and "training.dit.precision=fp32" in verdict


def test_a_busy_gpu_is_named_with_who_computes_there():
    devices = [Device("H200", "GPU-a", 140.0, 141.0), Device("H200", "GPU-b", 20.0, 141.0)]
    told = "GPU-b, 4242, python3, 121000\nGPU-elsewhere, 7, python3, 900\n"
    apps = machine.strangers(told, devices)
    [complaint] = machine.complaints(devices, apps)
    assert len(apps) == 1 and "GPU 1 is busy, 20 of 141 GB are free" in complaint
    assert "process 4242, python3, 121000 MiB" in complaint and "CUDA_VISIBLE_DEVICES" in complaint


def test_a_gpu_that_cannot_add_is_wrong():
    [complaint] = machine.complaints([Device("H100", "a", 0.0, 80.0, "CUDA error: ECC")], [])
    assert complaint == "GPU 0 cannot compute (CUDA error: ECC): use another node"


def test_gpus_of_two_kinds_are_wrong():
    mixed = [Device("A100", "a", 80.0, 80.0), Device("H100", "b", 80.0, 80.0)]
    [complaint] = machine.complaints(mixed, [])
    assert "the GPUs differ (A100, H100)" in complaint
    assert machine.complaints(mixed[:1] * 2, []) == []


def test_a_check_that_dies_takes_nothing_with_it(tmp_path, at_once):
    with Runner(tmp_path / "first-hour") as run:
        found = run.run(SIMULATED, Check("inputs of_nothing"))
        log = run.folder / "inputs-of_nothing.log"
        assert found.verdict.startswith("wrong: it ended with 1: ") and str(log) in found.verdict
        assert "Traceback" in log.read_text()
        assert run.run(SIMULATED, Check("machine")).verdict == "right"
    assert [one.name for one in run.done] == ["inputs of_nothing", "machine"]
    assert not run.world.exists() and log.exists()


def test_what_the_others_need_ends_everything_if_it_is_refused(tmp_path, monkeypatch, at_once):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with (
        Runner(tmp_path / "first-hour") as run,
        pytest.raises(UserError, match="torch cannot use the GPU of this node"),
    ):
        run.run(A100, Check("machine"), needed=True)


def test_a_check_that_hangs_is_ended_with_what_it_started(tmp_path):
    script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    process = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    while not (tmp_path / "child").is_file() or not (tmp_path / "child").read_text():
        time.sleep(0.01)
    assert runner.wait(process, 0.1) == "it had not ended after 0 s"
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_dies_ends_the_sum(tmp_path, monkeypatch, at_once):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    began = time.monotonic()
    found = together.summed(Setting("no GPU", simulated=True))  # without images: nothing to plan
    assert found.verdict.startswith("wrong: a process died") and "NCCL_DEBUG" in found.verdict
    assert time.monotonic() - began < together.PATIENCE / 2


def test_two_gpus_that_drift_apart_are_wrong():
    judge = functools.partial(together.verdict, A100, "d2it_b_three")
    assert judge(bad=-1, apart=0) == ""
    assert "3 tensors differ" in judge(bad=-1, apart=3)
    assert "training.content.precision=fp32" in judge(bad=1, apart=0)


def test_the_json_serves_the_plan_and_the_page(tmp_path, monkeypatch):
    for module in (first_hour, page):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    rows = [row("dit_xl_classes", 1.0), row("d2it_b_classes", 1.0)]
    rows = [
        one | {"size": size, "tflops": 124.8} for one, size in zip(rows, ("XL", "B"), strict=True)
    ]
    found = [Found("1 s a step", row=rows[0]), Found("", wrong="it ended with 1", row=rows[1])]
    done = [Done(f"training {i}", one, 12.34) for i, one in enumerate(found)]
    first_hour.write({"gpu": A100.gpu, "cpu": "one", "cores": 16}, done)
    [path] = tmp_path.glob("first-hour-a100*.json")
    assert set(json.loads(path.read_text())) >= {"hardware", "versions", "commit", "checks"}
    measured = rate_of(GPUS["a100"], results=tmp_path).measured
    assert measured == {("dit", "XL"): pytest.approx(0.4)}  # what was wrong counts for nothing
    told = page.PAGE.read_text()
    assert "## The first hour on NVIDIA A100" in told and "wrong: it ended with 1" in told


def test_anything_wrong_is_exit_code_1_and_nothing_simulated_is_kept(
    tmp_path, monkeypatch, capsys, at_once
):
    monkeypatch.setenv("D2IT_RUNS", str(tmp_path))
    monkeypatch.setattr(first_hour, "checks_of", lambda setting: [Check("training no_such_run")])
    before = sorted(first_hour.RESULTS.iterdir())
    assert first_hour.check_all(simulated=True) == 1
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    verdicts = [line.rpartition(" | ")[2].removesuffix(" |").strip() for line in table]
    assert verdicts[0] == "verdict" and verdicts[2:4] == ["right", "right"]
    assert verdicts[4].startswith("wrong: There is no experiment 'no_such_run'")
    assert sorted(first_hour.RESULTS.iterdir()) == before
