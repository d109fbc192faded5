"""The first hour on a GPU node: does everything work here, and is it as fast as planned?

    make first-hour                  on a GPU node
    make first-hour SLURM=1          as a Slurm job of D2IT_LAUNCHER, or of
                                     LAUNCHER="slurm resources.partition=gpu"
    make first-hour SIMULATED=1      every check at a tiny size, on a simulated device

No data set is needed. Each check runs the project's own code at the published sizes and prints one
line: `right`, `wrong: what to do`, or `slower than planned`. The measurements go to
benchmarks/results/first-hour-<gpu>.json, from which `d2it plan` takes its MFU. `make bench GPU=1`
is the long form.
"""
