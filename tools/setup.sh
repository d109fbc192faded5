#!/bin/sh
# Makes .venv with exactly the packages of requirements.lock, each checked by its hash.
# Needs Python 3.11 to 3.13 and, for the first step, one of: ensurepip, pip, uv. No root rights.
# Behind a mirror of the package index: export PIP_INDEX_URL (or UV_DEFAULT_INDEX).
set -eu
python=$1
lock=requirements.lock

stop() {
    echo "make setup: $1" >&2
    exit 2
}

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; }

command -v "$python" >/dev/null || stop "$python was not found: install Python 3.11 to 3.13, or name one with make setup PYTHON=..."
suits "$python" || stop "$("$python" --version) does not do: name Python 3.11 to 3.13 with make setup PYTHON=..."

# A working uv: the one of an earlier setup, the user's, or one that pip installs into .venv.
works() { "$1" --version >/dev/null 2>&1; }
if works .venv/bin/uv; then uv=.venv/bin/uv; elif works uv; then uv=uv; else uv=; fi

if ! suits .venv/bin/python 2>/dev/null; then
    free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1e6)}')
    [ "$free" -ge 7 ] || stop "$free GB are free here, but the environment needs 7 GB: free some space and run it again."
    rm -rf .venv
    # Without pip: Debian has venv but not ensurepip unless python3-venv is installed.
    if [ -n "$uv" ]; then
        "$uv" venv --quiet --python "$python" .venv
    else
        "$python" -m venv --without-pip .venv 2>/dev/null ||
            stop "$python has no venv module: install it (on Debian: apt install python3-venv) or uv, and run it again."
    fi
fi

if [ -z "$uv" ]; then
    # uv's own entry of the lock, so that its hash is checked too
    sed -n '/^uv==/,/[^\\]$/p' $lock >.venv/uv.lock
    if .venv/bin/python -m ensurepip >/dev/null 2>&1; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
    elif "$python" -m pip --version >/dev/null 2>&1; then
        # Into .venv from outside: an externally managed Python allows that.
        "$python" -m pip --python .venv/bin/python install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
    else
        stop "$python has neither ensurepip nor pip: install python3-venv (on Debian: apt install python3-venv) or uv, and run it again."
    fi
    uv=.venv/bin/uv
fi

[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
# Bytecode now: where Python may not write it, every import of torch would compile again.
"$uv" pip sync --compile-bytecode --python .venv/bin/python --require-hashes $lock
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
touch .venv/.installed
