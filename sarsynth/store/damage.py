"""What is wrong with files of the store: looked for when an artifact is reused, and again where reading one failed.

No reader of an artifact has to look out for what a cut copy or a broken disk left. Torch-free.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from sarsynth.errors import UserError, one_line
from sarsynth.store.artifacts import CARD, Artifact


def check_whole(artifact: Artifact) -> None:
    """Refuse an artifact of which files are missing or cut short, by the size that its card tells.

    Raises:
        UserError: Names its folder, and what mends it.
    """
    size = sum(file.stat().st_size for file in artifact.path.rglob("*") if file.is_file() and file.name != CARD)
    if size < artifact.card.get("disk_bytes", 0):
        found = f"{size:,} bytes of {artifact.card['disk_bytes']:,} are there"
        raise UserError(f"{artifact.path} is not whole ({found}{_which(artifact)}); {again(artifact)}")


def _which(artifact: Artifact) -> str:
    wrong = damaged(artifact)
    return f"; {wrong}" if wrong else ""


def again(artifact: Artifact) -> str:
    """What mends an artifact."""
    return f"remove {artifact.path} and run again, which makes it anew"


def what_is_damaged(artifacts: Iterable[Artifact]) -> str | None:
    """Name the first damaged file of some artifacts, and what mends it; None if all can be read."""
    for artifact in artifacts:
        if wrong := damaged(artifact):
            return f"{wrong}; {again(artifact)}"
    return None


def damaged(artifact: Artifact) -> str | None:
    """Name a file of an artifact that cannot be read, and why; None if there is none."""
    for file in sorted(path for path in artifact.path.rglob("*") if path.is_file()):
        try:
            _read(file)
        except (OSError, ValueError, SyntaxError, EOFError, RecursionError, SafetensorError, BadZipFile) as error:
            return f"{file} cannot be read ({one_line(error)})"
    return None


def _read(file: Path) -> None:
    """Read as much of a file as tells whether it is whole."""
    match file.suffix:
        case ".json":
            json.loads(file.read_text(encoding="utf-8"))
        case ".jsonl":
            for line in file.read_text(encoding="utf-8").splitlines():
                json.loads(line)
        case ".safetensors":
            with safe_open(file, framework="numpy"):  # checks that header and length agree
                pass
        case ".npz":
            with np.load(file) as arrays:
                for name in arrays:
                    _ = arrays[name]
        case ".npy":
            np.load(file, mmap_mode="r")
        case ".png":
            with Image.open(file) as picture:
                picture.load()
