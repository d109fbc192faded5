"""pipeline.json of an exported folder, which a stranger may have written: a closed, typed schema.

All that it says is held to its type, its range and the rest before a network is built. Versions: 2
has no digest of itself, no quantiles, and the DVAE's encoder too. No torch.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from d2it.config.check import check_asked, check_ranges, check_ratio, check_sampling, require
from d2it.config.ratios import is_constant
from d2it.config.schema import Diffusion, Sampling
from d2it.config.typed import build
from d2it.config.types import Amount, Count, Grey, Learned, Positive, Range, Ratio, Several
from d2it.cost.macs import cost, decoder
from d2it.errors import UserError
from d2it.files import canonical_digest, read_bounded
from d2it.models.shapes import SHAPES, DvaeShape, check_shape
from d2it.text import printable

FORMAT, VERSION, OLDEST = "d2it-pipeline", 3, 2
HEADER = "pipeline.json"
SHA256 = re.compile("[0-9a-f]{64}")
LARGEST = 4 << 20  # bytes of a header; ImageNet's names are 30 KB
# At most, so that a folder that anyone wrote neither hangs nor fills the memory:
TIMESTEPS = 4000  # of the noise process: Improved DDPM's, the longest in use; the paper's is 1000
STEPS = 1000  # of a sampler that nobody asked for: the paper's whole noise process
TOGETHER = 4096  # images of a block, which is drawn whole; the paper's has 64
BINS = 4096  # of Eq 3, where the paper has 256
WORK = 1e15  # multiply-accumulates of an image; D²iT-XL's are 3.6e14 in 1000 guided steps
NUMBERS = 2**33  # of the largest tensor of a block; the paper's: 2^31, in the DVAE at full size

Width = Annotated[float, Range("above 0 and at most 0.25")]
Guidance = Annotated[float, Range("at least 0 and at most 1000")]


@dataclass(frozen=True)
class File:
    bytes: Annotated[Count, "size"]
    sha256: Annotated[str, "of its content"]


@dataclass(frozen=True)
class Network:
    kind: Annotated[Literal["dvae", "grain", "content", "dit"], "what it is"]
    architecture: Annotated[dict[str, Any], "arguments of its constructor"]
    run: Annotated[str, "name of the run that trained it"]
    images: Annotated[Amount, "seen in training"]
    batch: Annotated[Count, "images of a step"]
    recipe_digest: Annotated[str, "of all that decides its weights"]
    sha256: Annotated[str | None, "of the trained model's file; null: of the file here"] = None


@dataclass(frozen=True)
class Header:
    format: Annotated[str, "d2it-pipeline"]
    version: Annotated[int, "of the format"]
    scale: Annotated[str, "name of the scale that it was trained at"]
    run: Annotated[str, "name of the run"]
    kind: Annotated[Literal["content", "dit"], "of the main network"]
    ratio: Annotated[Ratio, "share of fine regions that is drawn if no other is asked for"]
    cuts: Annotated[list[str], "entropies (nats) between the grains at this ratio"]
    sigma: Annotated[Positive, "of Eq 2"]
    bins: Annotated[Several, "M of Eq 3"]
    regions: Annotated[Count, "side of a grain map"]
    latent_scale: Annotated[Positive, "of codes in training"]
    classes: Annotated[list[str], "names by label"]
    diffusion: Annotated[Diffusion, "the noise process"]
    sampling: Annotated[Sampling, "how images are drawn"]
    guidance: Annotated[Guidance, "1: none"]
    protocol: Annotated[Literal["clean", "adm"], "by which its images are measured"]
    networks: Annotated[dict[str, Network], "network, dvae, and grain where maps are drawn"]
    files: Annotated[dict[str, File], "the weights"]
    grey_range: Annotated[tuple[Grey, Grey], "of Eq 2"] = (-1, 1)
    learned: Annotated[Learned | None, "ratios learnt from; null: that ratio alone"] = None
    weights: Annotated[Literal["ema", "raw"] | Width, "which of the run's"] = "ema"
    quantiles: Annotated[list[float] | None, "of entropies; null: cuts of no other ratio"] = None
    digest: Annotated[str | None, "sha256 of all the rest"] = None

    @property
    def learnt(self) -> Learned:
        return self.ratio if self.learned is None else self.learned


class Curable(UserError):
    """What is wrong, with a cure that no other folder needs."""

    def __init__(self, sentence: str, cure: str):
        super().__init__(sentence)
        self.cure = cure


def check_written(tree: dict[str, Any]) -> None:
    """What could not be read is not written."""
    try:
        parsed(tree)
    except UserError as error:
        told, cure = error.sentence.rstrip("."), "change that, and export it again"
        raise UserError(f"This cannot be exported ({told}): {_cure(error, cure)}.") from None


def read_header(folder: Path, again: str) -> Header:
    """The header of an exported folder, or one sentence; `again` says how to get a sound one."""
    try:
        return parsed(_content(folder / HEADER))
    except UserError as error:
        told, again = error.sentence.rstrip("."), _cure(error, again)
    except OSError as error:
        told = f"it cannot be read: {error.strerror}"
    except RecursionError:
        told = "it is nested too deeply"
    raise UserError(f"{folder / HEADER} cannot be used ({printable(told)}): {again}.")


def _cure(error: UserError, other: str) -> str:
    return error.cure if isinstance(error, Curable) else other


def _content(path: Path) -> Any:
    try:
        return json.loads(read_bounded(path, LARGEST))
    except ValueError:  # no JSON, not UTF-8, or a number of thousands of digits
        raise UserError("it is not JSON") from None


def parsed(tree: Any) -> Header:
    """A header's tree, held to the schema; every sentence says what is wrong."""
    require(
        isinstance(tree, dict) and tree.get("format") == FORMAT,
        "it describes no exported run of d2it",
    )
    version = tree.get("version")
    if type(version) is int and version > VERSION:
        raise Curable(
            f"it was exported by a newer version of d2it, with format {version}, and this one "
            f"reads {OLDEST} to {VERSION}",
            "install that version",
        )
    require(
        type(version) is int and version >= OLDEST,
        f"its version is {version!r}, but this version of d2it reads {OLDEST} to {VERSION}",
    )
    header = _typed(build(Header, tree, "header"))
    check_ranges(header, "header")
    _check_names(header)
    _check_maps(header)
    _check_networks(header)
    _check_drawing(header)
    require(
        header.digest == digest_of(tree) if "digest" in tree else version < VERSION,
        "its digest is not that of its content",
    )
    return header


