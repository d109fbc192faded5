"""sources → weights, reference batches and pictures of others, checked by sha256. Only this downloads."""


rule fetch:
    output:
        # Who fetched it meanwhile, elsewhere on a shared disk, is not to lose it again.
        update(str(paths.weights(r"{name,\w+}.{suffix,pt|safetensors|npz|zip}"))),
    log:
        "logs/fetch/{name}.{suffix}.log",
    resources:
        head=1,
    priority: 1  # what cannot be fetched should be known before others compute for it
    message:
        "Fetching {wildcards.name}"
    shell:
        "d2it fetch {wildcards.name:q} --wait 2>&1 | tee -i {log:q}"
