"""Compose params/ with Hydra, or read a composed file, and check it against the schema. No torch here."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from d2it.config.schema import Config, Ratio
from d2it.errors import UserError

T = TypeVar("T")


def params_folder() -> Path:
    """The project's params/: in the working directory, or in the checkout this package was imported from."""
    for folder in (Path.cwd() / "params", Path(__file__).parents[2] / "params"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError("params/config.yaml was not found: run d2it from the root of the repository.")


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """params/ with `overrides` (Hydra's syntax) applied and every interpolation resolved."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder = params_folder()
    for override in overrides:
        _check_override(override, folder)
    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(overrides))
        return typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"The configuration cannot be composed: {message}") from None


def _check_override(override: str, folder: Path) -> None:
    """Hydra's own message for an unknown option of a group does not name the nearest one."""
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"{override!r} is not an override: write key=value, e.g. ratio=0.7.")
    if key == "scale":
        choices = sorted(path.stem for path in (folder / "scale").glob("*.yaml"))
        if value not in choices:
            raise UserError(f"There is no scale {value!r}{nearest(value, choices)}: choose one of {', '.join(choices)}.")


def read_composed(path: Path | str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: compose it with `d2it config --write {path}`.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no configuration: compose it with `d2it config --write {path}`.")
    return value


def load(params: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration: of a composed file, or of params/ with overrides."""
    if params is not None and overrides:
        raise UserError("Overrides cannot be given together with --params: that file is already composed.")
    return validate(compose(overrides) if params is None else read_composed(params))


def nearest(word: str, choices: Sequence[str]) -> str:
    """', did you mean …' or nothing."""
    match = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def validate(composed: dict[str, Any]) -> Config:
    config = build(Config, composed, "")
    _check_meaning(config)
    return config


def build(kind: type[T], value: Any, where: str) -> T:
    """`value`, a tree of plain YAML, as an instance of the dataclass `kind`."""
    if not isinstance(value, dict):
        raise UserError(f"{where or 'The configuration'} must be a table of settings, not {value!r}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise UserError(f"There is no setting {_join(where, key)!r}{nearest(str(key), list(fields))}.")
    hints = typing.get_type_hints(kind)
    given = {key: _convert(hints[key], entry, _join(where, key)) for key, entry in value.items()}
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise UserError(f"The setting {_join(where, name)!r} is missing.")
    return kind(**given)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or a sentence that says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _convert(option, value, where)
            except UserError:
                continue
        raise UserError(f"{where} is {value!r}, but must be {_spell(hint)}.")
    if origin is Literal and value in arguments:
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(arguments[1], v, _join(where, k)) for k, v in value.items()}
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        if origin is tuple and len(value) != len(arguments):
            raise UserError(f"{where} is {value!r}, but must have {len(arguments)} entries.")
        return origin(_convert(arguments[i if origin is tuple else 0], v, where) for i, v in enumerate(value))
    if hint is type(None) and value is None:
        return None
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    elif hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise UserError(f"{where} is {value!r}, but must be {_spell(hint)}.")


def _spell(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_spell(option) for option in arguments))
    if origin is Literal:
        return " or ".join(repr(option) for option in arguments)
    if origin in (list, tuple):
        return f"a list of {_spell(arguments[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a table"
    names = {int: "a whole number", float: "a number", str: "a name", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))


def check_ratio(ratio: Ratio | str, grains: int, where: str) -> None:
    """Shares of the k-1 finer grains: each in [0, 1], together at most 1."""
    if isinstance(ratio, str):
        return
    shares = ratio if isinstance(ratio, list) else [ratio]
    if any(not 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
        raise UserError(f"{where} is {ratio}, but a share of regions lies in [0, 1] (and shares sum to at most 1).")
    if len(shares) != grains - 1:
        raise UserError(f"{where} has {len(shares)} shares, but {grains} grains need {grains - 1}.")


def _check_meaning(config: Config) -> None:
    """What types cannot say: ranges, and names that point at something."""
    runs = config.runs
    _check_model(config)
    check_ratio(config.ratio, 2, "ratio")

    def known(name: str, choices: Sequence[str], where: str, what: str) -> None:
        if name not in choices:
            raise UserError(f"{where} names the {what} {name!r}, which this scale does not have{nearest(name, choices)}.")

    for task, dataset in config.task.items():
        known(dataset, list(config.data), f"task.{task}", "data set")
    for name, dvae in runs.dvae.items():
        where = f"runs.dvae.{name}"
        known(dvae.data, list(config.data), where, "data set")
        factors = dvae.factors or config.model.factors
        for ratio in [dvae.ratio, *dvae.ratios]:
            check_ratio(ratio, len(factors), f"{where}.ratio")
        if config.data[dvae.data].size % factors[0]:
            raise UserError(f"{where}: {config.data[dvae.data].size} px do not divide into regions of {factors[0]} px.")
    for kind in ("grain", "content", "dit"):
        for name, run in getattr(runs, kind).items():
            where = f"runs.{kind}.{name}"
            known(run.latents, list(runs.dvae), where, "DVAE")
            known(run.size, list(config.model.sizes), where, "size")
            grains = len(runs.dvae[run.latents].factors or config.model.factors)
            if kind != "dit":
                check_ratio(run.ratio, grains, f"{where}.ratio")
            if kind == "content" and run.grain is not None:
                known(run.grain, list(runs.grain), where, "grain run")
            for label, measured in getattr(run, "evaluations", {}).items():
                if not 0 < measured.at <= 1:
                    raise UserError(f"{where}.evaluations.{label}.at is {measured.at}, but must lie in (0, 1].")


def _check_model(config: Config) -> None:
    factors = config.model.factors
    if len(factors) < 2 or any(a != 2 * b for a, b in zip(factors, factors[1:], strict=False)):
        raise UserError(f"model.factors is {factors}, but must halve from coarse to fine, e.g. [16, 8].")
    for name, size in config.model.sizes.items():
        if size.width % (4 * size.heads) and size.width % size.heads or size.width % 4:
            raise UserError(f"model.sizes.{name}: the width {size.width} must be a multiple of 4 and of its {size.heads} heads.")
    for stage, training in vars(config.training).items():
        where = f"training.{stage}"
        if training.shards < 1 or training.shards & (training.shards - 1) or training.batch % training.shards:
            raise UserError(f"{where}.shards is {training.shards}, but must be a power of two that divides the batch {training.batch}.")
        if training.images < training.batch:
            raise UserError(f"{where}.images is {training.images}, less than one batch of {training.batch}.")
    if config.sampling.block < 1 or config.evaluation.n < 2:
        raise UserError("sampling.block must be at least 1 and evaluation.n at least 2.")
