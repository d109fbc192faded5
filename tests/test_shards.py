"""Data sets in shards: WebDataset's tars and the Hugging Face hub's parquet files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
from pyarrow.parquet import read_table, write_table

from d2it.images.archive import list_pictures
from d2it.images.packed import PackedImages
from d2it.images.parquet import class_names
from tests.commands import Done, command
from tests.test_archives import assert_says, tar_of, zip_of
from tests.test_prepare import tree, write_photos

CLASSES = ["n01440764", "n01443537", "n02007558"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Class folders of eight pictures to train on and four held out."""
    names = [f"train/{CLASSES[i % 3]}/{i:03d}.jpg" for i in range(8)]
    names += [f"val/{CLASSES[i % 3]}/{i:03d}.jpg" for i in range(4)]
    return write_photos(tmp_path_factory.mktemp("photos"), names)


def samples(photos: Path, part: str) -> list[tuple[str, bytes, int]]:
    """(name, file, label), in the order in which class folders are read."""
    return [
        (path.stem, path.read_bytes(), CLASSES.index(path.parent.name))
        for path in sorted((photos / part).rglob("*.jpg"))
    ]


def prepare(source: Path, work: Path, *more: str) -> Done:
    work.mkdir(exist_ok=True)
    settings = [f"data.photos.source={source}", "data.photos.crop=[1,1]"]
    settings += ["data.photos.train=null", "data.photos.test=null", "data.photos.classes=3"]
    return command("prepare", "photos", *settings, *more, cwd=work)


def packed(work: Path) -> tuple[dict[str, str], list[str]]:
    """All pixels and labels, and the classes."""
    folder = work / "data/demo/photos/images"
    files = {name: digest for name, digest in tree(folder).items() if name != "manifest.json"}
    return files, PackedImages.open(folder, "train").classes


@pytest.fixture(scope="module")
def wanted(photos, tmp_path_factory) -> dict[str, str]:
    work = tmp_path_factory.mktemp("wanted")
    done = prepare(photos, work)
    assert done.returncode == 0, done.stderr
    files, classes = packed(work)
    assert classes == CLASSES and len(files) == 4
    return files


# The hub's layout: columns `image` {bytes, path} and `label`, and the classes' names beside them.


def hub_file(
    path: Path, some: list[tuple[str, bytes, int]], rows: int = 2, names=CLASSES, **columns
) -> Path:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    table = arrow.table(
        {
            "label": arrow.array([label for _, _, label in some], arrow.int64()),
            "image": [{"bytes": content, "path": f"{name}.jpg"} for name, content, _ in some],
        }
        | columns
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path, row_group_size=rows)
    return path


