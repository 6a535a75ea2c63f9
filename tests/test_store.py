"""The store: content decides the name, one process builds, and nothing half-made is ever visible."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sarsynth.errors import UserError
from sarsynth.store.artifacts import CHECKPOINTS, Artifact, Request, fingerprint
from sarsynth.store.building import ATTEMPTS, Store


def note(folder: Path) -> None:
    (folder / "note.txt").write_text("made")


def make(store: Store, builder=note, collective: bool = False, **changes) -> Artifact:
    about = {"kind": "adapter", "name": "ors", "settings": {"rank": 4}, "inputs": {}, "version": 1}
    request = Request(**(about | {"command": "python train.py"} | changes))
    return store.make(request, builder, collective=collective)


def python(body: str, root: Path, **env: str) -> subprocess.Popen[str]:
    """Start a process that has `store`, `make`, `Path`, `time` and `root` and runs `body`."""
    head = f"""
import sys, time; from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store import make, wait_for; from sarsynth.store.building import Store
root = Path({str(root)!r}); store = Store(root, patience=1)
"""
    return subprocess.Popen(
        [sys.executable, "-c", head + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_fingerprint_is_of_the_content_alone(tmp_path):
    ors = Artifact("adapter", "ors", "a" * 16, tmp_path)
    other = Artifact("adapter", "ors", "b" * 16, tmp_path)
    settings = {"rank": 4, "train": {"steps": 10, "rate": 1e-3}}
    reordered = {"train": {"rate": 0.001, "steps": 10}, "rank": 4}
    known = fingerprint("adapter", settings, {"below": ors}, 1)

    assert known == fingerprint("adapter", reordered, {"below": ors}, 1)
    assert known == fingerprint(
        "adapter", settings, {"below": Artifact("adapter", "renamed", "a" * 16, tmp_path / "x")}, 1
    )
    changed = [
        fingerprint("classifier", settings, {"below": ors}, 1),
        fingerprint("adapter", settings | {"rank": 8}, {"below": ors}, 1),
        fingerprint("adapter", settings, {"below": other}, 1),
        fingerprint("adapter", settings, {"above": ors}, 1),
        fingerprint("adapter", settings, {}, 1),
        fingerprint("adapter", settings, {"below": ors}, 2),
        fingerprint("adapter", settings, {"below": ors}, 1, "32-true"),
        fingerprint("adapter", settings, {"below": ors}, 1, "bf16-mixed"),
    ]
    assert len({known, *changed}) == 9
    with pytest.raises(ValueError):
        fingerprint("adapter", {"rate": float("nan")}, {}, 1)


def test_a_mended_builder_and_another_precision_reuse_nothing(tmp_path):
    store, built = Store(tmp_path), []
    for changes in ({}, {"version": 2}, {"precision": "16-mixed"}, {}):
        make(store, lambda folder: built.append(folder.name), **changes)
    assert len(set(built)) == len(built) == 3
    cards = [make(store, **changes).card for changes in ({}, {"version": 2}, {"precision": "16-mixed"})]
    assert [(card["version"], card["precision"]) for card in cards] == [(1, None), (2, None), (1, "16-mixed")]


def test_an_artifact_is_made_once_and_carries_its_card(tmp_path):
    lines: list[str] = []
    store = Store(tmp_path, report=lines.append)
    ors = make(store)
    sar = make(store, name="sar", inputs={"below": ors})
    again = make(Store(tmp_path, report=lines.append), builder=lambda folder: pytest.fail("built twice"))

    assert again == ors and ors.complete
    assert ors.path == tmp_path / "adapter" / f"ors-{ors.fingerprint}"
    assert sar.card["inputs"] == {"below": ors.fingerprint}
    assert list(sar.card) == [
        *["kind", "label", "fingerprint", "settings", "inputs", "version", "precision"],
        *["samples", "work", "sarsynth", "git", "device", "processes", "seconds", "peak_memory_bytes", "disk_bytes"],
        "created",
    ]
    assert sar.card["settings"] == {"rank": 4} and sar.card["peak_memory_bytes"] > 1e6
    assert sorted(os.listdir(ors.path)) == ["card.json", "note.txt"]
    assert lines == [f"made   {ors} in 0 s", f"made   {sar} in 0 s", f"reused {ors}"]


def test_the_card_comes_last(tmp_path):
    def builder(folder: Path) -> None:
        assert folder.name.startswith(".") and not (folder / "card.json").exists()
        (folder / CHECKPOINTS).mkdir()
        (folder / CHECKPOINTS / "last.ckpt").write_text("step 3")

    made = make(Store(tmp_path), builder)
    assert os.listdir(made.path) == ["card.json"]
    newest = max(made.path.rglob("*"), key=lambda file: file.stat().st_mtime_ns)
    assert newest.name == "card.json"


def test_a_failed_build_leaves_nothing_visible(tmp_path):
    def fail(folder: Path) -> None:
        note(folder)
        raise RuntimeError("no luck")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="no luck"):
        make(store, fail)
    visible = [path for path in (tmp_path / "adapter").iterdir() if not path.name.startswith(".")]
    assert visible == []
    assert make(store, lambda folder: (folder / "note.txt").rename(folder / "found.txt")).complete


def test_a_build_that_fails_at_once_leaves_no_folder(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "images" / "cargo").mkdir(parents=True)
        raise UserError("no luck")

    with pytest.raises(UserError, match="no luck"):
        make(Store(tmp_path), fail)
    assert list((tmp_path / "adapter").iterdir()) == []


def test_a_killed_build_is_resumed(tmp_path):
    body = """
