"""What a kind of run tells the training loop: its networks, data, randomness and losses.

The loop (loop.py) knows nothing of images or grains; a task nothing of processes or devices.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Generator, Tensor, nn

from d2it.config.schema import Training


@dataclass
class Learner:
    """One network with an optimiser of its own, e.g. the DVAE or its discriminator."""

    name: str
    module: nn.Module
    training: Training
    learning_rate: float


class Task(Protocol):
    """One kind of run. Data and randomness are functions of the index and of images seen: never of
    the process, of the global generator or of what was called before.

    In a step, the losses of all learners are computed in order, then all learners are updated.
    `learners[0]` is averaged (EMA) and published. Every trainable parameter of a learner takes part
    in each of its losses.
    """

    kind: str
    learners: list[Learner]
    size: int  # training items; the order of an epoch is a permutation of range(size)
    architecture: dict[str, Any]  # constructor arguments of learners[0].module
    recipe: dict[str, Any]
    inputs: dict[str, str]  # name → content digest of what it was trained on
    extra: dict[str, Any]  # more for model.json
    notes: list[str]  # what the log is to say when a run begins
    flops: float  # of training learners[0] on one image: d2it.cost.macs.training_flops

    def fetch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """CPU tensors of these items, first dimension len(indices). Called ahead in a thread."""
        ...

    def draw(self, generator: Generator, n: int, images_seen: int) -> dict[str, Tensor]:
        """Random numbers of a step for the global batch of `n`, on the CPU, first dimension n.

        The loop slices them as it slices the batch, and joins both in one dict for `loss`.
        """
        ...

    def loss(
        self,
        learner: str,
        networks: dict[str, nn.Module],
        batch: dict[str, Tensor],
        images_seen: int,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Loss (a scalar; None: this learner rests in this step) of one shard, and scalars to log.

        `networks[learner]` is wrapped for its gradients to be shared between processes: call it,
        not its parts. The other networks are plain and frozen during this call. Shards are of equal
        size, so a mean over the shard is right; any other normaliser is a constant.
        """
        ...
