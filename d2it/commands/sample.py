"""d2it sample --run NAME: draw images from a trained run, or from an exported folder."""

import argparse
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from d2it.commands.options import add_shared_arguments, ratio_of, say_done, weights_of
from d2it.config.check import check_guidance
from d2it.config.documents import conform
from d2it.config.protocols import PROTOCOLS
from d2it.config.recipe import ratio_key
from d2it.errors import UserError
from d2it.files import read_json
from d2it.jobs.spread import spread
from d2it.shares import Share, share_of

LAST = 10**12  # above all numbers of images
LONGEST = 200  # bytes of the name of --out: what stands beside it until it is done has 35 more

if TYPE_CHECKING:
    from d2it.sampling.pipeline import Pipeline
    from d2it.sampling.write import Request


class Worked(TypedDict):
    """What samples.json says of the work."""

    recipe: dict[str, Any]  # the one that was asked for
    gmacs: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Examples: d2it sample --run d2it_xl_classes --seeds 0-63 --class 3 --grain-map map.png; "
        "d2it sample --run emoji64 --ratio 0.3 --sheet sheet.png; "
        "d2it sample --run FOLDER --seeds 0-49999 --format npz --processes 8. "
        "Image 17 of a run is the same in every request. To resume, run the same command again."
    )
    parser.add_argument(
        "--run",
        required=True,
        metavar="NAME",
        help="a trained run, or an exported one: a folder made by `d2it export`, the name of one "
        "that comes with d2it, or the owner/name of one on the Hugging Face Hub",
    )
    parser.add_argument(
        "--seeds",
        metavar="A-B",
        help="which images, by number, e.g. 0-63 or 7 (default: 0-15; of a sheet 8 of each class)",
    )
    parser.add_argument(
        "--series",
        type=int,
        default=0,
        metavar="S",
        help="sampling seed, as evaluation.seeds of evaluations (default: 0)",
    )
    parser.add_argument(
        "--class",
        dest="label",
        metavar="C",
        help="a class by number or name, or random (default: all classes in turn)",
    )
    parser.add_argument(
        "--grain-map",
        metavar="PICTURE|ROWS",
        help="one grain map for all images, as a picture: dark coarse, bright fine; a pixel a "
        "region or a multiple, e.g. the images' size; or as rows of digits, 0 coarse, e.g. "
        "0110,0110,0000,0000 (default: the run's own maps)",
    )
    parser.add_argument(
        "--ratio",
        type=ratio_of,
        metavar="R",
        help="share of fine regions, of a run of random ratios: fewer are less work; for more "
        "grains than two the shares of the finer ones, e.g. 0.3,0.2 (default: the main ratio)",
    )
    parser.add_argument(
        "--guidance", type=float, metavar="G", help="scale; 1: none (default: 1, or the folder's)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="sampling steps (default: the run's)"
    )
    parser.add_argument("--sampler", choices=("ddpm", "ddim", "dpm++"), help="default: the run's")
    parser.add_argument(
        "--weights",
        metavar="ema|raw|WIDTH",
        help="averaged, raw, or the published average of this relative width (default: ema)",
    )
    parser.add_argument(
        "--format",
        choices=("png", "packed", "npz", "features"),
        default="png",
        help="one PNG per image; images.npy; samples.npz for ADM's evaluator; or only Inception "
        "features.npy (default: png)",
    )
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        help="how --format features resizes images (default: the data set's)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: samples/NAME")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="draw one picture of all the images, a row for each class, and no folder",
    )
    add_shared_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    span, share = span_of(arguments.seeds or "0-15"), share_of(arguments)
    if arguments.guidance is not None:
        check_guidance(arguments.guidance)
    if arguments.protocol and arguments.format != "features":
        raise UserError("--protocol goes with --format features: leave it out, or ask for them.")
    if arguments.ratio is not None and arguments.grain_map is not None:
        raise UserError("A grain map has a ratio of its own: leave out --ratio or --grain-map.")
    if arguments.sheet:
        draw_sheet(arguments)
        return
    out = arguments.out or Path("samples", Path(arguments.run).name)
    if len(os.fsencode(out.name)) > LONGEST:
        raise UserError(f"{out} has too long a name: choose one of at most {LONGEST} bytes.")
    drawn, began = True, time.monotonic()
    with spread(arguments, "sample", out, share) as here:
        if here:
            drawn = draw(arguments, span, out, share)
    if share is not None:
        say_done(out, drawn, share)
        return
    seconds = f" in {time.monotonic() - began:.1f} s" if drawn else ""
    print(f"{out} {'is ready' if drawn else 'is up to date'}: {len(span)} images{seconds}.")
    header, made_by = out / "samples.json", "d2it sample"
    print(work(conform(Worked, read_json(header, made_by=made_by), header, made_by)))


