"""Embedded photographs: deterministic crops, and the packed format on disk."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tqdm import tqdm

from d2it.config import load, paths
from d2it.config.schema import Dataset
from d2it.errors import UserError
from d2it.images import packed
from d2it.images.packed import PackedImages, open_images
from d2it.images.packing import chunks_of, pack, runner
from d2it.images.photos import draw_crop, load_crop, photo_collection, read_photo
from d2it.images.prepare import prepare, staging
from d2it.runs.verify import verify_made

PHOTOS = Dataset(source="photos", size=32, train=28, test=14, classes=7, crop=(0.7, 1.0))


@pytest.fixture(scope="module")
def config():
    return load()


def with_dataset(config, **changes):
    return replace(config, data={"photos": replace(config.data["photos"], **changes)})


# Crops


def test_crops_depend_on_seed_split_and_index_alone():
    few = photo_collection(replace(PHOTOS, train=3, test=1), 0, "photos").splits
    many = photo_collection(PHOTOS, 0, "photos").splits
    other = photo_collection(PHOTOS, 1, "photos").splits
    assert few["train"].items == many["train"].items[:3]
    assert few["test"].items == many["test"].items[:1]
    assert not set(many["train"].items) & set(other["train"].items)
    assert not set(many["train"].items) & set(many["test"].items)  # held-out: other draws


def test_crops_are_mild_and_inside_and_balanced():
    splits = photo_collection(replace(PHOTOS, train=700), 0, "photos").splits
    shares = []
    for crop in splits["train"].items:
        width, height = read_photo(crop.photo).size
        left, top, right, bottom = crop.box
        assert left >= 0 and top >= 0 and right <= width + 1e-9 and bottom <= height + 1e-9
        assert right - left == pytest.approx(bottom - top)
        shares.append((right - left) / min(width, height))
    assert 0.7 <= min(shares) < 0.71 and 0.99 < max(shares) <= 1
    assert 0.4 < np.mean([crop.mirrored for crop in splits["train"].items]) < 0.6
    assert np.bincount(splits["train"].labels).tolist() == [100] * 7
    assert splits["train"].labels[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]


def test_a_mirrored_crop_is_the_mirror_of_the_crop():
    crop = draw_crop("coffee", PHOTOS, 0, "train", 2)
    plain, mirrored = (load_crop(crop._replace(mirrored=value), 32) for value in (False, True))
    assert plain.shape == (32, 32, 3) and plain.dtype == np.uint8
    assert np.array_equal(plain[:, ::-1], mirrored)
    assert not any(
        crop.mirrored
        for crop in photo_collection(replace(PHOTOS, flip=False), 0, "x").splits["train"].items
    )


@pytest.mark.parametrize("changes", [{"crop": (0.9, 0.7)}, {"crop": (0.0, 1.0)}, {"train": None}])
def test_crops_that_cannot_be_drawn(changes):
    with pytest.raises(UserError, match=r"data\.photos\.(crop|train)"):
        photo_collection(replace(PHOTOS, **changes), 0, "photos")


# The format


@pytest.fixture
def photos(config, tmp_path, monkeypatch):
    """The embedded photographs, packed in several small files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packed, "FILE_BYTES", 3 * 32**2 * 10)
    config = with_dataset(config, size=32, train=28, test=14)
    assert prepare(config, "photos")
    return config


def test_packed_images_round_trip(photos):
    collection = photo_collection(photos.data["photos"], photos.seed, "photos")
    for split, count in (("train", 28), ("test", 14)):
        images = open_images(photos, "photos", split)
        assert len(images) == len(images.labels) == count
        assert (images.size, len(images.classes), images.labels.dtype) == (32, 7, np.int64)
        order = np.random.default_rng(0).permutation(count)
        crops = [load_crop(collection.splits[split].items[i], 32) for i in order]
        assert np.array_equal(images[order], np.stack(crops))
        assert np.array_equal(images.labels, collection.splits[split].labels)
    assert images[np.array([], dtype=int)].shape == (0, 32, 32, 3)
    with pytest.raises(IndexError):
        images[np.array([14])]
    verify_made(photos.name)


def test_preparing_again_changes_nothing_and_processes_do_not_matter(photos):
    manifest = paths.images(photos, "photos") / "manifest.json"  # holds every file's sha256
    before, when = manifest.read_bytes(), manifest.stat().st_mtime_ns
    assert not prepare(photos, "photos")
    assert manifest.stat().st_mtime_ns == when
    shutil.rmtree("data")
    assert prepare(photos, "photos", processes=2)
    assert manifest.read_bytes() == before


def test_other_settings_are_noticed(photos):
    digest = open_images(photos, "photos", "train").digest
    changed = with_dataset(photos, train=21)
    with pytest.raises(UserError, match="packed with other settings.*d2it prepare photos"):
        open_images(changed, "photos", "train")
    assert prepare(changed, "photos")
    assert open_images(changed, "photos", "train").digest != digest


def test_damaged_files_are_noticed(photos):
    folder = paths.images(photos, "photos")
    path = folder / "train-00001.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    assert len(PackedImages.open(folder, "train")) == 28  # as its size says
    with pytest.raises(UserError, match=r"delete data/.*/photos/images and run `d2it prepare ph"):
        verify_made(photos.name)
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"instead of 30720: delete .* `d2it prepare photos`"):
        PackedImages.open(folder, "train")
    path.unlink()
    with pytest.raises(UserError, match=r"is missing: delete"):
        PackedImages.open(folder, "test")
    with pytest.raises(UserError, match="has no split 'val': choose one of test, train"):
        PackedImages.open(folder, "val")
    assert prepare(photos, "photos")  # and it is mended
    assert len(PackedImages.open(folder, "train")) == 28


def test_an_interrupted_run_keeps_its_finished_files(tmp_path):
    loaded = []

    def load_grey(item, size):
        if item == (6,) and item not in loaded:
            loaded.append(item)
            raise KeyboardInterrupt
        loaded.append(item)
        return np.full((size, size, 3), item, dtype=np.uint8)

    def pack_all():
        with staging(tmp_path / "images") as part, runner(1) as run:
            chunks = chunks_of(part, "train", [(i,) for i in range(10)], 4, "key")
            pack(chunks, load_grey, 8, run, tqdm(disable=True))

    with pytest.raises(KeyboardInterrupt):
        pack_all()
    assert not (tmp_path / "images").exists()
    pack_all()
    wanted = [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9]  # the first file was not made again
    assert loaded == [(i,) for i in wanted]
    packed_files = [(tmp_path / f"images/train-{i:05d}.bin").read_bytes() for i in range(3)]
    assert b"".join(packed_files) == bytes(i for i in range(10) for _ in range(3 * 8**2))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
