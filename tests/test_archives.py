"""Data sets as they are given out: fetched from loopback, read in their archives, packed alike."""

import csv
import hashlib
import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.io import savemat

from d2it.config import load
from d2it.images.archive import list_pictures
from d2it.images.folder import folder_collection
from d2it.images.packed import PackedImages
from d2it.sources.table import Source, read_sources
from tests.commands import Done, command
from tests.loopback import serving
from tests.test_prepare import folder_dataset, tree, write_photos

WNIDS = ["n01440764", "n01443537", "n02007558"]
TRAIN, VAL, DEVKIT = (
    f"ILSVRC2012_{name}" for name in ("img_train.tar", "img_val.tar", "devkit_t12.tar.gz")
)


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.writestr(f"{top}{file.relative_to(folder).as_posix()}", file.read_bytes())
    return path


@pytest.fixture(scope="module")
def ilsvrc(tmp_path_factory) -> dict[str, bytes]:
    """ILSVRC-2012 under its public names: 3 classes of 4 images, and 5 to validate."""
    folder = tmp_path_factory.mktemp("ilsvrc")
    names = [f"{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in (2, 10, 100, 7)]
    write_photos(folder / "train", names)
    write_photos(folder / "val", [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 6)], seed=1)
    classes = {
        wnid: tar_of({path.name: path.read_bytes() for path in (folder / "train" / wnid).iterdir()})
        for wnid in WNIDS
    }
    val = {path.name: path.read_bytes() for path in sorted((folder / "val").iterdir())}
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    # numbers are not in the order of the names, and the last synset is an inner node
    rows = [(2, WNIDS[0], "tench, Tinca tinca", 0), (3, WNIDS[1], "goldfish", 0)]
    rows += [(1, WNIDS[2], "flamingo", 0), (4, "n00001740", "entity", 3)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kind)})
    kit = {
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"2\n3\n1\n1\n2\n",
    }
    return {
        TRAIN: tar_of({f"{wnid}.tar": content for wnid, content in reversed(classes.items())}),
        VAL: tar_of(val),
        DEVKIT: tar_of(kit, "w:gz"),
    }


