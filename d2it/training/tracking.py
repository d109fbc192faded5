"""The rows of metrics.jsonl, sent on through accelerate to the tracker that D2IT_TRACKER names.

Who watches a run where is no setting of the study: no hash and no comparison knows of it.
"""

import os
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from d2it.config.typed import nearest
from d2it.errors import UserError
from d2it.runs.plan import Plan

PROJECT = "d2it"


def chosen_tracker() -> str | None:
    """D2IT_TRACKER, if accelerate knows it and its package is installed."""
    name = os.environ.get("D2IT_TRACKER")
    if not name:
        return None
    if name not in LOGGER_TYPE_TO_CLASS:
        known = list(LOGGER_TYPE_TO_CLASS)
        raise UserError(
            f"D2IT_TRACKER is {name!r}{nearest(name, known)}: choose one of {', '.join(known)}, or "
            "unset it."
        )
    installed = {str(tracker) for tracker in get_available_trackers()}
    if name in LoggerType.list() and name not in installed:
        raise UserError(
            f"D2IT_TRACKER is {name!r}, but that package is not installed: install it beside d2it "
            f"(uv pip install {name}), or unset D2IT_TRACKER."
        )
    return name


class Tracker:
    """What it does wrong is one warning in the log: training goes on without it."""

    def __init__(self, accelerator: Accelerator, warn: Callable[[str], None]):
        self.accelerator, self.warn = accelerator, warn

    def start(self, plan: Plan, images: int) -> None:
        """Begin, or go on after `images`: what was sent of later ones will be sent again."""
        if not (self.accelerator.log_with and self.accelerator.is_main_process):
            return
        run, folder = plan.folder.name, self.accelerator.logging_dir
        settings: dict[str, dict[str, Any]] = {
            "tensorboard": {"purge_step": images + 1},
            "wandb": {"name": run, "id": run, "resume": "allow", "dir": folder},
        }

        def begin() -> None:
            os.makedirs(folder, exist_ok=True)
            self.accelerator.init_trackers(PROJECT, init_kwargs=settings)

        self._attempt(begin)

    def send(self, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl, at its images seen."""
        known = {name: value for name, value in row.items() if value is not None}
        self._attempt(lambda: self.accelerator.log(known, step=row["images"]))

    def finish(self) -> None:
        for tracker in self.accelerator.trackers:
            self._attempt(tracker.finish)
        self.accelerator.trackers = []

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of any package, and of any network
            self.accelerator.trackers = []
            told = " ".join(str(error).split()) or type(error).__name__
            self.warn(f"{self.accelerator.log_with[0]} failed ({told}): it is sent nothing more.")
