"""sources → images, packed at the training resolution."""


rule prepare:
    input:
        lambda wildcards: (
            weights("twemoji") if CONFIG.data[wildcards.data].source == "emoji" else []
        ),
    output:
        update(manifest(paths.images(CONFIG, "{data}"))),
    params:
        recipe=lambda wildcards: recipe.digest(recipe.images_recipe(CONFIG, wildcards.data))[:16],
    log:
        f"{LOGS}/prepare/{{data}}.log",
    resources:
        head=1,
    message:
        "Packing the images of {wildcards.data}"
    shell:
        "d2it prepare {wildcards.data:q} --params {PARAMS:q} --wait 2>&1 | " + LOGGED
