"""What a training tells while it goes on: rows of metrics.jsonl, and a tracker's."""

import json
import re
from pathlib import Path

import pytest

from d2it.errors import UserError
from d2it.training.log import RunLog, peak_of, utilisation
from tests import tiny_run
from tests.forked_run import SLOW, await_images, end, errors, fingerprint, run, start

MEASURED = {"grad_norm/critic", "images_per_second", "tflops", "data_wait", "memory_bytes"}


def test_metrics_have_one_line_per_interval(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        [process] = start(folder, SLOW)
        process.join(0.4)
        process.kill()
        end([process])
    assert run(folder) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [*range(48, 640, 48), 640]
    assert lines[-1]["loss/model"] < lines[0]["loss/model"]
    assert set(lines[-1]) >= MEASURED
    assert lines[-1]["tflops"] > 0 and lines[-1]["mfu"] is None  # a CPU's peak is not known


def test_a_resume_drops_lines_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    damaged = b'{"im\xe9ges": 20}\n\xff\n[30]\n{"images": 40}\n{"images": 50\n' + b"[" * 10**5
    path.write_bytes(b'{"images": 10}\n' + damaged)
    RunLog(tmp_path, "run", 90, active=True).start(30)
    assert path.read_text() == '{"images": 10}\n'


def test_tracker_gets_the_rows_and_changes_nothing(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """From one of two processes; after a kill it goes on along the same axis."""
    folder = tmp_path / "run"
    [process] = start(folder, SLOW, "tracker=notebook")
    await_images(folder, 320)
    process.kill()
    end([process])
    assert run(folder, "tracker=notebook", world=2) == 0, errors(folder)
    assert fingerprint(folder) == undisturbed
    rows = [json.loads(line) for line in (folder / "tracker" / "rows.jsonl").open()]
    events = [list(row) for step, row in rows if step is None]
    assert events == [["started by"], ["started by"], ["finished"]]
    sent = {step: row for step, row in rows if step is not None}  # repeated ones: the last
    truth = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert list(sent.values()) == [{k: v for k, v in r.items() if v is not None} for r in truth]
    assert list(sent) == [row["images"] for row in truth]


def test_tracker_that_fails_is_one_warning(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "broken").touch()
    assert run(folder, "tracker=notebook") == 0, errors(folder)
    assert fingerprint(folder) == undisturbed
    said = "warning: notebook failed (nobody answers): it is sent nothing more."
    assert (folder / "log.txt").read_text().count("notebook") == 1 and said in errors(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorbord", "'tensorbord' (did you mean 'tensorboard'?): choose one of"),
        ("wandb", "that package is not installed: install it beside d2it"),
    ],
)
def test_tracker_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    from accelerate import tracking

    from d2it.training.loop import make_accelerator

    monkeypatch.setattr(tracking, "_available_trackers", [])
    monkeypatch.setenv("D2IT_TRACKER", name)
    with pytest.raises(UserError, match=re.escape(said)):
        make_accelerator(tiny_run.tiny_plan(tmp_path), "cpu")


def test_share_of_the_peak() -> None:
    peak = peak_of("NVIDIA H100 80GB HBM3", "bf16")
    assert peak == 989e12 and peak_of("NVIDIA H100 80GB HBM3", "fp32") == 494e12
    assert utilisation(0.4 * peak, peak) == {"tflops": 395.6, "mfu": 0.4}
    assert peak_of("cpu", "bf16") is None
