"""The Dynamic Grain Transformer learns how regions belong together; one shot from noise cannot."""

import math

import pytest
import torch

from d2it.diffusion import Schedule, sample_maps
from d2it.grains.maps import fine_share, neighbour_agreement
from d2it.models.grain_transformer import GrainTransformer, grain_loss, one_hot

SIDE = 8


def half_planes(n: int, generator: torch.Generator) -> torch.Tensor:
    """Maps whose fine regions lie beyond a line beside the middle, on any side: fine neighbours are
    fine, and yet no region is fine more than half the time.
    """
    angle = 2 * math.pi * torch.rand(n, 1, 1, generator=generator)
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    return (place * angle.cos() + place[:, None] * angle.sin() > 1.5).long()


@pytest.fixture(scope="module")
def trained():
    """A small network after a short training on half-planes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = GrainTransformer(SIDE, 2, width=32, depth=2, heads=2, classes=0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0)
    generator, schedule, steps = torch.Generator().manual_seed(0), Schedule(), 300
    for step in range(steps):
        map = half_planes(32, generator)
        t = torch.randint(1000, (32,), generator=generator)
        noise = torch.randn(32, 2, SIDE, SIDE, generator=generator)
        loss = grain_loss(network(schedule.q_sample(one_hot(map, 2), t, noise), t), map)
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / steps)
        optimiser.step()
    return network.eval()


def source(n: int, seed: int = 0):
    def noise(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        return torch.randn(n, 2, SIDE, SIDE, generator=generator)

    return noise


@pytest.fixture(scope="module")
def data():
    return half_planes(512, torch.Generator().manual_seed(7))


def departures(maps: torch.Tensor, data: torch.Tensor) -> tuple[float, float, float]:
    """How far the share of fine regions, neighbours and single regions are from the data's."""
    return (
        abs(fine_share(maps) - fine_share(data)),
        abs(neighbour_agreement(maps) - neighbour_agreement(data)),
        (maps.double().mean(0) - data.double().mean(0)).abs().max().item(),
    )


def test_sampled_maps_have_the_statistics_of_the_data(trained, data):
    maps = sample_maps(trained, source(96), 30)
    assert maps.shape == (96, SIDE, SIDE) and set(maps.unique().tolist()) <= {0, 1}
    share, neighbours, regions = departures(maps, data)
    assert share < 0.03 and neighbours < 0.05 and regions < 0.2


def test_one_shot_from_noise_fails_the_same_statistics(trained, data):
    """It knows each region's frequency alone: the argmax is the coarse map over and over, and
    regions drawn one by one have the data's share but not its neighbours.
    """
    with torch.no_grad():
        probability = trained(source(128)(0), torch.full((128,), 999)).softmax(1)[:, 1]
    share, neighbours, _ = departures((probability > 0.5).long(), data)
    assert share > 0.25 and neighbours > 0.05
    chance = torch.rand(probability.shape, generator=torch.Generator().manual_seed(0))
    share, neighbours, _ = departures((chance < probability).long(), data)
    assert share < 0.03 and neighbours > 0.2


def test_maps_depend_on_the_noise_alone(trained):
    assert torch.equal(
        sample_maps(trained, source(4, 3), 10), sample_maps(trained, source(4, 3), 10)
    )
    assert not torch.equal(
        sample_maps(trained, source(4, 3), 10), sample_maps(trained, source(4, 4), 10)
    )


def test_drawing_from_the_last_logits_is_their_argmax(trained):
    maps = sample_maps(trained, source(64), 30)
    x = Schedule().q_sample(one_hot(maps, 2), torch.zeros(64, dtype=torch.long), source(64)(1))
    with torch.no_grad():
        probability = trained(x, torch.zeros(64)).softmax(1)
    assert (probability.amax(1) > 0.95).double().mean() > 0.98


def test_loss_is_the_cross_entropy_of_the_map():
    map = torch.tensor([[[0, 2], [1, 0]]])
    assert torch.equal(one_hot(map, 3)[0, :, 0, 1], torch.tensor([-1.0, -1.0, 1.0]))
    assert grain_loss(torch.zeros(1, 3, 2, 2), map) == pytest.approx(math.log(3))
    assert grain_loss(100 * one_hot(map, 3), map) < 1e-6


def test_classes_and_three_grains():
    network = GrainTransformer(4, 3, width=24, depth=1, heads=2, classes=5)
    y = torch.tensor([0, 5])
    noise = torch.randn(2, 3, 4, 4)
    assert network(noise, torch.tensor([3, 900]), y).shape == (2, 3, 4, 4)
    assert sample_maps(network, lambda step: noise, 3, y).shape == (2, 4, 4)


def test_maps_have_the_ratio_that_the_network_is_told():
    """Learnt from maps of up to four fine columns, from the left or from the right."""
    torch.manual_seed(0)
    network = GrainTransformer(4, 2, width=32, depth=2, heads=2, classes=0, any_ratio=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0)
    generator, schedule = torch.Generator().manual_seed(0), Schedule()
    for _ in range(300):
        reached = torch.randint(5, (64, 1), generator=generator) / 4
        mirrored = torch.rand(64, generator=generator) < 0.5
        map = (torch.arange(4) < 4 * reached)[:, None].expand(-1, 4, -1).long()
        map = torch.where(mirrored[:, None, None], map.flip(-1), map)
        t = torch.randint(1000, (64,), generator=generator)
        noise = torch.randn(64, 2, 4, 4, generator=generator)
        noisy = schedule.q_sample(one_hot(map, 2), t, noise)
        loss = grain_loss(network(noisy, t, None, reached), map)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    noises = torch.randn(20, 64, 2, 4, 4, generator=generator)
    for ratio in (0.0, 0.25, 0.5, 0.75, 1.0):
        told = torch.full((64, 1), ratio)
        maps = sample_maps(network, lambda step: noises[step], 20, None, schedule, told)
        assert fine_share(maps) == pytest.approx(ratio, abs=0.04)
