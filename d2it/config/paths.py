"""Where everything stands, relative to the working directory."""

import os
from pathlib import Path

from d2it.config.schema import Config
from d2it.errors import UserError


def in_repository(name: str) -> Path:
    """A file or folder kept in git: of the working directory, of the checkout this was imported
    from, or of the installed package (setup.py).
    """
    package = Path(__file__).parents[1]
    for root in (Path.cwd(), package.parent, package / "shipped"):
        if (root / name).exists():
            return root / name
    raise UserError(
        f"{name} was not found: run d2it from the root of the repository, or restore it there with "
        f"`git checkout -- {name}`."
    )


def require_study(config: Config) -> None:
    """Whether the working directory holds what the other paths are relative to: params/, or what a
    scale has made where `d2it prepare` began it.
    """
    made = (Path(folder, config.name) for folder in ("data", "results"))
    if not any(path.exists() for path in (Path("params", "config.yaml"), *made)):
        root = in_repository("params/config.yaml").parents[1]
        checkout = f"in {root}, or " if (root / "Snakefile").is_file() else ""
        raise UserError(
            f"{Path.cwd()} holds nothing of scale {config.name}: run this command {checkout}where "
            "its images were prepared."
        )


def images(config: Config, data: str) -> Path:
    return Path("data", config.name, data, "images")


def thresholds(config: Config, data: str) -> Path:
    """Of the data set `data` itself; recipe.thresholds_source says whose to use."""
    return Path("data", config.name, data, "thresholds.json")


def reference(config: Config, data: str) -> Path:
    """Inception features of the training images: the reference of FID, precision and recall."""
    return Path("data", config.name, data, "reference")


def latents(config: Config, dvae: str) -> Path:
    return Path("data", config.name, "latents", dvae)


def model(config: Config, run: str) -> Path:
    return Path("results", config.name, "models", run)


def kept(config: Config, run: str) -> Path:
    """A copy of a model in git, so that a study outlives its machine (d2it keep)."""
    return Path("results", config.name, "kept", run)


def evaluation(config: Config, run: str) -> Path:
    return Path("results", config.name, "evaluations", f"{run}.json")


def provenance(config: Config, run: str) -> Path:
    """Who made the evaluation of a run; beside it, so that its bytes are the same everywhere."""
    return Path("results", config.name, "provenance", f"{run}.json")


def metrics(config: Config) -> Path:
    """What the paper prints of each run: small enough to be compared by eye."""
    return Path("results", config.name, "metrics.json")


def gallery(config: Config, run: str) -> Path:
    """A few samples with their grain maps, for the figures."""
    return Path("results", config.name, "gallery", run)


def tables(config: Config) -> Path:
    return Path("results", config.name, "tables")


def claims(config: Config) -> Path:
    return Path("results", config.name, "claims.md")


def windows(config: Config) -> Path:
    """Shares of RefineNet's windows that hold a region for it."""
    return Path("results", config.name, "windows.json")


def figures(config: Config) -> Path:
    return Path("results", config.name, "figures")


def page(config: Config) -> Path:
    """Everything above on one page."""
    return Path("results", config.name, "index.html")


def samples(config: Config) -> Path:
    """Pictures of that page."""
    return Path("results", config.name, "samples")


def runs_folder() -> Path:
    """Training state. D2IT_RUNS moves it, e.g. to a scratch disk or for `dvc exp run --temp`."""
    return Path(os.environ.get("D2IT_RUNS", "runs"))


def took(folder: Path) -> Path:
    """Of an evaluation's folder, or `latents`, in a run folder: the seconds of who computed it."""
    return folder / "seconds.json"


def weights(name: str) -> Path:
    """A fetched third-party file."""
    return Path(os.environ.get("D2IT_WEIGHTS", "data/weights")) / name
