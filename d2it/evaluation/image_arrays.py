"""Images and statistics in .npy and .npz files, as ADM writes them, from anybody.

What an array says of itself is held against its file before anything is allocated for it.
"""

import os
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy

from d2it.errors import UserError
from d2it.evaluation.metrics import Gaussian
from d2it.models.inception import DIMENSIONS, SPATIAL

IMAGES = "arr_0"
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
LARGEST = 1e12  # of statistics; their squares are summed
ROUNDING = 1e-5  # of the largest eigenvalue: what a covariance stored in fp32 falls below zero by


class Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def are_images(self) -> bool:
        sides = len(self.shape) == 4 and self.shape[3] == 3 and min(self.shape[1:]) > 0
        return sides and self.dtype == np.uint8


def read_images(path: Path) -> np.ndarray:
    """(n, H, W, 3) uint8, which stays on the disk where the file allows it."""
    if path.suffix == ".npy":
        with open(path, "rb") as file:
            _check_images(path, _header(file, os.fstat(file.fileno()).st_size))
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with zipfile.ZipFile(path) as archive:
        _check_images(path, dict(_headers(archive)).get(IMAGES))
        _check_memory(path, archive.getinfo(f"{IMAGES}.npy").file_size)
    return _array(path, IMAGES)


def read_statistics(path: Path, n: int) -> dict[str, Gaussian] | None:
    """`mu`, `sigma`, `mu_s`, `sigma_s` of n images, by kind of feature; None: there are none."""
    if path.suffix == ".npy":
        return None
    with zipfile.ZipFile(path) as archive:
        headers = dict(_headers(archive))
    if "mu" not in headers:
        return None
    found = {}
    for name, mean, covariance, width in (
        ("features", "mu", "sigma", DIMENSIONS),
        ("spatial", "mu_s", "sigma_s", SPATIAL),
    ):
        shapes = {mean: (width,), covariance: (width, width)}
        numbers = []
        for key, shape in shapes.items():
            header = headers.get(key)
            fits = header is not None and header.shape == shape and header.dtype.kind == "f"
            array = _array(path, key).astype(np.float64) if fits else np.full(1, np.nan)
            if not (np.abs(array) < LARGEST).all():
                raise UserError(
                    f"{path} is no reference batch: its {key} must be {shape} finite numbers."
                )
            numbers.append(torch.from_numpy(array))
        mu, sigma = numbers
        if not _is_covariance(sigma):
            raise UserError(
                f"{path} is no reference batch: its {covariance} is no covariance, which is "
                "symmetric and has no eigenvalue below zero."
            )
        found[name] = Gaussian(n, mu, sigma)
    return found


def _headers(archive: zipfile.ZipFile) -> Iterator[tuple[str, Header]]:
    for name in (IMAGES, "mu", "sigma", "mu_s", "sigma_s"):
        if f"{name}.npy" in archive.NameToInfo:
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as file:
                yield name, _header(file, info.file_size)


def _header(file: IO[bytes], size: int) -> Header:
    """Of an array in a file of `size` bytes; a ValueError if it would not fill it exactly."""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"its header is of version {version}")
    shape, _, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds objects of Python")
    if min(shape, default=0) < 0 or file.tell() + prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{shape} of {dtype} do not fill its {size} bytes")
    return Header(shape, dtype)


def _check_images(path: Path, header: Header | None) -> None:
    if header is None or not header.are_images:
        found = "missing" if header is None else f"{header.shape} of {header.dtype}"
        raise UserError(
            f"{path} is no batch of images: its array, in an .npz {IMAGES}, must be (images, "
            f"height, width, 3) of uint8, but is {found}."
        )


def _check_memory(path: Path, size: int) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise UserError(
            f"{path} holds {size / 1e9:.0f} GB of images, more than the memory of "
            f"{memory / 1e9:.0f} GB: unpack it, and name its {IMAGES}.npy."
        )


def _array(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        array: np.ndarray = file[name]
        return array


def _is_covariance(matrix: torch.Tensor) -> bool:
    values = torch.linalg.eigvalsh(matrix)
    rounding = ROUNDING * max(float(values[-1]), 0.0)
    asymmetry = float((matrix - matrix.T).abs().max())
    return asymmetry <= rounding and float(values[0]) >= -rounding
