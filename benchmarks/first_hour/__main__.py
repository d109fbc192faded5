"""The first hour on a GPU node: every check, its verdict, and the JSON that `d2it plan` reads."""

import argparse
import re
import sys
from typing import Any

from benchmarks import page
from benchmarks.common import RESULTS, checkout, table, versions
from benchmarks.first_hour.runner import Check, Done, Runner, checks_of
from benchmarks.first_hour.setting import Setting
from benchmarks.first_hour.slurm import submitted
from d2it.config.paths import runs_folder
from d2it.errors import UserError
from d2it.files import write_json, write_text
from d2it.machine.gpus import identify, visible_gpus
from d2it.runs.signals import Detached

NO_GPU = (
    "This machine has no NVIDIA GPU: run it on a GPU node, as a job of a cluster (make first-hour "
    "SLURM=1), or on a simulated device (make first-hour SIMULATED=1)."
)


def check_all(simulated: bool) -> int:
    """1 if anything is wrong."""
    if not simulated and not visible_gpus():
        raise UserError(NO_GPU)
    checkout()  # before the code may change
    with Runner(runs_folder() / f"first-hour{'-simulated' * simulated}") as runner:
        setting = Setting("a simulated device" if simulated else "unknown", simulated)
        machine = runner.run(setting, Check("machine"), needed=True).facts
        setting = Setting(machine["gpu"], simulated)
        print(machine.get("links", ""))
        runner.run(setting, Check("inputs"), needed=True)
        checks = checks_of(setting)
        print(announced(setting, checks), flush=True)
        for check in checks:
            runner.run(setting, check)
        done = runner.done
    print(f"\n{table(rows_of(done))}\n")
    if not simulated:
        write(machine, done)
    return int(any(one.found.wrong for one in done))


def announced(setting: Setting, checks: list[Check]) -> str:
    gpu, minutes = setting.plan.rate.gpu.name.upper(), sum(check.seconds for check in checks) / 60
    if setting.judged:
        return f"{len(checks)} checks, planned for {gpu}: {minutes:.0f} minutes"
    if setting.simulated:
        return f"{len(checks)} checks, on a simulated device: nothing is planned or judged"
    return f"{len(checks)} checks. Planned is what {gpu} would take: nothing is judged by it"


def rows_of(done: list[Done]) -> list[dict[str, Any]]:
    return [
        {"check": one.name, "measured": one.found.measured, "planned": one.found.planned}
        | {"seconds": round(one.seconds, 1), "verdict": one.found.verdict}
        for one in done
    ]


def write(machine: dict[str, Any], done: list[Done]) -> None:
    """benchmarks/results/first-hour-<gpu>.json, which `d2it plan` reads, and its page."""
    gpu = identify(machine["gpu"])
    name = gpu.name if gpu else re.sub(r"[^a-z0-9]+", "-", machine["gpu"].lower()).strip("-")
    path = RESULTS / f"first-hour-{name}.json"
    rows = [one.found.row for one in done if one.found.row and not one.found.wrong]
    header = {"hardware": machine, "versions": versions(), **checkout()}
    write_json(path, header | {"rows": rows, "checks": rows_of(done)})
    write_text(page.PAGE, page.page())
    print(f"{path}: `d2it plan --gpu {name}` takes what was measured from there.")
    print(f"{page.PAGE}, a file kept in git, was written anew with it.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make first-hour", description=__doc__)
    parser.add_argument("--simulated", action="store_true", help="at a tiny size, without a GPU")
    parser.add_argument("--slurm", action="store_true", help="as a Slurm job")
    parser.add_argument(
        "--launcher",
        help="of the job, e.g. 'slurm resources.partition=gpu' (default: $D2IT_LAUNCHER)",
    )
    given = parser.parse_args()
    try:
        if given.slurm:
            return submitted(given.launcher, given.simulated)
        return check_all(given.simulated)
    except UserError as error:
        print(f"first-hour: error: {error}", file=sys.stderr)
        return 2
    except Detached as detached:
        print(f"first-hour: {detached}", file=sys.stderr)
        return 128 + detached.signum


if __name__ == "__main__":
    sys.exit(main())
