"""Files that are there whole or not at all: the only place where a file is staged and renamed. Torch-free."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

STAGING = ".staged-"  # begins the name of a folder beside the file that is being written
FLUSHERS = 16  # threads that wait for the disk
UMASK = os.umask(0o077)  # can only be read by setting it; once, before there are threads
os.umask(UMASK)


@contextmanager
def staged(file: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a path to write to; what lies there when the block ends takes the place of `file`, in one step.

    The path ends in the name of the file, so that a library that looks at the suffix sees the right one. Several
    processes may write the same file at once: the last one wins. After an exception `file` is as it was.

    Args:
        file: The file to write or replace; its folder must exist.
        durable: Wait until it is on disk. Without, a power failure may take it back, as it may all that the caller
            does not `sync` later.
    """
    with TemporaryDirectory(prefix=STAGING, dir=file.parent) as folder:
        draft = Path(folder, file.name)
        yield draft
        _follow_umask(draft)
        if durable:
            sync(draft)
        os.replace(draft, file)
    if durable:
        sync(file.parent)


def write_text(file: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file as UTF-8, whole or not at all, and, unless told otherwise, on disk when it returns."""
    with staged(file, durable=durable) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all, and on disk when it returns."""
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def open_to_others(folder: Path) -> None:
    """Give all files of a folder the mode that the umask asks for: safetensors makes its own for one's own eyes."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            _follow_umask(file)


def _follow_umask(file: Path) -> None:
    with suppress(PermissionError):  # file systems without modes
        file.chmod(0o666 & ~UMASK)


def clear_staging(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder and below it; nobody may be writing there."""
    for leftover in [*folder.rglob(f"{STAGING}*")]:
        shutil.rmtree(leftover)


def sync_all(folder: Path) -> None:
    """Wait until all that lies in a folder is on disk: its own files, not all that the machine has yet to write.

    What lies in it may be thousands of small files, on a shared file system too: several at a time.
    """
    with ThreadPoolExecutor(FLUSHERS) as pool:
        for _ in pool.map(sync, [path for path in folder.rglob("*") if not path.is_symlink()]):
            pass  # iterating raises what the system says
    sync(folder)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shown(path: Path) -> str:
    """Name a path as people like to read it: from where they are, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
