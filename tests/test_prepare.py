"""Folders of any make are packed; damaged ones get one sentence and leave nothing."""

import copy
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from d2it.config import load
from d2it.config.schema import Dataset
from d2it.errors import UserError
from d2it.images.decode import centre_crop, read_rgb
from d2it.images.folder import folder_collection
from d2it.images.packing import fingerprint
from tests.commands import command


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below, with the files' digests."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }


def write_photos(folder: Path, names: list[str], side: int = 48, seed: int = 0) -> Path:
    """Small pictures that differ, as JPEG or PNG."""
    rng = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((side + 16, side), Image.Resampling.BICUBIC).save(path)
    return folder


# Folders


def folder_dataset(source: Path, **changes) -> Dataset:
    return replace(Dataset(source=str(source), size=16, test=2), **changes)


def test_class_folders_give_labels(tmp_path):
    write_photos(tmp_path, ["b/1.png", "a/x/2.jpg", "a/1.JPEG", "c/3.webp", "a/.hidden.png"])
    (tmp_path / "notes.txt").write_text("not an image")
    found = folder_collection(folder_dataset(tmp_path, classes=3, test=0), 0, "mine")
    assert found.classes == ["a", "b", "c"]
    assert [Path(item.name).name for item in found.splits["train"].items] == [
        "1.JPEG",
        "2.jpg",
        "1.png",
        "3.webp",
    ]
    assert found.splits["train"].labels.tolist() == [0, 0, 1, 2]
    unlabelled = folder_collection(folder_dataset(tmp_path, test=0), 0, "mine")
    assert unlabelled.classes == [] and unlabelled.splits["train"].labels.tolist() == [0] * 4


def test_one_folder_is_divided_and_two_are_not(tmp_path):
    write_photos(tmp_path, [f"{i:02d}.png" for i in range(10)])
    splits = folder_collection(folder_dataset(tmp_path, test=3), 0, "mine").splits
    assert [len(splits[split].items) for split in ("train", "test")] == [7, 3]
    assert not set(splits["train"].items) & set(splits["test"].items)
    fewer = folder_collection(folder_dataset(tmp_path, test=3, train=4), 0, "mine").splits
    assert set(fewer["train"].items) < set(splits["train"].items)
    assert fewer["test"].items == splits["test"].items
    two = tmp_path / "two"
    write_photos(two / "train", [f"a/{i}.png" for i in range(3)])
    write_photos(two / "val", [f"a/{i}.png" for i in range(4)])
    splits = folder_collection(folder_dataset(two, classes=1, test=None), 0, "mine").splits
    assert [item.name for item in splits["train"].items] == [f"train/a/{i}.png" for i in range(3)]
    assert [item.name for item in splits["test"].items] == [f"val/a/{i}.png" for i in range(4)]
    write_photos(two / "test", ["flat.png"])  # as ImageNet's: of no known class
    again = folder_collection(folder_dataset(two, classes=1, test=None), 0, "mine").splits
    assert again["test"].items == splits["test"].items
    shutil.rmtree(two / "val")
    with pytest.raises(UserError, match=r"'flat.png', which is no class.*set data.mine.test to 0"):
        folder_collection(folder_dataset(two, classes=1, test=None), 0, "mine")


def test_pictures_are_decoded_as_they_are_shown(tmp_path):
    ramp = np.linspace(0, 255, 32).round().astype(np.uint8)
    grey = np.broadcast_to(ramp, (24, 32))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey).convert("RGB").convert("CMYK").save(tmp_path / "cmyk.tif")
    wanted = np.broadcast_to(grey[..., None], (24, 32, 3))
    for name in ("grey.png", "16.png", "palette.png", "cmyk.tif"):
        assert np.array_equal(np.asarray(read_rgb(tmp_path / name)), wanted), name

    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    Image.fromarray(grey).convert("RGB").save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "turned.png")), np.rot90(wanted, -1))

    alpha = np.dstack([wanted, np.where(grey < 128, 0, 255).astype(np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    on_white = np.where(grey[..., None] < 128, 255, wanted)
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "alpha.png")), on_white)


