"""The Dynamic Content Transformer: what each part sees and says, for every form of it."""

import pytest
import torch

from d2it.errors import UserError
from d2it.grains.maps import constant_map, copy_within, to_grid
from d2it.models.blocks import Modulation
from d2it.models.content_transformer import ContentTransformer, from_windows, to_windows

SMALL = dict(side=8, channels=2, grains=2, width=16, heads=2, layers=(1, 2), window=4, classes=3)
FORMS = [
    dict(),
    dict(bias="global", heads_out=3, positions="fixed"),
    dict(share_condition=False, qk_norm=True, learn_sigma=False),
    dict(grains=3, window=2, heads_out=3),
    dict(grains=3, window=2, bias="global", share_condition=False),
    dict(fine_only=True, bias="none"),
    dict(fine_only=True, grains=3, window=2),
]


def build(seed: int = 0, **changes) -> ContentTransformer:
    """A small network with random weights everywhere."""
    network = ContentTransformer(**SMALL | changes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=generator)
    return network


def inputs(network: ContentTransformer, map: torch.Tensor | None = None, n: int = 3):
    generator = torch.Generator().manual_seed(1)
    regions = network.side // network.patch
    if map is None:
        map = torch.randint(network.grains, (n, regions, regions), generator=generator)
        map[0, : regions // 2] = 0  # whole windows without fine regions
    z = torch.randn(len(map), network.channels, 8, 8, generator=generator)
    t = torch.randint(1000, (len(map),), generator=generator)
    y = torch.randint(4, (len(map),), generator=generator)
    return z, t, y, map


def test_published_sizes_of_the_preset_and_of_the_plain_design():
    sizes = {  # reconstruction notes 2.3: D2 reaches the published 136, 467 and 687 M; D0 does not
        (768, 12, (10, 2)): (135.601, 131.518),
        (1024, 16, (20, 4)): (467.334, 459.976),
        (1152, 16, (23, 5)): (686.629, 677.534),
    }
    preset = dict(heads_out=3, bias="global", positions="learned", share_condition=True)
    plain = dict(heads_out=2, bias="window", positions="fixed", share_condition=True)
    for (width, heads, layers), expected in sizes.items():
        for form, millions in zip((preset, plain), expected, strict=True):
            with torch.device("meta"):
                network = ContentTransformer(32, 4, 2, width, heads, layers, 4, 1000, **form)
            count = sum(p.numel() for p in network.parameters() if p.requires_grad)
            assert count / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("form", FORMS)
def test_cells_of_a_code_are_equal(form):
    network = build(**form)
    z, t, y, map = inputs(network)
    with torch.no_grad():
        noise = network(z, t, y, map)
    assert noise.shape == (3, 2 if form.get("learn_sigma") is False else 4, 8, 8)
    assert torch.equal(noise, copy_within(noise, map, network.grains))
    fine = noise[:, :1][(to_grid(map, network.patch) == network.grains - 1)[:, None]]
    assert fine.unique().numel() == fine.numel()  # fine cells each have their own


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_all_coarse_leaves_refinenet_idle(form, skip):
    network = build(**form, skip_windows=skip)
    z, t, y, map = inputs(network, constant_map(2, network.side // network.patch, 0))
    noise = network(z, t, y, map)
    noise.square().sum().backward()
    idle = [p for n, p in network.named_parameters() if n.startswith("refine") and p.requires_grad]
    assert idle and not any(p.grad.any() for p in idle)
    for parameter in idle:
        parameter.data.add_(1.0)
    assert torch.equal(network(z, t, y, map), noise)


def test_all_fine_is_refined_everywhere():
    network = build()
    z, t, y, map = inputs(network, constant_map(2, 4, 1))
    with torch.no_grad():
        before = network(z, t, y, map)
        network.refine[0].head.linear.bias.add_(1.0)
        change = network(z, t, y, map) - before
    assert torch.allclose(change, torch.ones_like(change), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_leaving_out_windows_changes_nothing(form):
    outputs, gradients = [], []
    for skip in (False, True):
        network = build(**form, skip_windows=skip)
        z, t, y, map = inputs(network)
        noise = network(z.requires_grad_(), t, y, map)
        noise.square().sum().backward()
        outputs.append(noise)
        gradients.append([z.grad, *(p.grad for p in network.parameters() if p.requires_grad)])
    assert torch.allclose(*outputs, atol=1e-5)
    for dense, sparse in zip(*gradients, strict=True):
        assert torch.allclose(dense, sparse, atol=1e-5 * max(1.0, dense.abs().max().item()))


def test_leaving_out_windows_does_less_work():
    network = build(skip_windows=True)
    z, t, y, map = inputs(network, constant_map(2, 4, 0))
    map[1, 3, 3] = 1
    sizes = []
    network.refine[0].blocks[0].register_forward_hook(lambda m, i, o: sizes.append(o.shape))
    network(z, t, y, map)
    assert sizes == [(1, 16, 16)]  # one of eight windows


@pytest.mark.parametrize("form", FORMS)
def test_windows_that_are_known_before_change_nothing(form):
    """As sampling knows them: of all steps, and only those with fine regions."""
    network = build(**form)
    z, t, y, map = inputs(network)
    sizes = []
    network.refine[0].blocks[0].register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    with torch.no_grad():
        dense = network(z, t, y, map)
        live = network(z, t, y, map, network.live_windows(map, z.device))
    assert torch.allclose(live, dense, atol=1e-6)
    assert sizes[1] < sizes[0]


def test_windows_share_their_images_vectors_exactly_in_bf16():
    """The gradient of 64 windows is rounded once, not after each is added."""
    torch.manual_seed(0)
    layer = Modulation(32, 2)
    rows = torch.arange(2).repeat_interleave(64)
    c, back = torch.randn(2, 32), torch.rand(128, 64)

    def gradient(rows: torch.Tensor | None, back: torch.Tensor) -> torch.Tensor:
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            vectors = torch.cat(layer(c, rows), dim=1)
        vectors.backward(back.to(vectors.dtype))
        return layer[1].bias.grad

    summed = back.bfloat16().float().view(2, 64, 64).sum(1)
    assert torch.equal(gradient(rows, back), gradient(None, summed))


def test_refinenet_starts_as_no_correction():
    network = ContentTransformer(**SMALL)
    assert not network.refine[0].head.linear.weight.any()
    with torch.no_grad():
        network.router.heads[0].linear.bias.normal_()
    z, t, y, map = inputs(network)
    with torch.no_grad():
        full = network(z, t, y, map)
        network.refine = torch.nn.ModuleList()
        assert torch.equal(network(z, t, y, map), full)


def test_windows_do_not_see_each_other():
    network = build()
    with torch.no_grad():  # silence what sees the whole image
        for parameter in network.router.parameters():
            parameter.zero_()
    z, t, y, map = inputs(network, constant_map(1, 4, 1))
    with torch.no_grad():
        before = network(z, t, y, map)
        z[:, :, :4, :4] += 1  # the first of four windows
        change = (network(z, t, y, map) - before).abs().amax(1)[0]
    assert change[:4, :4].min() > 0
    assert not change[4:].any() and not change[:, 4:].any()


def test_position_bias_tells_the_tokens_of_a_window_apart():
    for bias in ("window", "global"):
        network = build(bias=bias, positions="fixed")
        z, t, y, map = inputs(network)
        with torch.no_grad():
            with_bias = network(z, t, y, map)
            for layer in network.refine[0].biases:
                layer.matrix.zero_()
            assert not torch.allclose(network(z, t, y, map), with_bias, atol=1e-4)


def test_global_bias_is_read_at_the_tokens_of_each_window():
    layer = ContentTransformer(**SMALL | dict(bias="global")).refine[0].biases[0]
    with torch.no_grad():
        layer.matrix.copy_(torch.arange(64.0**2).view(64, 64))
    bias = layer(torch.tensor([3]))[0, 0]  # the window of rows and columns 4..7
    tokens = [8 * row + column for row in range(4, 8) for column in range(4, 8)]
    assert bias[1, 5] == 64 * tokens[1] + tokens[5]


def test_windows_and_back():
    grid = torch.randn(2, 8, 8, 3)
    windows = to_windows(grid, 4)
    assert torch.equal(windows[1].view(4, 4, 3), grid[0, :4, 4:])
    assert torch.equal(from_windows(windows, 8, 4), grid)


def test_learned_positions_are_the_finest_tokens_or_without_refinenet_the_regions():
    refined, rough = build(), build(layers=(3, 0))
    assert refined.refine[0].positions.requires_grad
    assert not refined.multi_grained.positions.requires_grad
    assert rough.multi_grained.positions.requires_grad and not rough.refine
    z, t, y, map = inputs(rough)
    rough(z, t, y, map).sum().backward()
    assert rough.multi_grained.positions.grad.any()


def test_the_map_and_the_class_matter():
    network = build()
    z, t, y, map = inputs(network)
    with torch.no_grad():
        noise = network(z, t, y, map)
        assert not torch.allclose(network(z, t, y, 1 - map), noise, atol=1e-3)
        assert not torch.allclose(network(z, t, (y + 1) % 4, map), noise, atol=1e-3)
        nobody = torch.full_like(y, 3)
        assert torch.equal(network(z, t, None, map), network(z, t, nobody, map))


def test_coarse_cells_one_by_one_for_independent_noise():
    network = build(equal_coarse=False)
    z, t, y, map = inputs(network)
    with torch.no_grad():
        noise = network(z, t, y, map)
    assert not torch.allclose(noise, copy_within(noise, map, 2), atol=1e-3)


def test_wrong_input_is_one_sentence():
    network = build()
    z, t, y, map = inputs(network)
    with pytest.raises(UserError, match="4 x 4 grain maps"):
        network(z, t, y, map[:, :2])
    with pytest.raises(UserError, match=r"\(2, 8, 8\) latents, but was given \(1, 8, 8\)"):
        network(z[:, :1], t, y, map)
    with pytest.raises(UserError, match="grains 0"):
        network(z, t, y, map + 1)
    with pytest.raises(UserError, match="window"):
        build(window=3)
