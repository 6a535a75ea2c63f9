"""Files that are there whole or not at all. Torch-free."""

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLUSHERS = 16  # threads that wait for the disk


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as `write_text` writes text."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write whole or not at all, and on disk when it returns."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a draft beside a file that takes its place when the context ends; if that fails, the file stays as it is."""
    draft = path.with_name(f"{path.name}.draft")
    yield draft
    os.replace(draft, path)


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
