"""models → samples → metrics and a gallery. One process per run, all its evaluations together."""


def grain_model_of_content(wildcards):
    """The network that draws a run's grain maps, unless its ratio makes them constant."""
    grain = CONFIG.runs.content[wildcards.run].grain
    return manifest(paths.model(CONFIG, grain)) if grain else []


rule evaluate_dvae:
    input:
        manifest(paths.model(CONFIG, "{run}")),
        images_of_dvae,
        thresholds_of_dvae,
        reference_of("dvae"),
        weights("inception"),
        weights(f"lpips_{CONFIG.dvae_loss.perceptual}"),
    output:
        str(paths.evaluation(CONFIG, any_of("dvae"))),
        manifest(paths.gallery(CONFIG, any_of("dvae"))),
    params:
        settings=lambda wildcards: wiring.evaluation_digest(CONFIG, wildcards.run),
    log:
        f"{LOGS}/evaluate/{{run}}.log",
    resources:
        head=heads_of("evaluate"),
        place=place_of("evaluate"),
    message:
        "Evaluating {wildcards.run}{resources.place}"
    shell:
        "d2it evaluate {wildcards.run} --params {PARAMS} 2>&1 | tee {log}"


use rule evaluate_dvae as evaluate_grain with:
    input:
        manifest(paths.model(CONFIG, "{run}")),
        latents_of("grain"),
    output:
        str(paths.evaluation(CONFIG, any_of("grain"))),
        manifest(paths.gallery(CONFIG, any_of("grain"))),


# What is drawn can be shared out: over processes here, over an array of jobs on a cluster.
use rule evaluate_dvae as evaluate_content with:
    input:
        manifest(paths.model(CONFIG, "{run}")),
        first_stage_of("content"),
        grain_model_of_content,
        latents_of("content"),
        reference_of("content"),
        weights("inception"),
    output:
        str(paths.evaluation(CONFIG, any_of("content"))),
        manifest(paths.gallery(CONFIG, any_of("content"))),
    resources:
        head=heads_of("evaluate"),
        place=place_of("evaluate", in_shares=True),
    threads: processes_of("evaluate")


use rule evaluate_content as evaluate_dit with:
    input:
        manifest(paths.model(CONFIG, "{run}")),
        first_stage_of("dit"),
        latents_of("dit"),
        reference_of("dit"),
        weights("inception"),
    output:
        str(paths.evaluation(CONFIG, any_of("dit"))),
        manifest(paths.gallery(CONFIG, any_of("dit"))),
