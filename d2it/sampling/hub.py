"""Exported folders on the Hugging Face Hub, through its own client and cache (extra `hub`).

Only files that an exported folder has are fetched, and never more bytes than its header says. What
arrives is read as any stranger's folder is: nothing is unpickled or run.
"""

import re
from pathlib import Path

from d2it.errors import UserError
from d2it.sampling.header import HEADER, LARGEST, read_header
from d2it.text import printable

ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)  # owner/name


def download(repository: str) -> Path:
    """The folder in the Hub's cache; without a network, as it was fetched before."""
    try:
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            f"{repository} is no folder here, and the Hub's needs a client: `pip install "
            "'d2it[hub]'`, or name a folder."
        ) from None
    try:
        folder = _fetch(repository, HEADER, LARGEST)
        header = read_header(folder, "ask its owner to export it again")
        for name, file in header.files.items():
            _fetch(repository, name, file.bytes, folder.name)
    except errors.GatedRepoError:
        told = "its owner asks for an agreement: accept it on its page and log in"
    except errors.RepositoryNotFoundError:
        told = "there is none of that name, or it is private: check the name, or log in"
    except errors.LocalEntryNotFoundError:
        told = "it cannot be reached and was not fetched before: see to the network"
    except errors.EntryNotFoundError:
        told = "it is no exported run of d2it, or not all of one: name another"
    except (OSError, ValueError) as error:  # of the network, of HTTP, of the id
        told = f"it cannot be fetched: {printable(' '.join(str(error).split())).rstrip('.')}"
    else:
        return folder
    raise UserError(f"{repository} of the Hub cannot be used ({told}).")


def _fetch(repository: str, name: str, most: int, commit: str | None = None) -> Path:
    """One file, of at most so many bytes -> its folder, which is named after its commit."""
    from huggingface_hub import hf_hub_download

    size = hf_hub_download(repository, name, revision=commit, dry_run=True).file_size
    if size is None or size > most:
        raise UserError(
            f"{name} of {repository} has {size} bytes where at most {most} belong: name another."
        )
    return Path(hf_hub_download(repository, name, revision=commit)).parent
