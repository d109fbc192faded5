"""ILSVRC-2012 as it is given out: a tar of a tar for each class, a flat tar of validation images,
and a development kit that says which class these belong to."""

import io
import tarfile
from pathlib import Path

from d2it.errors import UserError
from d2it.images.archive import Picture, list_pictures

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


def list_imagenet(folder: Path) -> tuple[list[Picture], list[Picture], dict[str, str]]:
    """Training and validation images, named `<wnid>/<file>`, and each wnid's first name.

    Without the kit there are no names and, since their classes are unknown, no validation images.
    """
    train = list_pictures(folder / TRAIN)
    if not (folder / DEVKIT).is_file():
        return train, [], {}
    names, labels = read_devkit(folder / DEVKIT)
    if not (folder / VAL).is_file():
        return train, [], names
    found = list_pictures(folder / VAL)  # in the order of their numbers, from 1
    if len(found) != len(labels):
        raise UserError(
            f"{folder / VAL} holds {len(found)} images, but the development kit knows "
            f"{len(labels)}: get both again."
        )
    val = [
        picture._replace(name=f"{wnid}/{picture.name}")
        for picture, wnid in zip(found, labels, strict=True)
    ]
    return train, val, names


def read_devkit(path: Path) -> tuple[dict[str, str], list[str]]:
    """Names by wnid, and the wnid of every validation image."""
    from scipy.io import loadmat

    try:
        with tarfile.open(path) as archive:
            files = {Path(m.name).name: m for m in archive.getmembers() if m.isfile()}
            meta, truth = (
                archive.extractfile(files[name]).read()  # type: ignore[union-attr]
                for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
            )
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets}
        names = {str(s["WNID"]): str(s["words"]).partition(",")[0] for s in synsets}
        return names, [wnids[int(number)] for number in truth.split()]
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}): get it again.") from None