def test_parquet_files_of_the_hub(photos, wanted, tmp_path):
    train, val = samples(photos, "train"), samples(photos, "val")
    for i in range(2):
        hub_file(tmp_path / f"hub/data/train-{i:05d}-of-00002.parquet", train[4 * i : 4 * i + 4], 3)
    hub_file(tmp_path / "hub/data/validation-00000-of-00001.parquet", val)
    unknown = [(name, content, -1) for name, content, _ in val[:2]]  # as the hub's test set
    hub_file(tmp_path / "hub/data/test-00000-of-00001.parquet", unknown)
    done = prepare(tmp_path / "hub", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert packed(tmp_path / "work") == (wanted, CLASSES)
    # without labels the held-out ones are those of `test`, as in folders
    done = prepare(tmp_path / "hub", tmp_path / "work", "data.photos.classes=0")
    assert done.returncode == 0, done.stderr
    assert len(PackedImages.open(tmp_path / "work/data/demo/photos/images", "test").labels) == 2


NAMES = (b"", b"[" * 10**5, b"\xff", b'{"info": 3}', b'{"info": {"features": {"label": []}}}')
NAMES += tuple(
    b'{"info": {"features": {"label": {"names": %s}}}}' % one for one in (b'"a"', b"[1]")
)


@pytest.mark.parametrize("said", NAMES)
def test_what_a_hub_file_says_of_its_classes_may_be_anything(photos, tmp_path, said):
    path = hub_file(tmp_path / "a.parquet", samples(photos, "train"))
    assert class_names(str(path)) == CLASSES
    damaged = tmp_path / "b.parquet"
    write_table(read_table(path).replace_schema_metadata({"huggingface": said}), damaged)
    assert class_names(str(damaged)) is None


def test_tars_of_webdataset(photos, wanted, tmp_path):
    (tmp_path / "shards").mkdir()
    parts = {"train-0000": samples(photos, "train")[:5], "train-0001": samples(photos, "train")[5:]}
    for part, some in (parts | {"validation-00": samples(photos, "val")}).items():
        files = {}
        for number, (name, content, label) in enumerate(some):
            sample = f"{CLASSES[label]}_{name}"  # as timm names them
            beside = {f"{sample}.cls": b"%d" % label}
            if number % 2:  # a .json, and what lies there besides; its .cls would come first
                beside = {f"{sample}.json": json.dumps({"label": label, "width": 64}).encode()}
            if number % 3:
                files |= beside | {f"{sample}.seg.txt": b"?"}
            files[f"{sample}.JPEG"] = content
            files |= beside
        (tmp_path / f"shards/imagenet1k-{part}.tar").write_bytes(tar_of(files))
    for _ in range(2):  # the second time by the index
        done = prepare(tmp_path / "shards", tmp_path / "work")
        assert done.returncode == 0, done.stderr
        assert packed(tmp_path / "work") == (wanted, ["0", "1", "2"])
        (tmp_path / "work/data/demo/photos/images/manifest.json").unlink()


def test_labels_are_those_of_the_very_picture(photos, tmp_path):
    files = [content for _, content, _ in samples(photos, "train")]
    tar = tmp_path / "a.tar"
    tar.write_bytes(
        tar_of(
            {
                "img.0.jpg": files[0],
                "img.0.cls": b"2",
                "img.1.jpg": files[1],
                "img.1.cls": b"1",
                "7.jpg": files[2],
                "7.cls": b"0\n",
                "7.mask.png": files[3],  # of the sample 7
                "8.right.jpg": files[4],
                "8.json": b'{"label": 1}',
                "9.jpg": files[5],
                "9.json": b"[" * 60000,
                "._9.cls": b"\0\5",  # what another system leaves behind
            }
        )
    )
    found = {picture.name: picture.label for picture in list_pictures(tar)}
    wanted = {"img.0.jpg": 2, "img.1.jpg": 1, "7.jpg": 0, "8.right.jpg": 1, "9.jpg": None}
    assert found == wanted


def test_another_label_is_another_data_set(photos, tmp_path):
    some = samples(photos, "train")
    source = tmp_path / "a.tar"
    for turn in range(2):
        files = [(f"{n}.jpg", c) for n, c, _ in some]
        files += [(f"{n}.cls", b"%d" % ((label + turn) % 3)) for n, _, label in some]
        source.write_bytes(tar_of(dict(files)))
        done = prepare(source, tmp_path / "work", "data.photos.test=0")
        assert done.returncode == 0, done.stderr
        images = PackedImages.open(tmp_path / "work/data/demo/photos/images", "train")
        assert sorted(images.labels) == sorted((label + turn) % 3 for _, _, label in some)


@pytest.mark.parametrize("inside", ["", "photos/", "PART/"])
@pytest.mark.parametrize("held_out", ["val", "valid", "validation"])
def test_a_zip_for_each_part(photos, wanted, tmp_path, inside, held_out):
    (tmp_path / "zips").mkdir()
    for part, folder in (("train", "train"), (held_out, "val")):
        top = inside.replace("PART", part)
        zip_of(photos / folder, tmp_path / f"zips/{part}.zip", top)
    done = prepare(tmp_path / "zips", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert packed(tmp_path / "work") == (wanted, CLASSES)


def test_more_shards_than_files_may_be_open(photos, tmp_path):
    """A tar that was read is closed."""
    content = samples(photos, "train")[0][1]
    for i in range(150):
        (tmp_path / f"{i:03d}.tar").write_bytes(tar_of({f"{i:03d}.jpg": content}))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from d2it.images.archive import list_pictures\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
        "print(len([p.read() for p in list_pictures(Path(sys.argv[1]))]))"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stdout == "150\n", done.stderr


def test_plain_columns_and_any_groups_give_the_files_back(photos, tmp_path):
    some = samples(photos, "train")
    files = [content for _, content, _ in some]
    plain = arrow.table(
        {
            "mask": [{"bytes": b"another"}] * 8,
            "jpg": files,
            "class": [9] * 8,
            "cls": arrow.array(range(8), "uint8"),
        }
    )
    for rows in (1, 3, 8):
        path = tmp_path / f"plain-{rows}.parquet"
        write_table(plain, path, row_group_size=rows)
        found = list_pictures(path)
        assert [picture.read() for picture in found] == files
        assert [picture.read() for picture in reversed(found)] == files[::-1]
        assert [picture.label for picture in found] == list(range(8))


def test_images_in_parquet_are_measured(photos, tmp_path):
    file = hub_file(tmp_path / "a.parquet", samples(photos, "train"))
    words = ["evaluate", "--images", str(file), "--reference", str(file), "--metrics", "fid"]
    done = command(*words, "--json", cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert abs(json.loads(done.stdout)["metrics"]["fid"]) < 1e-3


def spoilt(kind: str, photos: Path, folder: Path) -> Path:
    some = samples(photos, "train")
    name, content, _ = some[0]
    whole = hub_file(folder / "whole.parquet", some).read_bytes()
    tars = {
        "word.tar": {f"{name}.jpg": content, f"{name}.cls": b"tench"},
        "huge.tar": {f"{name}.jpg": content, f"{name}.json": b'{"label": 2000000000}'},
        "one.tar": {f"{n}.jpg": c for n, c, _ in some} | {f"{name}.cls": b"0"},
    }
    (folder / "whole.parquet").unlink()
    path = folder / kind
    if kind in tars:
        path.write_bytes(tar_of(tars[kind]))
    elif kind == "cut.parquet":
        path.write_bytes(whole[:-100])
    elif kind == "labels.parquet":  # the column of labels comes first, after four magic bytes
        path.write_bytes(whole[:4] + bytes(100) + whole[104:])
    elif kind == "flat.zip":
        zip_of(photos / "train" / CLASSES[0], path)
    elif kind == "text.parquet":
        write_table(arrow.table({"text": ["a"], "label": [0]}), path)
    elif kind == "high.parquet":
        hub_file(path, [*some, ("x", content, 3)])
    elif kind == "extra":
        for part in ("train", "test", "extra"):
            hub_file(path / f"{part}-0.parquet", some)
    elif kind == "names":
        hub_file(path / "a.parquet", some)
        hub_file(path / "b.parquet", some, names=CLASSES[::-1])
    elif kind == "held-out names":
        hub_file(path / "train-0.parquet", some)
        hub_file(path / "test-0.parquet", some, names=CLASSES[::-1])
    elif kind == "two.parquet":
        write_table(arrow.table({name: [{"bytes": content}] for name in ("depth", "mask")}), path)
    elif kind == "words.parquet":
        hub_file(path, some, label=["tench"] * len(some))
    elif kind == "both":
        hub_file(path / "data/train-0.parquet", some)
        (path / "logo.png").write_bytes(content)
    elif kind == "elsewhere.parquet":
        hub_file(path, some, image=[{"bytes": None, "path": f"{name}.jpg"} for name, _, _ in some])
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    {
        "word.tar": "holds images outside of class folders",
        "words.parquet": "holds parquet files without a column of whole numbers named label or",
        "extra": "and extra-0.parquet, whose name does not say whether it is of train, val or test",
        "names": "b.parquet names its classes differently from",
        "held-out names": "train-0.parquet names its classes differently from",
        "two.parquet": "has several columns of images (depth, mask)",
        "huge.tar": "has a class 2000000000, counted from 0",
        "both": "holds images, such as logo.png, and parquet files",
        "one.tar": "has no class, but there are 3, numbered from 0",
        "flat.zip": "holds images outside of class folders",
        "cut.parquet": "is damaged or no parquet file (",
        "labels.parquet": "is damaged or no parquet file (",
        "text.parquet": "has no column of images (text, label)",
        "high.parquet": "data.photos.classes is 3, but SHARDS/high.parquet has a class 3, counted",
        "elsewhere.parquet": "(its row holds no bytes) and 7 more",
    }.items(),
)
def test_spoilt_shards_get_one_sentence(photos, tmp_path, kind, says):
    (tmp_path / "shards").mkdir()
    source = spoilt(kind, photos, tmp_path / "shards")
    held_out = 2 if kind == "held-out names" else 0
    done = prepare(source, tmp_path / "work", f"data.photos.test={held_out}")
    assert_says(done, str(source), says.replace("SHARDS", str(tmp_path / "shards")))
    assert not (tmp_path / "work/data/demo/photos/images").exists()


def test_without_pyarrow_a_sentence_names_it(photos, tmp_path):
    file = hub_file(tmp_path / "a.parquet", samples(photos, "train"))
    code = "import sys; sys.modules['pyarrow'] = None; from d2it.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "prepare", "photos", f"data.photos.source={file}"]
    done = subprocess.run(
        [*words, "data.photos.crop=[1,1]"], capture_output=True, text=True, cwd=tmp_path
    )
    assert_says(done, "is read by the package pyarrow, which is missing: pip install pyarrow.")


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_never_pass_for_others(photos, tmp_path, seed):
    """Whatever is overwritten: a sentence, or all the labels and pictures that can be read."""
    some = samples(photos, "train")
    content = bytearray(hub_file(tmp_path / "a.parquet", some).read_bytes())
    rng = np.random.default_rng(seed)
    at = int(rng.integers(len(content) - 40))
    content[at : at + 40] = rng.bytes(40)
    (tmp_path / "a.parquet").write_bytes(content)
    done = prepare(tmp_path / "a.parquet", tmp_path / "work", "data.photos.test=0")
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr
    if done.returncode == 2:
        assert_says(done, "a.parquet")
