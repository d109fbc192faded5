"""Every setting of a configuration, with what the schema says of it."""

import dataclasses
import functools
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, replace
from typing import Any

from d2it.config.typed import spell
from d2it.config.types import Range


@dataclass(frozen=True)
class Setting:
    """One setting, or a table of them."""

    name: str  # training.content.batch
    type: Any
    range: Range  # of the numbers in it; empty: they have none
    meaning: str
    default: Any  # of the schema; MISSING: it has none

    @property
    def kind(self) -> str:
        """Type and range in words; a string that may be empty names nothing."""
        words = "text" if self.default == "" else spell(self.type)
        return ", ".join(filter(None, [words, self.range]))


def walk(table: Any) -> Iterator[tuple[Setting, Any]]:
    """Every setting of a dataclass and its value; a table before what is in it."""
    kind: type = type(table)
    for name, setting in fields_of(kind).items():
        yield from _walk(setting, getattr(table, name))


def _walk(setting: Setting, value: Any) -> Iterator[tuple[Setting, Any]]:
    yield setting, value
    inner: dict[str, tuple[Setting, Any]] = {}
    if isinstance(value, dict):
        entry = replace(setting, type=typing.get_args(setting.type)[1], default=MISSING)
        inner = {key: (entry, one) for key, one in value.items()}
    elif dataclasses.is_dataclass(value):
        fields = fields_of(typing.cast(type, type(value)))
        inner = {name: (field, getattr(value, name)) for name, field in fields.items()}
    for key, (one, its_value) in inner.items():
        yield from _walk(replace(one, name=f"{setting.name}.{key}"), its_value)


@functools.cache
def fields_of(table: type) -> dict[str, Setting]:
    """The settings of one kind of table, by name."""
    types = typing.get_type_hints(table)
    annotated = typing.get_type_hints(table, include_extras=True)
    settings = {}
    for field in dataclasses.fields(table):
        name, made = field.name, field.default_factory
        range = next((one for one in parts(annotated[name]) if isinstance(one, Range)), Range())
        default = field.default if made is MISSING else made()
        meaning = annotated[name].__metadata__[-1]
        settings[name] = Setting(name, types[name], range, meaning, default)
    return settings


def parts(hint: Any) -> Iterator[Any]:
    """A type, and all that it is made of."""
    yield hint
    for part in typing.get_args(hint):
        yield from parts(part)
