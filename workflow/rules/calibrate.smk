"""images → entropy thresholds (Eq 2-3)."""


rule calibrate:
    input:
        manifest(paths.images(CONFIG, "{data}")),
    output:
        update(str(paths.thresholds(CONFIG, "{data}"))),
    params:
        regions=lambda wildcards: recipe.regions_of(CONFIG, wildcards.data),
        sigma=CONFIG.sigma,
        bins=CONFIG.bins,
        grey_range=CONFIG.grey_range,
        quantiles=CONFIG.quantiles,
    log:
        f"{LOGS}/calibrate/{{data}}.log",
    resources:
        head=1,
    # Short, and the DVAE waits for it: first, and with both cores, so that `reference` starts
    # behind it.
    threads: 2
    priority: 2
    message:
        "Measuring the entropy of {wildcards.data}"
    shell:
        "d2it calibrate {wildcards.data:q} --params {PARAMS:q} --wait 2>&1 | " + LOGGED
