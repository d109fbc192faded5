"""sources → weights that others trained, checked by sha256. Only this downloads anything."""


rule fetch:
    output:
        str(paths.weights(r"{name,\w+}.{suffix,pt|safetensors}")),
    log:
        "logs/fetch/{name}.{suffix}.log",
    resources:
        head=1,
    message:
        "Fetching {wildcards.name}"
    shell:
        "d2it fetch {wildcards.name} 2>&1 | tee {log}"
