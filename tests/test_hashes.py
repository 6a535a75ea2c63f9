"""Hashes of files: the right ones always, and remembered only where nothing can have changed."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from processes import CONTEXT

from sarsynth import hashes
from sarsynth.hashes import FILE, TICK, FileHashes


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The files that are read."""
    names: list[str] = []
    digest = hashlib.file_digest

    def noted(handle, name: str):
        names.append(handle.name)
        return digest(handle, name)

    monkeypatch.setattr(hashes.hashlib, "file_digest", noted)
    return names


@pytest.fixture
def settled(monkeypatch) -> None:
    """Time goes on: what is written in a test was written long ago."""
    monkeypatch.setattr(hashes.time, "time_ns", lambda: time.monotonic_ns() + 2 * 10**18)


def hashed(folder: Path, *files: Path) -> list[str]:
    with FileHashes(folder / "cache") as known:
        return [known.of(file) for file in files]


def test_the_hash_is_of_the_content_and_an_unchanged_file_is_read_once(tmp_path: Path, opened, settled):
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        file.write_bytes(file.name.encode() * 1000)
    known = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert hashed(tmp_path, *files) == hashed(tmp_path, *files) == known
    assert opened == list(map(str, files))
    link = tmp_path / "link.png"
    link.symlink_to(files[0])
    assert hashed(tmp_path, link) == known[:1] and len(opened) == 2, "its target counts"


@pytest.mark.parametrize("change", ["size", "content", "replaced", "restored time"])
def test_a_changed_file_is_read_again(tmp_path: Path, opened, settled, change: str):
    file = tmp_path / "a.png"
    file.write_bytes(b"before")
    hashed(tmp_path, file)
    was = file.stat()
    if change == "replaced":
        (tmp_path / "new").write_bytes(b"after!")
        (tmp_path / "new").replace(file)
    else:
        file.write_bytes(b"after, longer" if change == "size" else b"after!")
    if change == "restored time":
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))  # the time of status change cannot be set
    assert hashed(tmp_path, file) == [hashlib.sha256(file.read_bytes()).hexdigest()]
    assert len(opened) == 2


def test_what_changed_a_moment_ago_is_not_remembered(tmp_path: Path, opened):
    """Within a tick of the file system's clock a second change would show the same time."""
    file = tmp_path / "a.png"
    file.write_bytes(b"before")
    assert TICK >= 10**9
    hashed(tmp_path, file)
    hashed(tmp_path, file)
    assert len(opened) == 2 and not (tmp_path / "cache" / FILE).exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "null", '{"NAME": [1]}', '{"NAME": [6, 1, 1, 1, "short"]}', "[" * 10**5, "\x00"]
)
def test_a_broken_cache_costs_time_only(tmp_path: Path, settled, content: str):
    file = tmp_path / "a.png"
    file.write_bytes(b"before")
    cache = tmp_path / "cache" / FILE
    cache.parent.mkdir()
    cache.write_text(content.replace("NAME", str(file)))
    assert hashed(tmp_path, file) == [hashlib.sha256(b"before").hexdigest()]
    assert list(json.loads(cache.read_text())) == [str(file)], "and is mended"


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, settled):
    (tmp_path / "cache").write_text("a file where the folder should be")
    (tmp_path / "a.png").write_bytes(b"before")
    assert hashed(tmp_path, tmp_path / "a.png") == [hashlib.sha256(b"before").hexdigest()]


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        hashed(tmp_path, tmp_path / "a.png")


def test_it_does_not_grow_without_bound(tmp_path: Path, settled, monkeypatch):
    monkeypatch.setattr(hashes, "MOST", 3)
    files = [tmp_path / f"{index}.png" for index in range(5)]
    for file in files:
        file.write_bytes(file.name.encode())
        hashed(tmp_path, file)
    assert list(json.loads((tmp_path / "cache" / FILE).read_text())) == list(map(str, files[2:]))


def remember(folder: Path, first: int) -> None:
    hashes.time.time_ns = lambda: time.monotonic_ns() + 2 * 10**18
    for index in range(first, first + 20):
        hashed(folder, folder / f"{index}.png")


def test_two_processes_spoil_nothing(tmp_path: Path):
    files = [tmp_path / f"{index}.png" for index in range(40)]
    for file in files:
        file.write_bytes(file.name.encode())
    both = [CONTEXT.Process(target=remember, args=(tmp_path, first)) for first in (0, 20)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    known = json.loads((tmp_path / "cache" / FILE).read_text())
    assert known and set(known) <= set(map(str, files))
    assert all(entry[-1] == hashlib.sha256(Path(name).read_bytes()).hexdigest() for name, entry in known.items())
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [FILE]
