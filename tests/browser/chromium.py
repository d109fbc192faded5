"""Debian's chromium, installed where it is missing: `python tests/browser/chromium.py`, as root.

Only the standard library is imported.
"""

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def install() -> None:
    if find():
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        raise SystemExit("app: chromium is missing: install it as root, or run this with sudo.")
    print("app: installing chromium", flush=True)
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in ("update", "install --yes --no-install-recommends chromium"):
        command = ["apt-get", "-qq", *words.split()]
        done = subprocess.run(command, env=quiet, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SystemExit(f"app: chromium cannot be installed ({said}).")


if __name__ == "__main__":
    install()
