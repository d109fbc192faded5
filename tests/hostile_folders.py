"""Exported folders as a stranger would spoil one, each in a way of its own."""

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from d2it.files import file_digest
from d2it.sampling.header import digest_of

HEADER, CARD = "pipeline.json", "README.md"
Change = Callable[[Path], None]
WRONG = (  # values of every type, and numbers that no setting takes
    *(None, True, -1, 0, 10**9, 10**400, 0.5, math.nan, math.inf, -1e300),
    *("", "x", "\x1b[2J\n\ud800", [], [-1], [[]] * 3, {}, {"x": 1}),
)


def read(folder: Path) -> Any:
    return json.loads((folder / HEADER).read_text())


def write(folder: Path, header: Any) -> None:
    """As an attacker does: with a digest that fits."""
    with suppress(ValueError):  # of NaN there is none
        header["digest"] = digest_of(header)
    (folder / HEADER).write_text(json.dumps(header))


def reseal(folder: Path) -> None:
    """With digests of the files as they are now."""
    header = read(folder)
    for name, entry in header["files"].items():
        path = folder / name
        entry |= {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    write(folder, header)


def places(tree: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where a value stands in a header; of lists of numbers the first alone."""
    if at:
        yield at
    inner: Any = tree.items() if isinstance(tree, dict) else ()
    inner = enumerate(tree[:1]) if isinstance(tree, list) else inner
    for key, value in inner:
        yield from places(value, (*at, key))


def at_place(tree: Any, at: tuple) -> Any:
    for key in at:
        tree = tree[key]
    return tree


def header_changes(sound: Any) -> Iterator[tuple[str, Change]]:
    """Each value replaced by a wrong one, each key taken away, keys that nobody knows."""
    rng = random.Random(0)

    def change(at: tuple, value: Any) -> Change:
        def apply(folder: Path) -> None:
            header = read(folder)
            table = at_place(header, at[:-1])
            table.pop(at[-1]) if value is KeyError else table.__setitem__(at[-1], value)
            write(folder, header)

        return apply

    for at in places({key: value for key, value in sound.items() if key != "digest"}):
        name = ".".join(map(str, at))
        value = rng.choice([value for value in WRONG if value is not at_place(sound, at)])
        yield f"{name} = {ascii(value)[:30]}", change(at, value)
        yield f"no {name}", change(at, KeyError)
    for at in (
        ("__class__",),
        ("sampling", "eval"),
        ("networks", "network", "code"),
        ("x" * 10**6,),
    ):
        yield f"a key {at[-1][:20]}", change(at, "os.system")


LARGE: dict[tuple, dict[str, Any]] = {  # what a network would be built of, or an image drawn with
    ("networks", "network", "architecture"): {
        "width": 10**9,
        "heads": 0,
        "layers": [100_000, 1],
        "window": 3,
        "side": 2**20,
        "grains": 60,
        "classes": 10**9,
        "mlp_ratio": 10**6,
        "channels": 10**6,
    },
    ("networks", "grain", "architecture"): {
        "width": 10**5,
        "depth": 10**6,
        "side": 2**30,
        "grains": 3,
        "classes": 3,
    },
    ("networks", "dvae", "architecture"): {
        "channels": 10**6,
        "size": 2**16,
        "multipliers": [1] * 10**5,
        "factors": [2**20, 2**19],
        "res_blocks": 10**7,
        "latent_channels": 10**8,
        "norm_groups": 7,
        "attention": [10**9],
    },
    ("diffusion",): {"timesteps": 4001, "beta_start": 0.5, "beta_end": 1.0, "learn_sigma": True},
    ("sampling",): {"steps": 10**9, "grain_steps": 1001, "block": 4097, "guided_channels": 99},
    (): {"bins": 4097, "regions": 10**6, "ratio": 2.0, "latent_scale": -1.0, "grey_range": [1, -1]},
}


def large_changes() -> Iterator[tuple[str, Change]]:
    for at, values in LARGE.items():
        for key, value in values.items():

            def apply(folder: Path, at: tuple = at, key: str = key, value: Any = value) -> None:
                header = read(folder)
                at_place(header, at)[key] = value
                write(folder, header)

            yield f"{'.'.join(at)} {key} {str(value)[:20]}", apply


FOR_HOURS: dict[str, dict[tuple, Any]] = {  # of which the parts alone may be as they are
    "steps": {("diffusion", "timesteps"): 4000, ("sampling", "steps"): 1001},
    "steps of maps": {("diffusion", "timesteps"): 4000, ("sampling", "grain_steps"): 1001},
    "work": {
        ("networks", "network", "architecture", "layers"): [256, 256],
        ("networks", "network", "architecture", "width"): 16384,
        ("networks", "network", "architecture", "heads"): 4,
        ("sampling", "steps"): 1000,
    },
    "memory": {("networks", "dvae", "architecture", "channels"): 16384, ("sampling", "block"): 512},
}


def combined_changes() -> Iterator[tuple[str, Change]]:
    for name, values in FOR_HOURS.items():

        def apply(folder: Path, values: dict[tuple, Any] = values) -> None:
            header = read(folder)
            for at, value in values.items():
                at_place(header, at[:-1])[at[-1]] = value
            write(folder, header)

        yield f"for hours: {name}", apply


def text_changes() -> Iterator[tuple[str, Change]]:
    """Headers that are no header."""
    texts: dict[str, bytes] = {
        "empty": b"",
        "no JSON": b"{",
        "not UTF-8": b'{"format": "\xff"}',
        "another format": b'{"format": "d2it-model", "version": 1}',
        "a list": b"[]",
        "nested": b"[" * 10**6,
        "nested and closed": b"[" * 900 + b"]" * 900,
        "zeros": bytes(1000),
        "vast": b" " * (5 << 20) + b"{}",
        "digits": b'{"format": ' + b"9" * 10**6 + b"}",
        "pickled": b"\x80\x04\x95cos\nsystem\n(S'touch owned'\ntR.",
    }
    for name, text in texts.items():

        def replaced(folder: Path, text: bytes = text) -> None:
            (folder / HEADER).write_bytes(text)

        yield f"header: {name}", replaced

    def nested(folder: Path) -> None:
        header = read(folder)
        text = json.dumps(header | {"scale": "SCALE"}).replace('"SCALE"', "[" * 800 + "]" * 800)
        (folder / HEADER).write_text(text)

    yield "header: a name of 800 brackets", nested
    for what in ("newer", "older", "digest", "no digest", "half"):

        def apply(folder: Path, what: str = what) -> None:
            header = read(folder)
            if what == "digest":
                (folder / HEADER).write_text(json.dumps(header | {"guidance": 1.5}))
            elif what == "no digest":
                header.pop("digest")
                (folder / HEADER).write_text(json.dumps(header))
            elif what == "half":
                text = (folder / HEADER).read_text()
                (folder / HEADER).write_text(text[: len(text) // 2])
            else:
                write(folder, header | {"version": 1 if what == "older" else 99})

        yield f"header: {what}", apply


def weight_changes(names: list[str]) -> Iterator[tuple[str, Change]]:
    """Tensors of another type, shape, name or number; files that are none."""

    def tensors(name: str, change: Callable[[dict], object]) -> Change:
        def apply(folder: Path) -> None:
            state = load_file(folder / name)
            change(state)
            save_file(state, folder / name)
            reseal(folder)

        return apply

    def put(value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], object]:
        def apply(state: dict) -> None:
            first = sorted(state)[0]
            state[first] = value(state[first]).contiguous()

        return apply

    def every(kind: torch.dtype) -> Callable[[dict], object]:
        return lambda state: state.update({k: v.to(kind) for k, v in state.items()})

    altered: dict[str, Callable[[dict], object]] = {
        "half": every(torch.float16),
        "brain": every(torch.bfloat16),
        "double": every(torch.float64),
        "int8": every(torch.int8),
        "one int": put(lambda t: t.int()),
        "NaN": put(lambda t: t * math.nan),
        "infinite": put(lambda t: t + math.inf),
        "turned": put(lambda t: t[None]),
        "flat": put(lambda t: t.flatten()[:-1]),
        "empty": put(lambda t: t.flatten()[:0]),
        "one missing": lambda state: state.pop(sorted(state)[0], None) is None,
        "one more": lambda state: state.update({"more": torch.zeros(3)}),
        "renamed": lambda state: state.update({"x": state.pop(sorted(state)[0])}),
        "nothing": lambda state: state.clear(),
    }
    for name in names:
        for what, change in altered.items():
            yield f"{name}: {what}", tensors(name, change)

    def raw(name: str, content: Callable[[bytes], bytes]) -> Change:
        def apply(folder: Path) -> None:
            (folder / name).write_bytes(content((folder / name).read_bytes()))
            reseal(folder)

        return apply

    def described(text: bytes) -> Callable[[bytes], bytes]:
        return lambda whole: len(text).to_bytes(8, "little") + text + bytes(100)

    one = b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,%s]}}'
    contents: dict[str, Callable[[bytes], bytes]] = {
        "cut": lambda whole: whole[: len(whole) // 2],
        "cut in its header": lambda whole: whole[:100],
        "of three bytes": lambda whole: whole[:3],
        "longer": lambda whole: whole + bytes(10),
        "a header of 2^63": lambda whole: b"\xff" * 8 + whole[8:],
        "a header of 100 MB": lambda whole: (100 << 20).to_bytes(8, "little") + whole[8:],
        "text": lambda whole: b"no weights at all",
        "pickled": lambda whole: b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
        "zip": lambda whole: b"PK\x03\x04" + bytes(100),
        "vast shape": described(one % (b"1000000000,1000000000", b"100")),
        "beyond its end": described(one % (b"250000", b"1000000")),
        "overlapping": described(b'{"a":{"dtype":"F32","shape":[25],"data_offsets":[50,0]}}'),
        "nested": described(b"[" * 10**5),
    }
    for name in names:
        for what, content in contents.items():
            yield f"{name}: {what}", raw(name, content)


def hole(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(8 << 30)


def place_changes(names: list[str]) -> Iterator[tuple[str, Change]]:
    """Something else stands where a file should."""
    there: dict[str, Change] = {
        "nothing": lambda path: None,
        "a folder": lambda path: path.mkdir(),
        "a pipe": lambda path: os.mkfifo(path),
        "a link to nothing": lambda path: path.symlink_to("gone"),
        "a link to itself": lambda path: path.symlink_to(path),
        "a link to zeros": lambda path: path.symlink_to("/dev/zero"),
        "a link to memory": lambda path: path.symlink_to("/proc/self/mem"),
        "a link to the folder": lambda path: path.symlink_to(path.parent),
        "8 GB of a hole": hole,
    }
    for name in names:
        for what, change in there.items():

            def apply(folder: Path, name: str = name, change: Change = change) -> None:
                (folder / name).unlink()
                change(folder / name)

            yield f"{name}: {what}", apply


def swaps(names: list[str]) -> Iterator[tuple[str, Change]]:
    """One network's file in the place of another's."""
    for one, other in zip(names, [*names[1:], names[0]], strict=True):

        def apply(folder: Path, one: str = one, other: str = other) -> None:
            shutil.copyfile(folder / other, folder / one)
            reseal(folder)

        yield f"{other} as {one}", apply


def hostile(sound: Path) -> dict[str, Change]:
    header = read(sound)
    names = sorted(header["files"])
    return {
        **dict(header_changes(header)),
        **dict(large_changes()),
        **dict(combined_changes()),
        **dict(text_changes()),
        **dict(weight_changes(names)),
        **dict(place_changes([HEADER, CARD, *names])),
        **dict(swaps(names)),
    }
