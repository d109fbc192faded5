"""The DVAE: published sizes, and grains that stay apart."""

import dataclasses

import pytest
import torch

from d2it.config import load
from d2it.config.run import run_of
from d2it.errors import UserError
from d2it.grains.maps import constant_map, random_map
from d2it.models.architecture import architecture
from d2it.models.discriminator import Discriminator
from d2it.models.dvae import Dvae, in_use, to_network, to_pixels
from d2it.training.dvae_loss import kl_per_value

SMALL = {
    "factors": [8, 4],
    "size": 32,
    "latent_channels": 4,
    "channels": 8,
    "multipliers": [1, 1, 2, 2],
    "res_blocks": 1,
    "attention": [8],
    "norm_groups": 4,
}
THREE = SMALL | {"factors": [16, 8, 4], "multipliers": [1, 1, 2, 2, 2]}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def build(**changes) -> Dvae:
    torch.manual_seed(0)
    return Dvae(**(SMALL | changes))


def noises(model: Dvae, n: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = [model.size // factor for factor in model.factors]
    return [torch.randn((n, model.latent_channels, s, s), generator=generator) for s in sides]


def test_published_sizes():
    """Stable Diffusion's f = 8 VAE has 83.654 M; with the coarse stage and head, 105.990 M."""
    config = load(overrides=["scale=paper"])
    with torch.device("meta"):
        dual = Dvae(**architecture(run_of(config, "dvae")))
        stages = dual.encoder.stages
        f8 = Dvae([8], 256, 4, 128, [1, 2, 4, 4], 2, [], 32)
    assert count(f8) == 83_653_863
    assert count(dual) == 105_989_943
    assert count(dual.encoder) == 56_499_744 and count(dual.decoder) == 49_490_199
    assert [stage[0].conv2.out_channels for stage in stages] == [128, 256, 512, 512, 512]


@pytest.mark.parametrize("arguments", [SMALL, THREE])
def test_shapes(arguments):
    model = Dvae(**arguments)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    moments = model.encode(x)
    assert [tuple(mean.shape) for mean, _ in moments] == [
        (2, 4, 32 // factor, 32 // factor) for factor in arguments["factors"]
    ]
    map = random_map(
        torch.Generator().manual_seed(0),
        2,
        32 // arguments["factors"][0],
        [0.4] * (len(moments) - 1),
    )
    reconstruction, _ = model(x, map, noises(model, 2))
    assert reconstruction.shape == x.shape


@pytest.mark.parametrize("grain", [0, 1])
def test_constant_maps_use_one_grain(grain):
    """All coarse or all fine: the other grain changes nothing, and its head learns nothing."""
    model, x = build(), torch.rand(2, 3, 32, 32) * 2 - 1
    map = constant_map(2, 4, grain)
    ours, other = noises(model, 2), noises(model, 2, seed=1)
    mixed = list(ours)
    mixed[1 - grain] = other[1 - grain]
    first, second = model(x, map, ours)[0], model(x, map, mixed)[0]
    assert torch.equal(first, second)
    mixed = list(ours)
    mixed[grain] = other[grain]
    assert not torch.equal(first, model(x, map, mixed)[0])
    first.sum().backward()
    idle, busy = (model.encoder.heads[i].conv.weight.grad for i in (1 - grain, grain))
    assert idle is not None and not idle.any() and busy.any()  # idle, but part of the graph


def test_coarse_cells_share_one_sampled_code():
    """The posterior is sampled before neighbour copying."""
    model, x, seen = build(), torch.rand(2, 3, 32, 32) * 2 - 1, []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x, constant_map(2, 4, 0), noises(model, 2))
    cells = seen[0].unflatten(2, (4, 2)).unflatten(4, (4, 2))
    assert torch.equal(cells, cells[:, :, :, :1, :, :1].expand_as(cells))


@pytest.mark.parametrize("k", [2, 3])
def test_kl_sees_codes_in_use_only(k):
    generator = torch.Generator().manual_seed(0)
    map = random_map(generator, 3, 4, [1 / k] * (k - 1))
    shapes = [(3, 4, 4 * 2**grain, 4 * 2**grain) for grain in range(k)]
    moments = [
        (torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
        for shape in shapes
    ]
    kl = kl_per_value(moments, map, 32 * 32)
    wild = [
        tuple(torch.where(used, one, one + 50) for one in moment)
        for moment, used in zip(moments, in_use(map, k), strict=True)
    ]
    assert torch.equal(kl_per_value(wild, map, 32 * 32), kl)
    by_hand = sum(
        (0.5 * (mean**2 + logvar.exp() - 1 - logvar) * used).sum()
        for (mean, logvar), used in zip(moments, in_use(map, k), strict=True)
    )
    assert kl == pytest.approx(float(by_hand) / (3 * 3 * 32 * 32), rel=1e-5)


def test_fixed_factor_is_the_same_code():
    model, x = build(factors=[8]), torch.rand(1, 3, 32, 32)
    assert [mean.shape[-1] for mean, _ in model.encode(x)] == [4]
    assert model(x, constant_map(1, 4, 0), noises(model, 1))[0].shape == x.shape


def test_checkpointing_changes_no_number():
    x, map = torch.rand(2, 3, 32, 32) * 2 - 1, constant_map(2, 4, 0)
    gradients = []
    for checkpointing in (False, True):
        model = build(checkpointing=checkpointing)
        model(x, map, noises(model, 2))[0].square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_logvar_is_clamped():
    model = build()
    for head in model.encoder.heads:
        torch.nn.init.constant_(head.quant.bias, 1e4)
    assert all(logvar.max() == 20 for _, logvar in model.encode(torch.zeros(1, 3, 32, 32)))


def test_pixels_survive_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    assert torch.equal(to_pixels(to_network(pixels)), pixels)


def test_every_image_decodes():
    """Also where norms divide by a variance of zero, and at the ends of the range."""
    model = build()
    board = torch.arange(32)[:, None].add(torch.arange(32)).remainder(2).mul(255)
    pictures = [torch.zeros(32, 32), torch.full((32, 32), 255), board]
    pixels = torch.stack(pictures).to(torch.uint8)[..., None].expand(-1, -1, -1, 3)
    for grain in (0, 1):
        y, moments = model(to_network(pixels), constant_map(3, 4, grain), noises(model, 3))
        assert y.isfinite().all() and to_pixels(y).shape == pixels.shape
        assert all(part.isfinite().all() for moment in moments for part in moment)


def test_discriminator_sees_each_image_alone():
    """GroupNorm: logits do not depend on the rest of the batch, so shards change nothing."""
    torch.manual_seed(0)
    model, x = Discriminator(8, 2, 4), torch.randn(4, 3, 32, 32)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-6)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"size": 36}, "divide into regions of 8 px"),
        ({"multipliers": [1, 2, 2]}, "3 stages"),
        ({"norm_groups": 5}, "norm_groups"),
        ({"factors": [8, 2]}, "halve"),
    ],
)
def test_sizes_that_do_not_fit(changes, words):
    with pytest.raises(UserError, match=words):
        Dvae(**(SMALL | changes))


def test_images_that_do_not_fit():
    with pytest.raises(UserError, match="32 x 32"):
        build().encode(torch.zeros(1, 3, 64, 64))


def test_every_scale_builds():
    for scale in ("smoke", "demo", "mini"):
        config = load(overrides=[f"scale={scale}"])
        model = Dvae(**architecture(run_of(config, "dvae")))
        settings = dataclasses.asdict(config.model.dvae)
        Discriminator(
            settings["discriminator_channels"],
            settings["discriminator_layers"],
            settings["norm_groups"],
        )
        assert [mean.shape[1] for mean, _ in model.encode(torch.zeros(1, 3, 64, 64))] == [4, 4]
