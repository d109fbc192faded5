"""images → DVAE; latents → grain, content and DiT networks.

Training goes through the launcher: it trains in runs/<run>-<digest>/, which no rule declares,
resumes there, and publishes a copy to results/. The parameters are all that may retrain a run: its
recipe, its length, and the shares of its training at which weights are kept.
"""


rule train_dvae:
    input:
        can_train,
        images_of_dvae,
        thresholds_of_dvae,
        weights(f"lpips_{CONFIG.dvae_loss.perceptual}"),
    output:
        manifest(paths.model(CONFIG, any_of("dvae"))),
    params:
        run=lambda wildcards: recipe.run_name(CONFIG, wildcards.run),
        images=lambda wildcards: recipe.training_images(CONFIG, wildcards.run),
        milestones=lambda wildcards: wiring.milestones(CONFIG, wildcards.run),
    log:
        f"{LOGS}/train/{{run}}.log",
    resources:
        head=heads_of("dvae"),
        place=place_of("dvae"),
    threads: processes_of("dvae")
    priority: 1  # all else waits for it
    message:
        "Training {wildcards.run}{resources.place}"
    shell:
        "d2it train {wildcards.run} --params {PARAMS} --wait 2>&1 | tee {log}"


rule train_grain:
    input:
        can_train,
        latents_of("grain"),
    output:
        manifest(paths.model(CONFIG, any_of("grain"))),
    params:
        run=lambda wildcards: recipe.run_name(CONFIG, wildcards.run),
        images=lambda wildcards: recipe.training_images(CONFIG, wildcards.run),
        milestones=lambda wildcards: wiring.milestones(CONFIG, wildcards.run),
    log:
        f"{LOGS}/train/{{run}}.log",
    resources:
        head=heads_of("grain"),
        place=place_of("grain"),
    threads: processes_of("grain")
    message:
        "Training {wildcards.run}{resources.place}"
    shell:
        "d2it train {wildcards.run} --params {PARAMS} --wait 2>&1 | tee {log}"


rule train_content:
    input:
        can_train,
        latents_of("content"),
    output:
        manifest(paths.model(CONFIG, any_of("content"))),
    params:
        run=lambda wildcards: recipe.run_name(CONFIG, wildcards.run),
        images=lambda wildcards: recipe.training_images(CONFIG, wildcards.run),
        milestones=lambda wildcards: wiring.milestones(CONFIG, wildcards.run),
    log:
        f"{LOGS}/train/{{run}}.log",
    resources:
        head=heads_of("content"),
        place=place_of("content"),
    threads: processes_of("content")
    message:
        "Training {wildcards.run}{resources.place}"
    shell:
        "d2it train {wildcards.run} --params {PARAMS} --wait 2>&1 | tee {log}"


rule train_dit:
    input:
        can_train,
        latents_of("dit"),
    output:
        manifest(paths.model(CONFIG, any_of("dit"))),
    params:
        run=lambda wildcards: recipe.run_name(CONFIG, wildcards.run),
        images=lambda wildcards: recipe.training_images(CONFIG, wildcards.run),
        milestones=lambda wildcards: wiring.milestones(CONFIG, wildcards.run),
    log:
        f"{LOGS}/train/{{run}}.log",
    resources:
        head=heads_of("dit"),
        place=place_of("dit"),
    threads: processes_of("dit")
    message:
        "Training {wildcards.run}{resources.place}"
    shell:
        "d2it train {wildcards.run} --params {PARAMS} --wait 2>&1 | tee {log}"
