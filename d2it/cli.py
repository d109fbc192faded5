"""The command line: `d2it <verb> ...`. Verbs are imported only when called: help costs nothing."""

import argparse
import errno
import importlib
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence

from d2it.errors import (
    UserError,
    compile_sentence,
    is_out_of_host_memory,
    is_out_of_memory,
    lacks_compiler,
)
from d2it.runs.signals import Detached
from d2it.version import __version__

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # e.g. Lustre, NFS without lockd
BAD_PATH = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,  # below a plain file
    errno.EISDIR,
    errno.EEXIST,
)
BAD_NAME = {
    errno.ENAMETOOLONG: "has too long a name for this file system: choose a shorter one",
    errno.ELOOP: "leads through a symlink back to itself: correct that link",
}

VERBS = {
    "fetch": "download files named in data/sources.csv and check their sha256",
    "verify": "check the sha256 of every fetched file, or of everything a scale has made",
    "config": "print the composed configuration",
    "study": "list every run with the cells of tables and figures that it fills",
    "plan": "price a study before it is run: GPU-hours, disk, what is missing",
    "status": "show the state of every run: waiting, running, failed, finished",
    "grains": "show the grain map of any photograph",
    "prepare": "pack a data set's images at the training resolution",
    "calibrate": "measure a data set's entropy quantiles (Eq 2-3)",
    "reference": "compute a data set's Inception features for FID",
    "train": "train one run: DVAE, grain, content or DiT",
    "keep": "copy trained models to where git finds them, for seeds that are added later",
    "encode": "cache the latents of a data set with a trained DVAE",
    "evaluate": "sample from a run and measure FID and other metrics, or measure any images",
    "sample": "draw images from a run, or from an exported folder",
    "app": "paint grain maps on a page of this machine, and see what is drawn",
    "export": "write a trained run as a self-contained folder with a model card",
    "metrics": "gather the metrics of every run in one small file",
    "table": "write one of the paper's tables, or Table 6: one network for every ratio",
    "figure": "draw one of the paper's figures, or Figure 7: FID against compute",
    "page": "write every table, figure and run of a scale as one page, index.html",
    "claims": "test the paper's claims on runs of several training seeds",
    "models": "print parameters and GMACs of the named models",
}


def main(arguments: Sequence[str] | None = None) -> int:
    _open_streams()
    # NumPy and SciPy read this when they are imported; torch is told by d2it.machine.device.
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("D2IT_THREADS", "1")
    arguments = list(map(_named, sys.argv[1:] if arguments is None else arguments))
    parser = argparse.ArgumentParser(
        prog="d2it",
        description="D²iT (arXiv 2504.09454), from photographs to tables.",
        epilog="Example: d2it train d2it_b scale=smoke. Each verb has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"d2it {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for verb, help in VERBS.items():
        subparser = verbs.add_parser(verb, help=help, description=help[0].upper() + help[1:] + ".")
        if arguments and arguments[0] == verb:
            importlib.import_module(f"d2it.commands.{verb}").add_arguments(subparser)
    namespace, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") or not hasattr(namespace, "overrides") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # overrides after an option, which argparse does not join with those before it
        namespace.overrides = [*namespace.overrides, *rest]
    namespace.words = arguments  # for commands that start themselves again in other processes
    try:
        importlib.import_module(f"d2it.commands.{namespace.verb}").main(namespace)
        sys.stdout.flush()  # a closed pipe is noticed here, not at exit
    except UserError as error:
        return _complain(error, namespace)
    except Detached as detached:
        print(f"d2it: {detached}", file=sys.stderr)
        return 128 + detached.signum
    except BrokenPipeError:  # e.g. `d2it study | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = system_sentence(error)
        if sentence is None:
            raise
        if compile_sentence(error, "sampling") and not lacks_compiler(error):
            traceback.print_exception(error)  # which is to be reported
        return _complain(UserError(sentence), namespace)
    except KeyboardInterrupt:
        print("d2it: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


def _named(word: str) -> str:
    """Of DVC's stage `prepare@photos`, whose name it sets, the data set or run (dvc.yaml)."""
    return word.partition("@")[2] or word if word == os.environ.get("DVC_STAGE") else word


def _open_streams() -> None:
    """Of a command that was started without some, e.g. `d2it study >&-`: what it says is unwanted,
    and no file that it opens may take their numbers, into which its children write.
    """
    while (unused := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(unused)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):  # of a terminal that knows no `²`
        sys.stdout.reconfigure(errors="replace")


def system_sentence(error: Exception) -> str | None:
    """What a person can do about a full memory, a missing compiler, an error of the disk or of a
    path; None: it is something else.
    """
    if uncompiled := compile_sentence(error, "sampling"):
        return uncompiled
    if is_out_of_memory(error):
        return (
            "The GPU's memory is full: see with nvidia-smi what else computes there, or use one "
            "with more; then run the same command again."
        )
    if is_out_of_host_memory(error):
        return (
            "This machine's memory is full, or as much of it as this command may use: see with "
            "`top` what else computes here, or use one with more; then run the same command again."
        )
    number = getattr(error, "errno", None)
    told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors says it in words alone
    if number is None and told:
        number = int(told[1])
    if number in FULL:
        return (
            "The disk is full, or a quota or `ulimit -f` is reached: free some space and run the "
            "same command again."
        )
    if number in NO_LOCKS:
        return (
            "This file system has no file locks: mount it with flock, or set D2IT_RUNS to a folder "
            "on one that has them."
        )
    name = getattr(error, "filename", None) or "A file"
    if loop := re.match("Symlink loop from '(.*)'", str(error)):  # pathlib's until Python 3.13
        number, name = errno.ELOOP, loop[1]
    if number in BAD_NAME:
        return f"{name} {BAD_NAME[number]}."
    if number in BAD_PATH:
        return f"{name} cannot be written or read: check its permissions and its folders."
    return None


def _complain(error: UserError, arguments: argparse.Namespace) -> int:
    """To whoever typed the command, with its settings; to the process that started it, as data."""
    params = getattr(arguments, "params", None)
    given = [word for word in getattr(arguments, "overrides", []) if "=" in word]
    settings = shlex.join(["--params", params] if params else given)
    print(f"d2it: error: {error.told(settings)}", file=sys.stderr)
    from d2it.jobs import last_word

    if last_word.FILE in os.environ:
        last_word.write(os.environ[last_word.FILE], error)
    return 2
