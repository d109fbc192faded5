"""Closed forms of parameters and MACs equal the networks themselves, and what was published."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from d2it.config.published import published
from d2it.config.recipe import KINDS
from d2it.config.run import run_of
from d2it.cost.macs import cost, discriminator, dvae_step, gmacs, live_gmacs, parameters
from d2it.cost.named_models import models_table, named_models
from d2it.models.architecture import architecture, split_layers
from tests.composed import composed

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def models():
    return named_models()


def measure(kind: str, arguments: dict) -> tuple[int, int, float]:
    """Trainable and all parameters and MACs of the network, on the meta device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from d2it.models.content_transformer import ContentTransformer
    from d2it.models.dit import DiT
    from d2it.models.dvae import Dvae
    from d2it.models.grain_transformer import GrainTransformer

    classes = {"dvae": Dvae, "grain": GrainTransformer, "content": ContentTransformer, "dit": DiT}
    with torch.device("meta"):
        network = classes[kind](**arguments)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        t = torch.zeros(1)
        if kind == "dvae":
            network.encode(torch.zeros(1, 3, network.size, network.size))
            side = network.size // network.factors[-1]
            network.decode(torch.zeros(1, network.latent_channels, side, side))
        else:
            side = arguments["side"]
            x = torch.zeros(1, arguments["grains" if kind == "grain" else "channels"], side, side)
            y = torch.zeros(1, dtype=torch.long) if arguments["classes"] else None
            regions = side >> (arguments.get("grains", 1) - 1)
            map = torch.zeros(1, regions, regions, dtype=torch.long)
            shares = torch.zeros(1, arguments["grains"] - 1) if arguments.get("any_ratio") else None
            network(x, t, y, *{"content": [map], "grain": [shares], "dit": []}[kind])
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    trainable = sum(size for size, trained in sizes if trained)
    return trainable, sum(size for size, _ in sizes), counter.get_total_flops() / 2


def check(kind: str, arguments: dict) -> None:
    trainable, total, macs = measure(kind, arguments)
    assert parameters(kind, arguments) == {"trainable": trainable, "total": total}
    assert cost(kind, arguments).macs == macs


def test_closed_forms_equal_every_network_of_the_demo():
    config = composed()
    networks = [
        (kind, architecture(run_of(config, run))) for kind in KINDS for run in _runs(config, kind)
    ]
    for text in {json.dumps(network, sort_keys=True) for network in networks}:
        check(*json.loads(text))


def _runs(config, kind):
    return getattr(config.runs, kind)


def test_closed_forms_equal_the_networks_of_the_paper(models):
    for kind, arguments in models.values():
        check(kind, arguments)


@pytest.mark.parametrize(
    "switches",
    [
        {"learn_sigma": False},
        {"positions": "fixed"},
        {"bias": "global", "heads_out": 3},
        {"bias": "none", "fine_only": True},
        {"share_condition": False, "classes": 0},
        {"qk_norm": True, "mlp_ratio": 3.0},
        {"layers": (12, 0)},
        {"layers": (12, 0), "positions": "fixed", "share_condition": False},
        {"grains": 3, "bias": "global", "share_condition": False},
    ],
)
def test_closed_forms_follow_every_switch(models, switches):
    kind, arguments = models["D²iT-B"]
    check(kind, arguments | switches)


@pytest.mark.parametrize(
    ("name", "trainable"),
    [
        ("DiT-S", 32.865),
        ("DiT-B", 130.316),
        ("DiT-L", 457.841),
        ("DiT-XL", 674.835),
        ("D²iT-B", 135.601),
        ("D²iT-L", 467.334),
        ("D²iT-XL", 686.629),
        ("Dynamic Grain Transformer", 32.848),
        ("VAE f = 8", 83.654),  # Stable Diffusion's
    ],
)
def test_trainable_parameters(models, name, trainable):
    assert round(parameters(*models[name])["trainable"] / 1e6, 3) == trainable


def test_the_published_sizes_are_reached_by_rounding(models):
    """By DiT's own rule, and D²iT's by the letter; it is a reconstruction."""
    for row in published("models"):
        name = row["model"]
        assert round(parameters(*models[name])["trainable"] / 1e6) == int(row["parameters"])
        if row["gmacs"]:
            assert gmacs(*models[name])["dense"] == pytest.approx(float(row["gmacs"]), rel=2e-3)


@pytest.mark.parametrize("size", ["b", "l", "xl"])
@pytest.mark.parametrize(("settings", "plain"), [([], ""), (["model.letter=false"], " plain")])
def test_the_published_scale_trains_the_letter_and_one_switch_is_the_plain_design(
    models, size, settings, plain
):
    config = composed("scale=paper", *settings)
    shape = architecture(run_of(config, f"d2it_{size}_classes"))
    kind, named = models[f"D²iT-{size.upper()}{plain}"]
    assert {key: shape.get(key, value) for key, value in named.items()} == named | {
        "layers": list(named["layers"])
    }


def test_table_1_prints_466_where_the_paper_prints_imagenets_467():
    shape = architecture(run_of(composed("scale=paper"), "d2it_l"))
    assert parameters("content", shape)["trainable"] / 1e6 == pytest.approx(466.309, abs=5e-4)