def work(header: Worked) -> str:
    """What an image costs: windows without fine regions are skipped."""
    recipe = header["recipe"]
    passes = recipe["sampling"]["steps"] * (1 if recipe["guidance"] == 1 else 2)
    at = f"At ratio {ratio_key(recipe['ratio'])}: " if "ratio" in recipe else ""
    return f"{at}{header['gmacs']:.3g} GMACs a forward pass, {passes} passes an image."


def draw(arguments: argparse.Namespace, span: range, out: Path, share: Share | None) -> bool:
    from d2it.sampling.write import write_samples

    pipeline = open_pipeline(arguments)
    return write_samples(pipeline, request_of(arguments, pipeline, span), out, share)


def draw_sheet(arguments: argparse.Namespace) -> None:
    from d2it.sampling.write import recipe_of, write_sheet

    if arguments.out or arguments.share or arguments.processes:
        raise UserError("--sheet is one picture of one process: leave out --out and shares.")
    began, pipeline = time.monotonic(), open_pipeline(arguments)
    several = 8 * (pipeline.network.architecture["classes"] or 8)
    span = span_of(arguments.seeds or f"0-{several - 1}")
    request = request_of(arguments, pipeline, span)
    drawn = write_sheet(pipeline, request, arguments.sheet)
    seconds = time.monotonic() - began
    print(f"{arguments.sheet} is ready: {len(span)} images in {seconds:.1f} s.")
    if pipeline.classes:
        rows = dict.fromkeys(pipeline.classes[label] for label in sorted(drawn.labels))
        print(f"Rows, from above: {', '.join(rows)}.")
    gmacs = float(pipeline.gmacs(drawn.maps).mean())
    print(work({"recipe": recipe_of(pipeline, request), "gmacs": gmacs}))


def request_of(arguments: argparse.Namespace, pipeline: "Pipeline", span: range) -> "Request":
    from d2it.grains.rows import from_rows
    from d2it.sampling.write import Request, read_map

    map = None
    if arguments.grain_map is not None:
        map = from_rows(arguments.grain_map)
        if map is None:
            map = read_map(Path(arguments.grain_map), pipeline.maps.side, pipeline.grains)
        map = pipeline.checked_map(map, len(span))
    label = pipeline.label_of(arguments.label)
    protocol = arguments.protocol or pipeline.protocol
    return Request(arguments.series, span, label, map, arguments.format, protocol)


def span_of(text: str) -> range:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    span = range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
    if not span or span.stop > LAST:
        raise UserError(
            f"--seeds is {text!r}, but must be a number or a rising range, e.g. 0-63, below {LAST}."
        )
    return span


def open_pipeline(arguments: argparse.Namespace) -> "Pipeline":
    """The networks of --run with the settings of the other options."""
    name = arguments.run
    from d2it.sampling.exported import find, is_exported, load, shipped

    if is_exported(name):
        folder = find(name)
        if arguments.weights or arguments.overrides:
            raise UserError(
                f"{name} is exported, so its weights and settings are chosen: leave out "
                "--weights and key=value, or name a run."
            )
        pipeline: Pipeline = load(folder)
    else:
        from d2it.config import load as load_config
        from d2it.config.experiments import Measured
        from d2it.config.run import run_of, runs_of
        from d2it.config.typed import nearest
        from d2it.machine.device import choose_device
        from d2it.sampling.trained_run import RunPipeline

        config = load_config(arguments.params, arguments.overrides)
        if name not in runs_of(config) and (near := nearest(name, shipped())):
            raise UserError(f"There is no run and no exported folder {name!r}{near}.")
        run = run_of(config, name)
        measured = Measured(weights=weights_of(arguments.weights or "ema"))
        pipeline = RunPipeline(run, measured, choose_device())
    return pipeline.using(arguments.ratio, arguments.sampler, arguments.steps, arguments.guidance)
