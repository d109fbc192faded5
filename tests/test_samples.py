"""`d2it sample` and `d2it export`: the same pictures from a run, a folder and Python."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import d2it
from d2it import cli
from d2it.config import Config
from d2it.errors import UserError
from d2it.sampling import write
from d2it.sampling.write import read_map
from tests import installed
from tests.tiny_world import OVERRIDES, build_world, enter

RUN, DIT = "d2it_xl_classes", "dit_b"
DRAWN = ["--seeds", "2-9", "--class", "coffee", "--grain-map", "map.png"]


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("world"), patch)
        config = build_world(["grain_classes", RUN, DIT])
        draw_map(Path("map.png"), 64)
        yield config


@pytest.fixture(scope="module")
def exported(config: Config) -> Path:
    assert cli.main(["export", RUN, "--out", "exported", *OVERRIDES]) == 0
    return Path("exported")


def draw_map(path: Path, size: int, mode: str = "L") -> None:
    """Fine on the right."""
    pixels = np.zeros((size, size), np.uint8)
    pixels[:, size // 2 :] = 200
    Image.fromarray(pixels).convert(mode).save(path)


def sample(out: str, *arguments: str) -> Path:
    settings = [] if "exported" in arguments else OVERRIDES
    assert cli.main(["sample", *arguments, "--out", out, *settings]) == 0
    return Path(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn(config: Config) -> Path:
    return sample("drawn", "--run", RUN, *DRAWN)


def picture(folder: Path, i: int) -> np.ndarray:
    return np.array(Image.open(folder / f"{i:06d}.png"))


def test_pictures_of_a_class_for_a_drawn_map(drawn: Path) -> None:
    assert sorted(path.name for path in drawn.glob("0*")) == [f"{i:06d}.png" for i in range(2, 10)]
    maps = np.load(drawn / "maps.npy")
    assert maps.shape == (8, 8, 8) and (maps == (np.arange(8) >= 4)).all()
    assert (np.load(drawn / "labels.npy") == 2).all()
    assert Image.open(drawn / "grid.png").size == (3 * 72 - 8, 3 * 72 - 8)
    assert Image.open(drawn / "overlay.png").size == (4 * 72 - 8, 4 * 72 - 8)
    listed = json.loads((drawn / "samples.json").read_text())["files"]
    assert set(listed) == {path.name for path in drawn.iterdir()} - {"samples.json"}


def test_a_picture_is_the_same_in_every_request(drawn: Path) -> None:
    one = sample("one", "--run", RUN, "--seeds", "5", *DRAWN[2:])
    assert np.array_equal(picture(one, 5), picture(drawn, 5))
    own = sample("own", "--run", RUN, "--seeds", "5")
    assert not np.array_equal(picture(own, 5), picture(drawn, 5))
    assert np.load(own / "labels.npy") == [5]


def test_a_damaged_picture_is_drawn_again(drawn: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(drawn, tmp_path / "copy")
    picture = copy / "000003.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    sample(str(copy), "--run", RUN, *DRAWN)
    assert contents(copy) == contents(drawn)


def test_an_exported_folder_draws_the_same(drawn: Path, exported: Path, tmp_path: Path) -> None:
    """By the command and in Python, far from the study; DiTs too."""
    again = sample("again", "--run", "exported", *DRAWN)
    assert contents(again) == contents(drawn)
    pipe = d2it.load(exported)
    map = np.load(drawn / "maps.npy")[0]
    images, maps = pipe.sample(n=8, label="coffee", map=map, first=2)
    assert all(np.array_equal(images[i - 2], picture(drawn, i)) for i in range(2, 10))
    assert np.array_equal(maps, np.load(drawn / "maps.npy"))
    each, maps = pipe.sample(n=8, label=2, map=np.stack([map, 0 * map] * 4), first=2)
    assert np.array_equal(each[::2], images[::2]) and not maps[1::2].any()
    assert cli.main(["export", DIT, "--out", "dit", "--weights", "raw", *OVERRIDES]) == 0
    raw = sample("raw", "--run", DIT, "--seeds", "0-1", "--weights", "raw")
    assert np.array_equal(d2it.load("dit").sample(n=2)[0][1], picture(raw, 1))
    assert not (raw / "overlay.png").exists()


def test_it_needs_nothing_of_the_study(exported: Path, tmp_path: Path) -> None:
    """The lines of the README and of the model card, where neither params/ nor data/ are."""
    shutil.copytree(exported, tmp_path / "folder")
    pages = (Path(__file__).parents[1] / "README.md", exported / "README.md")
    texts = [page.read_text().split("```python\n")[1].split("```")[0] for page in pages]
    check = "assert images.shape == (4, 64, 64, 3) and maps.shape == (4, 8, 8)\n"
    program = "".join(text + check for text in texts)
    for theirs, ours in (("my-d2it", "folder"), ("FOLDER", "folder"), ("flags", "flower")):
        program = program.replace(theirs, ours)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_it_needs_no_checkout(exported: Path, drawn: Path, tmp_path: Path) -> None:
    """`pip install .` and the folder: it draws the same, and what it drew is measured."""
    target, elsewhere = installed.install(tmp_path / "installed"), tmp_path / "elsewhere"
    shutil.copytree(exported, elsewhere / "folder")
    shutil.copy("map.png", elsewhere)
    asked = ["--run", "folder", "--out", "again", *DRAWN]
    done = installed.run(target, "sample", *asked, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert contents(elsewhere / "again") == contents(drawn)
    pictures = ["--images", "again", "--reference", drawn.resolve(), "--metrics", "fid"]
    done = installed.run(target, "evaluate", *pictures, cwd=elsewhere)
    assert done.returncode == 0 and "fid" in done.stdout, done.stderr


def test_the_model_card(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    header = json.loads((exported / "pipeline.json").read_text())
    for said in ["scale `smoke`", "CC BY 2.0", "astronaut", "64 images (2.3 epochs)", "Apache-2.0"]:
        assert said in text
    for entry in header["networks"].values():
        assert entry["recipe_digest"][:8] in text
    assert "Not evaluated" in text and "2504.09454" in text


def test_a_damaged_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "folder")
    with open(folder / "dvae.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(UserError, match="dvae.safetensors is damaged"):
        d2it.load(folder)


def test_shares_kills_and_forms(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after two of four units, then shared: the bytes of one process."""
    request = ["--run", RUN, "--seeds", "3-39", "--class", "random"]
    monkeypatch.setattr(write, "UNIT", 16)
    whole = sample("whole", *request, "--format", "packed")
    images = np.load(whole / "images.npy", mmap_mode="r")
    labels = np.load(whole / "labels.npy")
    assert images.shape == (37, 64, 64, 3) and len(set(labels)) == 7
    assert not (labels == np.arange(3, 40) % 7).all()
    shutil.move(whole, "before")
    real, begun = write._draw_unit, []

    def killed(pipeline, request, unit, advance):
        begun.append(unit.span)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(pipeline, request, unit, advance)

    command = ["sample", *request, "--format", "packed", "--out", "whole", *OVERRIDES]
    monkeypatch.setattr(write, "_draw_unit", killed)
    assert cli.main(command) == 130
    assert begun == [range(3, 16), range(16, 32), range(32, 40)] and not whole.exists()
    for part in (2, 1):
        assert cli.main([*command, "--share", f"{part}/2"]) == 0
        assert not whole.exists()
    monkeypatch.delattr(write.Pipeline, "draw")
    assert cli.main(command) == 0
    assert contents(whole) == contents(Path("before"))
    assert not list(Path().glob(".*.parts"))


