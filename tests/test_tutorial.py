"""docs/tutorial.md as a reader follows it: files are written, commands and programs run."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2it import cli
from tests.tiny_world import enter

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tutorial.md").read_text()
BLOCKS = re.findall(r"^(?:`(\S+)`:\n\n)?```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """params/ of its own, and pictures of two classes."""
    enter(tmp_path, monkeypatch)
    shutil.copytree(ROOT / "params", "params")
    Path("one.yaml").write_text("cluster: local\n")  # no process but this one
    monkeypatch.setenv("D2IT_LAUNCHER", "one.yaml")
    random = np.random.default_rng(0)
    for name in ("forest", "sea"):
        Path("my_photos", name).mkdir(parents=True)
        for i in range(20):
            pixels = np.full((80, 100, 3), 10 * i, np.uint8)
            pixels[:, :50] = random.integers(0, 256, (80, 50, 3))
            Image.fromarray(pixels).save(Path("my_photos", name, f"{i:02d}.png"))


@pytest.mark.filterwarnings("ignore:.*was asked for, but the thresholds give")
def test_every_block_of_the_tutorial(repository: None) -> None:
    found: dict[str, object] = {}
    assert {kind for _, kind, _ in BLOCKS} == {"yaml", "sh", "python"}
    for name, kind, text in BLOCKS:
        if kind == "yaml":
            Path(name).write_text(text)
        elif kind == "sh":
            for line in text.splitlines():
                verb = shlex.split(line, comments=True)
                assert verb[0] == "d2it" and cli.main(verb[1:]) == 0, line
        else:
            exec(text, found)
    images, maps, map = (found[name] for name in ("images", "maps", "map"))
    assert isinstance(images, np.ndarray) and images.shape == (4, 64, 64, 3)
    assert isinstance(map, np.ndarray) and (maps == map).all() and set(map.flat) == {0, 1}
    assert Image.open("by_edges.png").size == (256, 64)
    assert Image.open("forest/overlay.png").size[0] > 0
