"""Hashes of files, remembered while the files stay as they are: what has not changed is not read again. Torch-free.

A file counts as unchanged while its size and the times when its content (`mtime`) and its state (`ctime`) last changed
are the same to the nanosecond. Whoever changes a byte, keeps the size and sets `mtime` back still moves `ctime`, which
no program can set; where a file system keeps no `ctime`, such a change cannot be seen. A clock ticks too slowly to tell
two changes apart that follow at once, so a file that is younger than `MARGIN` when it is hashed is hashed again by the
next run (git's rule for files that are "racily clean").

The hashes lie in the user's cache folder (`~/.cache/sarsynth/hashes` on Linux; `$SARSYNTH_CACHE/hashes`, if that is
set), not in the store: they speak of paths as this user sees them, the store may be shared and read-only, and nobody's
fingerprints should rest on hashes that somebody else wrote. There is one JSON file for each folder that files are
hashed below. It is replaced as a whole, which works on every file system, NFS too: no reader sees half of it, and of
two writers at once the last one wins. So the processes of a job need no lock; the first of them to end spares those of
the next job the reading. A lost, broken or unwritable file costs time, nothing else, and the folder may be deleted
whenever one likes.
"""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from sarsynth.files import write_text

MARGIN = 10 * 10**9  # nanoseconds: more than two clocks differ, or the coarsest file system (FAT, 2 s) rounds
SLICE = 500  # files that a thread looks at without a break

Stamp = tuple[int, int, int]  # size in bytes, mtime and ctime in nanoseconds since 1970
Known = dict[str, tuple[Stamp, str]]  # by name, what a file looked like and the hash that it had then


def of_file(file: Path) -> str:
    """Hash one file: hex sha256 of its content.

    Raises:
        OSError: It cannot be read.
    """
    return of_files(file.parent, [file.name])[file.name]


def of_files(root: Path, names: Iterable[str], unreadable: Callable[[OSError], str] | None = None) -> dict[str, str]:
    """Hash files below one folder, several at a time.

    Args:
        root: The folder.
        names: Of the files, relative to it.
        unreadable: Gives what stands for a file that cannot be read; None raises the error.

    Returns:
        Hex sha256 of each file's content, by name.

    Raises:
        OSError: A file cannot be read.
    """
    names = sorted(set(names))
    known, digests, fresh = _read(root), dict[str, str](), Known()
    with ThreadPoolExecutor() as pool:
        slices = [names[start : start + SLICE] for start in range(0, len(names), SLICE)]
        for part, stamps in zip(slices, pool.map(lambda part: _stamps(root, part), slices), strict=True):
            for name, stamp in zip(part, stamps, strict=True):
                if name in known and known[name][0] == stamp:
                    digests[name] = known[name][1]
        unknown = [name for name in names if name not in digests]
        for name, (stamp, digest) in zip(
            unknown, pool.map(lambda n: _hash(root / n, unreadable), unknown), strict=True
        ):
            digests[name] = digest
            if stamp is not None:
                fresh[name] = (stamp, digest)
    if fresh:
        _write(root, fresh)
    return digests


def _stamps(root: Path, names: Sequence[str]) -> list[Stamp | None]:
    """Look at files without opening them; None for one that is not there."""
    stamps: list[Stamp | None] = []
    for name in names:
        try:
            stamps.append(_stamp(os.stat(root / name)))
        except OSError:
            stamps.append(None)
    return stamps


def _stamp(state: os.stat_result) -> Stamp:
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _hash(file: Path, unreadable: Callable[[OSError], str] | None) -> tuple[Stamp | None, str]:
    """Read a file; with its stamp, or None where that cannot vouch for what was read."""
    try:
        mode = os.stat(file).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would be waited for; a device may have no end
            raise OSError(errno.EINVAL, "a pipe or a device", str(file))
        with file.open("rb") as content:
            begun = time.time_ns()
            before = _stamp(os.fstat(content.fileno()))
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            after = _stamp(os.fstat(content.fileno()))
    except OSError as error:
        if unreadable is None:
            raise
        return None, unreadable(error)
    settled = before == after and max(before[1:]) < begun - MARGIN
    return (before if settled else None), digest


# --- What is remembered -----------------------------------------------------------------------------------------------


def _memory(root: Path) -> Path:
    """The file that remembers the hashes of one folder's files."""
    whole = os.path.abspath(root)
    folder = Path(os.environ.get("SARSYNTH_CACHE") or user_cache_path("sarsynth"))
    return folder / "hashes" / f"{hashlib.sha256(os.fsencode(whole)).hexdigest()[:32]}.json"


def _read(root: Path) -> Known:
    """Read what is known of a folder's files; nothing, where that is missing or broken."""
    try:
        rows = json.loads(_memory(root).read_bytes())["files"]
        return {
            name: ((size, modified, changed), digest)
            for name, (size, modified, changed, digest) in rows.items()
            if isinstance(digest, str) and len(digest) == 64
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _write(root: Path, fresh: Known) -> None:
    """Join what was learnt to what others have written meanwhile, if this user has a place to write to."""
    file = _memory(root)
    if not file.is_absolute():  # a user without a home
        return
    rows = {name: [*stamp, digest] for name, (stamp, digest) in (_read(root) | fresh).items()}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"root": os.path.abspath(root), "files": rows}))
