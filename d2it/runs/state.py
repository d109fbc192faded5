"""Training state on disk: whole or absent, verified when read, the last two kept.

    state/<images>/model.safetensors      averaged weights (EMA) of the published network
                   raw.safetensors        its weights as optimised
                   rest.safetensors       optimisers, other networks, sums for the next log line
                   power.safetensors      power-function averages, where snapshots are asked for
                   state.json             images seen, and the sha256 of the files above
    state/milestone-<images>/             model, power and state.json alone, kept for good

Equal runs have equal bytes here, on one type of CPU: time, host and the number of processes stand
in provenance.json.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from d2it.config.documents import conform
from d2it.errors import UserError
from d2it.files import (
    File,
    atomic_folder,
    file_digest,
    folder_files,
    read_format,
    require_space,
    save_by_umask,
    write_format,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT, VERSION = "d2it-state", 1
KEPT = 2
MEGABYTE = 2**20

Tensors = dict[str, "Tensor"]


class Header(TypedDict):
    """What state.json says at least."""

    images: int
    files: dict[str, File]


@dataclass(frozen=True)
class State:
    """A state that was read and verified. Its tensors are loaded only when asked for."""

    folder: Path
    images: int
    header: dict[str, Any]

    def tensors(self, stem: str) -> Tensors:
        from safetensors.torch import load_file

        return load_file(self.folder / f"{stem}.safetensors")


def state_folder(root: Path, images: int) -> Path:
    return root / f"{images:012d}"


def milestone_folder(root: Path, images: int) -> Path:
    return root / f"milestone-{images}"


def save(folder: Path, images: int, contents: dict[str, Tensors], header: dict[str, Any]) -> None:
    """Write a state: `contents` maps a file's stem to its tensors, on the CPU and contiguous."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    needed = sum(t.nbytes for tensors in contents.values() for t in tensors.values())
    require_space(folder, needed + MEGABYTE)
    with atomic_folder(folder) as temporary:
        for stem, tensors in contents.items():
            try:
                save_by_umask(save_file, tensors, temporary / f"{stem}.safetensors")
            except SafetensorError as error:
                raise UserError(
                    f"{folder} cannot be written ({error}): free some space and run the same "
                    "command again; training goes on from the state before."
                ) from None
        header = header | {"images": images, "files": folder_files(temporary)}
        write_format(temporary / "state.json", FORMAT, VERSION, header)
        for path in temporary.iterdir():
            _sync(path)
        _sync(temporary)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    """On a power cut, a rename may outlive what was renamed, unless that was flushed first."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prune(root: Path, images: int) -> None:
    """Keep the last two states up to `images`; later ones, if any, belong to a longer run."""
    for old in [n for n in _saved(root) if n <= images][:-KEPT]:
        shutil.rmtree(state_folder(root, old))
    for part in root.glob(".*.part"):  # of a process that was killed while it saved
        shutil.rmtree(part)
    for old_folder in root.glob(".*.old"):
        shutil.rmtree(old_folder)


def _saved(root: Path) -> list[int]:
    """Images seen of the states in `root`, ascending."""
    return sorted(int(path.name) for path in root.glob("[0-9]*") if path.name.isdecimal())


def open_state(folder: Path) -> State:
    path, made_by = folder / "state.json", "d2it train"
    header = read_format(path, FORMAT, VERSION, made_by=made_by)
    return State(folder, conform(Header, header, path, made_by)["images"], header)


def read(folder: Path) -> State:
    """The state in `folder` if every file is there with the recorded sha256, else a UserError."""
    state = open_state(folder)
    for name, recorded in state.header["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing.")
        if path.stat().st_size != recorded["bytes"] or file_digest(path) != recorded["sha256"]:
            raise UserError(f"{path} is damaged.")
    return state


def latest(
    root: Path, images: int, milestones: Iterable[int], warn: Callable[[str], None]
) -> State | None:
    """The newest sound state up to `images` that has every milestone before it; None: start anew.

    A damaged state falls back to the one before. A milestone may be missing because it is damaged,
    or because a longer run puts them elsewhere: training then takes up where it can still be had.
    """
    lost = next(
        (m for m in sorted(milestones) if not _sound(milestone_folder(root, m), warn)), None
    )
    rejected = False
    for number in reversed([n for n in _saved(root) if n <= images]):
        folder = state_folder(root, number)
        if lost is not None and lost <= number:
            warn(f"{folder} lies after the milestone of {lost} images, which is not there.")
        elif (state := _sound(folder, warn)) is not None:
            return state
        rejected = True
    if rejected:
        warn(f"No state in {root} can be used: training starts from the beginning.")
    return None


def _sound(folder: Path, warn: Callable[[str], None]) -> State | None:
    if not folder.exists():
        return None
    try:
        return read(folder)
    except UserError as error:
        warn(f"{error} Falling back to what was saved before it.")
        return None
