"""tables, figures, evaluations and galleries → one page of them all."""


rule page:
    input:
        files_of(*study.ITEMS),
        [
            str(path)
            for run in dict.fromkeys(
                name for item in study.ITEMS for name in study.needs(STUDY, item, CONFIG)
            )
            for path in (RUNS[run].evaluation, paths.gallery(CONFIG, run) / "manifest.json")
        ],
        "params/study.yaml",
    output:
        str(paths.page(CONFIG)),
    params:
        scale=CONFIG.caption_of(CONFIG.task.values()),
    log:
        f"{LOGS}/page.log",
    resources:
        head=1,
    message:
        "Writing the page of the scale"
    shell:
        "d2it page --params {PARAMS:q} 2>&1 | tee -i {log:q}"
