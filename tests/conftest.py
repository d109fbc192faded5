"""Fixtures of more than one file of tests."""

import pytest

from d2it.config.load import compose


@pytest.fixture(scope="session")
def params():
    """A composed configuration, so that commands need not compose one: change a copy."""
    return compose()
