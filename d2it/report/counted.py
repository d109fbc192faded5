"""Claims that no run has to decide: by the parameters and GMACs of the networks at 256 px, counted
as `d2it models` does, and by the numbers that the paper prints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from d2it.config.published import published
from d2it.cost.macs import gmacs, parameters
from d2it.cost.named_models import named_models
from d2it.errors import UserError

Quantity = Literal["parameters", "gmacs", "gmacs_fine"]
UNITS = {"parameters": "parameters, M", "gmacs": "GMACs", "gmacs_fine": "GMACs, fine only"}
LOWEST = "fid"  # of a published table


@dataclass(frozen=True)
class Network:
    """One that `d2it models` lists, or it with other arguments."""

    model: str
    layers: tuple[int, int] | None = None  # of the Multi-grained Net and of RefineNet
    patch: int | None = None

    def count(self, quantity: Quantity) -> float:
        models = named_models()
        if self.model not in models:
            raise UserError(f"params/claims.yaml names {self.model}, which `d2it models` does not.")
        kind, architecture = models[self.model]
        given = {"layers": self.layers, "patch": self.patch}
        architecture = architecture | {k: value for k, value in given.items() if value is not None}
        if quantity == "parameters":
            return parameters(kind, architecture)["trainable"] / 1e6
        return gmacs(kind, architecture)["sparse" if quantity == "gmacs_fine" else "dense"]

    def __str__(self) -> str:
        layers = f" {self.layers[0]}+{self.layers[1]}" if self.layers else ""
        return f"{self.model}{layers}" + (f", patch {self.patch}" if self.patch else "")


@dataclass(frozen=True)
class Networks:
    first: Network
    than: Network


@dataclass(frozen=True)
class Printed:
    """A row of a published table whose FID is said to be the lowest."""

    table: str
    row: str


@dataclass(frozen=True)
class Counted:
    """Each quantity is a reading of the claim: it holds if all pairs hold by one of them."""

    says: str
    quantities: list[Quantity] = field(default_factory=list)
    pairs: list[Networks] = field(default_factory=list)
    within: float | None = None  # share of the second's that counts as equal; None: fewer
    lowest: list[Printed] = field(default_factory=list)

    def lines(self) -> list[tuple[bool, dict[str, str]]]:
        """What is compared: whether the claim holds there, and a line of the page."""
        lines = [self._networks(pair, one) for one in self.quantities for pair in self.pairs]
        return lines + [_printed(one) for one in self.lowest]

    @property
    def holds(self) -> bool:
        if self.lowest:
            return all(_printed(one)[0] for one in self.lowest)
        return any(
            all(self._networks(pair, one)[0] for pair in self.pairs) for one in self.quantities
        )

    def _networks(self, pair: Networks, quantity: Quantity) -> tuple[bool, dict[str, str]]:
        first, second = pair.first.count(quantity), pair.than.count(quantity)
        gap = (first - second) / second
        holds = gap < 0 if self.within is None else abs(gap) <= self.within
        relation = "<" if self.within is None else "="
        said = f", within {100 * self.within:g} %" if self.within is not None else ""
        return holds, {
            "compared": f"{pair.first} {relation} {pair.than}{said}",
            "of": UNITS[quantity],
            "first": f"{first:.4g}",
            "second": f"{second:.4g}",
            "difference, %": f"{100 * gap:+.3g}",
        }


def _printed(one: Printed) -> tuple[bool, dict[str, str]]:
    """The best of the other rows stands beside it, and all that are better."""
    rows: Mapping[str, float] = {
        row["row"]: float(row[LOWEST]) for row in published(one.table) if row[LOWEST]
    }
    if one.row not in rows:
        raise UserError(f"params/claims.yaml names {one.row}, which {one.table} does not have.")
    others = {row: value for row, value in rows.items() if row != one.row}
    best = min(others, key=lambda row: others[row])
    better = [f"{row} {value:g}" for row, value in others.items() if value <= rows[one.row]]
    line: dict[str, Any] = {
        "compared": f"{one.row} < all others of {one.table.replace('_', ' ').capitalize()}",
        "of": "FID, published",
        "first": f"{rows[one.row]:g}",
        "second": f"{others[best]:g} ({best})",
        "difference, %": f"{100 * (rows[one.row] - others[best]) / others[best]:+.3g}",
    }
    return not better, line | ({"better": "; ".join(better)} if better else {})
