"""Every byte that the stages of a scale have made, against the sha256s beside it, and the tables in
git that it rests on: published numbers, and the list of emoji.

On load large files are compared by size alone: a bit that flipped in place shows only here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

from d2it.config.documents import conform
from d2it.config.listed import SUMS, is_listed, restoring, unlisted
from d2it.config.paths import in_repository, runs_folder
from d2it.errors import UserError
from d2it.files import SEAL, File, file_digest, is_intact, read_json, read_sealed
from d2it.images.packed import Manifest, file_entries
from d2it.runs import state

# Folders of a scale -> what makes one anew, and where in the path the name for it stands.
MADE = {
    "data/{}/*/images": ("d2it prepare", 2),
    "data/{}/*/reference": ("d2it reference", 2),
    "data/{}/latents/*": ("d2it encode", 3),
    "results/{}/models/*": ("d2it train", 3),
    "results/{}/gallery/*": ("d2it evaluate", 3),
}
# What was read, what is wrong with it, and the cure: None, where nothing is known to be damaged.
Found = tuple[Path, str | None, str | None]


class Files(TypedDict):
    """What the manifest of a folder says, unless it is of packed images."""

    files: dict[str, File]


def verify_made(scale: str, say: Callable[[str], None] = print) -> None:
    """Read all that stands in the working directory; a UserError if anything is not as made."""
    remedies: list[str] = []
    found = [*_folders(scale), *_tables(scale), *_evaluations(scale)]
    if not found:
        raise UserError(f"Nothing of the scale {scale} is here: see `d2it status scale={scale}`.")
    for path, wrong, cure in [*found, *_runs(), *_kept_in_git()]:
        if wrong is None:
            say(f"{path} is intact")
        elif cure is None:
            say(f"{path}: {wrong}")
        else:
            say(f"{path}: damaged: {wrong}")
            remedies.append(f"delete {path}{cure}")
    if remedies:
        raise UserError(f"Files differ from what was made: {'; '.join(remedies)}.")


def _folders(scale: str) -> Iterator[Found]:
    for pattern, (command, place) in MADE.items():
        for manifest in sorted(Path().glob(f"{pattern.format(scale)}/manifest.json")):
            folder = manifest.parent
            again = f"{command} {folder.parts[place]} scale={scale}"
            yield folder, _wrong(folder, again), f" and run `{again}`"
    for manifest in sorted(Path("results", scale, "kept").glob("*/manifest.json")):
        folder = manifest.parent
        again = f"git checkout -- {folder}"
        yield folder, _wrong(folder, again), f" and restore it with `{again}`"


def _wrong(folder: Path, again: str) -> str | None:
    """Names of the files that are not as the manifest says."""
    manifest = folder / "manifest.json"
    try:
        known = checksums(read_sealed(manifest, made_by=again), manifest)
    except UserError:
        return "manifest.json"
    wrong = [
        name
        for name, sha256 in known.items()
        if not (folder / name).is_file() or file_digest(folder / name) != sha256
    ]
    return ", ".join(wrong) or None


def checksums(said: dict[str, Any], manifest: Path) -> dict[str, str]:
    """Name -> sha256 of every file of a folder; packed images list theirs by split."""
    if "files" in said:
        files = conform(Files, said, manifest, "")["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    splits: dict[str, Any] = {**conform(Manifest, said, manifest, "")["splits"]}
    return {entry["name"]: entry["sha256"] for entry in file_entries(splits)}


def _tables(scale: str) -> Iterator[Found]:
    """Tables of JSON that hold their own digest: thresholds, and shares of windows."""
    thresholds = sorted(Path("data", scale).glob("*/thresholds.json"))
    commands = {path: f"d2it calibrate {path.parent.name}" for path in thresholds}
    if (windows := Path("results", scale, "windows.json")).is_file():
        commands[windows] = "python -m tools.live_windows"
    for path, command in commands.items():
        again = f"{command} scale={scale}"
        broken = _unsealed(path, again)
        ours = broken or SEAL in read_json(path, made_by=again)
        wrong = broken if ours else "written before it held a digest of itself"
        yield path, wrong, f" and run `{again}`" if ours else None


def _evaluations(scale: str) -> Iterator[Found]:
    """Each against its provenance, which holds its sha256."""
    folder = Path("results", scale)
    found = [*folder.glob("evaluations/*.json"), *folder.glob("provenance/*.json")]
    for name in sorted({path.name for path in found}):
        evaluation, path = folder / "evaluations" / name, folder / "provenance" / name
        again = f"d2it evaluate {path.stem} scale={scale}"
        cure = f" and run `{again}`"
        if not path.is_file():
            broken = _unsealed(evaluation, again)
            yield evaluation, broken or f"no record of its sha256 in {path}", broken and cure
            continue
        yield path, (broken := _unsealed(path, again)), cure
        if broken is None and evaluation.is_file():
            recorded = read_sealed(path, made_by=again).get("evaluation_sha256")
            same = file_digest(evaluation) == recorded
            yield evaluation, None if same else f"its sha256 is not the one in {path}", cure


def _unsealed(path: Path, again: str) -> str | None:
    try:
        read_sealed(path, made_by=again)
    except UserError:
        return "its content is not what its digest says"
    return None


def _kept_in_git() -> Iterator[Found]:
    folder = in_repository("data/published")
    wrong = ", ".join(unlisted(folder)) or None
    yield folder, wrong, f" and restore it with {restoring(folder)}"
    table = in_repository("data/emoji.csv")
    sums = table.with_name(SUMS)
    other = None if is_listed(table) else f"its sha256 is not the one in {sums}"
    yield table, other, f" and restore it with {restoring(table, sums)}"


def _runs() -> Iterator[Found]:
    """States and what else a run goes on from, of whatever scale: without them it computes anew."""
    found = [*runs_folder().glob("[!.]*/state"), *runs_folder().glob("[!.]*/evaluations")]
    for folder in sorted({path.parent for path in found}):
        for path in (folder / "recipe.json", folder / "done.json", folder / "provenance.json"):
            if path.is_file():
                yield path, _unsealed(path, "d2it train"), ""
        for saved in sorted((folder / "state").glob("[!.]*")):
            yield saved, _unsound(saved), ""
        for kept in sorted((folder / "evaluations").glob("[!.]*/evaluation.json")):
            wrong = None if is_intact(kept.parent) else "not what its manifest says"
            yield kept.parent, wrong, ""


def _unsound(saved: Path) -> str | None:
    try:
        state.read(saved)
    except UserError as error:
        return str(error).rstrip(".")
    return None