def digest_of(tree: dict[str, Any]) -> str:
    return canonical_digest({key: value for key, value in tree.items() if key != "digest"})


def _typed(header: Header) -> Header:
    """With architectures that have all arguments of their networks, and no others."""
    typed = {}
    for name, one in header.networks.items():
        shape: Any = build(SHAPES[one.kind], one.architecture, f"{name}.architecture")
        check_ranges(shape, f"{name}.architecture")
        typed[name] = replace(one, architecture=asdict(shape))
    return replace(header, networks=typed)


def _check_names(header: Header) -> None:
    runs = [one.run for one in header.networks.values()]
    for name in [header.scale, header.run, *runs, *header.classes]:
        require(name.isprintable() and len(name) <= 200, f"{ascii(name)} is no name")
    digests = [file.sha256 for file in header.files.values()]
    for one in header.networks.values():
        digests += [one.recipe_digest, one.sha256 or one.recipe_digest]
    for digest in digests:
        require(bool(SHA256.fullmatch(digest)), f"{digest!r} is no sha256")


def _check_maps(header: Header) -> None:
    """Ratios, thresholds, and a grain network where maps are drawn."""
    names = ["network", "dvae"]
    require(set(names) <= set(header.networks), "it lacks a network or a dvae")
    grains = len(header.networks["dvae"].architecture["factors"])
    check_ratio(header.ratio, grains, "ratio")
    if header.learned is not None:
        check_ratio(header.learned, grains, "learned")
        check_asked(header.ratio, header.learned, grains, "ratio")
    names += [] if is_constant(header.learnt) else ["grain"]
    require(set(header.networks) == set(names), f"its networks are not {', '.join(names)}")
    files = [f"{name}.safetensors" for name in names]
    require(set(header.files) == set(files), f"its files are not {', '.join(files)}")
    try:
        cuts = [float(cut) for cut in header.cuts]
    except ValueError:
        cuts = []
    require(
        len(cuts) == grains - 1 and cuts == sorted(cuts) and not any(map(math.isnan, cuts)),
        f"its cuts are not {grains - 1} rising numbers",
    )
    table = header.quantiles
    require(
        table is None or (len(table) > 1 and table == sorted(table)), "its quantiles do not rise"
    )
    require(header.grey_range[0] < header.grey_range[1], "its grey_range does not rise")


