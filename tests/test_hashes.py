"""Files that have not changed are not read again; whatever has changed is, and no state of the memory misleads."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sarsynth import hashes
from sarsynth.data.entries import Entry
from sarsynth.data.file_source import FileSource
from sarsynth.diffusion.base import NANO, resolve

NAMES = ["a.png", "b/c.png", "grün \udcff.txt"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes([number]) * 100)
    return folder


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SARSYNTH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute later: what the test has just written is old enough to be remembered."""
    now = time.time_ns
    monkeypatch.setattr(hashes.time, "time_ns", lambda: now() + 60 * 10**9)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of files whose content was read."""
    names, digest = [], hashlib.file_digest

    def noted(content, algorithm):
        names.append(Path(content.name).name)
        return digest(content, algorithm)

    monkeypatch.setattr(hashes.hashlib, "file_digest", noted)
    return names


def truth(root: Path) -> dict[str, str]:
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in NAMES}


def test_hashes_are_sha256_of_the_content(root: Path, later: None):
    assert hashes.of_files(root, NAMES) == truth(root) == hashes.of_files(root, NAMES)
    assert hashes.of_file(root / "a.png") == truth(root)["a.png"]
    assert hashes.of_files(root, []) == {}


def test_what_is_unchanged_is_not_read_again(root: Path, later: None, opened: list[str], monkeypatch):
    hashes.of_files(root, NAMES)
    assert len(opened) == 3
    hashes.of_files(root, reversed(NAMES))
    hashes.of_files(root, NAMES[:1])
    monkeypatch.chdir(root.parent)
    hashes.of_files(Path("data"), NAMES)
    assert len(opened) == 3
    shutil.copytree(root, root.parent / "elsewhere")
    assert hashes.of_files(root.parent / "elsewhere", NAMES) == truth(root)
    assert len(opened) == 6, "a copy is a file of its own"


@pytest.mark.parametrize("how", ["size", "mtime", "same size, mtime set back", "replaced, mtime kept", "unlinked"])
def test_what_has_changed_is_read_again(how: str, root: Path, later: None, opened: list[str]):
    hashes.of_files(root, NAMES)
    opened.clear()
    file, known = root / "a.png", truth(root)
    state = file.stat()
    time.sleep(0.02)  # a tick of the coarsest clock of Linux's file systems
    if how == "size":
        file.write_bytes(b"\0" * 101)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif how == "mtime":
        file.touch()
    elif how == "same size, mtime set back":
        file.write_bytes(b"\1" * 100)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif how == "replaced, mtime kept":
        (root / "new").write_bytes(b"\2" * 100)
        os.utime(root / "new", ns=(state.st_atime_ns, state.st_mtime_ns))
        (root / "new").replace(file)
    else:
        file.unlink()
        with pytest.raises(FileNotFoundError):
            hashes.of_files(root, NAMES)
        assert hashes.of_files(root, NAMES, lambda error: "gone")["a.png"] == "gone"
        return
    assert hashes.of_files(root, NAMES) == truth(root)
    assert (truth(root) == known) == (how == "mtime")
    assert opened == ["a.png"]


def test_a_file_that_was_just_written_is_hashed_again(root: Path, opened: list[str]):
    """Two changes in one tick of the clock leave the same size and times behind; so no hash of such a file is kept."""
    hashes.of_files(root, NAMES)
    (root / "a.png").write_bytes(b"\7" * 100)
    assert hashes.of_files(root, NAMES) == truth(root)
    assert len(opened) == 6


def test_a_file_that_changes_while_it_is_read_is_not_remembered(root: Path, later: None, monkeypatch, memory: Path):
    digest = hashlib.file_digest

    def interrupted(content, algorithm):
        found = digest(content, algorithm)
        (root / "a.png").write_bytes(b"more than there was" * 10)
        return found

    monkeypatch.setattr(hashes.hashlib, "file_digest", interrupted)
    hashes.of_files(root, ["a.png"])
    monkeypatch.setattr(hashes.hashlib, "file_digest", digest)
    assert hashes.of_files(root, ["a.png"])["a.png"] == truth(root)["a.png"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"files": 3}',
        b'{"files": {"a.png": 5}}',
        b'{"files": {"a.png": [100, 1, 2, 3]}}',
        b'{"files": {"a.png": [[], {}, null, "x"]}}',
        b"[" * 100_000,
    ],
)
def test_a_broken_memory_costs_time_only(content: bytes, root: Path, later: None, memory: Path, opened: list[str]):
    hashes.of_files(root, NAMES)
    (file,) = memory.iterdir()
    file.write_bytes(content)
    assert hashes.of_files(root, NAMES) == truth(root)
    assert len(opened) == 6
    assert hashes.of_files(root, NAMES) == truth(root)
    assert len(opened) == 6, "it is whole again"


def test_a_place_where_nothing_can_be_written_costs_time_only(
    root: Path, later: None, memory: Path, tmp_path: Path, monkeypatch, opened: list[str]
):
    memory.parent.write_text("a file stands where the folder should be")
    assert hashes.of_files(root, NAMES) == truth(root)
    monkeypatch.setenv("SARSYNTH_CACHE", "~no-such-user")
    monkeypatch.chdir(tmp_path)
    assert hashes.of_files(root, NAMES) == truth(root) == hashes.of_files(root, NAMES)
    assert not (tmp_path / "~no-such-user").exists()
    assert len(opened) == 9


WRITER = """
import hashlib, sys, time
from pathlib import Path
from sarsynth import hashes
now = time.time_ns
hashes.time.time_ns = lambda: now() + 60 * 10**9
root, names = Path(sys.argv[1]), sys.argv[2:]
for turn in range(30):
    for name in names:
        assert hashes.of_file(root / name) == hashlib.sha256(name.encode()).hexdigest()
assert "torch" not in sys.modules
"""


def test_two_processes_at_once_leave_a_whole_memory(root: Path, later: None, memory: Path):
    for name in ("one", "two", "three", "four"):
        (root / name).write_text(name)
    command = [sys.executable, "-c", WRITER, str(root)]
    writers = [subprocess.Popen([*command, *names]) for names in (("one", "two", "three"), ("two", "three", "four"))]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    (file,) = memory.iterdir()
    rows = json.loads(file.read_text())["files"]
    assert {"one", "four"} & set(rows) and set(rows) <= {"one", "two", "three", "four"}
    for name, row in rows.items():
        assert row[-1] == hashlib.sha256(name.encode()).hexdigest()


# --- Those who hash ---------------------------------------------------------------------------------------------------


def test_a_base_is_read_once(tmp_path: Path, later: None, opened: list[str]):
    shutil.copytree(NANO, tmp_path / "base")
    known = resolve(str(tmp_path / "base"))
    assert "diffusion_pytorch_model.safetensors" in opened
    opened.clear()
    assert resolve(str(tmp_path / "base")) == known
    assert not opened


def test_an_image_set_is_read_once(root: Path, later: None, opened: list[str]):
    def fingerprint() -> str:
        return FileSource(root, [Entry(name, "ship", "train") for name in (*NAMES, "gone")], channels=1).fingerprint()

    known = fingerprint()
    assert sorted(opened) == sorted(Path(name).name for name in NAMES)
    assert fingerprint() == known and len(opened) == 3
    (root / "a.png").write_bytes(b"\7" * 100)
    assert fingerprint() != known and len(opened) == 4
