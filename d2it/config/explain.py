"""One setting for a person to read: what it means, what sets it, and which runs it decides."""

import copy
import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from typing import Any, Literal, NamedTuple, get_args, get_origin

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2it.config.load import interpolated, params_folder, read_composed, resolve, unchecked
from d2it.config.run import runs_of
from d2it.config.schema import Config
from d2it.config.settings import Setting, fields_of, parts, walk
from d2it.config.typed import nearest
from d2it.errors import UserError

# Values to try of a type; one that a setting does not have is enough.
SAMPLES: dict[Any, tuple[Any, ...]] = {
    bool: (True, False),
    int: (1, 2),
    float: (0.25, 0.5),
    str: ("x",),
}


def explain(config: Config, name: str, params: str | None, overrides: Sequence[str]) -> str:
    """The setting `name`, or what is in the table of that name."""
    known = {setting.name: (setting, value) for setting, value in walk(config)}
    if name not in known:
        same = [other for other in known if other.rpartition(".")[2] == name]
        near = f" (did you mean {' or '.join(same[:4])}?)" if same else nearest(name, list(known))
        raise UserError(f"There is no setting {name!r}{near}.")
    setting, value = known[name]
    if is_table(value):
        inner = [pair for key, pair in known.items() if key.rpartition(".")[0] == name]
        lines = [f"  {entry(*pair):<40} # {pair[0].meaning}" for pair in inner]
        return "\n".join([f"{name}: # {setting.meaning}", *lines])
    tree = OmegaConf.create(read_composed(params)) if params else interpolated(overrides)
    moved, runs = set(moved_runs(studied(tree), setting, value)), digests(config)
    named = f": {', '.join(run for run in runs if run in moved)}" if moved else ""
    return "\n".join(
        [
            f"{name}: {shown(value)}",
            f"  {setting.meaning}",
            f"  {setting.kind}",
            f"  set by {params or set_in(name, overrides)}",
            f"  part of the identity of {len(moved)} of {len(runs)} runs{named}",
        ]
    )


def entry(setting: Setting, value: Any) -> str:
    """As a line of YAML has it."""
    key = setting.name.rpartition(".")[2]
    return f"{key}:" if is_table(value) else f"{key}: {shown(value)}"


def is_table(value: Any) -> bool:
    return isinstance(value, dict) or dataclasses.is_dataclass(value)


def shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


class Studied(NamedTuple):
    """A composition whose settings are given other values one by one."""

    tree: Any  # OmegaConf's: what follows a setting changes with it
    plain: Any  # with all followed: much sooner changed than the tree
    followed: set[str]  # settings, or how their names begin, that others follow
    config: Config
    digests: dict[str, str]


def studied(tree: Any) -> Studied:
    followed = set(re.findall(r"\$\{([\w.]+)", OmegaConf.to_yaml(tree)))
    plain, config = OmegaConf.to_container(tree, resolve=True), unchecked(resolve(tree))
    return Studied(tree, plain, followed, config, digests(config))


def changed(study: Studied, name: str, value: Any) -> Any:
    """The composition with another value of a setting, and of all that follows it."""
    followed = any(name.startswith(one) or one.startswith(name) for one in study.followed)
    if followed or isinstance(value, dict):
        tree = copy.deepcopy(study.tree)
        OmegaConf.update(tree, name, value, force_add=True)
        return tree
    tree = node = copy.deepcopy(study.plain)
    *tables, key = name.split(".")
    for table in tables:
        node = node.setdefault(table, {})
    node[key] = value
    return tree


def moved_runs(study: Studied, setting: Setting, value: Any) -> Iterator[str]:
    """Runs whose recipe changes with a setting, some of them twice: it is given other values."""
    known = study.digests
    for other in others(setting.type, value, study.config):
        try:
            tree = changed(study, setting.name, other)
            found = digests(unchecked(resolve(tree, [setting.name])))
        except (UserError, LookupError, OmegaConfBaseException):
            continue  # a value that does not fit the rest
        yield from (run for run in known if found.get(run) != known[run])


def digests(config: Config) -> dict[str, str]:
    """The digest of every run's recipe."""
    return {name: run.digest for name, run in runs_of(config).items()}


def others(hint: Any, value: Any, config: Config) -> Iterator[Any]:
    """Other values of a setting, one at least of each type that it may have."""
    runs: list[dict[str, Any]] = list(vars(config.runs).values())
    named: list[dict[str, Any]] = [config.data, config.model.sizes, *runs]
    if isinstance(value, dict):  # by run
        yield {name: 1 for table in runs for name in table}
        return
    first = value[0] if isinstance(value, tuple | list) and value else value
    for part in parts(hint):
        found = [sample for sample in SAMPLES.get(part, ()) if sample != first][:1]
        if get_origin(part) is Literal:
            found += get_args(part)
        elif part is str:
            found += [name for table in named if first in table for name in table]
        elif dataclasses.is_dataclass(part):
            fields = fields_of(typing.cast(type, part)).items()
            found.append({name: next(others(field.type, None, config)) for name, field in fields})
        for other in found:
            if other != first:
                yield [other, *value[1:]] if isinstance(value, tuple | list) else other


def set_in(name: str, overrides: Sequence[str]) -> str:
    """What sets a setting last: an override, a file of params/, or the schema."""
    experiment = re.sub(r"(?<=^runs)(\.\w+\.\w+)_s\d+(?=\.)", r"\1", name)  # of a repeat
    layers = _layers(overrides)
    for keys in (name.split("."), experiment.split(".")):
        for where, tree in reversed(layers):
            value = _find(tree, keys)
            if value is not MISSING:
                follows = isinstance(value, str) and "${" in value
                return f"{where}, as {value}" if follows else where
    return "the schema, by default"


def _layers(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """What Hydra puts together, the last to win: each file of params/ and each override."""
    folder = params_folder()
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        files = loader.compute_defaults_list("config", list(overrides), RunMode.RUN).defaults
    layers: list[tuple[str, str, Any]] = [
        (f"params/{file.config_path}.yaml", file.package or "", read_composed(path))
        for file in files
        if (path := folder / f"{file.config_path}.yaml").is_file()  # and none of Hydra's own
    ]
    for word in OverridesParser.create().parse_overrides(list(overrides)):
        layers.append(("the command line", word.key_or_group, word.value()))
    return [(where, _below(package, tree)) for where, package, tree in layers]


def _below(package: str, tree: Any) -> Any:
    for key in reversed(package.split(".") if package else []):
        tree = {key: tree}
    return tree


def _find(tree: Any, keys: Sequence[str]) -> Any:
    """What a tree says of a setting, or of a table that it is in; MISSING: nothing."""
    for key in keys:
        if isinstance(tree, str) and "${" in tree:
            break
        if not isinstance(tree, dict) or key not in tree:
            return MISSING
        tree = tree[key]
    return tree
