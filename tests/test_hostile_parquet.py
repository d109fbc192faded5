"""Parquet files of any size, from anybody: read a row at a time, or refused in one sentence."""

import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as arrow
import pytest
from pyarrow.parquet import write_table

from d2it.errors import UserError
from d2it.images.archive import MOST, list_pictures
from d2it.images.parquet import _check_bounds
from tests.commands import command
from tests.test_archives import assert_says
from tests.test_hostile_images import encoded

MEGABYTE = 10**6


def written(path: Path, images: list[bytes | None], **options) -> Path:
    column = arrow.array(images, arrow.large_binary())
    write_table(arrow.table({"image": column}), path, row_group_size=len(images), **options)
    return path


def test_a_group_larger_than_the_memory_given(tmp_path: Path) -> None:
    """One of 400 MB, in a process that may take 200 MB more than it has when it is opened."""
    images = [bytes([i]) * MEGABYTE for i in range(200)] * 2
    kept = {"use_dictionary": False, "compression": "none", "data_page_size": MEGABYTE}
    path = written(tmp_path / "a.parquet", images, **kept, write_batch_size=1)
    program = f"""
import resource
from pathlib import Path
from d2it.images.archive import list_pictures
pictures = list_pictures(Path({str(path)!r}))
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * {resource.getpagesize()} + {200 * MEGABYTE}
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for number in (0, 7, 7, 399, 3):
    assert pictures[number].read() == bytes([number % 200]) * {MEGABYTE}
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.parquet", [bytes(MEGABYTE)] * 300, use_dictionary=False, compression="zstd"
    )
    assert path.stat().st_size < MEGABYTE
    done = command("evaluate", "--images", str(path), "--reference", str(path), cwd=tmp_path)
    assert_says(done, f"{path} unpacks the images of its group 0 from 0.0 MB to 300 MB, as no")


def test_one_row_larger_than_any_image(tmp_path: Path) -> None:
    """Of a dictionary, which has it once for many rows."""
    once = arrow.array([bytes(MOST + 1)], arrow.large_binary())
    column = arrow.DictionaryArray.from_arrays(arrow.array([0] * 100, "int32"), once)
    path = tmp_path / "a.parquet"
    write_table(arrow.table({"image": column}), path, compression="none", store_schema=False)
    for picture in list_pictures(path)[:2]:
        with pytest.raises(ValueError, match="it has 268 MB, more than any image"):
            picture.read()


class Said:
    """A group as its file may describe it, which Arrow's own writer does not."""

    num_columns = 0

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows


@pytest.mark.parametrize("rows", [[2**62], [2**40, -(2**40) + 3], [-1]])
def test_more_rows_than_bytes(tmp_path: Path, rows: list[int]) -> None:
    path = written(tmp_path / "a.parquet", [encoded("PNG")])
    _check_bounds(str(path), [Said(path.stat().st_size)], "image")
    with pytest.raises(UserError, match="says to have more rows than bytes: get it again"):
        _check_bounds(str(path), [Said(one) for one in rows], "image")


def test_rows_that_hold_nothing(tmp_path: Path) -> None:
    pictures = list_pictures(written(tmp_path / "a.parquet", [encoded("PNG"), None]))
    assert pictures[0].read() == encoded("PNG")
    with pytest.raises(ValueError, match="its row holds no bytes"):
        pictures[1].read()
    empty = [{"bytes": encoded("GIF"), "path": "a.gif"}, {"bytes": None, "path": "a"}, None]
    write_table(arrow.table({"image": empty}), tmp_path / "b.parquet")
    pictures = list_pictures(tmp_path / "b.parquet")
    for picture in pictures[1:]:
        with pytest.raises(ValueError, match="its row holds no bytes"):
            picture.read()
    assert pictures[0].read() == encoded("GIF")
