"""What JSON files of ours say at least, as TypedDicts: of the right types, or one sentence."""

import json
import reprlib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from d2it.config.typed import spell
from d2it.errors import UserError
from d2it.files import damaged, read_json

T = TypeVar("T")


def conform(shape: type[T], value: Any, path: Path | str, made_by: str) -> T:
    """`value`, read from the JSON file `path`, if it has the entries of the TypedDict `shape`."""
    try:
        _check(shape, value, "")
    except UserError as error:
        raise damaged(path, made_by, error.sentence) from None
    return typing.cast(T, value)


def told(shape: type[T], path: Path) -> T | None:
    """What a record says on which no result rests; one that is damaged tells nothing."""
    try:
        return conform(shape, read_json(path, made_by=""), path, "")
    except (OSError, UserError):
        return None


def told_in(shape: type[T], text: str | bytes) -> T | None:
    """The same of a JSON text: a line of a log, or what a stranger's archive says of itself."""
    try:
        return conform(shape, json.loads(text), "", "")
    except (ValueError, RecursionError, UserError):
        return None


def _check(hint: Any, value: Any, where: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if typing.is_typeddict(hint) and isinstance(value, dict):
        _check_entries(hint, value, where)
    elif origin is dict and isinstance(value, dict):
        for key, entry in value.items():
            _check(arguments[1], entry, _join(where, key))
    elif origin is list and isinstance(value, list):
        for entry in value:
            _check(arguments[0], entry, f"an entry of {where}")
    elif origin in (typing.Union, types.UnionType):
        if not any(_fits(option, value) for option in arguments):
            raise _other(hint, value, where)
    elif not _is(hint, value):
        raise _other(hint, value, where)


def _check_entries(shape: Any, value: dict[str, Any], where: str) -> None:
    if missing := sorted(shape.__required_keys__ - value.keys()):
        raise UserError(f"{_join(where, missing[0])} is missing")
    for key, hint in typing.get_type_hints(shape).items():
        if key in value:
            _check(hint, value[key], _join(where, key))


def _fits(hint: Any, value: Any) -> bool:
    try:
        _check(hint, value, "")
    except UserError:
        return False
    return True


def _is(hint: Any, value: Any) -> bool:
    if hint is Any:
        return True
    if hint is float:
        return type(value) in (int, float)
    return hint in (int, str, bool, type(None)) and type(value) is hint


def _other(hint: Any, value: Any, where: str) -> UserError:
    wanted = "a table" if typing.is_typeddict(hint) else spell(hint)
    return UserError(f"{where or 'it'} is {reprlib.repr(value)}, but must be {wanted}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
