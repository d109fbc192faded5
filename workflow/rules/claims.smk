"""evaluations → what the paper claims, held against runs of several training seeds."""


rule claims:
    input:
        runs=claimed,  # a function: read only when the claims are asked for
        which="params/claims.yaml",
        windows=[str(path) for path in [paths.windows(CONFIG)] if path.exists()],
        published="data/published/prose_claims.csv",
    output:
        str(paths.claims(CONFIG)),
    params:
        scale=CONFIG.caption_of(CONFIG.task.values()),
    log:
        f"{LOGS}/claims.log",
    resources:
        head=1,
    message:
        "Holding the paper's claims against the runs"
    shell:
        "d2it claims --params {PARAMS:q} 2>&1 | tee -i {log:q}"
