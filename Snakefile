"""Everything from photographs to tables. `snakemake help` lists the targets.

Each rule calls one command, `d2it <verb> <target>`; dvc.yaml calls the same ones.
"""

from snakemake.utils import min_version

min_version("9.20")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


rule all:
    input:
        made(*study.ITEMS),
        str(paths.page(CONFIG)),


rule all_tables:
    input:
        made(*study.TABLES),


rule all_figures:
    input:
        made(*study.FIGURES),


rule all_evaluations:
    input:
        evaluated(*RUNS),
        str(paths.metrics(CONFIG)),


# The chain, in the order of the data
include: "workflow/rules/fetch.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/reference.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/encode.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/table.smk"
include: "workflow/rules/figure.smk"
include: "workflow/rules/page.smk"
include: "workflow/rules/claims.smk"
# table_1 ... figure_7, the runs by name, and a clear word for names that are none of these
include: "workflow/rules/targets.smk"
