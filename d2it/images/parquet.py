"""Images in the rows of parquet files, as the Hugging Face hub keeps data sets.

They are read a row at a time: a group, whatever its size, is never in memory, only a page of it.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import accumulate, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from d2it.config.documents import conform
from d2it.errors import UserError

if TYPE_CHECKING:
    from pyarrow import Buffer
    from pyarrow.parquet import ParquetFile

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")  # names of plain columns of bytes
LABELS = ("label", "labels", "cls", "class")
BATCH = 2**16  # labels read at once
# A group whose images unpack to more bytes, and to more times the file's own, is refused.
UNPACKED, TIMES = 2**28, 100


class ParquetRow(NamedTuple):
    """One image."""

    number: int
    size: int  # bytes of its group
    label: int | None


class ImageTable(NamedTuple):
    """An open file, and which of its columns count."""

    file: "ParquetFile"
    image: str
    label: str | None
    starts: list[int]  # of the groups, in rows


@lru_cache(maxsize=4)
def open_table(path: str) -> ImageTable:
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
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    starts = list(accumulate((group.num_rows for group in groups), initial=0))
    _check_bounds(path, groups, images[0])
    return ImageTable(file, images[0], labels[0] if labels else None, starts)


def _check_bounds(path: str, groups: list[Any], image: str) -> None:
    """Pictures hardly shrink: a file of which more is said would fill the memory."""
    size = os.path.getsize(path)
    if sum(group.num_rows for group in groups) > size or any(g.num_rows < 0 for g in groups):
        raise UserError(f"{path} says to have more rows than bytes: get it again.")
    for number, group in enumerate(groups):
        columns = [group.column(i) for i in range(group.num_columns)]
        own = [one for one in columns if one.path_in_schema.partition(".")[0] == image]
        unpacked = sum(one.total_uncompressed_size for one in own)
        if unpacked > max(UNPACKED, TIMES * size):
            raise UserError(
                f"{path} unpacks the images of its group {number} from {size / 1e6:.1f} MB to "
                f"{unpacked / 1e6:.0f} MB, as no pictures do: get it from another source."
            )


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
    for group, start in enumerate(table.starts[:-1]):
        numbers = range(start, table.starts[group + 1])
        size = table.file.metadata.row_group(group).total_byte_size
        with _undamaged(str(path)):
            for number, label in zip(numbers, _labels(table, group), strict=True):
                yield ParquetRow(number, size, None if label is None or label < 0 else label)


def _labels(table: ImageTable, group: int) -> Iterator[int | None]:
    if table.label is None:
        return repeat(None, table.starts[group + 1] - table.starts[group])
    return (label.as_py() for label in _column(table, group, table.label, BATCH))


def class_names(path: str) -> list[str] | None:
    """What the labels are called, where the package datasets has written it down."""
    table = open_table(path)
    with suppress(KeyError, TypeError, ValueError, RecursionError, UserError):
        described = json.loads(table.file.schema_arrow.metadata[b"huggingface"])
        names = described["info"]["features"][table.label]["names"]
        return conform(list[str], names, path, "d2it prepare")
    return None


def read_image(path: str, number: int) -> "Buffer":
    """The file that a row holds."""
    table = open_table(path)
    group = bisect_right(table.starts, number) - 1
    if (path, group) not in _held or _held[path, group].number > number:
        _held.clear()  # before the next is opened
        _held[path, group] = Cells(_column(table, group, table.image, 1), table.starts[group])
    cell = _held[path, group].at(number)
    content = cell["bytes"] if hasattr(cell, "keys") else cell
    if not content.is_valid:
        raise ValueError("its row holds no bytes")
    return content.as_buffer()


class Cells:
    """Of a group's column, one after the other; the last one stays."""

    def __init__(self, cells: Iterator[Any], start: int) -> None:
        self.cells, self.number = enumerate(cells, start), -1
        self.cell: Any = None

    def at(self, number: int) -> Any:
        while self.number < number:
            self.number, self.cell = next(self.cells, (number, None))
        if self.cell is None:
            raise ValueError("its group has fewer rows than it says")
        return self.cell


_held: dict[tuple[str, int], Cells] = {}  # of the last group; neighbours are asked for in turn


def _column(table: ImageTable, group: int, name: str, rows: int) -> Iterator[Any]:
    """Its cells, of which Arrow reads so many at once."""
    options: dict[str, Any] = {"columns": [name], "use_threads": False}
    batches = table.file.iter_batches(rows, row_groups=[group], **options)
    return (cell for batch in batches for cell in batch.column(0))
