"""Images in the rows of parquet files, as the Hugging Face hub keeps data sets."""

import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from d2it.errors import UserError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")  # names of plain columns of bytes
LABELS = ("label", "labels", "cls", "class")


class ParquetRow(NamedTuple):
    """One image."""

    number: int
    size: int  # bytes of its group, which is read as a whole
    label: int | None


class Table(NamedTuple):
    """An open file, and which of its columns count."""

    file: "ParquetFile"
    image: str
    label: str | None
    starts: list[int]  # of the groups, in rows


@lru_cache(maxsize=4)
def open_table(path: str) -> Table:
    try:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(
            f"{path} is read by the package pyarrow, which is missing: pip install pyarrow."
        ) from None
    with _undamaged(path):
        file = ParquetFile(path, pre_buffer=False, buffer_size=2**20)  # a group at a time is enough
    binary = (arrow.types.is_binary, arrow.types.is_large_binary)
    fields = {field.name: field.type for field in file.schema_arrow}
    structs = [
        name
        for name, of in fields.items()
        if arrow.types.is_struct(of) and of.get_field_index("bytes") >= 0
    ]
    plain = [name for name, of in fields.items() if any(holds(of) for holds in binary)]
    images = [name for name in IMAGES if name in (*structs, *plain)] or structs
    if len(images) != 1 and images[:1] != list(IMAGES[:1]):
        raise UserError(
            f"{path} has {'several columns' if images else 'no column'} of images "
            f"({', '.join(images or fields)}): one must be named {IMAGES[0]!r}, and be binary or a "
            "struct with `bytes`, as the package datasets writes it."
        )
    labels = [name for name in LABELS if name in fields and arrow.types.is_integer(fields[name])]
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    starts = list(accumulate(sizes, initial=0))
    return Table(file, images[0], labels[0] if labels else None, starts)


@contextmanager
def _undamaged(path: str) -> Iterator[None]:
    """Arrow says most of what it meets as ValueError, or as OSError without a number."""
    try:
        yield
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None):
            raise
        line = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged or no parquet file ({line}): get it again.") from None


def rows(path: Path) -> Iterator[ParquetRow]:
    """Every image of the file, of which only the labels are read."""
    table = open_table(str(path))
    for i, start in enumerate(table.starts[:-1]):
        size = table.file.metadata.row_group(i).total_byte_size
        labels: list[int | None] = [None] * (table.starts[i + 1] - start)
        if table.label:
            with _undamaged(str(path)):
                labels = _column(table, i, table.label).to_pylist()
        for number, label in enumerate(labels, start):
            yield ParquetRow(number, size, None if label is None or label < 0 else label)


def class_names(path: str) -> list[str] | None:
    """What the labels are called, where the package datasets has written it down."""
    table = open_table(path)
    with suppress(KeyError, TypeError, ValueError):
        described = json.loads(table.file.schema_arrow.metadata[b"huggingface"])
        return [str(name) for name in described["info"]["features"][table.label]["names"]]
    return None


def read_image(path: str, number: int) -> bytes:
    """The file that a row holds."""
    starts = open_table(path).starts
    group = bisect_right(starts, number) - 1
    cell = _images(path, group)[number - starts[group]].as_py()
    content = cell["bytes"] if isinstance(cell, dict) else cell
    if content is None:
        raise ValueError("its row holds no bytes")
    return content


_held: dict[tuple[str, int], Any] = {}  # the last group; neighbours are asked for in turn


def _images(path: str, group: int) -> Any:
    if (path, group) not in _held:
        _held.clear()  # before the next is read
        table = open_table(path)
        _held[path, group] = _column(table, group, table.image)
    return _held[path, group]


def _column(table: Table, group: int, name: str) -> Any:
    return table.file.read_row_group(group, columns=[name], use_threads=False).column(name)
