"""Fixtures of more than one file of tests."""

import subprocess
import sys

import pytest
import yaml


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    """A composed configuration to change, so that commands need not compose one."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "d2it", "config", "--write", str(path)], timeout=60, check=True
    )
    assert done.returncode == 0
    return yaml.safe_load(path.read_text())
