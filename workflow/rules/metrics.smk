"""evaluations → the metrics of every run in one small file."""


rule metrics:
    input:
        [str(run.evaluation) for run in RUNS.values()],
    output:
        str(paths.metrics(CONFIG)),
    log:
        f"{LOGS}/metrics.log",
    resources:
        head=1,
    message:
        "Gathering the metrics of every run"
    shell:
        "d2it metrics --params {PARAMS:q} 2>&1 | tee -i {log:q}"
