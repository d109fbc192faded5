"""data/emoji.csv and its sha256: which of Twemoji's pictures are used, in which group and split.

d2it fetch emoji; python -m tools.emoji_table emoji-test.txt

The groups are those of Unicode's emoji-test.txt (docs/data.md says which version, and where it is).
Pictures that a viewer takes for copies are used once, and near twins are held out together or not
at all, so that no held-out picture was all but trained on.
"""

import argparse
import csv
import io
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from d2it.config.listed import SUMS
from d2it.files import file_digest, write_text
from d2it.images.archive import list_pictures
from d2it.images.decode import load_image
from d2it.sources.fetch import weights_file

TABLE = Path(__file__).parents[1] / "data" / "emoji.csv"
GROUPS = {
    "Smileys & Emotion": "smileys",
    "People & Body": "people",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
    "Flags": "flags",
}
SIDE = 72  # pixels, as Twemoji gives them out
SKIN_TONES = {f"1f3f{digit}" for digit in "bcdef"}
# Man, woman and person, signs of gender, an arrow to the right, and what joins them: a man that
# runs to the right is near to a woman that runs.
WHO = {"1f468", "1f469", "1f9d1", "2640", "2642", "27a1", "200d", "fe0f"}
# Root mean square of the difference of two pictures on white, in [0, 1], upright or mirrored.
COPY = 0.01  # flags of one country's territories (0.001), families of silhouettes (0.0003)
NEAR = 0.08  # all clocks, the same hand in both directions, Chad and Romania (0.04)
HELD_OUT = 10  # one family in ten


class Emoji(NamedTuple):
    codepoints: str
    group: str

    @property
    def concept(self) -> str:
        """What it shows, whoever does it."""
        return "-".join(c for c in self.codepoints.split("-") if c not in WHO) or self.codepoints


def listed(text: str, files: set[str]) -> list[Emoji]:
    """The fully qualified emoji of emoji-test.txt without skin tones, by the names of `files`."""
    found, group = [], ""
    for line in text.splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif "; fully-qualified" in line and group in GROUPS:
            points = [point.lstrip("0").lower() for point in line.partition(";")[0].split()]
            whole, plain = "-".join(points), "-".join(p for p in points if p != "fe0f")
            name = whole if whole in files else plain
            if name in files and not SKIN_TONES & set(points):
                found.append(Emoji(name, GROUPS[group]))
    return found


def pixels_of(emoji: list[Emoji]) -> np.ndarray:
    """(N, 72, 72, 3) in [0, 1], on white."""
    pictures = {Path(picture.name).stem: picture for picture in list_pictures(archive())}
    loaded = [load_image(pictures[item.codepoints], SIDE) for item in emoji]
    return np.stack(loaded).astype(np.float32) / 255


def archive() -> Path:
    return weights_file("twemoji")


def distances(pixels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean squares of the differences. (N, ...), (M, ...) -> (N, M)."""
    a, b = (some.reshape(len(some), -1).astype(np.float64) for some in (pixels, others))
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0) / a.shape[1]))


def without_copies(pixels: np.ndarray) -> np.ndarray:
    """Which to keep (N,): of copies, mirrored ones apart, the first."""
    return np.asarray(~np.tril(distances(pixels, pixels) < COPY, -1).any(1))


def families(emoji: list[Emoji], pixels: np.ndarray) -> np.ndarray:
    """The family of each (N,): chains of near twins, and of emoji with one concept."""
    near = np.minimum(distances(pixels, pixels), distances(pixels, pixels[:, :, ::-1])) < NEAR
    concepts = [item.concept for item in emoji]
    first = [concepts.index(concept) for concept in concepts]
    linked = coo_array(near) + coo_array((np.ones(len(emoji)), (first, range(len(emoji)))))
    return np.asarray(connected_components(linked, directed=False)[1])


def splits(emoji: list[Emoji], families: np.ndarray) -> list[str]:
    """A family is held out by the sha256 of the least of its codepoints."""
    names: dict[int, str] = {}
    for item, family in zip(emoji, families.tolist(), strict=True):
        names[family] = min(names.get(family, item.codepoints), item.codepoints)
    out = {f for f, name in names.items() if not sha256(name.encode()).digest()[0] % HELD_OUT}
    return ["test" if family in out else "train" for family in families.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("listing", type=Path, help="Unicode's emoji-test.txt")
    text = parser.parse_args().listing.read_text(encoding="utf-8")
    names = [Path(picture.name) for picture in list_pictures(archive())]
    emoji = listed(text, {name.stem for name in names})
    pixels = pixels_of(emoji)
    kept = without_copies(pixels)
    emoji, pixels = [emoji[i] for i in np.flatnonzero(kept)], pixels[kept]
    rows = [(*e, s) for e, s in zip(emoji, splits(emoji, families(emoji, pixels)), strict=True)]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("codepoints", "group", "split"), *rows])
    write_text(TABLE, table.getvalue())
    write_text(TABLE.with_name(SUMS), f"{file_digest(TABLE)}  {TABLE.name}\n")


if __name__ == "__main__":
    main()
