"""What lies in a folder, where in it a data set was unpacked to, and its text files line by line. Torch-free."""

import json
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from sarsynth.errors import UserError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".npy", ".mat"})
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")
DEPTH = 2  # folders that unpacking may put around a data set


def locate(root: str | Path, what: str, *layouts: Sequence[str]) -> Path:
    """Find the folder that a data set, called `what`, was unpacked to: `root` itself, or one up to two levels below it.

    The layouts are the forms it comes in, the best one first: patterns that must all match, as in `matches`.

    Raises:
        UserError: No folder fits, or several do; says what was expected and what is there.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"root={root}: no such folder")
    level, best, hint = [root], 0, ""  # patterns that the nearest folder matches, and what it lacks
    for _ in range(DEPTH + 1):
        for layout in layouts:
            lacking = {folder: [p for p in layout if not matches(folder, p)] for folder in level}
            fitting = [folder for folder, patterns in lacking.items() if not patterns]
            if len(fitting) > 1:
                raise UserError(f"root={root}: {what} lies there more than once; name one, e.g. {fitting[0]}")
            if fitting:
                return fitting[0]
            for folder, patterns in lacking.items():
                if len(layout) - len(patterns) > best:
                    best, hint = len(layout) - len(patterns), f"; no {' nor '.join(patterns)} in {folder}"
        level = [folder for parent in level for folder in children(parent) if folder.is_dir()]
    expected = ", or ".join(" and ".join(layout) for layout in layouts)
    raise UserError(f"root={root}: not {what}: expected {expected}; found {listing(root)}{hint}")


def listing(folder: Path) -> str:
    """Say in a few words what lies in a folder."""
    names = [child.name + ("/" if child.is_dir() else "") for child in children(folder)]
    packed = next((name for name in names if name.lower().endswith(ARCHIVES)), None)
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "nothing"
    return shown + (f" (unpack {packed})" if packed else "")


def matches(folder: Path, pattern: str) -> list[Path]:
    """List files and folders that fit a pattern such as `train/labels*/*.txt`, sorted; case does not matter."""
    paths = [folder]
    for part in pattern.lower().split("/"):
        paths = [child for path in paths for child in children(path) if fnmatch(child.name.lower(), part)]
    return paths


def children(folder: Path) -> list[Path]:
    """List what lies in a folder and is not hidden, sorted; empty for a file.

    Links to the folder itself or to one above it are left out, so that no search runs in circles.
    """
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(folder / entry.name for entry in visible if not (entry.is_symlink() and _leads_back(entry, folder)))


def _leads_back(link: os.DirEntry[str], folder: Path) -> bool:
    try:
        target = Path(link).resolve(strict=True)
    except (OSError, RuntimeError):  # a link to itself or to nothing is no folder
        return False
    return target.is_dir() and folder.resolve().is_relative_to(target)


# --- Images -----------------------------------------------------------------------------------------------------------


def images_in(folder: Path) -> list[Path]:
    """List the images that lie directly in a folder, sorted."""
    return [child for child in children(folder) if child.suffix.lower() in EXTENSIONS]


def images_below(folder: Path) -> list[Path]:
    """List the images in a folder and in all folders below it, sorted; links to folders are not followed."""
    images = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in images if path.suffix.lower() in EXTENSIONS)


def images_by_stem(place: Path, pattern: str, *, below: bool = False) -> dict[str, str]:
    """Give the paths, relative to `place`, of the images in the folders that fit a pattern (see `matches`), by stem.

    With `below`, images in the folders below these count too.
    """
    find = images_below if below else images_in
    images = (image for folder in matches(place, pattern) for image in find(folder))
    return {image.stem: image.relative_to(place).as_posix() for image in images}


def annotated(place: Path, annotations: str, images: str, *, below: bool = False) -> Iterator[tuple[Path, str]]:
    """Yield the annotation files that fit a pattern, each with the image of its stem, as `images_by_stem` gives it.

    Raises:
        UserError: An annotation file has no image.
    """
    names = images_by_stem(place, images, below=below)
    for file in matches(place, annotations):
        if file.stem not in names:
            raise UserError(f"{file}: no image of that name in {images}; add it or remove the annotation")
        yield file, names[file.stem]


# --- Text files -------------------------------------------------------------------------------------------------------


def lines(file: Path) -> list[tuple[int, str]]:
    """Read the lines of a text file that are not blank, stripped, with their numbers from 1."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file in UTF-8; convert it, or name a folder or another file") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def json_lines(file: Path, *keys: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON objects of a file, one a line, with the numbers of their lines from 1.

    Raises:
        UserError: A line is no object, or lacks one of `keys`.
    """
    for number, line in lines(file):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not row.keys() >= set(keys):
            wanted = f" with {' and '.join(f'`{key}`' for key in keys)}" if keys else ""
            raise UserError(f"{file}, line {number}: expected a JSON object{wanted}, found `{line[:80]}`")
        yield number, row
