"""What lies in a folder, where in it a data set was unpacked to, and its text files line by line. Torch-free."""

import json
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
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
    try:
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise unreadable(folder, error) from error
    return sorted(folder / entry.name for entry in visible if not (entry.is_symlink() and _leads_back(entry, folder)))


def unreadable(path: Path, error: OSError) -> UserError:
    """Say that a file or folder cannot be read, and why."""
    return UserError(f"{path}: cannot be read ({error.strerror or error}); see its permissions")


def check_file(file: Path) -> Path:
    """Return a file's path; a `UserError` if it is a folder, a pipe or a device, which reading would wait for."""
    if file.exists() and not file.is_file():
        raise UserError(f"{file}: no file, but a folder, a pipe or a device; remove it, or name another")
    return file


def inside(place: Path, name: str, where: str) -> PurePosixPath:
    r"""Give the path, relative to `place`, of a file that a table or list names.

    A table written on Windows has `train\cargo\0.png`, which is read as `train/cargo/0.png` where no file has such a
    name.

    Raises:
        UserError: It leads out of `place`, or there is no such file; the message begins with `where`.
    """
    path = PurePosixPath(name)
    if "\\" in name and not _is_file(place / path):
        path = PurePosixPath(PureWindowsPath(name).as_posix())
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise UserError(f"{where}: {name} may lie outside {place}; name a path below it, without `..`")
    if not _is_file(place / path):
        raise UserError(f"{where}: no file {name} in {place} (paths are relative to it)")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except ValueError:  # a name with a zero byte
        return False
    except OSError as error:
        raise unreadable(path, error) from error


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
    return [path for path in files_below(folder) if path.suffix.lower() in EXTENSIONS]


def files_below(folder: Path, *, follow: bool = False) -> list[Path]:
    """List the files in a folder and in all folders below it that are not hidden, sorted.

    A folder with the suffix of an image is listed as one: whoever reads it is told. With `follow`, links to folders are
    followed, to each folder once.
    """

    def fail(error: OSError) -> None:
        raise unreadable(Path(error.filename or folder), error) from error

    files, known = [], {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=follow):
        names += [name for name in folders if Path(name).suffix.lower() in EXTENSIONS]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in names)
        if follow:
            real = {os.path.realpath(os.path.join(parent, name)): name for name in folders}
            folders[:] = [name for path, name in real.items() if path not in known]
            known.update(real)
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(files)


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
        text = check_file(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise unreadable(file, error) from error
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
        except (ValueError, RecursionError):  # the second for brackets in brackets, thousands deep
            row = None
        if not isinstance(row, dict) or not row.keys() >= set(keys):
            wanted = f" with {' and '.join(f'`{key}`' for key in keys)}" if keys else ""
            raise UserError(f"{file}, line {number}: expected a JSON object{wanted}, found `{line[:80]}`")
        yield number, row
