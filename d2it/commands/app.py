"""d2it app [FOLDER]: a page on localhost where one paints where the detail is to go."""

import argparse

from d2it.errors import UserError

PORT = 7860


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        f"Example: d2it app my-d2it, then open http://127.0.0.1:{PORT}. The page works offline and "
        "writes nothing; Ctrl-C ends it."
    )
    parser.add_argument(
        "folder",
        nargs="?",
        default="emoji64",
        metavar="FOLDER",
        help="a folder made by `d2it export`, the name of one that comes with d2it, or the "
        "owner/name of one on the Hugging Face Hub (default: emoji64)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets every machine that reaches this one draw here "
        "(default: 127.0.0.1, this machine alone)",
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"0: a free one (default: {PORT})")


def main(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.port < 2**16:
        raise UserError(f"--port is {arguments.port}, but must be at least 0 and at most 65535.")
    from d2it.app.server import Server
    from d2it.app.studio import Studio

    with Server(Studio(arguments.folder), arguments.host, arguments.port) as server:
        try:
            print(f"{server.address} draws with {arguments.folder}; Ctrl-C ends it.", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print()
