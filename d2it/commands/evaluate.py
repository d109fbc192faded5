"""d2it evaluate RUN: sample from a run and measure it; or measure any images."""

import argparse

from d2it.commands.options import add_shared_arguments, say_done
from d2it.config import load
from d2it.config.protocols import METRICS, PROTOCOLS
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.jobs.spread import spread
from d2it.runs.provenance import record
from d2it.shares import share_of

ONLY_PICTURES = ("protocol", "metrics", "n", "any_size", "json")  # options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Examples: d2it evaluate d2it_b scale=smoke; "
        "d2it evaluate --images samples/ --reference photos/ --json; "
        "d2it evaluate --images samples.npz --reference imagenet --metrics fid_50k sfid_50k "
        "scale=paper. "
        "To resume, run the same command again. D2IT_THREADS sets "
        "the number of CPU threads (default 1)."
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run of the scale, e.g. d2it_b")
    pictures = parser.add_argument_group("any images, instead of a run's")
    pictures.add_argument(
        "--images",
        metavar="DIR",
        help="what to measure: a folder, zip, tar or parquet file of images, an .npy, or an .npz "
        "as ADM writes it",
    )
    pictures.add_argument(
        "--reference",
        metavar="DIR|NAME",
        help="what to compare with: such a folder or file, or a data set of the scale after "
        "`d2it reference NAME`; features of folders are kept in data/references",
    )
    pictures.add_argument(
        "--protocol", choices=tuple(PROTOCOLS), help="default: the data set's own, else clean"
    )
    pictures.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="METRIC",
        help=f"of {', '.join(METRICS)}; fid_10k or fid_50k require that many images "
        "(default: the protocol's, and kid)",
    )
    pictures.add_argument("--n", type=int, help="measure the first n images (default: all)")
    pictures.add_argument(
        "--any-size", action="store_true", help="allow a reference of another resolution"
    )
    pictures.add_argument("--json", action="store_true", help="print the whole recipe as JSON")
    add_shared_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    for group in (arguments.metrics, [arguments.run or ""]):  # overrides come last, or first
        settings = [word for word in group if "=" in word]
        arguments.overrides = [*settings, *arguments.overrides]
    arguments.metrics = [word for word in arguments.metrics if "=" not in word]
    run = "" if "=" in (arguments.run or "") else arguments.run or ""
    if bool(run) == bool(arguments.images) or bool(arguments.images) != bool(arguments.reference):
        raise UserError("Name one run, or two sets of images: --images DIR and --reference DIR.")
    given = {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in ONLY_PICTURES}
    if run and any(given.values()):
        raise UserError(
            f"{next(name for name in given if given[name])} goes with --images, not with a run: "
            "leave it out, and set evaluation.metrics for a run's metrics."
        )
    config, share = load(arguments.params, arguments.overrides), share_of(arguments)
    if arguments.images:
        from d2it.evaluation.any_images import compare_pictures, show

        found = compare_pictures(
            arguments.images,
            arguments.reference,
            config,
            arguments.protocol,
            arguments.metrics,
            arguments.n,
            arguments.any_size,
        )
        show(found, arguments.json)
        return
    evaluated = run_of(config, run)
    has_units = evaluated.kind in ("content", "dit")
    place = evaluated.folder / "evaluations"  # equal runs share it: the second finds it made
    devices: list[str] = []  # elsewhere, whoever evaluates records them
    with spread(arguments, "evaluate", place, share, has_units) as here:
        if here:
            from d2it.evaluation.evaluate import evaluate

            devices = evaluate(evaluated, share)
    if share is None:
        record(evaluated, devices)
    say_done(evaluated.evaluation, True, share)