def _check_networks(header: Header) -> None:
    """They draw the same grid of the same codes, for the same classes."""
    kinds = {"network": header.kind, "dvae": "dvae", "grain": "grain"}
    for name, one in header.networks.items():
        shape = one.architecture
        require(one.kind == kinds[name], f"{name} is a {one.kind}, not a {kinds[name]}")
        if one.kind != "dvae":
            require(
                shape["width"] % 4 == 0 and shape["width"] % shape["heads"] == 0,
                f"the width of {name} is not a multiple of 4 and of its heads",
            )
    main, dvae = (header.networks[name].architecture for name in ("network", "dvae"))
    check_shape(DvaeShape(**dvae))
    factors, grains = dvae["factors"], len(dvae["factors"])
    need = {
        "size": (dvae["size"], header.regions * factors[0]),
        "side": (main["side"], header.regions * factors[0] // factors[-1]),
        "channels": (main["channels"], dvae["latent_channels"]),
        "learn_sigma": (main["learn_sigma"], header.diffusion.learn_sigma),
        "grains": (main.get("grains", grains), grains),
    }
    if "grain" in header.networks:
        drawn = header.networks["grain"].architecture
        need["side of maps"] = (drawn["side"], header.regions)
        need["grains of maps"] = (drawn["grains"], grains)
        need["classes of maps"] = (drawn["classes"], drawn["classes"] and main["classes"])
        need["any_ratio"] = (drawn["any_ratio"], header.learnt == "random")
    for what, (found, wanted) in need.items():
        require(found == wanted, f"its networks do not fit: {what} is {found}, not {wanted}")
    require(
        len(header.classes) <= main["classes"],
        f"it names {len(header.classes)} classes of {main['classes']}",
    )


def _check_drawing(header: Header) -> None:
    """What is drawn if nothing else is asked for has an end, and room."""
    dvae, sampling = header.networks["dvae"].architecture, header.sampling
    check_sampling(sampling, header.diffusion, dvae["latent_channels"])
    for what, value, most, setting in (
        ("diffusion.timesteps", header.diffusion.timesteps, TIMESTEPS, ""),
        ("sampling.steps", sampling.steps, STEPS, ""),
        ("sampling.grain_steps", sampling.grain_steps, STEPS, ""),
        ("sampling.block", sampling.block, TOGETHER, ""),
        ("bins", header.bins, BINS, ""),
        ("work of an image (multiply-accumulates)", _work(header), WORK, "sampling.steps"),
        ("size of a block (numbers)", sampling.block * _largest(header), NUMBERS, "sampling.block"),
    ):
        if value > most:
            raise Curable(
                f"{what} is {value:.10g}, but must be at most {most:.10g}",
                f"set a smaller {setting or what}, and export it again",
            )


def _work(header: Header) -> float:
    """Multiply-accumulates of an image, by the folder's own settings."""
    passes = header.sampling.steps * (1 if header.guidance == 1 else 2)
    times = {"network": passes, "grain": header.sampling.grain_steps}
    drawn = [(one, times[name]) for name, one in header.networks.items() if name in times]
    decoded = decoder(DvaeShape(**header.networks["dvae"].architecture)).macs
    return decoded + sum(cost(one.kind, one.architecture).macs * many for one, many in drawn)


def _largest(header: Header) -> float:
    """Numbers of an image in the largest tensor: activations, scores or masks of attention."""
    dvae = DvaeShape(**header.networks["dvae"].architecture)
    attending = [dvae.up[0], *(one for one in dvae.up if one.attends)]  # the first: the middle
    held = [dvae.size**2 * max(dvae.widths), *(one.side**4 for one in attending)]
    for name, one in header.networks.items():
        if name != "dvae":
            shape = SHAPES[one.kind](**one.architecture)
            images = 1 if name == "grain" or header.guidance == 1 else 2
            wide = shape.width * max(shape.mlp_ratio, 6)  # adaLN's vectors: six to a window
            for net in shape.nets:
                held.append(images * net.tokens * max(wide, net.seen * max(net.masks, 1)))
    return max(held)