def assert_says(done: Done, *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("d2it: error: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def write_table(root: Path, ilsvrc: dict[str, bytes]) -> None:
    """data/sources.csv, for files of these contents."""
    (root / "data").mkdir(exist_ok=True)
    with open(root / "data/sources.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(Source.__dataclass_fields__), restval="")
        writer.writeheader()
        for name, content in ilsvrc.items():
            known = {"name": name, "group": "imagenet", "url": "gated:https://image-net.org/x"}
            md5 = hashlib.md5(content).hexdigest()
            writer.writerow(known | {"sha256": f"md5:{md5}", "bytes": len(content)})


def write_params(path: Path, composed: dict, **changes: object) -> Path:
    """The photographs' scale with a data set `imagenet` in their place."""
    imagenet = yaml.safe_load(Path("params/data/imagenet.yaml").read_text())["imagenet"]
    small = {"size": 32, "classes": 3, "images": 12, "thresholds_from": "photos"}
    data = composed["data"] | {"imagenet": imagenet | small | changes}
    path.write_text(yaml.safe_dump(composed | {"data": data}))
    return path


@pytest.fixture
def server():
    with serving() as server:
        yield server


def test_imagenet_from_its_public_files_to_packed_images(params, ilsvrc, server, tmp_path):
    write_table(tmp_path, ilsvrc)
    archives = tmp_path / "data/archives/imagenet"
    assert_says(command("fetch", "imagenet", cwd=tmp_path), "https://image-net.org/x", "--from URL")
    assert not archives.exists()

    server.files = {f"/good/{name}": content for name, content in ilsvrc.items()}
    server.files[f"/bad/{TRAIN}"] = ilsvrc[TRAIN][:-1] + b"!"  # the others are not found there
    server.cut = [5000, 10**9, 7000]  # the connection breaks, is resumed, and breaks at the mirror
    mirrors = ["--from", server.url("/bad/"), "--from", server.url("/good")]
    fetched = command("fetch", "imagenet", *mirrors, cwd=tmp_path, no_proxy="*")
    assert fetched.returncode == 0, fetched.stderr
    asked = [(path, wanted) for path, wanted in server.asked if path.endswith(TRAIN)]
    assert [path for path, _ in asked] == [f"/{x}/{TRAIN}" for x in ("bad", "bad", "good", "good")]
    assert asked[1][1] == "bytes=5000-" and asked[-1][1] == "bytes=7000-"
    assert {name: (archives / name).read_bytes() for name in ilsvrc} == ilsvrc

    file = write_params(tmp_path / "params.yaml", params)
    words = ["prepare", "imagenet", "--params", str(file)]
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "Licence: ImageNet terms" in done.stdout and "Citation: Russakovsky" in done.stdout
    folder = tmp_path / "data/demo/imagenet/images"
    train, val = (PackedImages.open(folder, split) for split in ("train", "test"))
    assert train.classes == ["n01440764 tench", "n01443537 goldfish", "n02007558 flamingo"]
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert val.labels.tolist() == [0, 1, 2, 2, 0]  # by the kit's numbers

    # as unpacked folders, or a zip of them, the same pictures give the same bytes
    unpacked = tmp_path / "unpacked"
    with tarfile.open(archives / TRAIN) as outer:
        for member in outer.getmembers():
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                for image in inner.getmembers():
                    path = unpacked / "train" / member.name[:-4] / image.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(inner.extractfile(image).read())
    for source in (unpacked, zip_of(unpacked, tmp_path / "set.zip", "top/")):
        same = write_params(tmp_path / "same.yaml", params, source=str(source))
        done = command("prepare", "imagenet", "--params", str(same), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        images = PackedImages.open(folder, "train")
        assert images.labels.tolist() == train.labels.tolist() and images.classes == WNIDS
        assert np.array_equal(images.maps[0], train.maps[0])

    # one changed bit of 148 GB is noticed, and so are classes that are missing
    spoilt = bytearray(ilsvrc[TRAIN])
    spoilt[3000] ^= 1
    (archives / TRAIN).write_bytes(spoilt)
    assert_says(command(*words, cwd=tmp_path), TRAIN, "its MD5 differs")
    (archives / TRAIN).write_bytes(ilsvrc[TRAIN])
    write_params(file, params, images=1281167)
    assert_says(command(*words, cwd=tmp_path), "holds 12 training images", "says 1281167")


def test_the_public_checksums_are_the_known_ones():
    (package,) = importlib.util.find_spec("torchvision").submodule_search_locations
    known = Path(package, "datasets/imagenet.py").read_text()  # importing it takes seconds
    for name in (TRAIN, VAL, DEVKIT):
        assert f'("{name}", "{read_sources()[name].sha256.removeprefix("md5:")}")' in known


def test_archives_are_read_where_they_are(tmp_path):
    photos = write_photos(tmp_path / "a", ["train/c/10.png", "train/c-2/1.png", "val/c/2.webp"])
    (photos / ".cache").mkdir()
    write_photos(photos / ".cache", ["x.png"])
    put = zip_of(photos, tmp_path / "a.zip")
    (tmp_path / "a.tar").write_bytes(
        tar_of(
            {
                f"./{p.relative_to(photos)}": p.read_bytes()
                for p in photos.rglob("*.*p*")
                if p.is_file()
            }
        )
    )
    from_folder = list_pictures(photos)
    for archive in (put, tmp_path / "a.tar"):
        found = list_pictures(archive)
        assert [picture.name for picture in found] == [picture.name for picture in from_folder]
        assert [picture.read() for picture in found] == [p.read() for p in from_folder]
    assert list_pictures(tmp_path / "a.tar") == list_pictures(tmp_path / "a.tar")  # by its index
    (tmp_path / "all").mkdir()
    shutil.copy(put, tmp_path / "all/x.zip")
    assert len(list_pictures(tmp_path / "all")) == 3
    one = folder_collection(folder_dataset(put, classes=2, test=None), 0, "mine")
    assert one.classes == ["c", "c-2"] and len(one.splits["test"].items) == 1
    wanted = folder_collection(folder_dataset(photos, classes=2, test=None), 0, "mine")
    assert one.listing == wanted.listing


def test_ffhq_is_divided_as_its_authors_do(tmp_path):
    write_photos(tmp_path, [f"images/{i // 4:02d}000/{i:05d}.png" for i in range(10)])
    dataset = folder_dataset(tmp_path, held_out="last", train=6, test=4)
    splits = folder_collection(dataset, 0, "ffhq").splits
    assert [p.name[-5] for p in splits["train"].items] == list("012345")
    assert [p.name[-5] for p in splits["test"].items] == list("6789")
    whole = load(overrides=["scale=paper", "+data@data=ffhq_60k"]).data
    assert (whole["ffhq"].train, whole["ffhq"].test, whole["ffhq"].images) == (None, None, 70000)
    half = whole["ffhq_60k"]
    assert (half.train, half.test, half.images, half.held_out) == (60000, 10000, 70000, "last")


@pytest.mark.parametrize("name", ["cut.tar", "packed.tar", "text.zip", "cut.zip"])
def test_spoilt_archives_get_one_sentence(params, tmp_path, name):
    photos = write_photos(tmp_path / "a", [f"{i}.png" for i in range(3)])
    content = {path.name: path.read_bytes() for path in photos.iterdir()}
    archive = tmp_path / name
    archive.write_bytes(
        {
            "cut.tar": tar_of(content)[:6000],
            "packed.tar": tar_of(content, "w:gz"),
            "text.zip": b"not a zip",
            "cut.zip": zip_of(photos, tmp_path / "z.zip").read_bytes()[:-30],
        }[name]
    )
    work = tmp_path / "work"
    work.mkdir()
    file = write_params(tmp_path / "p.yaml", params, source=str(archive), images=None, classes=0)
    done = command("prepare", "imagenet", "--params", str(file), cwd=work)
    assert_says(done, f"{archive} is damaged or no plain {name[-3:]} file")
    assert tree(work) == {}


SLOW = """
import sys, time
from pathlib import Path
from d2it.images import folder, packed as images
images.FILE_BYTES = 3 * 16**2 * 8
folder.load_image, quick = None, folder.load_image
def load_image(picture, size, **settings):
    with open("decoded", "a") as log:
        log.write(picture.name + "\\n")
    time.sleep(float(sys.argv[1]))
    return quick(picture, size, **settings)
folder.load_image = load_image
from d2it.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_killed_command_keeps_its_files_and_ends_with_the_same_bytes(params, tmp_path):
    source = write_photos(tmp_path / "mine", [f"{i:02d}.png" for i in range(40)])
    file = write_params(
        tmp_path / "p.yaml", params, source=str(source), images=40, classes=0, size=16, test=0
    )
    words = ["prepare", "imagenet", "--processes", "1", "--params", str(file)]

    def start(pause: float, cwd: Path) -> subprocess.Popen[str]:
        cwd.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", SLOW, str(pause), *words], cwd=cwd, text=True, stderr=-1
        )

    killed = start(0.05, tmp_path / "killed")
    part = tmp_path / "killed/data/demo/imagenet/.images.part"
    deadline = time.monotonic() + 30
    while len(list(part.glob("finished/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGSTOP)  # or it might end before the second is refused
    second = command(*words, cwd=tmp_path / "killed")
    assert_says(second, "data/demo/imagenet/images is being made by process")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finished = len(list(part.glob("finished/*.json")))
    assert finished in (2, 3, 4)
    (tmp_path / "killed/decoded").unlink()
    for cwd in ("killed", "whole"):
        process = start(0, tmp_path / cwd)
        assert process.communicate()[1] == "" and process.returncode == 0
    again = (tmp_path / "killed/decoded").read_text().splitlines()
    assert again == [f"{i:02d}.png" for i in range(8 * finished, 40)]
    images = [tree(tmp_path / cwd / "data") for cwd in ("killed", "whole")]
    assert images[0] == images[1] and not part.exists()


def test_damaged_images_within_the_limit_are_left_out(params, tmp_path):
    source = write_photos(tmp_path / "mine", [f"{c}/{i}.png" for c in "ab" for i in range(4)])
    (source / "a/1.png").write_bytes(b"no picture")
    shutil.copy(source / "b/2.png", source / "b/3.png")
    file = tmp_path / "p.yaml"
    changes = {"source": str(source), "images": 8, "classes": 2, "size": 16, "test": 0}
    write_params(file, params, **changes)
    words = ["prepare", "imagenet", "--params", str(file)]
    refused = command(*words, cwd=tmp_path)
    assert_says(refused, "a/1.png (no image of a known kind", "data.imagenet.damaged to 1")
    write_params(file, params, **changes, damaged=1)
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 unreadable images were left out." in done.stdout
    folder = tmp_path / "data/demo/imagenet"
    with open(folder / "problems.csv") as table:
        rows = list(csv.DictReader(table))
    assert [(row["split"], Path(row["file"]).name) for row in rows] == [
        ("train", "1.png"),
        ("train", "3.png"),
    ]
    assert rows[1]["problem"].endswith("b/2.png") and "same pixels" in rows[1]["problem"]
    images = PackedImages.open(folder / "images", "train")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 1] and len(images) == 7
    assert json.loads((folder / "images/manifest.json").read_text())["left_out"] == 1
    before = images[np.arange(7)]
    (source / "a/1.png").unlink()
    write_params(file, params, **changes | {"images": 7})
    assert command(*words, cwd=tmp_path).returncode == 0
    assert np.array_equal(PackedImages.open(folder / "images", "train")[np.arange(7)], before)
