"""A real Slurm cluster on this machine: munge, MariaDB, slurmdbd, slurmctld, and two slurmd.

    python tests/slurm/cluster.py up [FOLDER]      # default: .slurm; then `source .slurm/env`
    python tests/slurm/cluster.py down [FOLDER]

Its sockets, ports, keys and logs are its own, so it meets no other Slurm or database that runs
here. Each node has two GPUs that are none (device files that hold nothing), so device: cpu.
Needs root, since slurmctld and slurmd do. Only the standard library is imported.
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sacctmgr")
NODES = ("node1", "node2")
SPARE = ("node3", "node4")
PATIENCE = 40  # seconds for each daemon to answer
LAUNCHER = Path(__file__).with_name("launcher.yaml")

MUNGE = "AuthType=auth/munge\nAuthInfo=socket={folder}/munge.socket,cred_expire=5\n"
SLURMDBD = (
    MUNGE
    + """DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""
)
# cred_expire: a requeued job waits for two of them, 120 s each unless told.
# FirstJobId: processes meet at a port that submitit makes of a job's number, and another cluster
# may run here.
SLURM = (
    MUNGE
    + """ClusterName=d2it
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
FirstJobId={ctld}000
SlurmUser=root
MpiDefault=none
ProctrackType=proctrack/linuxproc
SwitchType=switch/none
TaskPlugin=task/none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
SlurmdTimeout=10
DefMemPerCPU=400
ReturnToService=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs=16 RealMemory=8000 Gres=gpu:2
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={slurmd}
PartitionName=DEFAULT MaxTime=INFINITE PriorityTier=1 GraceTime=10
PartitionName=main Nodes=node1,node2 Default=YES
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
{spare}
"""
)
GRES = "NodeName={nodes} Name=gpu Flags=nvidia_gpu_env File={folder}/nvidia[0-1]\n"
SUDO = {os.environ.get("SUDO_USER", "root")} - {"root", "nobody"}  # who says sudo make slurm-up
ACCOUNTS = (
    "add cluster d2it",
    "add account d2it Cluster=d2it",
    "add user root Account=d2it AdminLevel=Admin",
    "add user nobody Account=d2it",
    *(f"add user {name} Account=d2it" for name in SUDO),
)


