"""The diffusion process: diffusers' schedulers step by step, and codes that stay equal to the
end.
"""

import itertools
import math
import threading

import pytest
import torch

from d2it import diffusion
from d2it.diffusion import Schedule, guided, noise_loss, sample
from d2it.errors import UserError
from d2it.grains.maps import cell_weights, copy_within
from d2it.models.content_transformer import ContentTransformer
from d2it.models.dit import DiT

SHAPE = (2, 3, 8, 8)


def noise(step: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Some smooth function of x and t, with a variance."""
    level = (t.float() / 1000).view(-1, 1, 1, 1)
    eps = torch.tanh(x.roll(1, 3) + level) + 0.1 * x
    return torch.cat([eps, torch.sin(3 * x + level)], dim=1)


def without_variance(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return model(x, t)[:, :3]


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_ddpm_equals_diffusers(variance, monkeypatch):
    import diffusers.schedulers.scheduling_ddpm as theirs

    steps = iter(range(1, 20))  # diffusers draws its noise inside: give it ours
    monkeypatch.setattr(theirs, "randn_tensor", lambda *_, **__: noise(next(steps)))
    scheduler = theirs.DDPMScheduler(
        beta_end=0.02, variance_type=variance, clip_sample=False, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(20)
    schedule, fn = Schedule(), model if variance == "learned_range" else without_variance
    assert scheduler.timesteps.tolist() == schedule.respaced(20)
    x = noise(0)
    for t in scheduler.timesteps:
        x = scheduler.step(fn(x, t.expand(2)), t, x).prev_sample
    assert close(sample(fn, noise, schedule, "ddpm", 20), x)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_equals_diffusers(eta):
    from diffusers import DDIMScheduler

    # diffusers' DDIM strides evenly; the shorter schedule of our timesteps makes every one a step
    schedule = Schedule()
    times = schedule.respaced(20)
    levels = [1.0, *(schedule.level(t) for t in reversed(times))]
    betas = [1 - now / before for before, now in itertools.pairwise(levels)]
    scheduler = DDIMScheduler(20, trained_betas=betas, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(20)
    x = noise(0)
    for index, (inner, t) in enumerate(zip(scheduler.timesteps, times, strict=True)):
        prediction = without_variance(x, torch.full((2,), t))
        x = scheduler.step(
            prediction, inner, x, eta=eta, variance_noise=noise(index + 1)
        ).prev_sample
    assert close(sample(without_variance, noise, schedule, "ddim", 20, eta), x)


@pytest.mark.parametrize("steps", [8, 20])
def test_dpm_solver_equals_diffusers(steps):
    from diffusers import DPMSolverMultistepScheduler

    schedule = Schedule()
    scheduler = DPMSolverMultistepScheduler(
        beta_end=0.02, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(timesteps=schedule.respaced(steps))
    x = noise(0)
    for t in scheduler.timesteps:
        x = scheduler.step(without_variance(x, t.expand(2)), t, x).prev_sample
    assert close(sample(without_variance, noise, schedule, "dpm++", steps), x)


def test_ddpm_with_the_posterior_variance_is_ddim_with_eta_1():
    schedule = Schedule()
    ddpm = sample(without_variance, noise, schedule, "ddpm", 10)
    assert torch.equal(ddpm, sample(without_variance, noise, schedule, "ddim", 10, eta=1.0))


def test_noise_is_asked_for_only_where_it_is_added():
    for sampler, expected in (("ddim", [0]), ("dpm++", [0]), ("ddpm", [0, 1, 2, 3])):
        asked = []

        def source(step, asked=asked):
            asked.append(step)
            return noise(step)

        sample(model, source, Schedule(), sampler, 4)
        assert asked == expected


def test_noise_is_drawn_while_the_network_works():
    """The network waits for the noise of the next step: drawn after it, it would never come."""
    drawn = [threading.Event() for _ in range(6)]

    def source(step):
        drawn[step].set()
        return noise(step)

    steps = iter(range(5))

    def network(x, t):
        assert drawn[min(next(steps) + 1, 4)].wait(20)
        return without_variance(x, t)

    sample(network, source, Schedule(), "ddpm", 5)
    assert not drawn[5].is_set()


def content_transformer(grains: int) -> ContentTransformer:
    torch.manual_seed(0)
    network = ContentTransformer(8, 3, grains, 16, 2, (1, 1), 2, classes=2)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


@pytest.mark.parametrize("grains", [2, 3])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_codes_stay_equal_to_the_last_step(sampler, grains):
    network, y = content_transformer(grains), torch.tensor([0, 1])
    regions = 8 // 2 ** (grains - 1)
    map = torch.randint(grains, (2, regions, regions), generator=torch.Generator().manual_seed(3))
    seen = []
    model_fn = guided(network, y, map, guidance=1.5)

    def watched(x, t):
        seen.append(x)
        return model_fn(x, t)

    seen.append(sample(watched, noise, Schedule(), sampler, 12, eta=0.5, map=map, k=grains))
    assert len(seen) == 13 and seen[-1].isfinite().all()
    assert all(torch.equal(x, copy_within(x, map, grains)) for x in seen)


def test_guidance():
    network, (x, t) = content_transformer(2), (noise(0), torch.tensor([500, 20]))
    y, map = torch.tensor([0, 1]), torch.ones(2, 4, 4, dtype=torch.long)
    with torch.no_grad():
        given, null = network(x, t, y, map), network(x, t, None, map)
        assert torch.equal(guided(network, y, map, 1.0)(x, t), given)
        both = guided(network, y, map, 3.0)(x, t)
        some = guided(network, y, map, 3.0, channels=2)(x, t)
    expected = null + 3 * (given - null)
    assert torch.allclose(both[:, :3], expected[:, :3], atol=1e-5)
    assert torch.allclose(both[:, 3:], given[:, 3:], atol=1e-5)  # the variance is not guided
    assert torch.allclose(some[:, :2], expected[:, :2], atol=1e-5)
    assert torch.allclose(some[:, 2:], given[:, 2:], atol=1e-5)


def test_guidance_needs_classes():
    with pytest.raises(UserError, match="guidance"):
        guided(DiT(8, 3, 2, 16, 1, 2, classes=0), None, guidance=2.0)


def test_forward_process_and_its_inverse():
    schedule, t = Schedule(), torch.tensor([0, 999])
    z0, eps = noise(1), noise(2)
    zt = schedule.q_sample(z0, t, eps)
    assert torch.allclose(zt[0], z0[0], atol=0.1) and torch.allclose(zt[1], eps[1], atol=0.1)
    assert torch.allclose(schedule.predict_z0(zt, t, eps), z0, atol=1e-3)
    assert schedule.alpha_bar[-1] == pytest.approx(4.04e-5, rel=0.01)


def test_loss_weights_codes_alike():
    """Eq 11: an error on one coarse code (four cells) weighs as much as one on a fine code."""
    schedule, t = Schedule(), torch.tensor([10, 700])
    map = torch.zeros(2, 4, 4, dtype=torch.long)
    map[:, 2:] = 1
    eps, z0 = noise(1), noise(2)
    zt = schedule.q_sample(z0, t, eps)
    coarse, fine = eps.clone(), eps.clone()
    coarse[:, :, :2, :2] += 1
    fine[:, :, 4, 4] += 1
    arguments = (z0, zt, t, eps, cell_weights(map, 2))
    losses = [noise_loss(schedule, wrong, *arguments) for wrong in (coarse, fine)]
    assert losses[0] == pytest.approx(losses[1].item())
    assert noise_loss(schedule, coarse, *arguments[:-1]) == pytest.approx(4 * losses[0].item())


def test_variance_bound_is_least_at_the_true_posterior():
    """With the right mean, v = -1 is q's own variance: no bits; more variance costs some."""
    schedule, t = Schedule(), torch.tensor([1, 600])
    eps, z0 = noise(1), noise(2)
    zt = schedule.q_sample(z0, t, eps)
    losses = []
    for v in (-1.0, 0.0, 1.0):
        prediction = torch.cat([eps, torch.full_like(eps, v)], dim=1)
        losses.append(diffusion.variance_bound(schedule, prediction, z0, zt, t).mean().item())
    assert abs(losses[0]) < 1e-3 and losses[0] < losses[1] < losses[2]


def test_variance_bound_is_a_kl_divergence():
    """Against the KL of two normal distributions, from torch.distributions."""
    schedule, t = Schedule(), torch.tensor([30, 600])
    eps, z0 = noise(1), noise(2)
    zt = schedule.q_sample(z0, t, eps)
    prediction = torch.cat([noise(3), noise(4).tanh()], dim=1)
    ours = diffusion.variance_bound(schedule, prediction, z0, zt, t)
    for i, step in enumerate(t.tolist()):
        a, before = schedule.level(step), schedule.level(step - 1)
        beta = 1 - a / before
        variance = beta * (1 - before) / (1 - a)
        means = [
            math.sqrt(before) * beta / (1 - a) * x0
            + math.sqrt(1 - beta) * (1 - before) / (1 - a) * zt[i]
            for x0 in (z0[i], (zt[i] - math.sqrt(1 - a) * noise(3)[i]) / math.sqrt(a))
        ]
        share = (prediction[i, 3:] + 1) / 2
        spread = torch.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(variance)))
        q = torch.distributions.Normal(means[0], math.sqrt(variance))
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(means[1], spread))
        assert torch.allclose(ours[i], kl / math.log(2), rtol=1e-3, atol=1e-4)


def test_variance_bound_does_not_train_the_mean():
    schedule, t = Schedule(), torch.tensor([30, 600])
    prediction = torch.cat([noise(3), noise(4)], dim=1).requires_grad_()
    diffusion.variance_bound(schedule, prediction, noise(2), noise(5), t).sum().backward()
    assert not prediction.grad[:, :3].any() and prediction.grad[:, 3:].any()


def test_wrong_settings_are_one_sentence():
    with pytest.raises(UserError, match="euler"):
        sample(model, noise, Schedule(), "euler")
    with pytest.raises(UserError, match="1001"):
        Schedule().respaced(1001)
