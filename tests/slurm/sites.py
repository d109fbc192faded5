"""Clusters that are not set up as ours is: what other sites do to whoever submits there."""

from tests.slurm.cluster import Cluster

# A policy by Slurm's own plugin: it refuses with a word of its own, and rewrites comments.
POLICY = """\
function slurm_job_submit(job, parts, uid)
  if job.tres_per_node ~= nil and not string.find(job.tres_per_node, "a100") then
    slurm.log_user("GPUs must be typed, e.g. --gpus-per-node=a100:1")
    return slurm.ERROR
  end
  if job.comment ~= nil and #job.comment > 24 and job.partition == "strict" then
    slurm.log_user("A comment has at most 24 characters")
    return slurm.ERROR
  end
  job.comment = "seen by " .. uid
  return slurm.SUCCESS
end
function slurm_job_modify(job, record, parts, uid)
  return slurm.SUCCESS
end
slurm.log_info("policy loaded")
return slurm.SUCCESS
"""
RULES = """\
JobSubmitPlugins=lua
MaxArraySize=4
AccountingStorageEnforce=associations,limits,wckeys
JobAcctGatherParams=OverMemoryKill
PartitionName=strict Nodes=ALL
"""
NAMES = {
    "node[1-2]": "a100-[07-08]",
    "node1,node2": "a100-07,a100-08",
    "PartitionName=main": "PartitionName=batch",
    "Gres=gpu:2": "Gres=gpu:a100:2",
    "AccountingStorageEnforce=associations\n": "",
    "DefMemPerCPU=400": "DefMemPerCPU=2000",
    "JobAcctGatherFrequency=5": "JobAcctGatherFrequency=1",
}

# What a centre, or a user's own profile, exports.
EXPORTED = {
    "SBATCH_EXPORT": "NONE",
    "SBATCH_PARTITION": "nowhere",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_COMMENT": "mine",
    "SBATCH_TIMELIMIT": "1",
    "SQUEUE_STATES": "SUSPENDED",
    "SQUEUE_FORMAT": "%N",
    "SQUEUE_USERS": "nobody",
    "SACCT_FORMAT": "JobName",
    "SRUN_EXPORT_ENV": "NONE",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_TIME_FORMAT": "relative",
    # of a job that Snakemake itself is: srun refuses both together
    "SLURM_JOB_ID": "1",
    "SLURM_MEM_PER_NODE": "100",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_NTASKS": "7",
}


class Foreign(Cluster):
    """Other names, typed GPUs, a policy, limits, enforced wckeys, and memory that is watched."""

    def _configure(self) -> None:
        super()._configure()
        self.nodes = ("a100-07", "a100-08")
        self.rewrite("slurm.conf", NAMES, RULES)
        self.rewrite("gres.conf", NAMES | {"Name=gpu": "Name=gpu Type=a100"})
        (self.folder / "job_submit.lua").write_text(POLICY)

    def rewrite(self, name: str, changes: dict[str, str], more: str = "") -> None:
        path = self.folder / name
        text = path.read_text()
        for before, after in changes.items():
            text = text.replace(before, after)
        path.write_text(text + more)


class Bare(Cluster):
    """Nobody keeps accounts there."""

    def _configure(self) -> None:
        super()._configure()
        path = self.folder / "slurm.conf"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for line in lines if not line.startswith("Accounting")))

    def _start_database(self) -> None:
        pass

    def start_slurmdbd(self) -> None:
        pass

    def manage(self, words: str) -> None:
        pass


SURVIVED, REFUSED = "nothing lost, nothing twice", "refused in one sentence"
TRIED = {  # what each test of test_sites.py meets, and what comes of it
    "test_one_job_whatever_is_exported_and_said": {
        f"{len(EXPORTED)} options of Slurm's commands in the environment, `SBATCH_EXPORT=NONE` and "
        "those of an outer job among them": SURVIVED,
        "other names of nodes and partitions, typed GPUs, wckeys enforced": SURVIVED,
        "a job_submit plugin that rewrites comments": SURVIVED,
        "an sbatch whose answer is lost (`Socket timed out`)": SURVIVED,
        "a squeue that fails every third time": SURVIVED,
        "kill -9 of the command meanwhile": SURVIVED,
    },
    "test_an_answer_with_other_numbers": {
        "an sbatch that talks (`Your job 3 of 50 allowed`)": SURVIVED,
        "a job that is held": "the command that releases it is said",
        "a job that takes more memory than it was given": "the setting to raise is said",
    },
    "test_a_sites_own_rule_is_told": {
        "a job_submit plugin that wants GPUs typed": REFUSED,
        "one that limits comments": REFUSED,
    },
    "test_no_comment_where_none_is_allowed": {"the same, with the comment left out": SURVIVED},
    "test_limits": {
        "an array beyond `MaxArraySize`": REFUSED,
        "an array beyond `MaxSubmitJobs`": REFUSED,
        "a job beyond `MaxSubmitJobs`, without `--wait`": REFUSED,
        "the same with `--wait`": "tried again until it is accepted",
    },
    "test_nobody_keeps_accounts": {
        "no accounting, and a job that is cancelled": SURVIVED,
    },
}


PAGE = """
## Other sites

Clusters that are set up otherwise, wrappers around Slurm's commands, options in the environment: \
{counts}([tests/slurm/test_sites.py](../tests/slurm/test_sites.py) fails where that is not so). \
Not tried:
memory limits by cgroups, a prolog that unsets variables, drained nodes, two clusters on one home, \
GPUs.

| site | what happened |
|---|---|
{rows}
"""


def page() -> str:
    """The second table of docs/slurm_faults.md."""
    rows = [row for rows in TRIED.values() for row in rows.items()]
    refused = sum(outcome == REFUSED for _, outcome in rows)
    lines = [f"| {site} | {outcome} |" for site, outcome in rows]
    counts = (
        f"{len(rows)}\ntried, {len(rows) - refused} survived or told with their cure, {refused} "
        "refused in a sentence\n"
    )
    return PAGE.format(counts=counts, rows="\n".join(lines))
