"""The training loop: it ends with the same weights whether or not it was killed and resumed, to the
bit on a CPU and to rounding on GPUs.

DVAE, grain, content and DiT runs all go through `train`, in one process or in many, on CPU or GPU.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import accelerate
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
)

from d2it.clock import Order, crossed
from d2it.errors import UserError
from d2it.files import write_json
from d2it.machine.device import (
    check_gpu,
    cpu_threads,
    cuda_error,
    device_name,
    find_accelerator,
    has_cuda,
    multiplies_bf16,
    processor,
    set_up_cpu,
    take_fp32,
)
from d2it.runs import state
from d2it.runs.lease import lease
from d2it.runs.plan import Plan
from d2it.runs.publish import write_done
from d2it.runs.record import claim, record_start
from d2it.runs.signals import Stalled, Stop, Stopped, stall_timeout
from d2it.training.batches import Batches
from d2it.training.log import RunLog, Sums, memory_bytes, peak_of, utilisation
from d2it.training.room import able_to_compile, check_room, enough_room
from d2it.training.saver import Contents, Saver
from d2it.training.task import Task
from d2it.training.tracking import Tracker, chosen_tracker
from d2it.training.trainer import Trainer


def train(
    plan: Plan, make_task: Callable[[], Task], device: str = "auto", wait: bool = False
) -> None:
    """Train until `plan.images`, from the newest state. Raises Stopped if a signal ended it."""
    began = time.perf_counter()
    with answered(plan.run), able_to_compile(plan):
        accelerator = make_accelerator(plan, device)
        check_room(plan, accelerator.device)
        task = make_task()  # first: one that lacks something begins no run folder
        with _alone(accelerator, plan, wait):
            Loop(plan, task, accelerator, began).run()


@contextmanager
def answered(run: str) -> Iterator[None]:
    """A sentence in place of gloo's words when another process stands still."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in ("timed out", "timeout")):
            raise
        minutes = stall_timeout().total_seconds() / 60
        raise Stalled(
            f"Another process of the training of {run} has not answered for {minutes:g} "
            "minutes (D2IT_STALL_MINUTES): see to its machine; the same command goes on from the "
            "last saved state."
        ) from None


def make_accelerator(plan: Plan, device: str) -> Accelerator:
    """Processes and device; for many processes, MASTER_ADDR, RANK, ... are in the environment."""
    if device == "cuda" and not has_cuda():
        raise UserError(
            f"The launcher demands a CUDA GPU, but torch sees none ({cuda_error('cuda')}): check "
            "the driver, or use the CPU."
        )
    cpu = device == "cpu" or find_accelerator() is None
    if cpu:
        os.environ.setdefault("OMP_NUM_THREADS", str(cpu_threads()))
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if plan.training.precision == "bf16" else "no",
        log_with=chosen_tracker(),
        project_config=ProjectConfiguration(logging_dir=str(plan.folder / "tracker")),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            # NCCL's watchdog aborts without a word: gloo, which asks about signals, comes first
            InitProcessGroupKwargs(timeout=stall_timeout() * (1 if cpu else 2)),
        ],
    )
    check_gpu(accelerator.device)
    take_fp32()
    if cpu:
        set_up_cpu()
    return accelerator


@contextmanager
def _alone(accelerator: Accelerator, plan: Plan, wait: bool) -> Iterator[None]:
    """Hold the run folder's lease; all processes hear when it cannot be had."""
    with ExitStack() as stack:
        refusal: list[str | None] = [None]
        if accelerator.is_main_process:
            try:
                stack.enter_context(lease(plan.folder, wait))
                claim(plan)
            except UserError as error:
                refusal = [error.sentence]
        if accelerator.num_processes > 1:
            broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise UserError(refusal[0])
        yield


