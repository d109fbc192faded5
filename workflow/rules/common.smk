"""The configuration, composed once, and the names that all rules share."""

import os
import sys
from pathlib import Path

from d2it import snakefile as wiring
from d2it.config import paths, recipe, study
from d2it.config.protocols import asked
from d2it.config.run import runs_of
from d2it.errors import UserError
from d2it.jobs.launch import arrange
from d2it.jobs.launcher import load_launcher
from d2it.report import claims
from d2it.sources.table import find_source


def stop(error):
    sys.exit(f"d2it: error: {error}")


# `d2it` is that of this Python, also where Snakemake is called without an activated environment.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
try:
    # How a machine runs jobs is no setting of the study. The user's word counts before the
    # profile's; commands read it from the environment.
    theirs, profiles = config.pop("launcher", None), config.pop("profiles_launcher", None)
    os.environ["D2IT_LAUNCHER"] = theirs or os.environ.get("D2IT_LAUNCHER") or profiles or ""
    CONFIG, PARAMS = wiring.configure(config)
    RUNS = runs_of(CONFIG)
    STUDY = study.load_study()
    LAUNCHER = load_launcher()
except UserError as error:
    stop(error)
if "help" in sys.argv[1:]:  # answered while this is read: it needs no --cores
    sys.exit(print(wiring.help_text(CONFIG)))
print(wiring.scale_line(CONFIG, "all"), file=sys.stderr)

TRAINS_HERE = LAUNCHER.cluster == "local"
LOGS = f"logs/{CONFIG.name}"

# How jobs end whose outputs are given to `update`. Of these Snakemake keeps copies, which it would
# put back if a job fails, and then take for made with the settings of now: a failed job leaves none.
LOGGED = "{{ (cd .snakemake/backups && rm -f {output:q}) 2>&- || true; tee -i {log:q}; }}"


def manifest(folder):
    """Large artefacts are folders; rules name their manifest, which holds every file's digest.

    As an output it is given to `update`: whether it stands is for the command to say. Else
    Snakemake would delete it first, even if a command that outlived another Snakemake just made it.
    If its job fails it is gone, and made again.
    """
    return str(folder / "manifest.json")


def weights(name):
    return str(find_source(name).file)


def reference_batch(wildcards):
    """The published batch that stands for a data set's own features, where it names one."""
    named = CONFIG.data[wildcards.data].reference
    return weights(named) if isinstance(named, str) else []


def files_of(*items):
    """What the rules table and figure make for e.g. `table_3`."""
    files = []
    for item in items:
        folder, kinds = paths.tables(CONFIG), ("csv", "md", "tex")
        if item in study.FIGURES:
            folder, kinds = paths.figures(CONFIG), ("png", "svg")
        files += [str(folder / f"{item}.{kind}") for kind in kinds]
    return files


def models_of(names):
    """Manifests of the networks that evaluations of runs need, their DVAE and grain networks too.

    Targets name these beside what is made from them: evaluations, tables and figures are kept in
    git, and Snakemake does not miss what lies before a file that exists.
    """
    return [manifest(run.model) for run in study.with_inputs(RUNS[name] for name in names)]


def made(*items):
    """The files of tables and figures, and the networks behind them."""
    runs = [run for item in items for run in study.needs(STUDY, item, CONFIG)]
    return files_of(*items) + models_of(runs)


def evaluated(*names):
    """Evaluations, and the networks behind them."""
    return [str(RUNS[name].evaluation) for name in names] + models_of(names)


def claimed(wildcards):
    """What the claims are held against; Snakemake's end where the scale lacks some of it."""
    try:
        return evaluated(*claims.needed(claims.load_claims(), CONFIG))
    except UserError as error:
        stop(error)


def any_of(kind):
    """The wildcard `run`, for the names of one kind of run."""
    return f"{{run,{wiring.one_of(getattr(CONFIG.runs, kind))}}}"


def latents_of(wildcards):
    """Manifest of the latents that a run learns from."""
    return manifest(RUNS[wildcards.run].latents)


def can_train(wildcards):
    """No file: refuses, before any job, a launcher that cannot train a run that is not there."""
    if not os.path.exists(manifest(RUNS[wildcards.run].model)):
        resources_of("train", wildcards)
    return []


def resources_of(stage, wildcards):
    """What a job gets; Snakemake's end where no training of this kind can have it."""
    if stage != "train":
        return LAUNCHER.of(stage)
    try:
        return arrange(CONFIG, LAUNCHER, RUNS[wildcards.run].kind)
    except UserError as error:
        stop(error)


def place_of(stage, in_shares=False):
    """Where a job of Slurm goes, for its message. As a resource it triggers no rerun."""
    if heads_of(stage):
        return ""
    return lambda wildcards: wiring.place(resources_of(stage, wildcards), in_shares)


def processes_of(stage):
    """Cores that a stage takes here: one where it only waits for a cluster's job."""
    return lambda wildcards: resources_of(stage, wildcards).processes if TRAINS_HERE else 1


def heads_of(stage):
    """1 for a command that computes here, 0 for one that waits for a cluster."""
    return 1 if TRAINS_HERE or not (stage == "train" or LAUNCHER.of(stage).shares) else 0


def first_stage_of(wildcards):
    """Manifest of the DVAE that decodes a run's samples."""
    return manifest(RUNS[wildcards.run].dvae.model)


def reference_of(wildcards):
    """Manifest of the features that a run's samples are compared with."""
    return manifest(paths.reference(CONFIG, RUNS[wildcards.run].data))


def images_of_dvae(wildcards):
    return manifest(paths.images(CONFIG, RUNS[wildcards.run].data))


def thresholds_of_dvae(wildcards):
    return str(paths.thresholds(CONFIG, RUNS[wildcards.run].spec.thresholds))
