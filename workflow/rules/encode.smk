"""images and DVAE → cached latents with their grain maps."""


rule encode:
    input:
        images_of_dvae,
        thresholds_of_dvae,
        manifest(paths.model(CONFIG, "{run}")),
    output:
        update(manifest(paths.latents(CONFIG, any_of("dvae")))),
    params:
        recipe=lambda wildcards: recipe.digest(RUNS[wildcards.run].latents_recipe)[:16],
        ratios=lambda wildcards: wiring.measured_ratios(RUNS[wildcards.run]),
    log:
        f"{LOGS}/encode/{{run}}.log",
    resources:
        head=heads_of("encode"),
        place=place_of("encode", in_shares=True),
    threads: processes_of("encode")
    message:
        "Encoding the images with {wildcards.run}{resources.place}"
    shell:
        "d2it encode {wildcards.run:q} --params {PARAMS:q} --wait 2>&1 | " + LOGGED
