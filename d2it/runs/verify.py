"""Every byte that the stages of a scale have made, against the sha256s in the manifests.

On load large files are compared by size alone: a bit that flipped in place shows only here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from d2it.errors import UserError
from d2it.files import file_digest, read_json
from d2it.images.packed import file_entries

# Folders of a scale -> what makes one anew, and where in the path the name for it stands.
MADE = {
    "data/{}/*/images": ("d2it prepare", 2),
    "data/{}/*/reference": ("d2it reference", 2),
    "data/{}/latents/*": ("d2it encode", 3),
    "results/{}/models/*": ("d2it train", 3),
    "results/{}/gallery/*": ("d2it evaluate", 3),
}


def verify_made(scale: str, say: Callable[[str], None] = print) -> None:
    """Read all that stands in the working directory; a UserError if anything is not as made."""
    remedies: list[str] = []
    folders = 0
    for pattern, (command, place) in MADE.items():
        for manifest in sorted(Path().glob(f"{pattern.format(scale)}/manifest.json")):
            folder, folders = manifest.parent, folders + 1
            again = f"{command} {folder.parts[place]} scale={scale}"
            wrong = [
                name
                for name, sha256 in checksums(read_json(manifest, made_by=again)).items()
                if not (folder / name).is_file() or file_digest(folder / name) != sha256
            ]
            say(f"{folder} is intact" if not wrong else f"{folder}: damaged: {', '.join(wrong)}")
            if wrong:
                remedies.append(f"delete {folder} and run `{again}`")
    if not folders:
        raise UserError(f"Nothing of the scale {scale} is here: see `d2it status scale={scale}`.")
    if remedies:
        raise UserError(f"Files differ from what was made: {'; '.join(remedies)}.")


def checksums(manifest: dict[str, Any]) -> dict[str, str]:
    """Name -> sha256 of every file of a folder; packed images list theirs by split."""
    if "files" in manifest:
        return {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return {entry["name"]: entry["sha256"] for entry in file_entries(manifest["splits"])}
