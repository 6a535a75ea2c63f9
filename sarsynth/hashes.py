"""Hashes of files, remembered from run to run as long as size and times of a file stay what they were. Torch-free.

A study hashes its base and all of its images before it does anything. What is remembered lies in the user's own cache
folder (`SARSYNTH_CACHE`, else `XDG_CACHE_HOME/sarsynth`, else `~/.cache/sarsynth`) and not in the store, which may be
shared, read-only, or on a machine that knows these paths by other files. A cache that is lost, broken or cannot be
written costs time only. A file is read again when its size, its inode or its time of modification or of status change
differs, or when it was changed less than two seconds before it was hashed, so that a clock with coarse ticks cannot
hide a second change. What forges all of these is not seen; removing the cache is the remedy.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

FILE = "hashes.json"
MOST = 500_000  # files that are remembered
TICK = 2 * 10**9  # ns; the coarsest clock of a file system in use

Entry = tuple[int, int, int, int, str]  # size, inode, times of modification and of status change in ns, sha256


class FileHashes:
    """Hash many files inside a `with` block, at the end of which the new ones are written down; threads may share it.

    Args:
        folder: Of the cache; None is the user's.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = folder / FILE if folder else _of_user()
        self._known: dict[str, Entry] = {}
        self._new: dict[str, Entry] = {}

    def __enter__(self) -> Self:
        self._known = _read(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._new and self._file is not None:
            _write(self._file, self._new)

    def of(self, file: Path) -> str:
        """Hash a file: hex sha256 of its content.

        Raises:
            OSError: It cannot be read.
        """
        name, state = os.path.realpath(file), _state(os.stat(file))
        known = self._known.get(name)
        if known is not None and known[:-1] == state:
            return known[-1]
        began = time.time_ns()
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            settled = _state(os.fstat(content.fileno())) == state
        if settled and max(state[2:]) < began - TICK:
            self._new[name] = (*state, digest)
        return digest


def _state(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def _of_user() -> Path | None:
    """The user's cache; None where there is no home to keep it in."""
    if chosen := os.environ.get("SARSYNTH_CACHE"):
        return Path(chosen) / FILE
    try:
        above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return above / "sarsynth" / FILE


def _read(file: Path | None) -> dict[str, Entry]:
    """What is remembered; nothing where that is lost or no longer what was written."""
    if file is None:
        return {}
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): _entry(*entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _entry(size: int, inode: int, modified: int, changed: int, digest: str) -> Entry:
    if len(digest) != 64:
        raise ValueError(digest)
    return int(size), int(inode), int(modified), int(changed), digest


def _write(file: Path, new: dict[str, Entry]) -> None:
    """Add to what lies there by now, the newest last; whole or not at all."""
    entries = _read(file)
    for name in new:
        entries.pop(name, None)
    entries |= new
    kept = dict(list(entries.items())[-MOST:])
    staged = file.with_name(f"{FILE}.{os.getpid()}")
    with suppress(OSError, UnicodeEncodeError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.write_text(json.dumps(kept, separators=(",", ":")), encoding="utf-8")
            os.replace(staged, file)
        finally:
            staged.unlink(missing_ok=True)
