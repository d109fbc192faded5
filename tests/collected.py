"""The tests that pytest collects of these words, in a process that simulates no device."""

import sys

import pytest

code = pytest.main(["-q", "--collect-only", *sys.argv[1:]])
assert "tests.simulated" not in sys.modules, "simulated"
sys.exit(code)
