"""What holds for each test on a GPU."""

import pytest
import torch


@pytest.fixture(autouse=True)
def cuda_is_the_accelerator(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu"):
        found = torch.accelerator.current_accelerator()
        assert found is not None and found.type == "cuda"
