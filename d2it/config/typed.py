"""A tree of plain YAML as a dataclass: closed, typed, with a sentence for what is wrong."""

import dataclasses
import difflib
import re
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from d2it.errors import UserError

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def check_name(name: str, where: str) -> str:
    """`name`, if it can stand in paths and in commands of a shell."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"{where} is {name!r}, but a name has at most 100 letters (a-z, A-Z), digits, `_`, `.` "
            "and `-`, and begins with neither of the last two: choose another."
        )
    return name


def nearest(word: str, choices: Sequence[str]) -> str:
    """', did you mean …' or nothing."""
    match = difflib.get_close_matches(word[:100], choices, n=1, cutoff=0.5)  # in no time
    return f" (did you mean {match[0]!r}?)" if match else ""


def build(kind: type[T], value: Any, where: str) -> T:
    """`value`, a tree of plain YAML, as an instance of the dataclass `kind`."""
    if not isinstance(value, dict):
        raise UserError(
            f"{where or 'The configuration'} must be a table of settings, not {value!r}."
        )
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    choices = [*fields, *([] if where else ["scale"])]
    for key in value:
        if key not in fields:
            near = nearest(str(key), choices)
            raise UserError(f"There is no setting {_join(where, key)!r}{near}.")
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
    if hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            if isinstance(value, dict) and dataclasses.is_dataclass(option):
                return build(typing.cast(type, option), value, where)  # says which of its keys
            try:
                return _convert(option, value, where)
            except UserError:
                continue
        raise UserError(f"{where} is {value!r}, but must be {spell(hint)}.")
    if origin is Literal and value in arguments:
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin is dict and isinstance(value, dict):
        keys = {check_name(str(key), f"A key of {where}"): value[key] for key in value}
        return {
            key: _convert(arguments[1], entry, _join(where, key)) for key, entry in keys.items()
        }
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        if origin is tuple and len(value) != len(arguments):
            raise UserError(f"{where} is {value!r}, but must have {len(arguments)} entries.")
        return origin(
            _convert(arguments[i if origin is tuple else 0], v, where) for i, v in enumerate(value)
        )
    if hint is type(None) and value is None:
        return None
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # neither NaN nor infinite, nor a whole number beyond
            return float(value)
    elif hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise UserError(f"{where} is {value!r}, but must be {spell(hint)}.")


def spell(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(spell(option) for option in arguments))
    if origin is Literal:
        return " or ".join(repr(option) for option in arguments)
    if origin in (list, tuple):
        entry = spell(arguments[0])
        simple = arguments[0] in (int, float, str)
        return f"a list of {entry[2:]}s" if simple else f"a list, each entry {entry}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a table"
    names = {
        int: "a whole number",
        float: "a number",
        str: "a name",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(hint, str(hint))