class Loop:
    """Steps, and what happens between them: log lines, saves, milestones, signals."""

    def __init__(self, plan: Plan, task: Task, accelerator: Accelerator, began: float):
        self.plan, self.task, self.accelerator, self.began = plan, task, accelerator, began
        self.main = accelerator.is_main_process
        self.log = RunLog(plan.folder, plan.run, plan.images, self.main)
        self.tracker = Tracker(accelerator, self._warn)
        with enough_room(plan):
            self.trainer = Trainer(plan, task, accelerator)
        training = plan.training
        self.batches = Batches(
            task,
            Order(plan.seed, task.size),
            plan.seed,
            training.batch,
            training.shards,
            self.trainer.mine,
            pin=accelerator.device.type != "cpu",
            noise=plan.noise,
        )
        in_bf16 = training.precision == "bf16"
        if self.main and in_bf16 and accelerator.device.type == "cpu" and not multiplies_bf16():
            self._warn(
                "this CPU imitates bf16, many times as slow as fp32: use a GPU, another CPU, or "
                f"training.{plan.kind}.precision=fp32, which makes it another run."
            )
        peak = peak_of(self._device_name(), training.precision)
        self.peak = peak and peak * accelerator.num_processes
        self.saver, self.stop = Saver(accelerator.device), Stop(accelerator.num_processes)
        self.marks = frozenset({*plan.marks, *plan.for_equals})  # looked up at each step
        self.final: dict[str, float] = {}  # means of the last logged interval

    def run(self) -> None:
        start = self._resume()
        if self.main:
            record_start(
                self.plan,
                images=start,
                processes=self.accelerator.num_processes,
                device=self._device_name(),
                processor=processor(),
                threads=torch.get_num_threads(),
                torch=torch.__version__,
                accelerate=accelerate.__version__,
            )
        self.log.start(start)
        self.tracker.start(self.plan, start)
        for note in self.task.notes if start == 0 else ():
            self.log.say(note)
        try:
            with self.stop, enough_room(self.plan):
                self._loop(start)
        except Exception as error:
            if not isinstance(error, (Stopped, UserError)):  # what becomes of it may be a sentence
                self.log.say("".join(traceback.format_exception(error)), terminal=False)
            if not isinstance(error, Stopped):  # `d2it status` shows it
                told = " ".join(str(error).split()) or type(error).__name__
                self.log.say(f"error: {told}", terminal=False)
            raise
        finally:
            self.batches.close()
            self.saver.close()
            self.tracker.finish()
            self.log.close()
        if self.main:
            write_done(
                self.plan,
                kind=self.task.kind,
                architecture=self.task.architecture,
                recipe=self.task.recipe,
                inputs=self.task.inputs,
                extra=self.task.extra | {"final": self.final},
            )
        if self.accelerator.num_processes > 1:
            self.accelerator.wait_for_everyone()
            self.accelerator.end_training()

    def _device_name(self) -> str:
        device = self.accelerator.device
        return device_name(device) if device.type == "cuda" else "cpu"

    def _resume(self) -> int:
        """Take up the newest sound state; the main process chooses it for all."""
        chosen: list[int] = [-1]
        plan = self.plan
        if self.main:
            found = state.latest(plan.state, plan.images, plan.marks, self._warn)
            chosen = [found.images if found else -1]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(chosen)
        if chosen[0] < 0:
            return 0
        taken = state.open_state(state.state_folder(plan.state, chosen[0]))
        self.trainer.restore(taken)
        self.final = taken.header["final"]
        if chosen[0] < plan.images:
            self.log.say(f"resumed at {chosen[0]}/{plan.images} images")
        return chosen[0]

    def _warn(self, sentence: str) -> None:
        self.log.say(f"warning: {sentence}")

    def _loop(self, images: int) -> None:
        plan, batch = self.plan, self.plan.training.batch
        self.batches.start(images, plan.images)
        self._reset_interval(images)
        first = True
        while images < plan.images:
            self.trainer.step(self.batches.take(), images)
            images += batch
            if first:
                self.log.say(
                    f"first step after {time.perf_counter() - self.began:.1f} s", terminal=False
                )
                first = False
            ended, signum = images == plan.images, self.stop.asked()
            aligned = crossed(images, batch, plan.training.log_images)
            if aligned or ended:
                self._log(images, aligned)
            self.saver.check()
            if images in self.marks:
                self._save_mark(images)
            save_images = plan.training.save_images
            if ended or signum or (save_images and crossed(images, batch, save_images)):
                self._save(images)
            if ended or signum:
                self.saver.wait()
            self.log.step(images)
            if signum and not ended:
                self.log.say(f"stopped at {images}/{plan.images} images; the same command goes on")
                raise Stopped(signum)

    def _reset_interval(self, images: int) -> None:
        self.interval = (time.perf_counter(), images)
        self.batches.waited = 0.0

    def _log(self, images: int, aligned: bool) -> None:
        """A line of metrics.jsonl: means since the last one, over all shards."""
        self._check()
        means = Sums.means(self.trainer.sums.total(self.accelerator.reduce))
        self.final = means
        if aligned:  # a longer run has no line at this one's end: it goes on with the sums
            self.trainer.sums.tables.clear()
        seconds = time.perf_counter() - self.interval[0]
        published = self.trainer.published.name
        rate = (images - self.interval[1]) / seconds
        line: dict[str, Any] = {
            "images": images,
            "step": images // self.plan.training.batch,
            **means,
            "learning_rate": self.trainer.learning_rate(published, images),
            "images_per_second": round(rate, 2),
            **utilisation(rate * self.task.flops, self.peak),
            "data_wait": round(self.batches.waited / seconds, 4),
            "memory_bytes": memory_bytes(self.accelerator.device),
        }
        self.log.metrics(line, means.get(f"loss/{published}"))
        self.tracker.send(line)
        self._reset_interval(images)

    def _check(self) -> None:
        """Stop if any step so far was not finite. This is where the host waits for the device."""
        self.stop.meet()
        bad = int(self.trainer.first_bad)
        if bad < 0:
            return
        batch = self.plan.training.batch
        path = self.plan.folder / f"bad-step-{bad}.json"
        if self.main:
            indices = self.batches.order.indices(bad * batch, batch)
            write_json(path, {"step": bad, "images": bad * batch, "indices": indices.tolist()})
        self.log.say(f"loss or gradient not finite in step {bad}", terminal=False)
        raise UserError(
            f"The loss or a gradient of {self.plan.run} is not finite in step {bad} (its items are "
            f"in {path}): the last good state is in {self.plan.state}; try a lower learning rate, "
            "a clip, or fp32."
        )

    def _save(self, images: int) -> None:
        self._check()
        contents = self.trainer.contents()
        header = {"final": self.final, "batch": self.plan.training.batch}

        def write(held: Contents) -> None:
            state.save(state.state_folder(self.plan.state, images), images, held, header)
            state.prune(self.plan.state, images)

        if self.main:
            self.saver.put(contents, write)

    def _save_mark(self, images: int) -> None:
        """A milestone, a snapshot: each can serve as the other, whoever asks for it later. A state
        after it is written after it."""
        self._check()
        header = {"batch": self.plan.training.batch}

        def write(held: Contents) -> None:
            state.save(state.milestone_folder(self.plan.state, images), images, held, header)

        if self.main:
            weights = {"model": self.trainer.ema.state_dict()} | self.trainer.snapshot()
            self.saver.put(weights, write)
