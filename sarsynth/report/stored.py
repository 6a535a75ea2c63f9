"""What a report reads from the store: synthetic images, tensors. Torch-free."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from sarsynth.errors import UserError, one_line
from sarsynth.report.pictures import read_png


@contextmanager
def reading(file: Path, artifact: Path) -> Iterator[None]:
    """Say what is wrong with a file of an artifact, and what mends it, when reading it in this context fails.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        yield
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        wrong = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({one_line(error)})"
        raise UserError(f"{file} {wrong}; remove {artifact} and run the sweep again, which makes it anew") from error


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """Open a file of tensors that lies in the folder of an artifact.

    Raises:
        UserError: It is missing or damaged.
    """
    with reading(file, file.parent), safe_open(file, framework="numpy") as tensors:
        yield tensors


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The first images of a class in a synthetic set."""

    name: str  # of the class
    prompt: str  # of the first image
    images: list[np.ndarray]  # uint8, (1 or 3, H, W) each


def read_set(folder: Path, most: int) -> list[ClassImages]:
    """Read up to `most` images of each class of a synthetic set, the first ones.

    Raises:
        UserError: One of them, or the list of them, is missing or damaged.
    """
    listing = folder / "metadata.jsonl"
    with reading(listing, folder):
        lines = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines()]
    by_class: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        by_class.setdefault(line["class_name"], []).append(line)
    classes = []
    for name, members in by_class.items():
        images = []
        for file in [folder / member["file_name"] for member in members[:most]]:
            with reading(file, folder):
                images.append(read_png(file))
        classes.append(ClassImages(name, members[0]["text"], images))
    return classes