@pytest.mark.parametrize("shape", [(300, 200), (70, 64), (64, 700), (20, 30), (64, 64)])
def test_centre_crop_is_square_and_central(shape):
    width, height = shape
    image = Image.new("RGB", shape)
    image.paste("white", (width // 2 - 2, height // 2 - 2, width // 2 + 2, height // 2 + 2))
    pixels = np.asarray(centre_crop(image, 64)).astype(float).mean(2)
    assert pixels.shape == (64, 64)
    centre = [(np.arange(64) + 0.5) @ pixels.sum(axis) / pixels.sum() for axis in (0, 1)]
    assert np.abs(np.array(centre) - 32).max() < 1.5


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (101, 67), (64, 90), (30, 20)])
def test_centre_crop_is_that_of_one_resizing(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8)
    image, size = Image.fromarray(noise), 64
    halved = image
    while min(halved.size) >= 2 * size:
        halved = halved.resize((halved.width // 2, halved.height // 2), Image.Resampling.BOX)
    width, height = (round(side * size / min(halved.size)) for side in halved.size)
    whole = np.asarray(halved.resize((width, height), Image.Resampling.BICUBIC))
    left, top = (width - size) // 2, (height - size) // 2
    wanted = whole[top : top + size, left : left + size]
    assert np.array_equal(np.asarray(centre_crop(image, size)), wanted)


# Bad input, through the command


def run_prepare(params, folder: Path, cwd: Path, params_folder: Path, **changes):
    composed = copy.deepcopy(params)
    composed["data"]["photos"].update(
        {
            "source": str(folder),
            "size": 64,
            "crop": [1.0, 1.0],
            "train": None,
            "test": 1,
            "classes": 0,
        }
        | changes
    )
    file = params_folder / "params.yaml"
    file.write_text(yaml.safe_dump(composed))
    return command("prepare", "photos", "--params", str(file), cwd=cwd)


def test_a_folder_of_photographs_is_packed(params, tmp_path):
    source = write_photos(tmp_path / "mine", [f"{i}.jpg" for i in range(5)])
    work = tmp_path / "work"
    work.mkdir()
    done = run_prepare(params, source, work, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "data/demo/photos/images is ready.\n"
    manifest = json.loads((work / "data/demo/photos/images/manifest.json").read_text())
    assert [manifest["splits"][split]["count"] for split in ("train", "test")] == [4, 1]
    again = run_prepare(params, source, work, tmp_path)
    assert again.stdout == "data/demo/photos/images is up to date.\n"


def spoil(folder: Path, how: str) -> dict:
    """Damage a folder of five pictures; returns settings to change."""
    victim = folder / "3.jpg"
    if how == "truncated":
        victim.write_bytes(victim.read_bytes()[:-200])
    elif how == "corrupt":
        victim.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 400)
    elif how == "text":
        victim.write_text("not a picture")
    elif how == "1x1":
        Image.new("RGB", (1, 1)).save(victim)
    elif how == "two":
        victim.write_text("not a picture")
        (folder / "4.jpg").write_bytes(b"")
    elif how == "empty":
        for path in folder.iterdir():
            path.unlink()
    elif how == "absent":
        shutil.rmtree(folder)
    return {"few": {"test": 5}, "classes": {"classes": 2}, "crop": {"crop": [0.7, 1.0]}}.get(
        how, {}
    )


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("truncated", "3.jpg (image file is truncated"),
        ("corrupt", "Cannot read "),
        ("text", "3.jpg (no image of a known kind"),
        ("1x1", "3.jpg (1 x 1 px is too small, 8 are needed): replace or remove"),
        ("two", "and 1 more, which data/demo/photos/problems.csv names"),
        ("empty", "holds no images: put some there"),
        (
            "absent",
            "is missing: put the images there, or set data.photos.source to a folder, zip, tar or "
            "parquet file.",
        ),
        ("few", "asks for 1 training and 5 held-out images, but the folder holds 5"),
        ("classes", "holds images outside of class folders"),
        ("crop", "leave it at [1.0, 1.0]"),
    ],
)
def test_bad_folders_get_one_sentence_and_leave_nothing(params, tmp_path, how, sentence):
    source = write_photos(tmp_path / "mine", [f"{i}.jpg" for i in range(5)])
    changes = spoil(source, how)
    work = tmp_path / "work"
    work.mkdir()
    done = run_prepare(params, source, work, tmp_path, **{"test": 0} | changes)
    assert done.returncode == 2
    assert done.stderr.startswith("d2it: error: ") and done.stderr.count("\n") == 1
    assert sentence in done.stderr and "Traceback" not in done.stderr
    left = ["problems.csv"] if "Cannot read" in done.stderr else []
    assert [path.name for path in work.rglob("*") if path.is_file()] == left


