"""d2it fetch NAME...: download files named in data/sources.csv and check their sha256."""

import argparse
from contextlib import ExitStack

from d2it.commands.options import add_wait_argument
from d2it.runs.lease import making
from d2it.sources.fetch import fetch, missing
from d2it.sources.table import read_sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Example: d2it fetch inception lpips_alex. To resume a broken download, run the same "
        "command again. Files go to data/weights/, or where D2IT_WEIGHTS says; D2IT_OFFLINE=1 "
        "forbids any connection."
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="files, groups of files, or `all`; without a name: list them",
    )
    parser.add_argument(
        "--from",
        action="append",
        default=[],
        dest="mirrors",
        metavar="URL",
        help="a mirror's folder to look in as well (repeat for more), for files that need a "
        "registration, such as ImageNet's",
    )
    add_wait_argument(parser)


def main(arguments: argparse.Namespace) -> None:
    if arguments.names:
        absent = missing(arguments.names)
        folders = {source.file.parent for source in absent}
        with ExitStack() as stack:  # whole ones, since files may come in one archive
            for folder in sorted(folders):
                leases = folder / ".leases"
                stack.enter_context(making(folder, arguments.wait, None, leases, "fetched into"))
            fetch(arguments.names, mirrors=arguments.mirrors, absent=absent)
        return
    for source in read_sources().values():
        size = "installed" if source.installed else f"{source.bytes / 1e6:.0f} MB"
        size = "gated" if source.gate else size
        print(f"{source.name:15} {source.group:8} {size:>9}  {source.note} ({source.licence})")
