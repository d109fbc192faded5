"""One step of training, and the state that it changes: networks, optimisers, average, sums."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from d2it.errors import UserError
from d2it.machine.device import compile_on
from d2it.runs.plan import Plan
from d2it.runs.snapshots import FILE
from d2it.runs.state import State, Tensors
from d2it.training.batches import Shards
from d2it.training.ema import Ema
from d2it.training.log import Sums
from d2it.training.post_hoc_ema import PowerAverages
from d2it.training.task import Learner, Task


class Trainer:
    """The global batch is `shards` micro-batches; each process computes an equal, contiguous part.

    Gradients are averaged over the shards of a process by accumulation and over processes by DDP.
    Two halves commute and halving is exact, so with two shards one and two processes agree bitwise
    on a CPU.
    """

    def __init__(self, plan: Plan, task: Task, accelerator: Accelerator):
        training = plan.training
        processes, shards = accelerator.num_processes, training.shards
        if shards % processes:
            raise UserError(
                f"{processes} processes cannot share the {shards} shards of training.{plan.kind}: "
                f"use a number of processes that divides {shards}."
            )
        self.plan, self.task, self.accelerator = plan, task, accelerator
        self.local = shards // processes
        first = accelerator.process_index * self.local
        self.mine = range(first, first + self.local)
        self.device = accelerator.device
        self.learners = {learner.name: learner for learner in task.learners}
        self.published = task.learners[0]
        self.wrapped = {name: self._prepare(learner) for name, learner in self.learners.items()}
        self.optimisers = {name: _optimiser(learner) for name, learner in self.learners.items()}
        self.ema = Ema(self.published.module, training.ema_half_life, training.batch)
        self.power = PowerAverages(self.published.module) if training.snapshot_images else None
        self.sums = Sums(shards, self.mine, self.device)
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=self.device)

    def _prepare(self, learner: Learner) -> nn.Module:
        if learner.training.compile:
            compile_on(self.device, learner.module)
        with warnings.catch_warnings():  # torch renamed `broadcast_buffers`; accelerate did not
            warnings.simplefilter("ignore", FutureWarning)
            prepared: nn.Module = self.accelerator.prepare(learner.module)
        return prepared

    def step(self, shards: Shards, images: int) -> None:
        """One update of every learner from `images` seen on.

        Nothing here waits for the device, but for the number of windows where some are skipped.
        """
        batch = self.plan.training.batch
        terms: dict[str, Tensor] = {}
        active = [name for name in self.learners if self._backward(name, shards, images, terms)]
        bad = torch.zeros((), dtype=torch.bool, device=self.device)
        for name in active:
            norm = self._clip(self.learners[name])
            bad |= ~torch.isfinite(norm)
            terms[f"grad_norm/{name}"] = norm.expand(self.local)
        # From the first bad step on all updates are masked: the weights before it stay. Averages go
        # on towards them, which nobody sees: what is saved is checked first.
        number = images // batch
        self.first_bad = torch.where((self.first_bad < 0) & bad, number, self.first_bad)
        masked = (self.first_bad >= 0).float()
        for name in active:
            optimiser = self.optimisers[name]
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate(name, images + batch)
            # where this is 1, fused AdamW does nothing
            optimiser.found_inf = masked  # type: ignore[attr-defined]
            optimiser.step()
        self.ema.update()
        if self.power:
            self.power.update(images + batch, batch)
        self.sums.add(terms, 1 - masked)

    def _backward(self, name: str, shards: Shards, images: int, terms: dict[str, Tensor]) -> bool:
        """Gradients of one learner's loss, averaged over all shards; False if it rests now."""
        self.optimisers[name].zero_grad(set_to_none=True)
        networks = {n: learner.module for n, learner in self.learners.items()}
        for n, module in networks.items():
            if len(networks) > 1:
                module.requires_grad_(n == name)
        networks[name] = self.wrapped[name]
        logged: dict[str, list[Tensor]] = {}
        for i, shard in enumerate(shards):
            batch = {key: t.to(self.device, non_blocking=True) for key, t in shard.items()}
            with self._sharing(self.wrapped[name], i == len(shards) - 1):
                loss, logs = self.task.loss(name, networks, batch, images)
                if loss is None:
                    return False
                # Shared gradients tell every process of a loss that is not finite.
                finite = torch.isfinite(loss.detach())
                (loss * torch.where(finite, 1 / self.local, torch.nan)).backward()
            for key, value in {f"loss/{name}": loss, **logs}.items():
                logged.setdefault(key, []).append(value.detach().float())
        terms |= {key: torch.stack(values) for key, values in logged.items()}
        return True

    def _sharing(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Gradients travel between processes once a step, with the last shard."""
        shared: AbstractContextManager[None] = nullcontext()
        return shared if last else self.accelerator.no_sync(network)

    def _clip(self, learner: Learner) -> Tensor:
        """The norm of the gradients, which are then clipped to the largest norm allowed."""
        parameters = [p for p in learner.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if learner.training.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, learner.training.clip, norm)
        return norm

    def learning_rate(self, name: str, images: int) -> float:
        """Constant, after a linear rise over the first `warmup` images."""
        learner = self.learners[name]
        warmup = learner.training.warmup
        return learner.learning_rate * (min(1.0, images / warmup) if warmup else 1.0)

    def contents(self) -> dict[str, Tensors]:
        """All that the steps to come depend on, by file of the state. All processes call it."""
        rest: Tensors = {}
        for name, learner in self.learners.items():
            if learner is not self.published:
                rest |= {f"network/{name}/{k}": t for k, t in learner.module.state_dict().items()}
            states = self.optimisers[name].state
            for key, parameter in learner.module.named_parameters():
                moments = states.get(parameter, {})
                rest |= {f"optimiser/{name}/{key}/{what}": t for what, t in moments.items()}
        tables = self.sums.total(self.accelerator.reduce)
        rest |= {f"sums/{key}": table for key, table in tables.items()}
        return {
            "model": self.ema.state_dict(),
            "raw": self.published.module.state_dict(),
            "rest": rest,
        } | self.snapshot()

    def snapshot(self) -> dict[str, Tensors]:
        """What averages of any width are made from."""
        return {FILE: self.power.state_dict()} if self.power else {}

    def restore(self, state: State) -> None:
        rest = state.tensors("rest")
        self.published.module.load_state_dict(state.tensors("raw"))
        self.ema.load_state_dict(state.tensors("model"))
        if self.power:
            self.power.load_state_dict(state.tensors(FILE))
        for name, learner in self.learners.items():
            if learner is not self.published:
                learner.module.load_state_dict(dict(_below(rest, f"network/{name}/")))
            for key, parameter in learner.module.named_parameters():
                moments = dict(_below(rest, f"optimiser/{name}/{key}/"))
                if moments:
                    self.optimisers[name].state[parameter] = {
                        what: tensor.to(self.device) for what, tensor in moments.items()
                    }
        self.sums.load(dict(_below(rest, "sums/")))


def _below(tensors: Tensors, prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((k.removeprefix(prefix), t) for k, t in tensors.items() if k.startswith(prefix))


def _optimiser(learner: Learner) -> torch.optim.AdamW:
    training = learner.training
    return torch.optim.AdamW(
        learner.module.parameters(),
        lr=learner.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
        fused=True,
    )
