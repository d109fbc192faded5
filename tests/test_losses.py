"""The losses of the first stage against their definitions, and the task that joins them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from d2it.config import load
from d2it.config.run import run_of
from d2it.grains.calibrate import calibrate
from d2it.grains.mixture import random_shares
from d2it.images.prepare import prepare
from d2it.models.lpips import Lpips
from d2it.sources.fetch import weights_file
from d2it.training.dvae import DISCRIMINATOR, GENERATOR
from d2it.training.dvae_loss import adaptive_weight, hinge_discriminator, hinge_generator
from d2it.training.tasks import make_task

ROOT = Path(__file__).parents[1]
SLICES = {  # ours → the lpips package's: index of each convolution in torchvision's features
    "alex": [(0, 1), (3, 2), (6, 3), (8, 4), (10, 5)],
    "vgg": [
        (0, 1), (2, 1), (5, 2), (7, 2), (10, 3), (12, 3), (14, 3),
        (17, 4), (19, 4), (21, 4), (24, 5), (26, 5), (28, 5),
    ],
}  # fmt: skip


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_lpips_equals_the_package(backbone):
    import lpips

    ours = Lpips.load(backbone)
    theirs = lpips.LPIPS(net=backbone, pretrained=False, pnet_rand=True, verbose=False)
    stored, renamed = load_file(weights_file(f"lpips_{backbone}")), {}
    for i, (index, part) in enumerate(SLICES[backbone]):
        for kind in ("weight", "bias"):
            renamed[f"net.slice{part}.{index}.{kind}"] = stored[f"conv{i}.{kind}"]
    for i in range(5):
        renamed[f"lin{i}.model.1.weight"] = stored[f"lin{i}.weight"]
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected and all("lins" in n or "scaling" in n for n in missing)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((3, 3, 64, 64), generator=generator) * 2 - 1
    y = (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
    expected = theirs(x, y).flatten()
    assert torch.allclose(ours(x, y), expected, atol=1e-5)
    assert expected.min() > 0.01 and not ours(x, x).any()


def test_lpips_gradient_is_finite_where_features_vanish():
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    network = Lpips.load("alex")
    network.get_submodule("conv4").bias.fill_(-1e3)  # its ReLU gives nothing but zeros
    network(x, torch.rand(1, 3, 64, 64)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert not any(p.requires_grad for p in network.parameters())


def test_hinge():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.5])
    assert hinge_discriminator(real, fake) == 0.5 * (0.5 + 0.75)
    assert hinge_generator(fake) == 0.75


def test_adaptive_weight_is_capped():
    one = torch.ones(4)
    assert adaptive_weight(one, 4 * one, 0.75) == pytest.approx(0.25, rel=1e-4)
    assert adaptive_weight(one, one / 100, 0.75) == 0.75
    assert adaptive_weight(one, 0 * one, 0.75) == 0.75


def test_random_shares():
    """20 % each of 0, .5 and 1; the rest between, everywhere."""
    shares = torch.tensor(random_shares(torch.Generator().manual_seed(0), 10_000, 1))[:, 0]
    for value in (0.0, 0.5, 1.0):
        assert (shares == value).float().mean() == pytest.approx(0.2, abs=0.015)
    rest = shares[(shares != 0) & (shares != 0.5) & (shares != 1)]
    assert torch.histc(rest, 4, 0, 1).min() > 850
    three = torch.tensor(random_shares(torch.Generator().manual_seed(0), 1000, 2))
    assert three.min() >= 0 and three.sum(1).max() <= 1 + 1e-6


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A folder with packed photographs and thresholds, and the configuration they belong to."""
    torch.set_num_threads(1)
    overrides = ["scale=smoke", "data.photos.train=24", "data.photos.test=8"]
    config = load(overrides=[*overrides, "data.photos.reference=8"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D2IT_WEIGHTS", str(ROOT / "data/weights"))
        patch.chdir(tmp_path_factory.mktemp("chain"))
        prepare(config, "photos")
        calibrate(config, "photos")
        yield config


def start(config, **loss):
    changed = dataclasses.replace(config.dvae_loss, **loss)
    return make_task(run_of(dataclasses.replace(config, dvae_loss=changed), "dvae"))


def batch_of(task, n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = task.draw(torch.Generator().manual_seed(seed), n, 0)
    return task.fetch(np.arange(n)) | drawn


def networks_of(task, frozen: str) -> dict[str, torch.nn.Module]:
    networks = {learner.name: learner.module for learner in task.learners}
    networks[frozen].requires_grad_(False)
    return networks


def test_gan_starts_when_told(chain):
    task = start(chain, gan_start=100)
    networks, batch = networks_of(task, DISCRIMINATOR), batch_of(task, 4)
    _, logs = task.loss(GENERATOR, networks, batch, 99)
    assert "d_weight" not in logs
    assert task.loss(DISCRIMINATOR, networks, batch, 99) == (None, {})
    _, logs = task.loss(GENERATOR, networks, batch, 100)
    assert 0 < logs["d_weight"] <= chain.dvae_loss.gan_weight_cap
    loss, logs = task.loss(DISCRIMINATOR, networks, batch, 100)
    assert loss is not None and logs["d_loss"] == pytest.approx(1.0, abs=0.3)


def test_a_shard_is_a_slice(chain):
    """Every normaliser is a constant: a loss of a batch is the mean of its halves'. The adaptive
    weight, which is a ratio of gradients, is a shard's own; before the GAN there is none.
    """
    task = start(chain, gan_start=100)
    batch = batch_of(task, 4)
    batch["cuts"] = torch.tensor([[-torch.inf], [-torch.inf], [torch.inf], [1.0]])
    halves = [
        {key: value[part] for key, value in batch.items()} for part in (slice(2), slice(2, 4))
    ]

    def losses(learner: str, images_seen: int) -> tuple[float, float]:
        networks = networks_of(task, DISCRIMINATOR if learner == GENERATOR else GENERATOR)
        if learner == DISCRIMINATOR:  # each judges a reconstruction that the generator has left
            task.to_judge.extend([made, *made.split(2)])
        found = [task.loss(learner, networks, b, images_seen)[0].item() for b in (batch, *halves)]
        return found[0], sum(found[1:]) / 2

    whole, mean = losses(GENERATOR, 0)
    assert whole == pytest.approx(mean, rel=1e-5)
    made = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, mean = losses(DISCRIMINATOR, 100)
    assert whole == pytest.approx(mean, rel=1e-5)


def test_the_discriminator_judges_the_same_reconstructions(chain):
    """Shards are judged in the order in which the generator made them; nothing is left over."""
    task = start(chain, gan_start=0)
    networks = networks_of(task, DISCRIMINATOR)
    shards = [batch_of(task, 2, seed) for seed in (0, 1)]
    for shard in shards:
        task.loss(GENERATOR, networks, shard, 0)
    made = list(task.to_judge)
    assert len(made) == 2 and not torch.equal(*made)
    seen = []
    networks[DISCRIMINATOR].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][2:]))
    for shard in shards:
        task.loss(DISCRIMINATOR, networks, shard, 0)
    assert not task.to_judge and all(torch.equal(a, b) for a, b in zip(made, seen, strict=True))


