"""Where a run is trained: in this process, in several on this machine, or on a Slurm cluster.

Which one is a matter of machines (params/launcher/), outside every recipe: the weights are equal.
No torch is imported here, so a process that only waits for a job stays small.
"""

from dataclasses import replace

from d2it.config.run import Run
from d2it.config.schema import Config
from d2it.errors import UserError
from d2it.files import locked
from d2it.jobs.launcher import Launcher, Resources
from d2it.machine.gpus import joinable, visible_gpus
from d2it.runs.keep import take_kept
from d2it.runs.lease import await_free, launching
from d2it.runs.plan import Plan, make_plan
from d2it.runs.publish import finished, is_published, publish


def arrange(
    config: Config, launcher: Launcher, kind: str, processes: int | None = None
) -> Resources:
    """What a run of this kind gets, here or on a cluster; refused if it cannot train like that.

    One node takes no more processes than there are shards, nor more GPUs than these then need: one
    launcher serves every scale.
    """
    given, device = launcher.of(kind), device_of(config, launcher)
    shards = getattr(config.training, kind).shards
    if launcher.cluster == "local":
        gpus = 0 if device == "cpu" else len(joinable(visible_gpus()))
        count = min(given.processes, gpus) if gpus else given.processes
        count = count if processes is None else processes
        given = replace(given, nodes=1, processes=count, gpus=gpus)
    elif device == "cuda" and not given.gpus:
        raise UserError(
            f"Runs of {kind} are to be trained on CUDA GPUs, but the launcher asks for none: give "
            "it `gpus`, or say device: cpu."
        )
    if given.nodes < 1 or given.processes < 1:
        raise UserError(f"nodes and processes must be at least 1 to train {kind}.")
    if device != "cpu" and 0 < given.gpus < given.processes:
        raise UserError(
            f"{given.processes} processes cannot train {kind} on {given.gpus} "
            f"GPU{'s' * (given.gpus > 1)} of a node: give it at most one process a GPU."
        )
    if processes is None and given.nodes == 1 and given.processes > shards:
        given = replace(given, processes=shards, gpus=min(shards, given.gpus))
    if shards % (given.nodes * given.processes):
        raise UserError(_cannot_share(config, launcher, kind, given))
    return given


def _cannot_share(config: Config, launcher: Launcher, kind: str, given: Resources) -> str:
    """The sentence for processes that do not divide the shards, with arrangements that work."""
    shards = getattr(config.training, kind).shards  # a power of two, as all that divides it
    own = {"nodes", "processes"} & launcher.stages.get(kind, {}).keys()
    where = f"stages.{kind}" if own else "resources"
    works = []
    for nodes in sorted({1, given.nodes}):
        most = min(given.processes, shards // nodes)
        if shards % nodes == 0 and most:
            each = 2 ** (most.bit_length() - 1)
            words = {"nodes": nodes, "processes": each, "gpus": min(each, given.gpus)}
            changed = {name: n for name, n in words.items() if n != getattr(given, name)}
            works.append(" ".join(f"{where}.{name}={n}" for name, n in changed.items()))
    if launcher.cluster == "local":
        each = 2 ** (min(given.processes, shards).bit_length() - 1)
        works = [f"--processes {each}, or {where}.processes={each} in the launcher"]
    of_nodes = f" ({given.nodes} nodes of {given.processes})" if given.nodes > 1 else ""
    return (
        f"training.{kind}.shards is {shards}; the number of processes must divide it, and "
        f"{given.nodes * given.processes}{of_nodes} do not: "
        f"use {', or '.join(works)}."
    )


def device_of(config: Config, launcher: Launcher) -> str:
    """A launcher that names no device leaves it to the scale: the published one wants a GPU."""
    return config.accelerator if launcher.device == "auto" else launcher.device


def launch(
    run: Run,
    launcher: Launcher,
    wait: bool = False,
    processes: int | None = None,
) -> None:
    """Train `run` to its end, or go on with it, and publish its model.

    Raises Stopped when a signal ended it early; its state is saved then. With `wait`, a process
    that is training this run already is waited for; without, it is a UserError.
    """
    plan, published = make_plan(run), run.model
    done = finished(plan, _warn)
    if done is None and (is_published(plan, published) or take_kept(run, plan)):
        print(f"{run.name}: already trained to {plan.images} images, published in {published}")
        return
    if done is None:
        _train(run, plan, launcher, wait, processes)
        done = finished(plan, _warn)
        if done is None:
            raise UserError(
                f"{plan.folder} is not finished, though its training ended: run the same command "
                "again."
            )
        print(f"{run.name}: trained to {plan.images} images, published in {published}")
    else:
        print(f"{run.name}: trained to {plan.images} images before; published again in {published}")
    with locked(plan.folder / "publish.lock"):  # several may have waited for it
        publish(plan, done, published)


def _train(run: Run, plan: Plan, launcher: Launcher, wait: bool, processes: int | None) -> None:
    from d2it.jobs import local, slurm_training

    resources = arrange(run.config, launcher, run.kind, processes)
    job = local.TrainingWork(run, device_of(run.config, launcher), launcher.threads)
    if launcher.cluster == "slurm":
        slurm_training.train_on_slurm(plan, job, resources, wait, launcher.poll)
        return
    await_free(plan.folder, wait)
    if job.device == "cuda" and not resources.gpus:
        raise UserError(
            f"{plan.run} is to be trained on a CUDA GPU, and this machine has none: use a machine "
            "that has one, a cluster (--launcher slurm), or a launcher that says device: cpu."
        )
    if resources.processes > 1:
        names = joinable(visible_gpus())[: resources.processes] if resources.gpus else []
        with launching(plan.folder, wait):
            local.run_here(plan, job, resources.processes, names)
    else:
        job.train(plan, wait)


def _warn(sentence: str) -> None:
    print(f"d2it: warning: {sentence}")
