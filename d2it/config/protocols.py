"""Names of metrics, and what each protocol asks for.

`clean` is clean-fid's (FFHQ), `adm` that of ADM's evaluator, with which all ImageNet numbers on
DiT's line are made. They also differ in how images reach the network (evaluation/features.py).
"""

from d2it.config.schema import Config

METRICS = ("fid", "sfid", "kid", "inception_score", "precision", "recall")
# Of runs alone: it needs images held out of training, which a folder of samples does not have.
OF_RUNS = ("nearest",)
PROTOCOLS = {
    "clean": ("fid", "precision", "recall"),
    "adm": ("fid", "sfid", "inception_score", "precision", "recall"),
}
# Reference images behind precision, recall and KID, at most: Kynkäänniemi et al. take 50,000, ADM's
# reference batches hold 10,000.
MANIFOLD = {"clean": 50_000, "adm": 10_000}


def asked(config: Config, data: str) -> list[str]:
    """The metrics of samples that are compared with the data set `data`."""
    dataset = config.data[data]
    second = [f"fid_{dataset.second_protocol}"] if dataset.second_protocol else []
    return [*(config.evaluation.metrics or PROTOCOLS[dataset.protocol]), *second]
