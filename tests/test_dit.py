"""DiT: published sizes, and the numbers of independent implementations with the same weights."""

import pytest
import torch

from d2it.errors import UserError
from d2it.models.blocks import Attention, sincos_positions
from d2it.models.dit import DiT, from_released
from d2it.models.grain_transformer import GrainTransformer

SIZES = {
    "S": (384, 12, 6, 32.865),
    "B": (768, 12, 12, 130.316),
    "L": (1024, 24, 16, 457.841),
    "XL": (1152, 28, 16, 674.835),
}


def trainable(network: torch.nn.Module) -> float:
    return sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6


def shake(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights everywhere: adaLN-zero networks say nothing at first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.08, generator=generator)
    return network


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size):
    width, depth, heads, millions = SIZES[size]
    with torch.device("meta"):
        network = DiT(32, 4, 2, width, depth, heads, classes=1000)
    assert trainable(network) == pytest.approx(millions, abs=5e-4)


def test_grain_transformer_has_33_million_parameters():
    with torch.device("meta"):
        network = GrainTransformer(16, 2, 384, depth=12, heads=6, classes=1000)
    assert round(trainable(network)) == 33


def diffusers_twin(network: DiT, heads: int, depth: int) -> torch.nn.Module:
    """diffusers' DiT with the weights of ours."""
    from diffusers import DiTTransformer2DModel

    state = network.state_dict()
    width = state["positions"].shape[1]
    twin = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=network.channels,
        out_channels=2 * network.channels,
        num_layers=depth,
        sample_size=network.side,
        patch_size=network.patch,
        num_embeds_ada_norm=network.classes,
        norm_eps=1e-6,
    )
    theirs = {}  # positions are computed
    names = {"patch_embed.proj": "pos_embed.proj", "head.linear": "proj_out_2"}
    names["head.modulation.1"] = "proj_out_1"
    for i in range(depth):
        ours, block = f"blocks.{i}.", f"transformer_blocks.{i}."
        names[ours + "attn.proj"] = block + "attn1.to_out.0"
        names[ours + "mlp.0"] = block + "ff.net.0.proj"
        names[ours + "mlp.2"] = block + "ff.net.2"
        names[ours + "modulation.1"] = block + "norm1.linear"
        embedder = block + "norm1.emb."
        theirs[embedder + "class_embedder.embedding_table.weight"] = state["condition.label.weight"]
        for part in ("weight", "bias"):
            for layer, name in ((0, "linear_1"), (2, "linear_2")):
                value = state[f"condition.time.mlp.{layer}.{part}"]
                theirs[f"{embedder}timestep_embedder.{name}.{part}"] = value
            qkv = state[f"{ours}attn.qkv.{part}"].chunk(3)
            for name, value in zip("qkv", qkv, strict=True):
                theirs[f"{block}attn1.to_{name}.{part}"] = value
    for ours, name in names.items():
        for part in ("weight", "bias"):
            theirs[f"{name}.{part}"] = state[f"{ours}.{part}"]
    twin.load_state_dict(theirs, strict=True)
    for block in twin.transformer_blocks:
        # diffusers divides the exponents of the 128 frequencies by 127; DiT's own code by 128
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return twin.eval()


def test_equals_diffusers():
    torch.manual_seed(0)
    network = shake(DiT(8, 4, 2, 48, 3, 4, classes=10))
    twin = diffusers_twin(network, heads=4, depth=3)
    x, t, y = torch.randn(3, 4, 8, 8), torch.tensor([0, 481, 999]), torch.tensor([0, 3, 10])
    with torch.no_grad():
        ours, theirs = network(x, t, y), twin(x, timestep=t, class_labels=y).sample
    assert ours.abs().mean() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=0)


