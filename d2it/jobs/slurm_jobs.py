"""The Slurm jobs of a folder: submitted once, found again, waited for, their end explained.

A training is one job of several processes; the shares of a stage are an array of jobs of one. Jobs
belong to a folder by their script, by their comment, its path, and by its jobs.json: whoever waits
may be killed, since the same command finds them in the queue. What a process has come to it leaves
as JSON (last_word.py); of a job that left nothing, sacct tells the end. No torch is imported.
"""

import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2it.errors import UserError
from d2it.files import locked
from d2it.jobs import last_word, slurm
from d2it.jobs.slurm_commands import insist
from d2it.jobs.submit import WARNED, logs_of, submit
from d2it.runs.signals import SIGNALS, Detached, Stalled

if TYPE_CHECKING:
    import submitit

    from d2it.jobs.launcher import Resources

LOOK = 2.0  # seconds between two looks at what jobs left; Slurm itself is asked less often
COMPLETING = 60.0  # seconds that a job may be listed as completing: then it is gone, or waits again
NO_MEMORY = re.compile(r"oom.kill|exceeded (\w+ )?memory limit|out.of.memory", re.IGNORECASE)
WORD = "_result.json"  # of a process, beside submitit's own files: <job>_<rank>_result.json


class Work:
    """What a job does, in each of its processes. submitit pickles it and calls it there."""

    def __call__(self) -> None:
        from submitit import JobEnvironment

        here = JobEnvironment()
        word = here.paths.folder / f"{here.job_id}_{here.global_rank}{WORD}"
        word.unlink(missing_ok=True)  # of a start before a requeue
        if here.global_rank == 0:
            for half in here.paths.folder.glob(f"{here.job_id}_*.save_tmp"):
                half.unlink()  # which submitit would refuse to write again
        try:
            finished = self.do(here, word)
        except Stalled:  # it waited for one that died: that one's node may be down, all requeued
            raise
        except UserError as error:
            last_word.write(word, error)
            raise
        if finished and here.global_rank == 0:
            last_word.write(word, None)

    def do(self, here: "submitit.JobEnvironment", word: Path) -> bool:
        """False: stopped, and perhaps requeued; or something else has left a word."""
        raise NotImplementedError

    def checkpoint(self) -> Any:
        """For submitit: what a requeued job does."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class Jobs:
    """The parts of what is computed in a folder, a job each."""

    folder: Path
    who: str  # as sentences call them together
    parts: Mapping[str, Work]  # by what sentences call each
    resources: "Resources"
    every: float  # seconds between two questions to Slurm
    lock: Path  # held while they are submitted
    patient: bool = True  # a silent Slurm, or a limit of jobs, is asked again

    def __post_init__(self) -> None:
        least = -(-2 * WARNED // 60)
        if self.resources.minutes < least:
            raise UserError(
                f"The launcher gives {self.who} {self.resources.minutes} minutes, but a job is "
                f"told to save {WARNED} s before its limit: give it `minutes` of {least} or more."
            )

    def run(
        self,
        clear: Callable[[], None],
        done: Callable[[], bool] = lambda: False,
        show: Callable[[], None] = lambda: None,
    ) -> bool:
        """Have every part done: find its job in the queue, or `clear` and submit; then wait.

        `done` is asked after the queue, which a job leaves when it has done its work. A signal ends
        the waiting alone. False: the same command, waiting elsewhere, has seen the end of all and
        tidied up.
        """
        array = insist(lambda: self._find_or_submit(clear, done), self.patient)
        if array is None:
            return True
        count = f", {len(self.parts)} parts" if len(self.parts) > 1 else ""
        print(f"{self.who}: Slurm job {array}{count}", file=sys.stderr)

        def detach(signum: int, _: Any) -> None:
            raise Detached(self.who, array, signum)

        handlers = {signum: signal.signal(signum, detach) for signum in SIGNALS}
        try:
            return self._wait(array, show)
        finally:
            for signum, previous in handlers.items():
                signal.signal(signum, previous)

    def _find_or_submit(self, clear: Callable[[], None], done: Callable[[], bool]) -> str | None:
        """None: it is done."""
        with slurm.submitting(self.lock):
            array = self._find()
            if array is None:
                if done():
                    return None
                clear()
                array = submit(self.folder, list(self.parts.values()), self.resources)
            slurm.record(self.folder, array, len(self.parts), self.who)
            return array

    def ended_well(self) -> bool:
        """Whether all parts did, as they were last submitted."""
        return any(self._well(array) for array in slurm.jobs_of(self.folder)[-1:])

    def _jobs(self, array: str) -> dict[str, str]:
        return dict(zip(self.parts, slurm.ids(array, len(self.parts)), strict=True))

    def _words(self, array: str) -> dict[str, last_word.Word]:
        """What the parts came to that have ended: the first process tells that all went well, and
        any of them what a user can mend. Names are listed, since NFS knows a file's absence long.
        """
        found = {}
        for part, job in self._jobs(array).items():
            paths = sorted(logs_of(self.folder).glob(f"{job}_*{WORD}"))
            words = [word for path in paths if (word := last_word.read(path))]
            if words:
                found[part] = max(words, key=lambda word: word["error"] is not None)
        return found

    def _well(self, array: str) -> bool | None:
        """Whether all parts ended well; None: not all have ended."""
        words = self._words(array).values()
        return not any(word["error"] for word in words) if len(words) == len(self.parts) else None

    def _find(self) -> str | None:
        """The array in the queue, unless it has failed and is about to leave."""
        deadline = time.monotonic() + COMPLETING
        while mine := slurm.live(self.folder):
            array = mine[0].job
            going = any(job.state != "COMPLETING" for job in mine)
            if going and self._well(array) is not False or time.monotonic() > deadline:
                return array
            time.sleep(LOOK)
        return None

    def _wait(self, array: str, show: Callable[[], None]) -> bool:
        jobs, said, looked = self._jobs(array), "", -self.every
        while len(words := self._words(array)) < len(jobs):
            if not self.folder.exists():
                with locked(self.lock):  # or somebody is submitting it again
                    if not self.folder.exists():
                        return False
            show()
            left = {part: job for part, job in jobs.items() if part not in words}
            known = slurm.accounting(left.values(), self.every)
            if all(job in known and not known[job].live for job in left.values()):
                if self._words(array).keys() == words.keys():
                    raise self._unfinished(left, known)
                continue
            if known and time.monotonic() >= looked + self.every:
                looked = time.monotonic()
                if said != (said := self._progress(array, known)):
                    print(f"{self.who}: Slurm job {array}: {said}", file=sys.stderr)
            time.sleep(LOOK)
        for part, word in words.items():
            if "died" in word:
                last_word.show_end(self._log(jobs[part]))
            if word["error"]:
                raise UserError(word["error"])
        return True

    def _progress(self, array: str, left: Mapping[str, slurm.Accounting]) -> str:
        """Where its jobs are that have not ended, and how far."""
        jobs, said = self._jobs(array), []
        if len(jobs) == 1:
            said += [job.now() for job in left.values()]
        else:
            said += [f"{len(jobs) - len(left)} of {len(jobs)} parts done"]
            states = Counter(job.now(nodes=False) for job in left.values())
            said += [f"{count} {state}" for state, count in states.items()]
        images = sum(map(_images, (self._log(job, "out") for job in jobs.values())))
        said += [f"{images} images"] if images else []
        held = [job for job, known in left.items() if known.held]
        if held:
            said += [f"`scontrol release {held[0]}` lets what is held start, `scancel` ends it"]
        return ", ".join(said)

    def _unfinished(self, left: dict[str, str], known: dict[str, slurm.Accounting]) -> UserError:
        """Of one of these jobs that have ended, if possible one that was started."""
        job = min(left.values(), key=lambda job: not known[job].nodes)
        log = self._log(job)
        last_word.show_end(log)
        advice = "the same command goes on from what was saved"
        if NO_MEMORY.search(known[job].state) or any(map(NO_MEMORY.search, _end(log))):
            advice = (
                "it needs more memory than Slurm gave it: raise that in the launcher, e.g. "
                "resources.extra.mem=64G, and run the same command again"
            )
        return UserError(
            f"Slurm ended {self.who} before {', '.join(left)} was finished: job {job} "
            f"{known[job]} (its log: {log}): {advice}."
        )

    def _log(self, job: str, stream: str = "err") -> Path:
        """Of its first process; srun tells there of others that failed."""
        return logs_of(self.folder) / f"{job}_0_log.{stream}"


def _images(log: Path) -> int:
    """Those that its process has reported (d2it/shares.py)."""
    return sum(int(line) for line in _lines(log) if line.strip().isdigit())


def _end(log: Path) -> Iterable[str]:
    return _lines(log)[-last_word.SHOWN :]


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