def test_macs_by_split_window_and_share_of_fine_tokens(models):
    for row in published("gmacs"):
        kind, arguments = models[f"D²iT-{row['size']} plain"]
        layers = (int(row["dit_layers"]), int(row["refine_layers"]))
        arguments = arguments | {"layers": layers, "window": int(row["window"])}
        found = cost(kind, arguments, float(row["share"])).macs / 1e9
        # Its 12+0 counts a RefineNet of no layers, and .7 of 1024 tokens as 716.
        exact = layers[1] and row["share"] != "0.7"
        tolerance = {"abs": 6e-4} if exact else {"rel": 1e-3}
        assert found == pytest.approx(float(row["gmacs"]), **tolerance), row


def test_sparse_cost_lies_between_idle_and_dense(models):
    for name in ("D²iT-B", "D²iT-L", "D²iT-XL"):
        kind, architecture = models[name]
        costs = [gmacs(kind, architecture, ratio) for ratio in (0.0, 0.5, 1.0)]
        assert costs[2]["sparse"] == costs[0]["dense"]
        middle = (costs[0]["sparse"] + costs[2]["sparse"]) / 2
        assert costs[1]["sparse"] == pytest.approx(middle)
    assert gmacs(*models["D²iT-B plain"])["sparse"] == pytest.approx(26.46, abs=5e-3)
    assert gmacs(*models["D²iT-XL plain"])["sparse"] == pytest.approx(138.36, abs=5e-3)


def test_shares_of_three_grains():
    kind, arguments = named_models()["D²iT-B"]
    arguments = arguments | {"grains": 3}
    dense = cost(kind, arguments).macs
    assert cost(kind, arguments, [0.0, 1.0]).macs == dense  # all finest: both RefineNets see all
    assert cost(kind, arguments, [1.0, 0.0]).macs < dense
    assert cost(kind, arguments, [0.0, 0.0]).macs < cost(kind, arguments, [0.3, 0.2]).macs


def test_a_network_without_refinenets_has_no_windows(models):
    kind, arguments = models["D²iT-B"]
    arguments = arguments | {"layers": (12, 0)}
    assert live_gmacs(arguments, []) == pytest.approx(gmacs(kind, arguments)["dense"])


def test_layers_in_twelfths():
    assert [split_layers(depth, (10, 2)) for depth in (12, 24, 28, 6)] == [
        (10, 2),
        (20, 4),
        (23, 5),
        (5, 1),
    ]
    splits = [(12, 0), (8, 4), (12, 2), (12, 4)]
    assert [split_layers(6, split) for split in splits] == [(6, 0), (4, 2), (6, 1), (6, 2)]


def test_the_command_prints_the_named_models():
    command = [sys.executable, "-X", "importtime", "-m", "d2it", "models", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(models_table()))
    assert "| torch\n" not in done.stderr
    text = subprocess.run(command[:1] + command[3:-1], capture_output=True, text=True, cwd=ROOT)
    assert "D²iT-XL plain" in text.stdout and "138.37" in text.stdout


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
@pytest.mark.parametrize("playing", [False, True])
def test_a_training_step_of_the_dvae(backbone, playing):
    """The task's own losses, forward and backward, counted on the meta device."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    from d2it.models.discriminator import Discriminator
    from d2it.models.dvae import Dvae
    from d2it.models.lpips import Lpips
    from d2it.training.dvae import DvaeTask

    class Counter(TorchDispatchMode):  # FlopCounterMode's hooks on modules refuse autograd.grad
        flops = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            count = flop_registry.get(function._overloadpacket, lambda *_, **__: 0)
            self.flops += count(*args, **(kwargs or {}), out_val=found)
            return found

    config = composed("scale=smoke")
    shape = architecture(run_of(config, "dvae"))
    critic = {"channels": 32, "layers": 2, "norm_groups": 8}
    with torch.device("meta"):
        task = object.__new__(DvaeTask)
        task.dvae, task.lpips, task.loss_settings = Dvae(**shape), Lpips(backbone), config.dvae_loss
        network = Discriminator(**critic)
    layers = discriminator(**critic, size=shape["size"])
    assert sum(c.trainable for c in layers) == sum(p.numel() for p in network.parameters())
    with torch.device("meta"), Counter() as counter:
        x = torch.zeros(1, 3, shape["size"], shape["size"])
        sides = [shape["size"] // factor for factor in shape["factors"]]
        noises = [torch.zeros(1, shape["latent_channels"], side, side) for side in sides]
        map = torch.zeros(1, sides[0], sides[0], dtype=torch.long)
        copy, moments = task.dvae(x, map, noises)
        network.requires_grad_(False)
        loss, _ = task._generator_loss(network if playing else None, x, copy, moments, map)
        loss.backward()
        if playing:
            network.requires_grad_(True)
            loss, _ = task._discriminator_loss(network, x, copy.detach())
            loss.backward()
    # attention takes 2 to 2.5 times as much backward, by kernel; it is a small part
    expected = dvae_step(shape, critic, backbone, playing)
    assert counter.flops / 2 == pytest.approx(expected, rel=2e-3)
