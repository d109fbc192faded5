"""Bytes from elsewhere: resumed downloads, and single files out of packages of the Python index.

Nothing that arrives is run or opened before its sha256 was compared.
"""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from d2it.files import atomic_path, file_digest, matches, require_space
from d2it.version import __version__

TIMEOUT = 30  # seconds without a byte
TRIES = 4  # of a broken connection, each going on where the last stopped
WORDS = 200  # characters of a server's reason
PAUSE = 0.5  # seconds before the second try; doubled each time
CHUNK = 1 << 20
LARGEST = 1 << 30  # bytes of a package whose size its index does not tell; ours have 100 MB


class DownloadError(Exception):
    """This address did not give the file; another one may."""


class _Broken(DownloadError):
    """The connection failed: trying again may help."""


def download(url: str, target: Path, sha256: str, size: int | None = None) -> None:
    """Fetch `url`, going on from `<target>.part` where an earlier try stopped. size None: it is
    not known, and at most LARGEST.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with _kept(part):
        resumed = part.stat().st_size > 0
        _complete(url, part, size)
        intact = matches(part, sha256)
        if resumed and not intact:  # of another version: once more from byte 0
            os.truncate(part, 0)
            _complete(url, part, size)
            intact = matches(part, sha256)
        if not intact:
            os.truncate(part, 0)
            raise DownloadError(f"{url}: the checksum is not {sha256[:12]}…")
        os.replace(part, target)


def _complete(url: str, part: Path, size: int | None) -> None:
    for attempt in range(TRIES):
        try:
            return _transfer(url, part, size)
        except _Broken:
            if attempt == TRIES - 1:
                raise
            time.sleep(PAUSE * 2**attempt)


@contextmanager
def _kept(part: Path) -> Iterator[None]:
    """With what an earlier try has left; it goes if nothing is in it."""
    part.touch()
    try:
        yield
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()


def _transfer(url: str, part: Path, size: int | None) -> None:
    """One connection: append to `part` what is missing."""
    start = part.stat().st_size
    if start and start == size:
        return  # complete, but the command was killed before the check
    response, start = _connect(url, start)
    with response:
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        most = LARGEST if size is None else size
        if total is not None and not (size or 0) <= total <= most:
            raise DownloadError(
                f"{url}: {total} bytes are offered instead of {size or f'at most {most}'}"
            )
        require_space(part.parent, (most if total is None else total) - start)
        progress = tqdm(
            desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None
        )
        with open(part, "ab" if start else "wb") as file, progress:
            for chunk in _chunks(url, response):
                if file.tell() + len(chunk) > most:
                    file.truncate(0)
                    raise DownloadError(f"{url}: more than {most} bytes arrive")
                file.write(chunk)
                progress.update(len(chunk))
    arrived = part.stat().st_size
    if total is not None and arrived < total:
        raise _Broken(f"{url}: the connection broke after {arrived} of {total} bytes")


def _connect(url: str, start: int) -> tuple[HTTPResponse, int]:
    """An open response and the byte that it starts at: 0 where the server cannot resume."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: only http and https are fetched")
    headers = {"User-Agent": f"d2it/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the part is longer than the file: begin again
            return _connect(url, 0)
        kind = _Broken if error.code >= 500 or error.code in (408, 429) else DownloadError
        raise kind(f"{url}: the server answers {error.code} {str(error.reason)[:WORDS]}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        final = isinstance(reason, (str, ConnectionRefusedError, socket.gaierror))
        raise (DownloadError if final else _Broken)(f"{url}: {str(reason)[:WORDS]}") from None
    resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
        f"bytes {start}-"
    )
    return response, start if resumed else 0


def _opener() -> urllib.request.OpenerDirector:
    """urllib's own without ftp, file and data, to which a server could send us on."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _chunks(url: str, response: HTTPResponse) -> Iterator[bytes]:
    """Reading errors are the connection's; writing errors (a full disk) stay the caller's."""
    while True:
        try:
            chunk = response.read1(CHUNK)  # what has arrived: a killed command keeps it
        except (OSError, HTTPException) as error:
            raise _Broken(f"{url}: the connection broke ({error})") from None
        if not chunk:
            return
        yield chunk


def download_from_package(address: str, target: Path, sha256: str, size: int) -> Path:
    """The file of `package:NAME==VERSION#FILE`, or without `#FILE` the package's archive itself.

    Returns the archive that was fetched: other files may share it.
    """
    requirement, _, member = address.removeprefix("package:").partition("#")
    url, archive_sha256, bytes = _locate(requirement)
    archive = target.parent / urllib.parse.unquote(url.rpartition("/")[2])
    if not (archive.is_file() and file_digest(archive) == archive_sha256):
        if url.startswith("file:"):  # an index in a folder
            archive.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(urllib.request.url2pathname(urllib.parse.urlsplit(url).path), archive)
        else:
            download(url, archive, archive_sha256, bytes)
    _extract(archive, member, target, sha256, size)
    return archive


def _locate(requirement: str) -> tuple[str, str, int | None]:
    """URL, sha256 and bytes of a package's archive, from the index that this machine asks.

    uv resolves without dependencies, so it builds nothing: no code of the package is run.
    """
    from uv import find_uv_bin

    command = [find_uv_bin(), "pip", "compile", "-", "--no-deps", "--format", "pylock.toml"]
    environment = {"UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": str(TIMEOUT), **os.environ}
    if "PIP_INDEX_URL" in environment:
        environment.setdefault("UV_DEFAULT_INDEX", environment["PIP_INDEX_URL"])
    answer = subprocess.run(
        [*command, "--no-header", "--quiet", "--python", sys.executable],
        input=requirement,
        check=False,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1].strip()
        raise DownloadError(f"package {requirement}: {reason.removeprefix('cause: ')}")
    package: dict[str, Any] = tomllib.loads(answer.stdout)["packages"][0]
    archive = (package.get("wheels") or [package.get("sdist", {})])[0]
    try:
        return archive["url"], archive["hashes"]["sha256"], archive.get("size")
    except KeyError:
        raise DownloadError(f"package {requirement}: the index gives no sha256") from None


def _extract(archive: Path, member: str, target: Path, sha256: str, size: int) -> None:
    """Copy one file out of a wheel or source archive, or all of it without a `member`; never more
    bytes than it should have."""
    opener = _open_zip if zipfile.is_zipfile(archive) else _open_tar
    with (
        opener(archive, member) if member else open(archive, "rb") as stream,
        atomic_path(target) as temporary,
    ):
        digest, left = hashlib.sha256(), size + 1
        with open(temporary, "wb") as file:
            while chunk := stream.read(min(CHUNK, left)):
                file.write(chunk)
                digest.update(chunk)
                left -= len(chunk)
        if left != 1 or digest.hexdigest() != sha256:
            what = f"{member} in {archive.name}" if member else archive.name
            raise DownloadError(f"{what}: the sha256 is not {sha256[:12]}…")


@contextmanager
def _open_zip(archive: Path, member: str) -> Iterator[IO[bytes]]:
    with (
        zipfile.ZipFile(archive) as opened,
        opened.open(_only(opened.namelist(), member, archive)) as stream,
    ):
        yield stream


@contextmanager
def _open_tar(archive: Path, member: str) -> Iterator[IO[bytes]]:
    with tarfile.open(archive) as opened:
        files = [entry.name for entry in opened.getmembers() if entry.isfile()]
        stream = opened.extractfile(_only(files, member, archive))
        assert stream is not None  # it is a file
        with stream:
            yield stream


def _only(names: list[str], member: str, archive: Path) -> str:
    found = [name for name in names if f"/{name}".endswith(f"/{member}")]
    if len(found) != 1:
        raise DownloadError(f"{archive.name} holds {len(found)} files named {member}")
    return found[0]