def test_loss_has_the_gradient_of_its_terms(chain):
    """Taking the gradients of LPIPS and GAN once, at the image, changes no gradient."""
    task = start(chain, gan_start=0)
    networks, batch = networks_of(task, DISCRIMINATOR), batch_of(task, 4)
    batch["mirrored"] = torch.zeros_like(batch["mirrored"])
    loss, logs = task.loss(GENERATOR, networks, batch, 0)
    loss.backward()
    ours = {n: p.grad.clone() for n, p in task.dvae.named_parameters()}
    task.dvae.zero_grad()
    reference, value = direct(task, networks[DISCRIMINATOR], batch, logs["d_weight"])
    assert loss.item() == pytest.approx(value, rel=1e-5)
    for name, gradient in reference.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-6), name


def direct(task, discriminator, batch, adaptive):
    """The loss as a plain sum, differentiated as one."""
    from d2it.grains.entropy import entropy_map
    from d2it.grains.maps import grain_map
    from d2it.models.dvae import to_network
    from d2it.training.dvae_loss import kl_per_value

    settings = task.loss_settings
    x = to_network(batch["images"])
    entropy = entropy_map(batch["images"], 8)
    map = grain_map(entropy, [cut[:, None, None] for cut in batch["cuts"].unbind(1)])
    y, moments = task.dvae(x, map, [batch["noise_0"], batch["noise_1"]])
    loss = (y - x).abs().mean() + settings.perceptual_weight * task.lpips(y, x).mean()
    loss = loss + settings.kl_weight * kl_per_value(moments, map, 64 * 64)
    loss = loss + settings.gan_weight * adaptive * hinge_generator(discriminator(y))
    loss.backward()
    return {n: p.grad for n, p in task.dvae.named_parameters()}, loss.item()


def test_the_deviation_of_each_grains_codes_is_logged(chain):
    """Of the codes in use alone, as the maps of these images say."""
    from d2it.grains.entropy import entropy_map
    from d2it.grains.maps import grain_map
    from d2it.models.dvae import draw_code, in_use, to_network

    task = start(chain, gan_start=10**9)
    batch = batch_of(task, 4)
    batch["mirrored"] = torch.zeros_like(batch["mirrored"])
    _, logs = task.loss(GENERATOR, networks_of(task, DISCRIMINATOR), batch, 0)
    entropy = entropy_map(batch["images"], 8)
    map = grain_map(entropy, [cut[:, None, None] for cut in batch["cuts"].unbind(1)])
    with torch.no_grad():
        moments = task.dvae.encode(to_network(batch["images"]))
    for grain, used in enumerate(in_use(map, 2)):
        mean, logvar = moments[grain]
        code = draw_code(mean, logvar, batch[f"noise_{grain}"])
        expected = code[used.expand_as(code)].std(correction=0).item()
        assert logs[f"std_{grain}"].item() == pytest.approx(expected, rel=1e-4)


def test_overfits_a_small_batch(chain):
    task = start(chain, gan_start=10**9)
    networks, batch = networks_of(task, DISCRIMINATOR), batch_of(task, 4)
    optimiser = torch.optim.Adam(task.dvae.parameters(), 2e-3)
    losses = []
    for _ in range(16):
        loss, logs = task.loss(GENERATOR, networks, batch, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(logs["rec"].item())
    assert losses[-1] < 0.8 * losses[0]


def test_draws_are_identities(chain):
    task = start(chain)
    first, again = (task.draw(torch.Generator().manual_seed(5), 6, 0) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(len(value) == 6 for value in first.values())
    fixed = dataclasses.replace(chain.runs.dvae["dvae"], ratio=1.0)
    runs = dataclasses.replace(chain.runs, dvae={"dvae": fixed})
    task = make_task(run_of(dataclasses.replace(chain, runs=runs), "dvae"))
    assert (task.draw(torch.Generator(), 3, 0)["cuts"] == -torch.inf).all()
