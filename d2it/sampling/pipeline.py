"""Drawing images from trained runs: grain map, latent code, pixels (section 3.2.1).

Image i is a function of (seed, i) and of the weights alone: its noise, its label and its map come
from generators keyed by them, and images are computed in whole blocks that begin at multiples of
`sampling.block`. So any process may draw any indices, in any order, and gets the same bytes on one
kind of CPU or GPU.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from d2it.clock import seed_of
from d2it.config.check import check_asked, check_guidance
from d2it.config.ratios import at_least
from d2it.config.schema import Diffusion, Sampling
from d2it.config.typed import nearest
from d2it.config.types import Learned, Ratio
from d2it.cost.macs import gmacs, live_gmacs
from d2it.diffusion import NoiseSource, Schedule, guided, sample, sample_maps
from d2it.errors import UserError
from d2it.grains.maps import grain_map, mean_within
from d2it.grains.thresholds import constant_cuts
from d2it.machine.device import Device, arithmetic, send
from d2it.models.dvae import to_pixels

SHOWN = 20  # names of classes in an error

Label = int | Literal["random"] | None  # None: all classes in turn


@dataclass(frozen=True)
class Drawn:
    images: np.ndarray  # (N, H, W, 3) uint8
    maps: np.ndarray  # (N, h, w) int64: the grain map that each image was asked for
    labels: np.ndarray  # (N,) int64; zeros from an unconditional run

    def __getitem__(self, which: Any) -> "Drawn":
        return Drawn(self.images[which], self.maps[which], self.labels[which])


def keyed(seed: int, *identity: object) -> torch.Generator:
    """A CPU generator of whatever is named: the same numbers for every device and process."""
    return torch.Generator().manual_seed(seed_of(seed, *identity))


def noise_of(
    seed: int, what: str, indices: np.ndarray, shape: Sequence[int], device: Device
) -> NoiseSource:
    """Noise (N, *shape) of each sampling step, by (seed, index, step)."""

    def draw(step: int) -> Tensor:
        noise, generator = torch.empty(len(indices), *shape), torch.Generator()
        for one, i in zip(noise, indices.tolist(), strict=True):
            one.normal_(generator=generator.manual_seed(seed_of(seed, what, i, step)))
        return send(noise, device)

    return draw


def schedule_of(diffusion: Diffusion) -> Schedule:
    return Schedule(diffusion.timesteps, diffusion.beta_start, diffusion.beta_end)


@dataclass(frozen=True)
class Part:
    """One trained network, and the file that its weights came from."""

    network: Any
    architecture: dict[str, Any]
    images: int  # seen in training when these weights were taken
    sha256: str

    def labels(self, labels: np.ndarray | None, device: Device) -> Tensor | None:
        """What the network takes as y: nothing where it knows no classes."""
        known = labels is not None and self.architecture["classes"]
        return send(torch.from_numpy(labels), device) if known else None


class GrainMaps:
    """Grain maps (n, h, w) of one ratio: constant, or drawn by a Dynamic Grain Transformer."""

    def __init__(
        self,
        side: int,
        ratio: Ratio,
        learned: Learned,  # what the networks learnt from
        grain: Part | None,
        steps: int,
        schedule: Schedule,
        device: Device,
    ) -> None:
        self.side, self.device = side, device
        self.ratio, self.learned = ratio, learned
        self.grain, self.steps, self.schedule = grain, steps, schedule

    @property
    def cuts(self) -> list[float] | None:
        """Of a constant map; None where maps differ between regions."""
        return constant_cuts(self.ratio)

    @property
    def drawn_by(self) -> Part | None:
        """The network that draws them; None where they are constant or of another source."""
        return self.grain if self.cuts is None else None

    def draw(self, seed: int, indices: np.ndarray, labels: np.ndarray | None) -> Tensor:
        """A whole aligned block of maps; labels (n,) where the images have classes."""
        if self.cuts is not None:
            return grain_map(torch.zeros(len(indices), self.side, self.side), self.cuts)
        assert self.grain is not None  # where it is not, maps are given or of another source
        # from the Dynamic Grain Transformer (section 3.2.2), of the same class
        reached = torch.tensor([at_least(self.ratio)]).expand(len(indices), -1)
        told = self.grain.architecture.get("any_ratio", False)
        shape = [self.grain.architecture[name] for name in ("grains", "side", "side")]
        return sample_maps(
            self.grain.network,
            noise_of(seed, "map", indices, shape, self.device),
            self.steps,
            self.grain.labels(labels, self.device),
            self.schedule,
            send(reached, self.device) if told else None,
        )


class Pipeline:
    """Trained networks together: a label and a grain map, a latent code, an image."""

    def __init__(
        self,
        kind: str,
        network: Part,
        dvae: Part,
        maps: GrainMaps,
        scale: float,
        sampling: Sampling,
        diffusion: Diffusion,
        guidance: float = 1.0,
        classes: Sequence[str] = (),  # their names, by label
        protocol: str = "clean",  # by which its images are measured
    ) -> None:
        self.classes, self.protocol = list(classes), protocol
        self.kind, self.network, self.dvae, self.maps, self.scale = kind, network, dvae, maps, scale
        self.sampling, self.diffusion, self.guidance = sampling, diffusion, guidance
        self.grains = len(dvae.architecture["factors"])

    def sample(
        self,
        n: int = 1,
        label: int | str | None = None,
        seed: int = 0,
        map: np.ndarray | None = None,
        first: int = 0,
        ratio: Ratio | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`n` images of `seed` from number `first` on, and their grain maps.

        label: a class by number or name, "random", or None: all in turn. map: grains (h, w), or
        (n, h, w) of each image, 0 coarse; None: drawn, at `ratio` if networks of random ratios are
        asked for one. sampler, steps, guidance: in place of the pipeline's own. Returns uint8
        (n, H, W, 3), int64 (n, h, w).
        """
        if ratio is not None and map is not None:
            raise UserError("A grain map has a ratio of its own: give a map or a ratio.")
        if n < 1 or first < 0:
            raise UserError(f"{n} images from number {first} on: ask for at least one, from 0 on.")
        map = None if map is None else self.checked_map(map, n)
        asked = self.using(ratio, sampler, steps, guidance)
        drawn = asked.draw(seed, np.arange(first, first + n), map, self.label_of(label))
        return drawn.images, drawn.maps

    def using(
        self,
        ratio: Ratio | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Self:
        """The same networks with other settings: ddpm, ddim or dpm++, of so many steps, …"""
        other, given = copy(self), {"sampler": sampler, "steps": steps}
        if ratio is not None:
            check_asked(ratio, self.maps.learned, self.grains, "ratio")
            other.maps = copy(self.maps)
            other.maps.ratio = ratio
        if guidance is not None:
            check_guidance(guidance, "guidance")
            other.guidance = guidance
        changed: Any = {name: value for name, value in given.items() if value is not None}
        other.sampling = replace(self.sampling, **changed)
        return other

    def gmacs(self, maps: np.ndarray) -> np.ndarray:
        """10^9 MACs of a forward pass for each of the maps (n, h, w): windows without fine regions
        are skipped. (n,) float64
        """
        shape = self.network.architecture
        if self.kind == "dit":
            return np.full(len(maps), gmacs("dit", shape)["dense"])
        live = self.network.network.live_shares(torch.from_numpy(maps)).tolist()
        return np.array([live_gmacs(shape, shares) for shares in live])

    def label_of(self, label: int | str | None) -> Label:
        """A class by number or name, "random", or None (all in turn), checked."""
        count = self.network.architecture["classes"]
        if label is None:
            return None
        if not count:
            raise UserError(f"This network knows no classes, so there is no class {label!r}.")
        if label == "random":
            return "random"
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        if str(label).isdecimal() and int(label) < count:
            return int(label)
        near, shown = nearest(str(label), self.classes), self.classes[:SHOWN]
        names = ", ".join(shown + ["…"] * (len(self.classes) > SHOWN)) + " or " * bool(shown)
        raise UserError(
            f"There is no class {label!r}{near}: choose one of {names}0 to {count - 1}."
        )

    def checked_map(self, map: np.ndarray, n: int) -> np.ndarray:
        """int64 (h, w) or (n, h, w)."""
        side, found = self.maps.side, np.asarray(map)
        if self.kind == "dit":
            raise UserError("This network is a DiT, which has no grain map: name a D²iT.")
        if found.shape not in ((side, side), (n, side, side)):
            shape = " x ".join(str(length) for length in found.shape)
            raise UserError(
                f"The grain map has the shape {shape}, but must be {side} x {side}, or one of that "
                "shape for each image."
            )
        if not np.isin(found, range(self.grains)).all():
            raise UserError(f"A grain map holds whole numbers from 0 to {self.grains - 1}.")
        return found.astype(np.int64)

    def draw(
        self,
        seed: int,
        indices: np.ndarray,
        map: np.ndarray | None = None,
        label: Label = None,
    ) -> Drawn:
        """The images `indices` of `seed`, for a `map` (h, w) for all or (n, h, w) of each (None:
        each its own), of a class, of random ones or (None) of all classes in turn.
        """
        block, indices = self.sampling.block, np.asarray(indices)
        numbers, place = np.unique(indices // block, return_inverse=True)
        place = place * block + indices % block
        if map is not None:
            map = _over_blocks(map, place, len(numbers) * block)
        drawn = [
            self._block(
                seed,
                np.arange(block) + number * block,
                None if map is None else map[i * block : (i + 1) * block],
                label,
            )
            for i, number in enumerate(numbers)
        ]
        images, maps, labels = (
            np.concatenate([getattr(one, name) for one in drawn])
            for name in ("images", "maps", "labels")
        )
        return Drawn(images, maps, labels)[place]

    @torch.inference_mode()
    def _block(
        self,
        seed: int,
        indices: np.ndarray,
        map: np.ndarray | None,
        label: Label,
    ) -> Drawn:
        labels = self._labels(seed, indices, label)
        with arithmetic(self.maps.device, self.sampling.precision):
            if map is None:
                known = labels if self.network.architecture["classes"] else None
                maps = self.maps.draw(seed, indices, known).cpu()
            else:
                maps = torch.from_numpy(map)
            z = self._latents(seed, indices, labels, maps)
        return Drawn(self._decode(z), maps.numpy(), labels)

    def _labels(self, seed: int, indices: np.ndarray, label: Label) -> np.ndarray:
        classes = max(self.network.architecture["classes"], 1)
        if label is None:
            return indices % classes  # class-balanced
        if label == "random":
            generators = [keyed(seed, "label", int(i)) for i in indices]
            return np.array([int(torch.randint(classes, (), generator=g)) for g in generators])
        return np.full(len(indices), label)

    def _latents(self, seed: int, indices: np.ndarray, labels: np.ndarray, maps: Tensor) -> Tensor:
        """(N, C, H_f, W_f), scaled as in training. The maps are on the CPU."""
        settings, content, device = self.sampling, self.kind == "content", self.maps.device
        shape = [self.network.architecture[name] for name in ("channels", "side", "side")]
        model = guided(
            self.network.network,
            self.network.labels(labels, device),
            maps if content else None,
            self.guidance,
            settings.guided_channels,
        )
        maps = send(maps, device)
        z = sample(
            model,
            noise_of(seed, "noise", indices, shape, device),
            schedule_of(self.diffusion),
            settings.sampler,
            settings.steps,
            settings.eta,
            maps if content and self.diffusion.shared_noise else None,
            self.grains,
        )
        # free noise leaves small differences within coarse codes, which the decoder never saw
        return mean_within(z, maps, self.grains) if content else z

    def _decode(self, z: Tensor) -> np.ndarray:
        images = self.dvae.network.decode(z / self.scale)  # (N, 3, H, W) about [-1, 1]
        if not images.isfinite().all():
            raise UserError(
                "The samples are not finite numbers, so the training of one of the networks has "
                "diverged: look at its metrics.jsonl, lower its learning rate, train it again."
            )
        return to_pixels(images).cpu().numpy()


def _over_blocks(map: np.ndarray, place: np.ndarray, n: int) -> np.ndarray:
    """The map of every image of some blocks; those that nobody asked for are coarse."""
    map = np.asarray(map, dtype=np.int64)
    if map.ndim == 2:
        return np.array(np.broadcast_to(map, (n, *map.shape)))
    every = np.zeros((n, *map.shape[1:]), dtype=np.int64)
    every[place] = map
    return every
