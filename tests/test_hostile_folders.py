"""Exported folders that strangers spoilt: refused in one sentence, or drawn from rightly.

Each in two seconds and 200 MB, of a process that has no more.
"""

import dataclasses
import inspect
import json
import re
import resource
import shutil
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import d2it
from d2it import cli
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.files import file_digest
from d2it.models.architecture import architecture
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT
from d2it.models.dvae import Dvae
from d2it.models.grain_transformer import GrainTransformer
from d2it.models.shapes import SHAPES
from d2it.sampling.header import digest_of, parsed
from tests.commands import command
from tests.composed import composed
from tests.forked import PROCESSES
from tests.hostile_folders import HEADER, hostile, read, write
from tests.hostile_networks import vast_changes
from tests.tiny_world import OVERRIDES, build_world, enter

RUN = "d2it_xl_classes"
SECONDS, MEMORY = 2, 200 << 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("world")
        enter(folder, patch)
        build_world(["grain_classes", RUN])
        assert cli.main(["export", RUN, "--out", "exported", *OVERRIDES]) == 0
        yield folder / "exported"


def judge(folder: Path) -> str:
    """What became of one folder: the sentence, or "drawn"."""
    try:
        images, maps = d2it.load(folder).sample(n=1)
    except UserError as error:
        sentence = str(error)
        assert sentence.isprintable() and len(sentence) < 600 and ". " not in sentence, sentence
        assert sentence.endswith(".") and (str(folder) in sentence or "not finite" in sentence)
        return sentence
    assert images.shape == (1, 64, 64, 3) and images.dtype == np.uint8
    assert maps.shape == (1, 8, 8) and set(maps.flat) <= {0, 1}
    return "drawn"


def judge_all(sound: str, work: str) -> None:
    """In a process of its own: a line of JSON for each folder."""
    torch.set_num_threads(1)
    assert judge(Path(sound)) == "drawn"  # imports are paid
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY

    def late(signum: int, frame: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    with open(Path(work, "outcomes"), "w", encoding="utf-8", buffering=1) as outcomes:
        for name, change in [*hostile(Path(sound)).items(), *vast_changes()]:
            folder = shutil.copytree(sound, Path(work, "folder"))
            change(folder)
            outcomes.write(json.dumps(name))
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
            signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)  # others compute here too
            began = time.process_time()
            try:
                told = judge(folder)
            except BaseException:
                told = traceback.format_exc()
            seconds = time.process_time() - began
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            outcomes.write(f"\t{json.dumps([told, seconds])}\n")
            shutil.rmtree(folder)


def test_every_folder_is_refused_in_a_sentence_or_drawn_from(sound: Path, tmp_path: Path) -> None:
    process = PROCESSES.Process(target=judge_all, args=(str(sound), str(tmp_path)))
    process.start()
    process.join(400)
    lines = (tmp_path / "outcomes").read_text().splitlines()
    assert process.exitcode == 0, lines[-1:]
    found = {
        json.loads(name): json.loads(end) for name, end in (line.split("\t") for line in lines)
    }
    broken = {name: end for name, end in found.items() if "Traceback" in end[0]}
    assert not broken, json.dumps(broken, indent=1)[:10_000]
    assert max(seconds for _, seconds in found.values()) < SECONDS
    bounded = [told for name, (told, _) in found.items() if name.startswith("for hours")]
    cured = re.compile(r" must be at most .*: set a smaller [\w.]+, and export it again\.$")
    assert bounded and all(map(cured.search, bounded)), bounded
    drawn = {name for name, (told, _) in found.items() if told == "drawn"}
    # what it need not say, or may say otherwise
    harmless = re.compile(
        r"no |networks\.\w+\.(run|images|batch) =|sampling\.|guidance|classes = \[\]"
        r"|README\.md: (nothing|a link to (nothing|itself))$"
    )
    assert not {name for name in drawn if not harmless.match(name)}
    assert len(found) >= 300 and len(drawn) < len(found) / 6


def test_the_command_says_the_same_sentence(sound: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "folder")
    header = read(folder)
    write(folder, header | {"ratio": 2.0})
    done = command("sample", "--run", str(folder), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pipeline.json cannot be used (ratio is 2.0, but a share of regions" in done.stderr
    assert not (tmp_path / "out").exists()


def test_folders_of_version_2_still_draw(sound: Path, tmp_path: Path) -> None:
    """They had no digest, no quantiles, no `learned` at first, and the encoder's weights."""
    folder = shutil.copytree(sound, tmp_path / "folder")
    header = read(folder) | {"version": 2}
    for key in ("digest", "quantiles", "learned"):
        header.pop(key)
    for one in header["networks"].values():
        one.pop("sha256")
    whole = sound.parent / "results/smoke/models/dvae/model.safetensors"
    shutil.copyfile(whole, folder / "dvae.safetensors")
    entry = {"bytes": whole.stat().st_size, "sha256": file_digest(whole)}
    header["files"]["dvae.safetensors"] = entry
    (folder / HEADER).write_text(json.dumps(header))
    found, wanted = (d2it.load(one).sample(n=2) for one in (folder, sound))
    assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))


@pytest.mark.parametrize("run", ["d2it_xl_classes", "dit_xl_classes"])
def test_the_papers_largest_networks_are_within_every_bound(sound: Path, run: str) -> None:
    """Guided, in the paper's blocks, and at 512 px."""
    config, tree = composed("scale=paper"), read(sound)
    for scale in (1, 2):
        one = run_of(config, run)
        used = {"network": one, "dvae": one.dvae, "grain": one.grain}
        for name, entry in tree["networks"].items():
            trained = used[name] or run_of(config, "grain_classes")
            entry |= {"kind": trained.kind, "architecture": architecture(trained)}
            entry["architecture"]["size" if name == "dvae" else "side"] *= scale
        tree |= {"kind": one.kind, "regions": 16 * scale, "guidance": 1.5, "classes": []}
        for part in ("diffusion", "sampling"):
            tree[part] = dataclasses.asdict(getattr(config, part))
        tree["sampling"] |= {"steps": 1000 // scale**2, "block": 64 // scale**2}
        parsed(tree | {"digest": digest_of(tree)})


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_have_every_argument_of_their_network(kind: str) -> None:
    made = {"dvae": Dvae, "grain": DiT, "dit": DiT, "content": ContentTransformer}[kind]
    arguments = {**inspect.signature(made).parameters}
    if kind == "grain":  # it hands on a DiT's
        arguments |= inspect.signature(GrainTransformer).parameters
        for name in ("others", "channels", "patch", "learn_sigma"):
            arguments.pop(name)
    for name in ("checkpointing", "encodes"):  # which are not stored
        arguments.pop(name, None)
    fields = {field.name: field.default for field in dataclasses.fields(SHAPES[kind])}
    empty, missing = inspect.Parameter.empty, dataclasses.MISSING
    assert fields == {
        name: missing if one.default is empty else one.default for name, one in arguments.items()
    }
