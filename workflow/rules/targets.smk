"""Names for people: `snakemake --cores 2 table_3`, or the name of any run."""


def explain(wildcards):
    stop(wiring.explain_target(CONFIG, wildcards.target))


for item in study.ITEMS:

    rule:
        name:
            item
        input:
            made(item),


for run_name in RUNS:

    rule:
        name:
            run_name
        input:
            evaluated(run_name),


rule unknown:
    input:
        explain,
    output:
        f"{{target,{wiring.unknown_targets(CONFIG)}}}",
