"""Exported folders: found by path, by the name of one that comes with d2it, or on the Hub; read and
written.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from d2it.config.ratios import is_constant
from d2it.config.recipe import ratio_key, sampling_recipe
from d2it.config.types import Ratio
from d2it.errors import UserError
from d2it.files import atomic_folder, folder_files, read_bounded, require_space, write_json
from d2it.grains.thresholds import constant_cuts, cuts_at
from d2it.machine.device import choose_device
from d2it.models.store import save_tensors
from d2it.sampling.fits import drawn_with, read_network
from d2it.sampling.header import HEADER, VERSION, Header, check_written, digest_of, read_header
from d2it.sampling.hub import ID, download
from d2it.sampling.model_card import settings
from d2it.sampling.pipeline import GrainMaps, Part, Pipeline, schedule_of
from d2it.text import printable

CARD = "README.md"
LARGEST_CARD = 1 << 20  # bytes; ours have 3 KB
SHIPPED = Path(__file__).parents[1] / "weights"


def shipped() -> list[str]:
    """Names of the folders that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{HEADER}"))


def is_exported(name: str) -> bool:
    """Whether a name is that of an exported folder, not of a run."""
    return Path(name).is_dir() or name in shipped() or bool(ID.fullmatch(name))


def find(name: Path | str) -> Path:
    """The folder that a path, the name of a shipped one, or a Hub's id stands for."""
    path = Path(name)
    if path.is_dir():
        if not (path / HEADER).is_file():
            raise UserError(
                f"{path} is not an exported folder (it has no {HEADER}): name one, or a run."
            )
        return path
    if str(name) in shipped():
        return SHIPPED / name
    if ID.fullmatch(str(name)):
        return download(str(name))
    known = "".join(f"{one}, " for one in shipped())
    raise UserError(
        f"There is no exported folder {name}: make one (d2it export --help), or name "
        f"{known}or the owner/name of one on the Hugging Face Hub."
    )


def load(name: Path | str) -> "Exported":
    """The networks of an exported folder, each held to its description before it is opened."""
    folder, again = find(name), "export or copy the folder again"
    return Exported(folder, read_header(folder, again), again)


class Exported(Pipeline):
    """A pipeline that knows what its folder says, and can be written as one."""

    def __init__(self, folder: Path, header: Header, again: str) -> None:
        self.header, self.card = header, _card(folder / CARD, again)
        device, parts = choose_device(), {}
        for name, entry in header.networks.items():
            path, shape = folder / f"{name}.safetensors", entry.architecture
            file = header.files[path.name]
            network = read_network(entry.kind, shape, path, file.bytes, file.sha256, again)
            sha256 = entry.sha256 or file.sha256
            parts[name] = Part(network.to(device), shape, entry.images, sha256)
        maps = GrainMaps(
            header.regions,
            header.ratio,
            header.learnt,
            parts.get("grain"),
            header.sampling.grain_steps,
            schedule_of(header.diffusion),
            device,
        )
        super().__init__(
            header.kind,
            parts["network"],
            parts["dvae"],
            maps,
            header.latent_scale,
            header.sampling,
            header.diffusion,
            header.guidance,
            header.classes,
            header.protocol,
        )

    def cuts(self, ratio: Ratio | None = None) -> list[float]:
        """Entropies between the grains at a ratio (None: its own): above, a region is finer."""
        ratio, own = self.maps.ratio if ratio is None else ratio, self.header.ratio
        if is_constant(ratio):
            return constant_cuts(ratio) or []
        if ratio_key(ratio) == ratio_key(own):
            return [float(cut) for cut in self.header.cuts]
        if self.header.quantiles is None:
            raise UserError(
                f"This folder has the thresholds of ratio {ratio_key(own)} alone, not of "
                f"{ratio_key(ratio)}: take that ratio, or a folder of a run of random ratios."
            )
        return cuts_at(self.header.quantiles, ratio)

    def save(self, folder: Path | str) -> None:
        """Write it as a folder, with the sampler, steps, guidance and ratio that it has now."""
        before = asdict(self.header)
        header = before | {
            "version": VERSION,
            "ratio": self.maps.ratio,
            "learned": self.maps.learned,
            "cuts": [str(cut) for cut in self.cuts()],
            "sampling": sampling_recipe(self.sampling),
            "diffusion": asdict(self.diffusion),
            "guidance": self.guidance,
        }
        parts = {"network": self.network, "dvae": self.dvae}
        if self.maps.grain:
            parts["grain"] = self.maps.grain
        for name, part in parts.items():
            header["networks"][name]["sha256"] = part.sha256
        card = self.card.replace(settings(before), settings(header))
        write_folder(Path(folder), header, parts, card)


def _card(path: Path, again: str) -> str:
    """What stands in the model card, if there is one: nothing is drawn by it."""
    try:
        content = read_bounded(path, LARGEST_CARD) if path.exists() else b""
    except (UserError, OSError) as error:
        told = printable(str(error).rstrip("."))
        raise UserError(f"{path} cannot be used ({told}): {again}.") from None
    return content.decode(errors="replace")


def check_free(folder: Path) -> None:
    """A folder is written over another export alone."""
    taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if taken and not (folder / HEADER).is_file():
        raise UserError(f"{folder} holds something else: name a new folder.")


def write_folder(folder: Path, header: dict[str, Any], parts: dict[str, Part], card: str) -> None:
    """At once: the weights, the header with their digests and its own, and the model card."""
    check_free(folder)
    weights = {name: drawn_with(part.network.state_dict()) for name, part in parts.items()}
    require_space(folder, sum(t.nbytes for state in weights.values() for t in state.values()))
    with atomic_folder(folder) as temporary:
        for name, state in weights.items():
            save_tensors(state, temporary / f"{name}.safetensors")
        header |= {"files": folder_files(temporary)}
        header |= {"digest": digest_of(header)}
        check_written(header)
        write_json(temporary / HEADER, header)
        (temporary / CARD).write_text(card, encoding="utf-8")
