"""What the Snakefile needs to know: the composed configuration, digests of settings, target names.

The rules only wire files to commands; no torch is imported here, so a dry run is quick.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from d2it.config import paths
from d2it.config.load import compose, kept_name, validate
from d2it.config.protocols import asked
from d2it.config.recipe import KINDS, VERSIONS, sampling_recipe
from d2it.config.run import Run, run_of, runs_of
from d2it.config.schema import Config
from d2it.config.study import FIGURES, ITEMS, TABLES, heading, item_of, load_study
from d2it.config.typed import nearest
from d2it.errors import UserError
from d2it.files import canonical_digest, write_text
from d2it.jobs.launcher import Resources
from d2it.report.results import scale_line
from d2it.sources.table import find_source

TARGETS = {
    "all": "every table, every figure, and one page of them (the default)",
    "all_tables": "Tables 1-5, and 6: one network for every ratio",
    "all_figures": "Figures 3-6, and 7: FID against compute",
    "all_evaluations": "every run of the scale, trained and evaluated",
    "page": "results/<scale>/index.html: tables, figures and the runs behind them",
    "claims": "the paper's claims, held against runs of several training seeds",
}


def configure(settings: Mapping[str, Any]) -> tuple[Config, Path]:
    """The checked configuration of Snakemake's `--config`, and the file that commands read."""
    composed = compose(hydra_overrides(settings))
    config = validate(composed)
    path = paths.runs_folder() / ".params" / kept_name(composed)
    text = yaml.safe_dump(composed, sort_keys=False, allow_unicode=True, width=100)
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)
    return config, path


def hydra_overrides(settings: Mapping[str, Any], where: str = "") -> list[str]:
    """{"training": {"dit": {"images": 640}}} as ["training.dit.images=640"]."""
    overrides = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            overrides += hydra_overrides(value, f"{where}{key}.")
        else:
            overrides.append(f"{where}{key}={_hydra_value(value)}")
    return overrides


def _hydra_value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_hydra_value(entry) for entry in value)}]"
    return str(value)


def milestones(run: Run) -> list[float]:
    """Shares of the training after which the weights are kept; then widths of averages of it."""
    return [*sorted({measured.at for measured in run.evaluations.values()}), *run.widths]


def measured_ratios(dvae: Run) -> list[str]:
    """The ratios of a DVAE's latents and evaluation, each once."""
    return sorted({str(ratio) for ratio in dvae.spec.ratios})


def evaluation_digest(run: Run) -> str:
    """Of all settings that decide the evaluation of `run`, beside the files it is made from."""
    config, names = run.config, asked(run.config, run.data)
    settings: dict[str, Any] = {
        "version": VERSIONS["evaluation"],
        "evaluation": asdict(config.evaluation),
        "protocol": run.dataset.protocol,
        "metrics": names,
        # evaluated without it before, a run is evaluated again once it was fetched
        "head": "inception_score" in names and find_source("inception_head").file.exists(),
    }
    if run.kind == "dvae":
        settings["lpips"] = config.dvae_loss.perceptual
        settings["ratios"] = measured_ratios(run)
    else:
        settings |= {
            "sampling": sampling_recipe(config.sampling),
            "evaluations": asked_of(run),
            # a DiT's errors are told apart by the main ratio's regions
            "regions": config.ratio if run.kind == "dit" else None,
        }
    return canonical_digest(settings)[:16]


def asked_of(run: Run) -> dict[str, Any] | None:
    """Its evaluations' settings. The ratio is younger than digests of those that name none."""
    asked = asdict(run.spec).get("evaluations")
    for measured in (asked or {}).values():
        if measured["ratio"] is None:
            measured.pop("ratio")
    return asked


def place(wants: Resources, in_shares: bool) -> str:
    """Where the jobs of a stage go, as their messages say it."""
    shares = f" in {wants.shares} shares, {wants.at_once} at a time," if in_shares else ""
    nodes = f"{wants.nodes} node{'s' * (wants.nodes > 1)}"
    gpus = f"{wants.gpus} GPU{'s' * (wants.gpus != 1)}"
    return f"{shares} on {nodes} with {gpus} each, in jobs of {wants.minutes} minutes at most"


def one_of(names: Iterable[str]) -> str:
    """A wildcard's pattern: one of the names, and nothing if there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def unknown_targets(config: Config) -> str:
    """The pattern of names that no rule makes, so that one rule can say what was meant."""
    folder = re.escape(str(Path("results", config.name)))
    known = f"(?!(?:{one_of(runs_of(config))})(?:/|\\.json))"
    return rf"[^/.]+|{folder}/(?:models|evaluations|gallery)/{known}.+|results/(?!{config.name}/).+"


def explain_target(config: Config, target: str) -> str:
    """The sentence for a target of `unknown_targets`."""
    parts = target.split("/")
    if len(parts) == 1:
        choices = [*TARGETS, *ITEMS, *runs_of(config), "help"]
        return (
            f"There is no target {target!r}{nearest(target, choices)}: `snakemake help` lists them."
        )
    if parts[1] != config.name:
        return f"{target} is not of scale {config.name}: add `--config scale={parts[1]}`."
    try:
        run_of(config, parts[3].removesuffix(".json"))
    except UserError as error:
        return str(error)
    return f"Nothing makes {target}: `snakemake help` lists the targets."


def help_text(config: Config) -> str:
    """The targets, as `snakemake help` prints them."""
    study = load_study()
    rows = dict(TARGETS)
    for name in (*TABLES, *FIGURES):
        rows[name] = f"{heading(name)}: {item_of(study, name).title}"
    lines = [f"  {name:<16} {what}" for name, what in rows.items()]
    runs = [
        f"  {kind:<8} {' '.join(getattr(config.runs, kind))}"
        for kind in KINDS
        if getattr(config.runs, kind)
    ]
    return "\n".join(
        [
            scale_line(config, "all"),
            "",
            "Example: snakemake --cores 2 table_3 figure_5 --config scale=smoke ratio=0.7",
            "",
            "Targets:",
            *lines,
            "",
            "Runs, each a target too (trained and evaluated):",
            *runs,
            "",
            "Settings: d2it config prints them; --config takes them, e.g.",
            "  --config scale=smoke ratio=0.7 training='{content: {images: 640}}'",
        ]
    )
