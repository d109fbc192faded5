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


class Row(NamedTuple):
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
        file = ParquetFile(path)
    image = label = None
    is_bytes = (arrow.types.is_binary, arrow.types.is_large_binary)
    for field in file.schema_arrow:
        packed = arrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        plain = field.name in IMAGES and any(holds(field.type) for holds in is_bytes)
        if packed or plain:
            image = image or field.name
        elif field.name in LABELS and arrow.types.is_integer(field.type):
            label = label or field.name
    if image is None:
        raise UserError(
            f"{path} has no column of images ({', '.join(file.schema_arrow.names)}): one is named "
            f"{IMAGES[0]!r} and binary, or a struct with `bytes`, as the package datasets writes."
        )
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return Table(file, image, label, list(accumulate(sizes, initial=0)))


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


def rows(path: Path) -> Iterator[Row]:
    """Every image of the file, of which only the labels are read."""
    table = open_table(str(path))
    for i, start in enumerate(table.starts[:-1]):
        size = table.file.metadata.row_group(i).total_byte_size
        labels: list[int | None] = [None] * (table.starts[i + 1] - start)
        if table.label:
            with _undamaged(str(path)):
                labels = _column(table, i, table.label).to_pylist()
        for number, label in enumerate(labels, start):
            yield Row(number, size, None if label is None or label < 0 else label)


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


@lru_cache(maxsize=1)
def _images(path: str, group: int) -> Any:
    """A group's images; neighbours are asked for one after the other."""
    table = open_table(path)
    return _column(table, group, table.image)


def _column(table: Table, group: int, name: str) -> Any:
    return table.file.read_row_group(group, columns=[name], use_threads=False).column(name)
