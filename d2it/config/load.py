"""Compose params/ with Hydra, or read a composed file, and check it. No torch here."""

import json
import re
import typing
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from d2it.config.check import check_meaning
from d2it.config.inherit import add_repeats, drop_evaluations, keep_chosen
from d2it.config.paths import in_repository
from d2it.config.schema import Config
from d2it.config.typed import T, build, check_name, nearest
from d2it.errors import UserError
from d2it.files import read_bounded

LARGEST = 4 << 20  # bytes; the paper's composed study has 11 KB


def params_folder() -> Path:
    return in_repository("params/config.yaml").parent


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """params/ with `overrides` (Hydra's syntax) applied and every interpolation resolved."""
    from hydra.errors import HydraException
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    try:
        tree = interpolated(overrides)
        return resolve(tree, overrides)
    except InterpolationKeyError as error:
        raise UserError(_dangling(error, tree)) from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"The configuration cannot be composed: {message}") from None


def interpolated(overrides: Sequence[str] = ()) -> Any:
    """The composition as OmegaConf has it, in which settings follow others."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    folder = params_folder()
    resolved = [_override(override, folder) for override in overrides]
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        return hydra_compose("config", overrides=resolved)


def resolve(tree: Any, overrides: Sequence[str] = ()) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(tree, resolve=True) if OmegaConf.is_config(tree) else tree
    composed = typing.cast(dict[str, Any], plain)
    experiments = [path.stem for path in (params_folder() / "experiment").glob("*.yaml")]
    named = [name for override in overrides for name in override.partition("=")[0].split(".")]
    keep_chosen(composed, experiments, named)
    add_repeats(composed)
    return composed


def _override(override: str, folder: Path) -> str:
    """Hydra's form of an override: settings that experiments leave at their default can be set too.

    The schema, not Hydra, tells unknown settings: it knows the nearest name.
    """
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"{override!r} is not an override: write key=value, e.g. ratio=0.7.")
    if key == "scale":
        choices = sorted(path.stem for path in (folder / "scale").glob("*.yaml"))
        if value not in choices:
            raise UserError(
                f"There is no scale {value!r}{nearest(value, choices)}: "
                f"choose one of {', '.join(choices)}."
            )
        check_name(value, "scale")
        return override
    if not re.fullmatch(r"[+~]*[a-z_]([./@:]?[\w-])*", key, re.ASCII | re.I):
        raise UserError(f"There is no setting {key!r}: `d2it config` prints them all.")
    key = f"++{key}" if re.fullmatch(r"[\w.]+", key) else key
    return f"{key}={_parsable(key, value)}"


def _parsable(key: str, value: str) -> str:
    """What is no value in Hydra's grammar is text: names of files in any language, with spaces."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return QuotedString(value, Quote.double).with_quotes()
    if parsed.is_sweep_override():
        name = key.removeprefix("++")
        raise UserError(f"{name} is given several values: write {name}=[{value}] for a list.")
    return value


def _dangling(error: Exception, composed: Any) -> str:
    """The sentence for a setting that points at another which this scale does not have."""
    setting = getattr(error, "full_key", "A setting")
    target = re.search(r"'(.+)'", str(error))
    parts = target[1].split(".") if target else []
    node, missing = composed, []
    for part in parts:
        missing.append(part)
        if part not in node:
            break
        node = node._get_node(part)
    *parent, name = missing
    return (
        f"{setting} points at {'.'.join(missing)}, which is not part of this scale"
        f"{nearest(name, [str(key) for key in node])}: "
        f"{'.'.join(parent) or 'it'} has {', '.join(str(key) for key in node)}."
    )


def read_yaml(path: Path | str) -> Any:
    path = Path(path)
    path.stat()  # an error of the path is told by who reads it
    try:
        content = read_bounded(path, LARGEST)
    except UserError:  # a device or a pipe may have no end
        raise UserError(
            f"{path} is no file of settings: name one of at most {LARGEST >> 20} MB."
        ) from None
    return parse_yaml(content, path)


def parse_yaml(content: bytes | str, where: Path | str) -> Any:
    try:
        text = content if isinstance(content, str) else content.decode()
        return yaml.safe_load(text)
    except RecursionError:
        raise UserError(f"{where} is not YAML (it is nested too deeply).") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueErrors: of UTF-8, of dates
        raise UserError(f"{where} is not YAML ({' '.join(str(error).split())}).") from None


def read_typed(kind: type[T], path: Path, what: str) -> T:
    """A file of params/ that is no part of the configuration."""
    try:
        return build(kind, read_yaml(path), what)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_composed(path: Path | str) -> dict[str, Any]:
    try:
        value = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_composing(path)}.") from None
    except UserError as error:
        if not _is_kept(path):
            raise
        raise UserError(f"{error.sentence.rstrip('.')}: {_composing(path)}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no configuration: {_composing(path)}.")
    if _is_kept(path) and Path(path).name != kept_name(value):
        raise UserError(f"{path} is not what its name says: {_composing(path)}.")
    return value


def kept_name(composed: dict[str, Any]) -> str:
    """Of the file in runs/.params/ that says what Snakemake was asked for: its name is its content.

    A date, which YAML knows and settings do not, is as any text.
    """
    text = json.dumps(composed, sort_keys=True, separators=(",", ":"), default=str)
    return f"{composed.get('name')}-{sha256(text.encode()).hexdigest()[:8]}.yaml"


def _is_kept(path: Path | str) -> bool:
    return Path(path).parent.name == ".params"


def _composing(path: Path | str) -> str:
    if _is_kept(path):
        return "give the same snakemake command again, which writes it anew"
    return f"compose it with `d2it config --write {path}`"


def load(params: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration: of a composed file, or of params/ with overrides."""
    if params is not None and overrides:
        raise UserError(
            "Overrides cannot be given together with --params: that file is already composed."
        )
    return validate(compose(overrides) if params is None else read_composed(params))


def validate(composed: dict[str, Any]) -> Config:
    config = unchecked(composed)
    check_meaning(config)
    return config


def unchecked(composed: dict[str, Any]) -> Config:
    composed = drop_evaluations(composed)
    add_repeats(composed)  # once more: DVC composes params/ by Hydra alone
    return build(Config, composed, "")
