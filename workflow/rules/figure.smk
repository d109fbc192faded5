"""evaluations and galleries → figures."""


rule figure:
    input:
        lambda wildcards: [
            str(path) for path in study.inputs(STUDY, f"figure_{wildcards.number}", CONFIG)
        ],
        "params/study.yaml",
    output:
        report(
            str(paths.figures(CONFIG) / r"figure_{number,\d}.png"),
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{number}"},
        ),
        str(paths.figures(CONFIG) / r"figure_{number,\d}.svg"),
    params:
        title=lambda wildcards: study.item_of(STUDY, f"figure_{wildcards.number}").title,
        scale=CONFIG.caption_of(CONFIG.task.values()),
    log:
        f"{LOGS}/figure/{{number}}.log",
    resources:
        head=1,
    message:
        "Drawing Figure {wildcards.number}"
    shell:
        "d2it figure {wildcards.number:q} --params {PARAMS:q} 2>&1 | tee -i {log:q}"