def test_equals_timm_attention_and_mlp():
    from timm.layers import Mlp
    from timm.models.vision_transformer import Attention as TimmAttention

    from d2it.models.blocks import Block

    block = shake(Block(48, 4))
    attention = TimmAttention(48, num_heads=4, qkv_bias=True)
    attention.load_state_dict(block.attn.state_dict())
    mlp = Mlp(48, 192, act_layer=lambda: torch.nn.GELU(approximate="tanh"))
    names = {"fc1.weight": "0.weight", "fc1.bias": "0.bias"}
    names |= {"fc2.weight": "2.weight", "fc2.bias": "2.bias"}
    mlp.load_state_dict({theirs: block.mlp.state_dict()[ours] for theirs, ours in names.items()})
    x = torch.randn(2, 9, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(block.attn(x), attention(x), atol=1e-5)
        assert torch.allclose(block.mlp(x), mlp(x), atol=1e-5)


RELEASED = {  # layers of the released checkpoints -> ours
    "x_embedder.proj": "patch_embed.proj",
    "t_embedder.mlp.0": "condition.time.mlp.0",
    "t_embedder.mlp.2": "condition.time.mlp.2",
    "final_layer.linear": "head.linear",
    "final_layer.adaLN_modulation.1": "head.modulation.1",
}
for i in range(2):
    for theirs, ours in {
        "attn.qkv": "attn.qkv",
        "attn.proj": "attn.proj",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
        "adaLN_modulation.1": "modulation.1",
    }.items():
        RELEASED[f"blocks.{i}.{theirs}"] = f"blocks.{i}.{ours}"


def test_reads_released_checkpoints():
    ours = shake(DiT(8, 4, 2, 32, 2, 2, classes=5)).state_dict()
    released = {
        f"{theirs}.{part}": ours[f"{name}.{part}"]
        for theirs, name in RELEASED.items()
        for part in ("weight", "bias")
    }
    released["y_embedder.embedding_table.weight"] = ours["condition.label.weight"]
    released["pos_embed"] = ours["positions"][None]  # theirs carry a batch dimension
    twin = DiT(8, 4, 2, 32, 2, 2, classes=5)
    from_released(twin, released)
    assert all(value.equal(ours[name]) for name, value in twin.state_dict().items())
    with pytest.raises(
        UserError, match=r"positions is \[16, 32\] there, and \[16, 48\] in"
    ) as error:
        from_released(DiT(8, 4, 2, 48, 2, 2, classes=5), released)
    assert "\n" not in str(error.value)


def test_starts_at_zero_and_positions_are_not_learned():
    network = DiT(8, 4, 2, 32, 2, 2, classes=0)
    assert not network(torch.randn(2, 4, 8, 8), torch.tensor([1, 2])).any()
    assert not network.positions.requires_grad
    assert torch.equal(network.positions, sincos_positions(32, 4))


def test_checkpointing_changes_nothing():
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    gradients = []
    for checkpointing in (False, True):
        network = shake(DiT(8, 4, 2, 32, 2, 2, classes=0, checkpointing=checkpointing))
        network(x, t).square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_qk_norm_bounds_the_scores():
    attention = Attention(32, 2, qk_norm=True)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        small = attention(x)
        attention.qkv.weight[:64] *= 1000  # queries and keys a thousand times as long
        assert torch.allclose(attention(x), small, atol=1e-3)


def test_wrong_input_is_one_sentence():
    network = DiT(8, 4, 2, 32, 1, 2, classes=3)
    t = torch.zeros(1, dtype=torch.long)
    with pytest.raises(UserError, match=r"\(4, 8, 8\)"):
        network(torch.zeros(1, 4, 16, 16), t)
    with pytest.raises(UserError, match="label"):
        network(torch.zeros(1, 4, 8, 8), t, torch.tensor([4]))
    with pytest.raises(UserError, match="divide"):
        DiT(9, 4, 2, 32, 1, 2, classes=0)
    with pytest.raises(UserError, match="heads"):
        DiT(8, 4, 2, 32, 1, 3, classes=0)