def test_a_large_data_set_of_the_wrong_kind_is_refused_before_it_is_read(params, tmp_path):
    source, work, small = (tmp_path / name for name in ("mine", "work", "small.png"))
    Image.new("RGB", (6, 6)).save(small)
    source.mkdir()
    for i in range(10_000):
        os.link(small, source / f"{i:05d}.png")
    work.mkdir()
    done = run_prepare(params, source, work, tmp_path, test=0)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "(6 x 6 px is too small, 8 are needed), nor any other of 16 images" in done.stderr
    assert tree(work) == {}


def test_packed_images_survive_a_bad_folder(params, tmp_path):
    source = write_photos(tmp_path / "mine", [f"{i}.jpg" for i in range(5)])
    work = tmp_path / "work"
    work.mkdir()
    assert run_prepare(params, source, work, tmp_path).returncode == 0
    before = tree(work / "data/demo/photos/images")
    spoil(source, "truncated")
    assert run_prepare(params, source, work, tmp_path).returncode == 2
    assert tree(work / "data/demo/photos/images") == before


def test_a_folder_that_cannot_be_written(params, tmp_path):
    source = write_photos(tmp_path / "mine", [f"{i}.jpg" for i in range(5)])
    done = run_prepare(params, source, Path("/sys"), tmp_path)  # nobody may write there, nor root
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "check its permissions" in done.stderr


def test_unknown_data_sets_get_the_nearest_name(tmp_path):
    done = command("prepare", "photo", cwd=tmp_path)
    assert done.returncode == 2
    assert "has no data set 'photo' (did you mean 'photos'?)" in done.stderr
    assert tree(tmp_path) == {}


def test_images_that_would_be_enlarged_are_refused_where_the_data_set_says_so(tmp_path):
    write_photos(tmp_path, ["1.png"], side=12)
    for smallest, refused in ((8, False), (16, True)):
        dataset = folder_dataset(tmp_path, test=0, smallest=smallest)
        found = folder_collection(dataset, 0, "mine")
        (picture,) = found.splits["train"].items
        if refused:
            with pytest.raises(ValueError, match="28 x 12 px is too small, 16 are needed"):
                found.load(picture, 16)
        else:
            assert found.load(picture, 16).shape == (16, 16, 3)
    data = load(overrides=["scale=paper"]).data
    assert data["ffhq"].smallest == 256 and data["imagenet"].smallest == 8


@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 9, 3), (64, 64, 3)])
def test_the_fingerprint_is_of_every_byte(shape):
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    found = {fingerprint(pixels)}
    for i in range(pixels.size):
        for bit in (1, 128):
            pixels.flat[i] ^= bit
            found.add(fingerprint(pixels))
            pixels.flat[i] ^= bit
    assert fingerprint(pixels.copy()) in found
    assert len(found) == 1 + 2 * pixels.size
