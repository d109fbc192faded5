"""models → samples → metrics and a gallery. One process per run, all its evaluations together."""


def grain_model_of_content(wildcards):
    """The network that draws a run's grain maps, unless its ratio makes them constant."""
    grain = RUNS[wildcards.run].grain
    return manifest(grain.model) if grain else []


rule evaluate_dvae:
    input:
        manifest(paths.model(CONFIG, "{run}")),
        images_of_dvae,
        thresholds_of_dvae,
        reference_of,
        weights("inception"),
        weights(f"lpips_{CONFIG.dvae_loss.perceptual}"),
    output:
        update(str(paths.evaluation(CONFIG, any_of("dvae")))),
        update(manifest(paths.gallery(CONFIG, any_of("dvae")))),
    params:
        settings=lambda wildcards: wiring.evaluation_digest(RUNS[wildcards.run]),
    log:
        f"{LOGS}/evaluate/{{run}}.log",
    resources:
        head=heads_of("evaluate"),
        place=place_of("evaluate"),
    priority: 1  # there is something to look at as soon as a network is trained
    message:
        "Evaluating {wildcards.run}{resources.place}"
    shell:
        "d2it evaluate {wildcards.run:q} --params {PARAMS:q} --wait 2>&1 | " + LOGGED


use rule evaluate_dvae as evaluate_grain with:
    input:
        manifest(paths.model(CONFIG, "{run}")),
        latents_of,
    output:
        update(str(paths.evaluation(CONFIG, any_of("grain")))),
        update(manifest(paths.gallery(CONFIG, any_of("grain")))),


# What is drawn can be shared out: over processes here, over an array of jobs on a cluster.
use rule evaluate_dvae as evaluate_content with:
    input:
        manifest(paths.model(CONFIG, "{run}")),
        first_stage_of,
        grain_model_of_content,
        latents_of,
        reference_of,
        weights("inception"),
    output:
        update(str(paths.evaluation(CONFIG, any_of("content")))),
        update(manifest(paths.gallery(CONFIG, any_of("content")))),
    resources:
        head=heads_of("evaluate"),
        place=place_of("evaluate", in_shares=True),
    threads: processes_of("evaluate")


use rule evaluate_content as evaluate_dit with:
    input:
        manifest(paths.model(CONFIG, "{run}")),
        first_stage_of,
        latents_of,
        reference_of,
        weights("inception"),
    output:
        update(str(paths.evaluation(CONFIG, any_of("dit")))),
        update(manifest(paths.gallery(CONFIG, any_of("dit")))),
