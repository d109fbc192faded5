"""Trained models kept in git beside their evaluations, so that a study outlives its machine.

results/<scale>/kept/<run>/ is a copy of what the run has published: of first stages and grain
networks a few MB. A training seed that is added later, on any machine, learns from the same
latents and draws by the same maps as those before it.
"""

import shutil
from pathlib import Path

from d2it.config.run import Run
from d2it.errors import SETTINGS, UserError
from d2it.files import atomic_folder, canonical_digest
from d2it.models.store import read_model
from d2it.runs.plan import Plan, make_plan
from d2it.runs.publish import is_published


def keep(run: Run) -> None:
    """Copy what is published of a run to where git finds it."""
    if not is_published(make_plan(run), run.model):
        raise UserError(
            f"{run.name} has published no model of these settings that is whole: "
            f"`d2it train {run.name}{SETTINGS}` makes it."
        )
    _copy(run.model, run.kept)


def take_kept(run: Run, plan: Plan) -> bool:
    """Publish a kept model of this very recipe and length, if there is one."""
    if not (run.kept / "model.json").is_file():
        return False
    header = read_model(run.kept)
    of_run = (canonical_digest(plan.recipe), plan.images)
    if (header["recipe_digest"], header["images"]) != of_run:
        return False  # of other settings, e.g. another ratio
    if not is_published(plan, run.kept):
        raise UserError(
            f"{run.kept} is damaged: restore it with `git checkout -- {run.kept}`, or delete it to "
            "train anew, which makes other weights on another processor."
        )
    _copy(run.kept, run.model)
    return True


def _copy(source: Path, target: Path) -> None:
    with atomic_folder(target) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