def builder(folder):
    (folder / "checkpoints").mkdir()
    time.sleep(0.5)
    (folder / "checkpoints" / "last").write_text("step 7")
    time.sleep(60)
make(store, builder)
"""
    killed = python(body, tmp_path)
    partial = tmp_path / "adapter" / f".ors-{fingerprint('adapter', {'rank': 4}, {}, 1)}.partial"
    wait_for(partial / CHECKPOINTS / "last")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == [partial.name]
    assert "started" in json.loads((partial / ATTEMPTS).read_text())

    found: list[str] = []
    made = make(Store(tmp_path), lambda folder: found.append((folder / CHECKPOINTS / "last").read_text()))
    assert found == ["step 7"]
    assert made.card["seconds"] >= 0.5, "the killed attempt's work counts"
    assert os.listdir(made.path) == ["card.json"] and not partial.exists()


def test_a_build_killed_before_the_rename_is_not_repeated(tmp_path):
    done = make(Store(tmp_path))
    done.path.rename(done.path.with_name(f".{done.path.name}.partial"))
    assert make(Store(tmp_path), lambda folder: pytest.fail("built twice")).complete


def test_two_processes_build_once(tmp_path):
    body = """
def builder(folder):
    (root / "started").touch()
    with (root / "builds").open("a") as file: file.write("x")
    wait_for(root / "awaited")
make(store, builder)
"""
    first = python(body, tmp_path)
    wait_for(tmp_path / "started")
    second = python(body, tmp_path, PYTHONUNBUFFERED="1")
    assert second.stdout is not None
    assert second.stdout.readline().startswith("waiting")
    (tmp_path / "awaited").touch()
    outputs = [process.communicate(timeout=30) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert (tmp_path / "builds").read_text() == "x"
    assert outputs[0][0].startswith("made")
    assert outputs[1][0].startswith("reused")


def test_require_names_the_command(tmp_path):
    with pytest.raises(UserError, match="build=require; make it with: python train.py stage=ors"):
        make(Store(tmp_path, build="require"), command="python train.py stage=ors")
    assert list(tmp_path.iterdir()) == []
    made = make(Store(tmp_path))
    assert make(Store(tmp_path, build="require")) == made


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="paths.store=.*file/store"):
        make(Store(tmp_path / "file" / "store"))


def test_ranks_share_one_build(tmp_path):
    body = """
def builder(folder):
    if not folder.exists(): raise SystemExit("rank 1 came before the folder")
    (root / "joined").open("a").write("x")
    deadline = time.monotonic() + 60
    while len((root / "joined").read_text()) < 2 and time.monotonic() < deadline: time.sleep(0.02)  # a barrier
print(make(store, builder, collective=True).card["label"])
print(make(store, lambda folder: (root / "single").open("a").write("x"), name="plain").card["label"])
"""
    ranks = [python(body, tmp_path, RANK=rank) for rank in "10"]
    outputs = [process.communicate(timeout=60) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs
    assert (tmp_path / "joined").read_text() == "xx", "both ranks take part in a collective build"
    assert (tmp_path / "single").read_text() == "x", "rank 0 alone makes the rest"
    assert outputs[0][0].split() == ["ors", "plain"], "rank 1 reports nothing of its own"


def test_a_rank_does_not_wait_for_ever(tmp_path):
    process = python("make(store)", tmp_path, RANK="1")
    assert "nobody has been making it for 1 s" in process.communicate(timeout=30)[1]


def test_find(tmp_path):
    store = Store(tmp_path)
    made = make(store)
    assert store.find("adapter", made.fingerprint[:6]) == store.find("adapter", made.path) == made
    with pytest.raises(UserError, match="no artifact of kind adapter"):
        store.find("adapter", "0" * 16)
    with pytest.raises(UserError, match="is of kind adapter, not base"):
        store.find("base", made.path)
