"""The diffusion process on multi-grained latents: schedule, loss (Eq 11) and samplers.

One rule makes it grain-aware: the cells of a coarse code hold one value. So every noise, in
training and in sampling, is drawn per code and copied (`grains.copy_within`), and the network's
prediction is equal within a code; all else is cell by cell and keeps them equal to the last step.
Shapes: z, noise (N, C, H, W); t (N,).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from d2it.errors import UserError
from d2it.grains.maps import copy_within
from d2it.machine.device import send
from d2it.machine.pools import in_order, threads

ModelFunction = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> (N, C or 2C, H, W)
NoiseSource = Callable[[int], Tensor]  # step -> (N, C, H, W); step 0 is where sampling starts


class Schedule:
    """q(z_t | z_0) with variances that grow linearly (section 4.1: 1e-4 to 2e-2 in 1000 steps)."""

    def __init__(
        self, timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2
    ) -> None:
        self.timesteps = timesteps
        self.betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        self.alpha_bar = (1 - self.betas).cumprod(0)  # share of signal power left at t
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        self.posterior = self.betas * (1 - before) / (1 - self.alpha_bar)
        self.posterior[0] = self.posterior[1]  # 0 has no logarithm
        self.tables = {
            "signal": self.alpha_bar.sqrt(),
            "noise": (1 - self.alpha_bar).sqrt(),
            "signal in mean": self.betas * before.sqrt() / (1 - self.alpha_bar),
            "log posterior": self.posterior.log(),
            "log beta": self.betas.log(),
        }
        self.placed: dict[torch.device, dict[str, Tensor]] = {}

    def at(self, t: Tensor, table: str) -> Tensor:
        """The table's value at each t, (N, 1, 1, 1) float32.

        A device is sent all tables once: the host waits for it at every copy.
        """
        if t.device not in self.placed:
            values = torch.stack(list(self.tables.values())).to(t.device, torch.float32)
            self.placed[t.device] = dict(zip(self.tables, values, strict=True))
        return self.placed[t.device][table][t].view(-1, 1, 1, 1)

    def q_sample(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps."""
        return self.at(t, "signal") * z0 + self.at(t, "noise") * noise

    def predict_z0(self, zt: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return (zt - self.at(t, "noise") * noise) / self.at(t, "signal")

    def level(self, t: int) -> float:
        """abar_t; t = -1 is the clean end."""
        return 1.0 if t < 0 else float(self.alpha_bar[t])

    def respaced(self, steps: int) -> list[int]:
        """`steps` of the timesteps, evenly spread with both ends, noisiest first (as DiT)."""
        if not 1 <= steps <= self.timesteps:
            raise UserError(f"{steps} sampling steps are not between 1 and {self.timesteps}.")
        if steps == 1:
            return [self.timesteps - 1]
        return [round(i * (self.timesteps - 1) / (steps - 1)) for i in reversed(range(steps))]


def noise_loss(
    schedule: Schedule,
    prediction: Tensor,
    z0: Tensor,
    zt: Tensor,
    t: Tensor,
    noise: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """L_dyn (Eq 11): the mean over cells of alpha_i (eps - eps_theta)^2.

    weights (N, 1, H, W) are the alpha_i; None: all 1. A prediction of 2C channels also learns the
    variance: its bound is added, with the same weights.
    """
    prediction, channels = prediction.float(), noise.shape[1]
    error = (prediction[:, :channels] - noise).square()
    if prediction.shape[1] > channels:
        error = error + variance_bound(schedule, prediction, z0, zt, t)
    return (error if weights is None else weights * error).mean()


def variance_bound(
    schedule: Schedule, prediction: Tensor, z0: Tensor, zt: Tensor, t: Tensor
) -> Tensor:
    """KL(q(z_{t-1} | z_t, z_0) || p_theta) in bits, per cell, the mean detached.

    As Nichol and Dhariwal (2021), but at t = 0, where they score 8-bit pixels: latents have none,
    so the KL stays, with the variance that q has at t = 1.
    """
    noise, variance = prediction.chunk(2, dim=1)
    predicted = schedule.predict_z0(zt, t, noise.detach())
    mean_gap = schedule.at(t, "signal in mean") * (z0 - predicted)
    low = schedule.at(t, "log posterior")
    log_variance = learned_log_variance(variance, low, schedule.at(t, "log beta"))
    ratio = low - log_variance
    kl = 0.5 * (ratio.exp() - 1 - ratio + mean_gap.square() * (-log_variance).exp())
    return kl / math.log(2)


def learned_log_variance(v: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """v in [-1, 1] interpolates the logarithms of the posterior's variance and of beta."""
    share = (v + 1) / 2
    return share * high + (1 - share) * low


def guided(
    network: nn.Module,
    y: Tensor | None = None,
    map: Tensor | None = None,
    guidance: float = 1.0,
    channels: int | None = None,
) -> ModelFunction:
    """What `sample` calls, with classifier-free guidance; 1 is none.

    eps = eps(null) + guidance (eps(y) - eps(null)) on the first `channels` of the noise, None: on
    all. (DiT's code guided three of four, a left-over; 1.5 on three is about 1.375 on four.) The
    variance is the class's own.

    The host looks at the map here, once for all steps, and waits for a GPU if the map is there.
    """

    def known(times: int) -> tuple[Any, ...]:
        if map is None:
            return ()
        device, seen = next(network.parameters()).device, map.cpu().repeat(times, 1, 1)
        return send(seen, device), cast(Any, network).live_windows(seen, device)

    if guidance == 1:
        maps = known(1)
        return lambda x, t: network(x, t, y, *maps)
    classes = cast(int, network.classes)
    if y is None or not classes:
        raise UserError("Guidance needs a class-conditional network and labels: set guidance to 1.")
    labels = torch.cat([y, torch.full_like(y, classes)])
    twice = known(2)

    def with_guidance(x: Tensor, t: Tensor) -> Tensor:
        both = network(x.repeat(2, 1, 1, 1), t.repeat(2), labels, *twice)
        of_class, null = both.float().chunk(2)  # bf16 would round what guidance magnifies
        some = slice(0, channels or x.shape[1])
        result = of_class.clone()
        result[:, some] = null[:, some] + guidance * (of_class[:, some] - null[:, some])
        return result

    return with_guidance


def steps_of(schedule: Schedule, steps: int) -> Iterator[tuple[int, float, float]]:
    """(t, abar at t, abar at the next t) of every step; the last leads to the clean end."""
    times = [*schedule.respaced(steps), -1]
    for t, later in itertools.pairwise(times):
        yield t, schedule.level(t), schedule.level(later)


def deviation(now: float, later: float, eta: float = 1.0) -> float:
    """DDIM's sigma; at eta = 1 it is that of the (respaced) DDPM posterior."""
    return eta * math.sqrt((1 - later) / (1 - now) * (1 - now / later))


def towards(x0: Tensor, noise: Tensor, later: float, sigma: float) -> Tensor:
    """The mean of the next x, given what the network believes of x_0 and the noise."""
    return math.sqrt(later) * x0 + math.sqrt(max(0.0, 1 - later - sigma**2)) * noise


def second_order(x: Tensor, x0: Tensor, past: Tensor | None, levels: list[float]) -> Tensor:
    """A step of DPM-Solver++(2M) (Lu et al. 2022); levels: abar before (if any), now and later."""
    half_log_snr = [0.5 * math.log(level / (1 - level)) for level in levels]
    step = half_log_snr[-1] - half_log_snr[-2]
    if past is not None:
        last_step = half_log_snr[-2] - half_log_snr[-3]
        x0 = x0 + (x0 - past) * (step / last_step / 2)
    shrink = math.sqrt((1 - levels[-1]) / (1 - levels[-2]))
    return shrink * x - math.sqrt(levels[-1]) * math.expm1(-step) * x0


@torch.no_grad()
def sample(
    model_fn: ModelFunction,
    noise_source: NoiseSource,
    schedule: Schedule,
    sampler: str = "ddim",
    steps: int = 50,
    eta: float = 0.0,
    map: Tensor | None = None,
    k: int = 2,
) -> Tensor:
    """Latents drawn with "ddpm" (respaced), "ddim" (eta 0 to 1) or "dpm++" (2M). (N, C, H, W).

    `noise_source(0)` is where to start, `noise_source(i + 1)` what step i adds, asked for only if
    it adds any, in a thread, while the network works on the step before. With `map` every noise is
    copied within codes; None is for latents without coarse cells, or trained on free noise.
    """
    if sampler not in ("ddpm", "ddim", "dpm++"):
        raise UserError(f"There is no sampler {sampler!r}: choose ddpm, ddim or dpm++.")

    noisy = sampler == "ddpm" or (sampler == "ddim" and eta > 0)
    with threads(1) as pool:
        noises = in_order(pool, 1, noise_source, range(steps if noisy else 1))
        if map is not None:
            noises = (copy_within(noise, map, k) for noise in noises)
        x, past, levels = next(noises), None, []
        channels = x.shape[1]
        for t, now, later in steps_of(schedule, steps):
            prediction = model_fn(x, torch.full((len(x),), t, device=x.device)).float()
            noise, variance = prediction[:, :channels], prediction[:, channels:]
            x0 = (x - math.sqrt(1 - now) * noise) / math.sqrt(now)
            levels.append(now)
            if later == 1:
                return x0
            if sampler == "dpm++":
                x = second_order(x, x0, past, [*levels[-2:], later])
                past = x0
                continue
            sigma = deviation(now, later, 1.0 if sampler == "ddpm" else eta)
            x = towards(x0, noise, later, sigma)
            if sampler == "ddpm" and variance.shape[1]:
                high = math.log(1 - now / later)
                log_variance = learned_log_variance(variance, 2 * math.log(sigma), high)
                x = x + (0.5 * log_variance).exp() * next(noises)
            elif noisy:
                x = x + sigma * next(noises)
    raise AssertionError("the last step leads to the clean end")


@torch.no_grad()
def sample_maps(
    network: nn.Module,
    noise_source: NoiseSource,
    steps: int,
    y: Tensor | None = None,
    schedule: Schedule | None = None,
    reached: Tensor | None = None,
) -> Tensor:
    """Grain maps from a Dynamic Grain Transformer, by ancestral sampling. (N, h, w) int64.
    `reached`: see GrainTransformer.forward.

    The logits at every step give the expected one-hot map, 2p - 1, as x_0. The last logits' argmax
    is the map: by then they are sure, and drawing from them gives the same.
    """
    schedule = schedule or Schedule()
    with threads(1) as pool:
        noises = in_order(pool, 1, noise_source, range(steps))
        x = next(noises)  # (N, k, h, w)
        for t, now, later in steps_of(schedule, steps):
            logits = network(x, torch.full((len(x),), t, device=x.device), y, reached).float()
            if later == 1:
                break
            x0 = 2 * logits.softmax(1) - 1
            noise = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
            sigma = deviation(now, later)
            x = towards(x0, noise, later, sigma) + sigma * next(noises)
    return logits.argmax(1)
