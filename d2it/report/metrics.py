"""What the paper prints of each run in one small file: results/<scale>/metrics.json."""

from pathlib import Path

from d2it.config import paths
from d2it.config.run import runs_of
from d2it.config.schema import Config
from d2it.files import write_json
from d2it.report.results import Gap, evaluations_of

PRINTED = ("fid", "inception_score", "precision", "recall", "rfid")  # all else: evaluations/


def write_metrics(config: Config) -> Path:
    path = paths.metrics(config)
    write_json(path, {run: found for run in runs_of(config) if (found := metrics_of(config, run))})
    return path


def metrics_of(config: Config, run: str) -> dict[str, dict[str, float]]:
    """By evaluation and metric; grain runs have none that the paper prints."""
    found = evaluations_of(config, run)
    every = {} if isinstance(found, Gap) else dict(sorted(found.items()))
    return {
        label: shown
        for label, one in every.items()
        if (shown := {name: one.metrics[name] for name in PRINTED if name in one.metrics})
    }
