"""Every switch of the Dynamic Content Transformer changes what docs/model.md says, and no more.

A switched network takes all weights that it shares with the plain one; what is new in it is given
the values that should make no difference, or the difference is where it should be.
"""

import pytest
import torch

from d2it.errors import UserError
from d2it.grains.maps import mean_within, to_grid
from d2it.models.content_transformer import ContentTransformer
from d2it.models.windows import to_windows
from tests.test_content import SMALL, build, inputs


def switched(plain: ContentTransformer, **switch) -> ContentTransformer:
    """A network with one switch turned and the weights of `plain` wherever both have them."""
    network = build(seed=1, **switch)
    shared = plain.state_dict()
    own = network.state_dict()
    network.load_state_dict(
        {n: shared[n] if n in shared and shared[n].shape == v.shape else v for n, v in own.items()}
    )
    return network


def changed(plain: torch.nn.Module, other: torch.nn.Module) -> set[str]:
    """Parameters that only one of the two has, has in another shape, or learns."""
    a, b = (
        {(n, tuple(p.shape), p.requires_grad) for n, p in network.named_parameters()}
        for network in (plain, other)
    )
    return {name for name, *_ in a ^ b}


def noise(network: ContentTransformer) -> torch.Tensor:
    with torch.no_grad():
        return network(*inputs(network))


def test_three_heads_are_a_router_head_per_grain():
    plain = build()
    three = switched(plain, heads_out=3)
    assert {n.rsplit(".", 2)[0] for n in changed(plain, three)} <= {
        "router.heads.1",
        "router.heads.1.modulation",
    }
    assert not torch.allclose(noise(three), noise(plain), atol=1e-3)
    three.router.heads[1].load_state_dict(three.router.heads[0].state_dict())
    assert torch.equal(noise(three), noise(plain))


def test_without_refinenet_the_second_head_speaks_for_fine_regions_alone():
    plain = build(layers=(1, 0))
    three = switched(plain, layers=(1, 0), heads_out=3)
    map = inputs(plain)[3]
    fine = to_grid(map, 2)[:, None].expand(-1, 4, -1, -1) == 1
    ours, theirs = noise(three), noise(plain)
    assert torch.equal(ours[~fine], theirs[~fine]) and not (ours[fine] == theirs[fine]).any()


def test_a_global_bias_is_another_matrix_and_no_bias_is_one_of_zeros():
    plain = build()
    other, none = switched(plain, bias="global"), switched(plain, bias="none")
    matrices = {"refine.0.biases.0.matrix", "refine.0.biases.1.matrix"}
    assert changed(plain, other) == changed(plain, none) == matrices
    assert not torch.allclose(noise(none), noise(plain), atol=1e-4)
    for network in (plain, other):
        for bias in network.refine[0].biases:
            torch.nn.init.zeros_(bias.matrix)
    assert torch.allclose(noise(other), noise(plain), atol=1e-6)
    assert torch.allclose(noise(none), noise(plain), atol=1e-6)


@pytest.mark.parametrize("bias", ["window", "global", "none"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_fine_tokens_alone_are_all_tokens_where_all_are_fine_and_never_nan(bias, precision):
    plain = build(bias=bias)
    alone = switched(plain, bias=bias, fine_only=True)
    assert not changed(plain, alone)
    z, t, y, mixed = inputs(plain)
    fine, coarse = torch.ones_like(mixed), torch.zeros_like(mixed)
    assert 0 < mixed.float().mean() < 1 and not mixed[0, :2].any()  # windows of either, and both
    with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
        same = [torch.allclose(alone(z, t, y, m), plain(z, t, y, m)) for m in (fine, coarse, mixed)]
        assert same == [True, True, False]
        alone(z, t, y, mixed).square().sum().backward()
    hidden = alone.refine[0].windows(mixed, skip=False).hidden
    assert hidden.any() and not hidden.all(-1).any()  # of that, some kernels make NaN
    gradients = [p.grad for p in alone.parameters() if p.requires_grad]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_masked_cells_are_as_if_they_were_not_there():
    refine = build(fine_only=True).refine[0]
    block, bias = refine.blocks[0], refine.biases[0]
    map = torch.tensor([[[1, 0], [0, 1]]]).repeat(1, 2, 2)  # a window is 2 x 2 of these regions
    x, c, places = torch.randn(4, 16, 16), torch.randn(1, 16), torch.arange(4)
    windows = refine.windows(map, skip=False)
    fine = (to_windows(windows.cells[..., None], refine.window)[0, :, 0] == 1).nonzero()[:, 0]
    rows = torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        masked = block(x, c, bias(places, windows.hidden), rows)[:, fine]
        alone = block(x[:, fine], c, bias(places)[:, :, fine[:, None], fine], rows)
        assert torch.allclose(masked, alone, atol=1e-6)
        assert not torch.allclose(block(x, c, bias(places), rows)[:, fine], alone, atol=1e-4)


def test_fixed_positions_are_the_learned_ones_at_their_start():
    plain = ContentTransformer(**SMALL)
    fixed = ContentTransformer(**SMALL | dict(positions="fixed"))
    assert changed(plain, fixed) == {"refine.0.positions"}
    assert torch.equal(plain.refine[0].positions, fixed.refine[0].positions)


def test_conditions_of_its_own_are_copies_that_may_part():
    plain = build()
    own = switched(plain, share_condition=False)
    new = changed(plain, own)
    assert new and all(n.startswith(("refine_condition.0.", "refine_grain.0.")) for n in new)
    assert not torch.allclose(noise(own), noise(plain), atol=1e-3)
    own.refine_condition[0].load_state_dict(own.condition.state_dict())
    own.refine_grain[0].load_state_dict(own.grain.state_dict())
    assert torch.equal(noise(own), noise(plain))


def test_qk_norm_norms_queries_and_keys():
    plain = build()
    normed = switched(plain, qk_norm=True)
    new = changed(plain, normed)
    assert {n.rsplit(".", 2)[1] for n in new} == {"q_norm", "k_norm"}
    assert len(new) == 2 * sum(SMALL["layers"])
    assert not torch.allclose(noise(normed), noise(plain), atol=1e-3)


def test_without_learned_variance_the_noise_is_the_same():
    plain = build()
    mute = switched(plain, learn_sigma=False)
    heads = {"router.heads.0.linear", "refine.0.head.linear"}
    assert {n.rpartition(".")[0] for n in changed(plain, mute)} == heads
    for name in heads:  # outputs are ordered cell by cell, channels last: noise, then variance
        ours, theirs = mute.get_submodule(name), plain.get_submodule(name)
        with torch.no_grad():
            channels = SMALL["channels"]
            for part in ("weight", "bias"):
                whole = getattr(theirs, part).unflatten(0, (-1, 2 * channels))
                getattr(ours, part).copy_(whole[:, :channels].flatten(0, 1))
    assert torch.allclose(noise(mute), noise(plain)[:, : SMALL["channels"]], atol=1e-6)


def test_independent_noise_only_leaves_out_the_mean_within_codes():
    plain = build(layers=(1, 0))
    apart = switched(plain, layers=(1, 0), equal_coarse=False)
    assert not changed(plain, apart)
    map = inputs(plain)[3]
    assert torch.equal(mean_within(noise(apart), map, 2), noise(plain))
    assert not torch.equal(noise(apart), noise(plain))


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_out_of_range_are_one_sentence(label):
    network = build()
    z, t, y, map = inputs(network)
    with pytest.raises(UserError, match=r"A label is outside 0\.\.3") as error:
        network(z, t, torch.full_like(y, label), map)
    assert "\n" not in str(error.value)
