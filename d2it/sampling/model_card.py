"""The model card of an exported run: what it is, what it learnt from, how good it is. No torch."""

import re
from typing import Any

import yaml

from d2it.config import Config
from d2it.config.run import run_of
from d2it.runs import evaluations
from d2it.text import markdown_table

NAMES = {"content": "D²iT (Dynamic Content Transformer)", "dit": "DiT baseline"}
PARTS = {
    "content": "Dynamic Content Transformer",
    "dit": "DiT",
    "dvae": "Dynamic VAE",
    "grain": "Dynamic Grain Transformer",
}


def card(config: Config, header: dict[str, Any], images: dict[str, Any]) -> str:
    """README.md. images: the manifest of the packed images that everything was trained on."""
    count, size = images["splits"]["train"]["count"], images["size"]
    classes, told = header["classes"], config.caption_of([images["name"]])
    of_class = f"one of {len(classes)} classes" if classes else "no class"
    call = "label=0, " if classes else ""
    sections = [
        f"---\n{metadata(config, header, images)}---",
        f"# {header['run']}: {NAMES[header['kind']]} of {images['name']} at {size} px",
        f"Draws images of {size} x {size} px of {of_class}, trained at scale `{header['scale']}` "
        "by the open implementation of *D²iT: Dynamic Diffusion Transformer for Accurate Image "
        f"Generation* (arXiv 2504.09454), which is not its authors'. {told}",
        f"""```python
import d2it

pipe = d2it.load("FOLDER")  # this folder; every file is checked by its sha256
images, maps = pipe.sample(n=4, {call}seed=0)  # uint8 (4, {size}, {size}, 3); grains, 0 coarse
```""",
        "## Networks",
        _networks(header, count),
        settings(header),
        "## Data",
        f"{images['name']}: {count} training images. Licence: {images['licence']}. Citation: "
        f"{images['citation']}. Recipe digest: `{images['recipe_digest']}`."
        + (f"\n\nClasses: {', '.join(classes[:50])}{', …' * (len(classes) > 50)}." * bool(classes)),
        "## Metrics",
        _metrics(config, header),
        "## Intended use and limits",
        "Research on image generation and its evaluation. It reproduces what is in its training "
        "images, their biases included; nothing it draws is a record of anything. Do not use it to "
        "imitate persons.",
        "## Licence",
        "The code is under Apache-2.0. The weights derive from the images above: whoever passes "
        "them on has to respect the licence of the images.",
        "## Citation",
        "Jia et al., *D²iT: Dynamic Diffusion Transformer for Accurate Image Generation*, CVPR "
        "2025, arXiv:2504.09454.",
    ]
    return "\n\n".join(sections) + "\n"


def metadata(config: Config, header: dict[str, Any], images: dict[str, Any]) -> str:
    """What the Hugging Face Hub reads of a card, in YAML."""
    measured = {name for one in _own(config, header).values() for name in one["metrics"]}
    known = {
        "library_name": "d2it",
        "pipeline_tag": "unconditional-image-generation",  # the Hub has no tag for classes
        "license": "other",  # the code's and the images'
        "license_name": f"apache-2.0-and-{_slug(images['licence'])}"[:96],
        "tags": ["d2it", "diffusion", "image-generation", "arxiv:2504.09454", header["kind"]]
        + ["class-conditional"] * bool(header["classes"]),
        "datasets": [_slug(images["name"])],
        "metrics": sorted(measured),
    }
    present = {key: value for key, value in known.items() if value}
    return yaml.safe_dump(present, sort_keys=False, allow_unicode=True)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def settings(header: dict[str, Any]) -> str:
    """The line that says how images are drawn."""
    sampling = header["sampling"]
    return (
        f"Weights: {header['weights']}. Share of fine regions: {header['ratio']}. Sampling: "
        f"{sampling['sampler']}, {sampling['steps']} steps, guidance {header['guidance']:g}."
    )


def _networks(header: dict[str, Any], count: int) -> str:
    rows = [
        [
            PARTS[entry["kind"]],
            f"`{name}.safetensors`",
            f"{entry['images']} images ({entry['images'] / count:.1f} epochs), batch "
            f"{entry['batch']}",
            f"`{entry['run']}-{entry['recipe_digest'][:8]}`",
        ]
        for name, entry in header["networks"].items()
    ]
    return markdown_table(["network", "file", "trained on", "run and recipe digest"], rows)


def _metrics(config: Config, header: dict[str, Any]) -> str:
    """Of the evaluations of these very weights."""
    own = _own(config, header)
    if not own:
        command = f"d2it evaluate {header['run']} scale={header['scale']}"
        return f"Not evaluated: `{command}` measures it."
    names = sorted({name for entry in own.values() for name in entry["metrics"]})
    shown = ["n", "protocol", "sampler", "steps", "guidance", "maps"]
    rows = [
        [label, *(str(entry["recipe"][key]) for key in shown)]
        + [f"{entry['metrics'][name]:.4g}" if name in entry["metrics"] else "" for name in names]
        for label, entry in own.items()
    ]
    table = markdown_table(["evaluation", *shown, *names], rows)
    if any(entry["recipe"]["rank_deficient"] for entry in own.values()):
        table += (
            "\n\nFID of fewer images than it has features: compare at equal n only, never with "
            "published numbers."
        )
    return table


def _own(config: Config, header: dict[str, Any]) -> dict[str, Any]:
    """The evaluations of these weights."""
    run, sha256 = run_of(config, header["run"]), header["networks"]["network"]["sha256"]
    found = evaluations.read(run)["evaluations"] if run.evaluation.exists() else {}
    return {k: e for k, e in found.items() if e["recipe"].get("weights_sha256") == sha256}
