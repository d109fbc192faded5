"""evaluations → tables, ours beside the published numbers."""


rule table:
    input:
        lambda wildcards: [
            str(path) for path in study.inputs(STUDY, f"table_{wildcards.number}", CONFIG)
        ],
        "params/study.yaml",
    output:
        report(
            str(paths.tables(CONFIG) / r"table_{number,\d}.csv"),
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{number}", "as": "table"},
        ),
        report(
            str(paths.tables(CONFIG) / r"table_{number,\d}.md"),
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{number}", "as": "text"},
        ),
        str(paths.tables(CONFIG) / r"table_{number,\d}.tex"),
    params:
        title=lambda wildcards: study.item_of(STUDY, f"table_{wildcards.number}").title,
        scale=CONFIG.caption_of(CONFIG.task.values()),
    log:
        f"{LOGS}/table/{{number}}.log",
    resources:
        head=1,
    message:
        "Writing Table {wildcards.number}"
    shell:
        "d2it table {wildcards.number:q} --params {PARAMS:q} 2>&1 | tee -i {log:q}"
