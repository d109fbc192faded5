"""evaluations → what the paper claims, held against runs of several training seeds."""


rule claims:
    input:
        evaluations=[
            str(paths.evaluation(CONFIG, run))
            for run in claims.needed(claims.load_claims(), CONFIG)
        ],
        models=models_of(claims.needed(claims.load_claims(), CONFIG)),
        which="params/claims.yaml",
        published="data/published/prose_claims.csv",
    output:
        str(paths.claims(CONFIG)),
    params:
        scale=CONFIG.caption,
    log:
        f"{LOGS}/claims.log",
    resources:
        head=1,
    message:
        "Holding the paper's claims against the runs"
    shell:
        "d2it claims --params {PARAMS} 2>&1 | tee {log}"
