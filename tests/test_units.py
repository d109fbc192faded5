"""Units: every image in one, of one recipe; what is there is not computed again."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from d2it.shares import Share
from d2it.units import Unit, Units, divide


@pytest.mark.parametrize(
    ("images", "most", "block"),
    [(range(40), 16, 8), (range(3, 40), 16, 8), (range(3, 40), 20, 8), (range(5), 1, 8)],
)
def test_units_end_where_blocks_do(images: range, most: int, block: int) -> None:
    spans = [unit.span for unit in divide("0", images, most, block)]
    assert [i for span in spans for i in span] == list(images)
    assert all(span.start % block == 0 for span in spans[1:])
    assert max(map(len, spans)) <= max(most, block)
    assert divide("0", range(0), most, block) == []


def test_units_of_one_recipe_are_computed_once(tmp_path: Path) -> None:
    computed = []

    def one(unit: Unit, advance: object) -> dict[str, np.ndarray]:
        computed.append(unit.span.start)
        return {"numbers": np.array(unit.span)}

    def units(recipe: int, name: str = "result") -> Units:
        return Units(tmp_path / name, recipe, divide("train", range(40), 16))

    units(1).compute(one, "cpu", "", Share(2, 2))
    assert computed == [16] and [unit.span.start for unit in units(1).missing()] == [0, 32]
    units(1).compute(one, "cpu", "")
    assert computed == [16, 0, 32]
    assert np.array_equal(units(1).load(units(1).all[2])["numbers"], np.arange(32, 40))
    for other in (units(2), units(1, "result.more")):
        other.compute(one, "cpu", "")
    assert len(computed) == 9 and not units(1).missing()
    assert units(1).seconds() > 0
    save_file({}, units(1).path(units(1).all[1]), {"device": "cpu"})
    assert units(1).seconds() == 0, "one does not say"
    units(2).remove()  # the result is there
    assert [path.name[:13] for path in tmp_path.iterdir()] == [".result.more."]


@pytest.mark.filterwarnings("ignore:.*is computed again")
def test_no_bit_of_a_unit_flips_unnoticed(tmp_path: Path) -> None:
    """Nor of what it says beside its arrays; one from before there were digests is taken."""
    [unit] = divide("train", range(4), 16)
    units = Units(tmp_path / "result", 1, [unit])
    units.compute(lambda *_: {"numbers": np.arange(2, dtype="u1")}, "cpu", "")
    path = units.path(unit)
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert not units.is_sound(unit), at
    save_file({}, path, {"device": "cpu"})
    assert units.is_sound(unit)
