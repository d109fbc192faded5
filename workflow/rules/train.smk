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
        update(manifest(paths.model(CONFIG, any_of("dvae")))),
    params:
        run=lambda wildcards: RUNS[wildcards.run].id,
        images=lambda wildcards: RUNS[wildcards.run].training.images,
        milestones=lambda wildcards: wiring.milestones(RUNS[wildcards.run]),
    log:
        f"{LOGS}/train/{{run}}.log",
    resources:
        head=heads_of("train"),
        place=place_of("train"),
    threads: processes_of("train")
    priority: 1  # all else waits for it
    message:
        "Training {wildcards.run}{resources.place}"
    shell:
        "d2it train {wildcards.run:q} --params {PARAMS:q} --wait 2>&1 | " + LOGGED


use rule train_dvae as train_grain with:
    input:
        can_train,
        latents_of,
    output:
        update(manifest(paths.model(CONFIG, any_of("grain")))),
    priority: 0


use rule train_grain as train_content with:
    input:
        can_train,
        latents_of,
    output:
        update(manifest(paths.model(CONFIG, any_of("content")))),


use rule train_grain as train_dit with:
    input:
        can_train,
        latents_of,
    output:
        update(manifest(paths.model(CONFIG, any_of("dit")))),
