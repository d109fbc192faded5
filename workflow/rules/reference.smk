"""images → the Inception features that samples are compared with."""


rule reference:
    input:
        manifest(paths.images(CONFIG, "{data}")),
        weights("inception"),
        reference_batch,
    output:
        update(manifest(paths.reference(CONFIG, "{data}"))),
    params:
        images=lambda wildcards: CONFIG.data[wildcards.data].reference,
        protocol=lambda wildcards: CONFIG.data[wildcards.data].protocol,
        metrics=lambda wildcards: asked(CONFIG, wildcards.data),
        version=recipe.VERSIONS["evaluation"],
    log:
        f"{LOGS}/reference/{{data}}.log",
    resources:
        head=heads_of("reference"),
        place=place_of("reference", in_shares=True),
    threads: processes_of("reference")
    message:
        "Computing the reference features of {wildcards.data}{resources.place}"
    shell:
        "d2it reference {wildcards.data:q} --params {PARAMS:q} --wait 2>&1 | " + LOGGED
