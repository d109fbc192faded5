"""Files of units, which one of several processes has computed, and what they were computed on.

Units are the same bytes in any process of one kind of device; another kind rounds otherwise.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from d2it.files import atomic_path
from d2it.machine.device import Device, device_name


def save_unit(arrays: dict[str, np.ndarray], path: Path, device: Device) -> None:
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, {"device": device_name(device)})


def devices_of(paths: Iterable[Path], what: str) -> list[str]:
    """What the units of `what` were computed on; a warning where that is several kinds."""
    found = []
    for path in paths:
        with safe_open(path, "numpy") as file:
            found.append((file.metadata() or {}).get("device", "a device that is not recorded"))
    return kinds_of(found, what)


def kinds_of(devices: Iterable[str], what: str) -> list[str]:
    """Each once; a warning where `what` was computed on several."""
    found = sorted(set(devices))
    if len(found) > 1:
        warnings.warn(
            f"{what}: computed on several kinds of device ({'; '.join(found)}), which round "
            "differently; for identical results set `constraint` in the launcher to one GPU model.",
            stacklevel=2,
        )
    return found