class Cluster:
    def __init__(self, folder: Path | str = ".slurm", spare: bool = False) -> None:
        """With `spare`, two more nodes, in the partition of that name."""
        self.folder = Path(folder).resolve()
        self.nodes = NODES + SPARE if spare else NODES
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "D2IT_LAUNCHER": str(LAUNCHER),
        }

    def up(self) -> None:
        """Start anew, whatever an earlier one has left."""
        if len(str(self.folder)) > 90:  # a socket's path has at most 107 characters
            raise SystemExit(f"slurm: {self.folder} is too long a path for a socket.")
        if missing():
            raise SystemExit(f"slurm: {missing()[0]} is missing: `make slurm-up` installs it.")
        self.down()
        self._configure()
        munge = self.folder / "munge"
        self._start(
            *("munged", "--foreground", "--force", f"--socket={munge}.socket"),
            *(f"--key-file={munge}.key", f"--seed-file={munge}.seed", f"--pid-file={munge}.pid"),
            f"--log-file={self.folder}/log/munge.log",
        )
        self._start_database()
        self._await("munge", lambda: Path(f"{munge}.socket").exists())
        self.start_slurmdbd()
        for words in ACCOUNTS:
            self.manage(words)
        self.start_slurmctld()
        for node in self.nodes:
            self.start_node(node)
        self.await_idle()
        arrays = f"{LAUNCHER} resources.shares=2"  # who tries it sees arrays too
        shown = self.environment | {"D2IT_LAUNCHER": arrays}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in shown.items()]
        (self.folder / "env").write_text("".join(lines))

    def down(self) -> None:
        """Leave no process and no file, also after a crash."""
        for _ in range(5):  # again, for those that were being born
            for process in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self, *marks: str) -> list[int]:
        """Daemons of this cluster and processes of its jobs, by what their environment says: all
        of them, or those that have all `marks`, e.g. SLURM_PROCID=1, or SLURM_PROCID= for any."""
        ours = {f"D2IT_CLUSTER={self.folder}"}
        jobs = {f"SLURM_CONF={self.folder}/slurm.conf", "SLURM_JOB_ID="}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                entries = (path / "environ").read_bytes().decode(errors="replace").split("\0")
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it has ended
                continue
            has = {*entries, *(entry.partition("=")[0] + "=" for entry in entries)}
            if state != "Z" and (ours <= has or jobs <= has) and has.issuperset(marks):
                found.append(int(path.name))
        return found

    def run(self, *command: str, timeout: float = 20) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
            env=os.environ | self.environment,
        )
        return done.stdout

    def manage(self, words: str) -> None:
        self.run("sacctmgr", "--immediate", *words.split())

    def start_slurmdbd(self) -> None:
        self._start("slurmdbd", "-D")
        self._await("slurmdbd", lambda: self.run("sacctmgr", "show", "user", timeout=3))

    def start_slurmctld(self) -> None:
        self._start("slurmctld", "-D")
        self._await("slurmctld", lambda: "is UP" in self.run("scontrol", "ping", timeout=3))

    def resume_nodes(self) -> None:
        """A controller killed before it wrote down that a job runs starts it again: the node, which
        has it, drains for a "Duplicate jobid", and all that come later would wait for it.
        """
        drained = self.run("sinfo", "--noheader", "--states=drain,draining", "--format=%n")
        for node in set(drained.split()):
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def skip_a_number(self) -> None:
        """A controller killed before it wrote down its last job gives that number again, and the
        node that had the job refuses it: a job that never runs takes the number.
        """
        held = ("sbatch", "--hold", "--parsable", "--output=/dev/null", "--wrap=true")
        self.run("scancel", self.run(*held).strip())

    def start_node(self, node: str) -> None:
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        self._start("slurmd", "-D", "-N", node)

    def kill(self, *marks: str, signum: int = signal.SIGKILL) -> None:
        """kill -9 of the processes that have all `marks`, e.g. "SLURM_JOB_ID=12"."""
        found = self.processes(*marks)
        assert found, marks
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signum)

    def await_idle(self) -> None:
        self._await("the nodes", self.is_idle)

    def is_idle(self) -> bool:
        states = self.run("sinfo", "--noheader", "--Node", "--format=%N|%T")
        return set(states.split()) == {f"{node}|idle" for node in self.nodes}

    def is_emptied(self) -> bool:
        """Whether no job is left, once all were told to end."""
        self.run("scancel", "--user=root")
        return not self.run("squeue", "--all", "--noheader")

    def state(self) -> str:
        """Jobs, and nodes with the reason why they do not run any."""
        return self.run("squeue", "--all") + self.run("sinfo", "--Node", "--format=%N %T %E")

    def _configure(self) -> None:
        for name in ("log", "state", "db", "tmp"):  # tmp: MariaDB empties it of every server's
            (self.folder / name).mkdir(parents=True)
        facts = {
            "folder": self.folder,
            "host": socket.gethostname().partition(".")[0],
            "nodes": f"node[1-{len(self.nodes)}]",
            "spare": f"PartitionName=spare Nodes={','.join(SPARE)}" * (self.nodes != NODES),
            "password": secrets.token_hex(16),
        }
        ports = free_ports(3 + len(self.nodes))
        facts |= zip(("ctld", "dbd", "mysql"), ports, strict=False)
        facts["slurmd"] = f"[{','.join(map(str, ports[3:]))}]"
        for name, text in (("slurm", SLURM), ("slurmdbd", SLURMDBD), ("gres", GRES)):
            path = self.folder / f"{name}.conf"
            path.touch(mode=0o600 if name == "slurmdbd" else 0o644)
            path.write_text(text.format(**facts))
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        for i in range(2):  # of the kind of /dev/null: plain files are refused
            os.mknod(self.folder / f"nvidia{i}", 0o20666, os.makedev(1, 3))
        self.facts = facts

    def _start_database(self) -> None:
        data, place = f"--datadir={self.folder}/db", f"--socket={self.folder}/mysql.socket"
        made = subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", data, "--skip-test-db"],
            env=os.environ | {"TMPDIR": str(self.folder / "tmp")},
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise SystemExit(f"slurm: MariaDB's folder could not be made: {made.stderr[-500:]}")
        self._start(
            *("mariadbd", "--no-defaults", "--user=root", data, place),
            *("--bind-address=127.0.0.1", f"--port={self.facts['mysql']}"),
            f"--tmpdir={self.folder}/tmp",
            *("--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"),
        )
        sql = (
            "CREATE DATABASE slurm;"
            f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{self.facts['password']}';"
            "GRANT ALL ON slurm.* TO slurm@'127.0.0.1';"
        )
        client = ("mariadb", "--no-defaults", place)
        self._await("MariaDB", lambda: self.run(*client, "--execute=SELECT 'up'"))
        self.run(*client, f"--execute={sql}")

    def _start(self, program: str, *arguments: str) -> None:
        mark = {"D2IT_CLUSTER": str(self.folder), "D2IT_DAEMON": " ".join([program, *arguments])}
        with open(self.folder / "log" / f"{program}.out", "ab") as log:
            subprocess.Popen(
                [shutil.which(program) or program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment | mark,
            )

    def _await(self, name: str, answers: Callable[[], object]) -> None:
        deadline, said = time.monotonic() + PATIENCE, "nothing"
        while time.monotonic() < deadline:
            try:
                if answers():
                    return
            except subprocess.CalledProcessError as error:
                said = error.stderr.strip()
            except subprocess.TimeoutExpired:
                pass
            time.sleep(0.1)
        raise SystemExit(f"slurm: {name} does not answer ({said}); logs: {self.folder}/log.")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def missing() -> list[str]:
    """Programs that are not here; a sentence to whoever is not root."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid():
        raise SystemExit("slurm: only root can start a Slurm cluster: use sudo.")
    return [program for program in PROGRAMS if shutil.which(program) is None]


def install() -> None:
    """The daemons, from ordinary packages, where they are missing."""
    if not missing():
        return
    if shutil.which("apt-get") is None:
        raise SystemExit(
            f"slurm: {missing()[0]} is missing and there is no apt-get: install Slurm, slurmdbd, "
            "munge and MariaDB with this machine's own packages."
        )
    print(f"slurm: installing {' '.join(PACKAGES)}", flush=True)
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in ("update", f"install --yes --no-install-recommends {' '.join(PACKAGES)}"):
        done = subprocess.run(
            ["apt-get", "-qq", *words.split()], env=quiet, capture_output=True, text=True
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SystemExit(f"slurm: the packages cannot be installed ({said}).")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["up", *folder]:
            install()
            began, cluster = time.monotonic(), Cluster(*folder)
            cluster.up()
            seconds = time.monotonic() - began
            print(f"A Slurm cluster is up after {seconds:.1f} s: source {cluster.folder}/env")
        case ["install"]:
            install()
        case ["down", *folder]:
            Cluster(*folder).down()
        case _:
            raise SystemExit(__doc__)
