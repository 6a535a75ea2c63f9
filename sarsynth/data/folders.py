"""What lies in a folder, and where in it a data set was unpacked to. Torch-free."""

import json
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from sarsynth.errors import UserError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".npy", ".mat"})
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")
DEPTH = 2  # folders that unpacking may put around a data set


def locate(root: str | Path, what: str, *layouts: Sequence[str]) -> Path:
    """Find the folder that a data set was unpacked to: `root` itself, or one of those up to two levels below it.

    Args:
        root: Where to look.
        what: Name of the data set, for the message.
        layouts: The forms it comes in, the best one first: files and folders that must be there, with `*` for what
            varies; their case does not matter.

    Raises:
        UserError: There is no such folder or there are several; says what was expected and what was found.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"root={root}: no such folder")
    level, nearest = [root], (0, "")  # how much of a layout is somewhere, and what of it is not
    for _ in range(DEPTH + 1):
        for layout in layouts:
            fitting = [folder for folder in level if all(matches(folder, pattern) for pattern in layout)]
            if len(fitting) > 1:
                raise UserError(f"root={root}: {what} lies there more than once; name one, e.g. {fitting[0]}")
            if fitting:
                return fitting[0]
            for folder in level:
                missing = [pattern for pattern in layout if not matches(folder, pattern)]
                fits = len(layout) - len(missing)
                nearest = max(nearest, (fits, f"; no {' nor '.join(missing)} in {folder}"), key=lambda pair: pair[0])
        level = [folder for above in level for folder in children(above) if folder.is_dir()]
    expected = ", or ".join(" and ".join(layout) for layout in layouts)
    raise UserError(f"root={root}: not {what}: expected {expected}; found {listing(root)}{nearest[1]}")


def listing(folder: Path) -> str:
    """Say what lies in a folder, in a few words."""
    names = [child.name + ("/" if child.is_dir() else "") for child in children(folder)]
    packed = next((name for name in names if name.lower().endswith(ARCHIVES)), None)
    there = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "nothing"
    return there + (f" (unpack {packed})" if packed else "")


def matches(folder: Path, pattern: str) -> list[Path]:
    """List what fits a pattern such as `train/labels*`, sorted; the case of letters does not matter."""
    places = [folder]
    for part in pattern.lower().split("/"):
        places = [child for place in places for child in children(place) if fnmatch(child.name.lower(), part)]
    return places


def children(folder: Path) -> list[Path]:
    """List a folder's entries that are not hidden, sorted; none of what is no folder.

    Links to the folder itself, or to one above it, are passed over: what lies behind them is listed already.
    """
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        there = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(
        folder / entry.name for entry in there if not (entry.is_symlink() and _leads_back(folder, entry.name))
    )


def _leads_back(folder: Path, name: str) -> bool:
    try:
        target = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError):  # a link to itself, or to nothing: no folder at any rate
        return False
    return target.is_dir() and folder.resolve().is_relative_to(target)


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """List what lies directly in a folder and has one of some suffixes in any case, sorted."""
    return [child for child in children(folder) if child.suffix.lower() in suffixes]


def images_in(folder: Path) -> list[Path]:
    """List the images that lie directly in a folder, sorted."""
    return files_in(folder, *EXTENSIONS)


def images_below(folder: Path) -> list[Path]:
    """List the images in a folder and in all folders below it, sorted; links to folders are not followed."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in EXTENSIONS)


def lines(file: Path) -> list[tuple[int, str]]:
    """Read the lines of a text file that are not blank, without white space around them, and their numbers from 1."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file in UTF-8; convert it, or name a folder or another file") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def captions(file: Path) -> Iterator[tuple[int, str, str]]:
    """Read lines such as {"file_name": "P0019_23.png", "text": "ORS, ship"}: each one's number, file name and text."""
    for number, line in lines(file):
        try:
            row = json.loads(line)
            yield number, str(row["file_name"]), str(row["text"])
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{file}, line {number}: expected an object with `file_name` and `text`, found `{line[:80]}`"
            ) from None
