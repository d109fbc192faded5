"""`snakemake --logger stages`: stage by stage what is done, running and left, with one estimate.

It writes to standard error; what Snakemake would have said goes to standard output, beside what
commands print there: `make demo` keeps that in a file. The page of the scale is written as soon as
there are pictures for it.
"""

import re
import shlex
import subprocess
import sys
import threading
import time
from logging import ERROR
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from d2it.config import Config, load, paths
from d2it.jobs.progress import Job, Progress, in_order, prices, stage, trainings

PARAMS = "--params"  # in a command, before its settings' file
SENTENCE = re.compile(r"^d2it: (?:error: )?(.+)$", re.MULTILINE)
PICTURES = {  # of a rule's first job
    "calibrate": "The first pictures, images and their grain maps",
    "evaluate_dvae": "The first reconstructions",
    "evaluate_content": "The first samples",
}
LOOK = 2.0  # seconds between two looks
LINE = 60.0  # and between two lines, where they are no terminal's


class LogHandler(LogHandlerBase):
    writes_to_stream, writes_to_file = True, False
    has_filter = has_formatter = needs_rulegraph = False

    def __post_init__(self) -> None:
        self.screen = sys.stderr.isatty()
        self.begun = self.told = time.monotonic()
        self.height, self.cores = 0, 1
        self.progress: Progress | None = None
        self.config: Config | None = None
        self.failed = False
        self.pictures = dict(PICTURES)
        self.page: tuple[subprocess.Popen[bytes], str] | None = None
        self.ended = threading.Event()

    def emit(self, record: Any) -> None:
        print(self.format(record), flush=True)
        event = getattr(record, "event", None)
        if event == LogEvent.RESOURCES_INFO:
            self.cores = getattr(record, "cores", self.cores)
        elif event == LogEvent.RUN_INFO:
            rules = sorted(record.stats.keys() - {"all", "total"}, key=in_order)
            self.progress = Progress({rule: record.stats[rule] for rule in rules}, self.cores)
            threading.Thread(target=self.watch, daemon=True).start()
        elif event == LogEvent.JOB_INFO and self.progress and record.shellcmd:
            self.begin(record, self.progress)
        elif event == LogEvent.JOB_FINISHED and self.progress:
            self.finish(record.job_id, self.progress)
        elif event == LogEvent.JOB_ERROR and self.progress:
            self.progress.fail(record.jobid)
            self.failed = True
            self.say(failure(record))
        elif self.matters(record.levelno, record.getMessage()):
            self.say(record.getMessage())

    def matters(self, level: int, message: str) -> bool:
        """What no job's own sentence says."""
        error = level >= ERROR and not self.failed and "CalledProcessError" not in message
        return error or message.startswith("Nothing to be done")

    def begin(self, record: Any, progress: Progress) -> None:
        words = shlex.split(record.shellcmd)
        if self.config is None and PARAMS in words[:-1]:
            self.params = words[words.index(PARAMS) + 1]
            self.config = load(self.params)
            progress.costs = prices(self.config)
        target = next(iter(record.wildcards.values()), "")
        progress.begin(record.jobid, Job(record.rule_name, target, time.monotonic()))
        if record.rule_name == "page" and self.page:  # it is about to be written whole
            self.page[0].terminate()
            self.page = None

    def finish(self, number: int, progress: Progress) -> None:
        job = progress.end(number, time.monotonic())
        if job and job.rule in self.pictures and self.page is None and self.config:
            command = ["d2it", "page", "--params", self.params]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            self.page = (child, self.pictures.pop(job.rule))
        total = sum(progress.counts.values())
        if job and not self.screen and not progress.waiting()[job.rule] and progress.done < total:
            self.draw()

    def watch(self) -> None:
        """Look again and again until all is over."""
        while not self.ended.wait(LOOK):
            self.acquire()
            try:
                self.look()
            finally:
                self.release()

    def look(self) -> None:
        if self.page and self.page[0].poll() is not None and self.config:
            child, what = self.page
            self.page = None
            if child.returncode == 0:
                self.say(f"{what}: {paths.page(self.config)}")
        if self.screen or time.monotonic() - self.told > LINE:
            self.draw()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.wipe()
        print(text, file=sys.stderr, flush=True)
        if self.screen:
            self.draw()

    def draw(self) -> None:
        """All stages on a terminal, in their place; in a file a line."""
        if self.progress is None:
            return
        self.told = now = time.monotonic()
        left = self.progress.left(now, trainings(self.config) if self.config else {})
        lines = [f"{clock(now - self.begun)}  {self.progress.headline(left)}"]
        if self.screen:
            lines += self.progress.table()
        else:
            lines[0] += "".join(f"; {stage(j.rule)} {j.target}" for j in self.progress.jobs())
        self.wipe()
        print("\n".join(lines), file=sys.stderr, flush=True)
        self.height = len(lines) if self.screen else 0

    def wipe(self) -> None:
        if self.height:
            print(f"\x1b[{self.height}F\x1b[J", end="", file=sys.stderr)
        self.height = 0

    def close(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            if self.page:
                self.page[0].terminate()
            self.draw()
        super().close()


def failure(record: Any) -> str:
    """What a person needs of a job that failed or was stopped: its sentence, and its log."""
    logs = [Path(log) for log in record.log]
    told = [s for log in logs if log.is_file() for s in SENTENCE.findall(log.read_text("utf-8"))]
    where = ", ".join(map(str, logs)) or "the log"
    sentence = told[-1] if told else "its log says why; the same command goes on."
    return f"{stage(record.rule_name)} has stopped: {sentence} ({where})"


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