def test_archives_and_features(config: Config, drawn: Path) -> None:
    file = np.load(sample("npz", "--run", RUN, *DRAWN, "--format", "npz") / "samples.npz")
    assert np.array_equal(file["arr_0"][0], picture(drawn, 2))
    assert np.array_equal(file["arr_1"], np.full(8, 2))


def test_features_are_those_of_the_protocol(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the run's data set, be it exported, unless the option names another."""
    asked = []

    class Extractor:
        def __init__(self, protocol: str, device: object) -> None:
            asked.append(protocol)

        def __call__(self, images: np.ndarray) -> np.ndarray:
            return np.zeros((len(images), 2048), np.float32)

    monkeypatch.setattr(write, "Inception", Extractor)
    command = ["--seeds", "0-1", "--format", "features"]
    adm = "data.photos.protocol=adm"
    for out, run, more in (
        ("own", RUN, []),
        ("other", RUN, [adm]),
        ("folder", "exported", []),
        ("named", "exported", ["--protocol", "adm"]),
    ):
        folder = sample(f"features_{out}", "--run", run, *command, *more)
        assert np.load(folder / "features.npy").shape == (2, 2048)
        recipe = json.loads((folder / "samples.json").read_text())["recipe"]
        assert recipe["protocol"] == asked[-1]
    assert asked == ["clean", "adm", "clean", "adm"]


@pytest.mark.parametrize(("size", "mode"), [(8, "L"), (8, "RGBA"), (40, "P"), (64, "I;16")])
def test_maps_in_any_form(size: int, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    if mode == "I;16":
        pixels = np.zeros((size, size), np.uint16)
        pixels[:, size // 2 :] = 50_000
        Image.fromarray(pixels).save(path)
    else:
        draw_map(path, size, mode)
    assert (read_map(path, 8, 2) == (np.arange(8) >= 4)).all()
    assert set(read_map(path, 8, 3).flat) == {0, 2}


BAD = {
    "class out of range": (["--class", "7"], "flower or 0 to 6"),
    "unknown class": (["--class", "coffe"], "did you mean 'coffee'"),
    "class that is not there": (["--class", "bird"], "choose one of astronaut, cat, coffee"),
    "empty range": (["--seeds", "9-2"], "a rising range"),
    "no range": (["--seeds", "a"], "a rising range"),
    "number beyond all": (["--seeds", "9" * 20], "below 1000000000000"),
    "range beyond the disk": (["--seeds", "0-999999999998"], "GB are needed"),
    "protocol of pictures": (["--protocol", "adm"], "goes with --format features"),
    "map of unknown brightness": (["--grain-map", "float.tif"], "floating-point pixels"),
    "map of another shape": (["--grain-map", "wide.png"], "8 x 8 regions"),
    "no map": (["--grain-map", "none.png"], "There is no file none.png"),
    "map is no picture": (["--grain-map", "text.png"], "cannot be read as a picture"),
    "too many steps": (["--steps", "1001"], "not between 1 and 1000"),
    "negative guidance": (["--guidance", "-1"], "at least 0"),
    "no process": (["--processes", "0"], "at least 1"),
    "unknown run": (["--run", "d2it_xl_clases"], "did you mean 'd2it_xl_classes'"),
    "nearly a packaged folder": (["--run", "emoji65"], "folder 'emoji65' (did you mean 'emoji64'"),
    "untrained run": (["--run", "d2it_l"], "make it with `d2it train d2it_l scale=smoke data"),
    "not a pipeline": (["--run", "dvae"], "only content and DiT runs"),
    "a folder of something else": (["--run", "data"], "data is not an exported folder"),
    "settings of an exported folder": (["--run", "exported"], "leave out"),
    "class without classes": (["--run", DIT, "--class", "1"], "knows no classes"),
    "guidance without classes": (["--run", DIT, "--guidance", "2"], "Guidance needs"),
    "map of a DiT": (["--run", DIT, "--grain-map", "map.png"], "no grain map"),
    "folder in use": (["--out", "data"], "data holds something else"),
    "too long a name": (["--out", "x" * 201], "choose one of at most 200 bytes"),
    "folder of other samples": (["--out", "drawn"], "drawn holds other samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    case: str, drawn: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, sentence = BAD[case]
    Image.new("L", (64, 32)).save("wide.png")
    Path("text.png").write_text("no picture")
    Image.fromarray(np.ones((8, 8), np.float32)).save("float.tif")
    before = sorted(Path().rglob("*"))
    command = ["sample", "--run", RUN, "--seeds", "0", "--out", "bad", *arguments, *OVERRIDES]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("d2it: error") == 1 and "Traceback" not in error
    assert sorted(Path().rglob("*")) == before


def test_a_damaged_list_of_samples_is_never_taken_for_them(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sample("ruined", "--run", RUN, "--seeds", "0")
    (folder / "samples.json").write_text("{")
    command = ["sample", "--run", RUN, "--seeds", "0", "--out", "ruined", *OVERRIDES]
    assert cli.main(command) == 2
    assert "ruined holds other samples: delete it" in capsys.readouterr().err


def test_exporting_over_something_else(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", RUN, "--out", "data", *OVERRIDES]) == 2
    assert "data holds something else" in capsys.readouterr().err
    assert cli.main(["export", "grain_classes", "--out", "new", *OVERRIDES]) == 2
    assert "only content and DiT runs" in capsys.readouterr().err and not Path("new").exists()
