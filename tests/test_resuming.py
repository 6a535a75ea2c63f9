"""Killed with SIGKILL, anywhere, again and again: what stands in the end is what an undisturbed run leaves."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_pipeline import ROOT, TINY
from torch import equal

STAGE = ["stage=sar", "method=plora", *TINY, "train.sar.max_steps=12"]
STAGE += ["train.sar.checkpoint_every=2", "train.ors.checkpoint_every=1"]

# Dies at a training step, or where a checkpoint or an artifact is to take its name, which is never a good moment.
SCRIPT = """
import os
import signal
import sys

from sarsynth import cli, fitting

what, left, *overrides = sys.argv[1:]
left = int(left)


def deadly(function):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


if what == "step":
    fitting.StepBar.on_train_batch_end = deadly(fitting.StepBar.on_train_batch_end)
if what == "rename":
    os.replace = deadly(os.replace)
sys.argv = ["train.py", *overrides]
cli.main("train")
"""


def run(folder: Path, what: str = "nothing", at: int = 0) -> int:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, what, str(at), *STAGE],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=900,
    ).returncode


def adapters(folder: Path) -> dict[str, Path]:
    return {path.name: path / "adapter.safetensors" for path in (folder / "logs/store/adapter").glob("[!.]*")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder) == 0
    return adapters(folder)


def test_a_stage_killed_at_random_steps_and_renames(undisturbed: dict[str, Path], tmp_path: Path):
    draw = random.Random(7)
    # Three ORS steps, four of the classifier, twelve or less of the prototypes; about as many renames.
    moments = [("step", draw.randint(1, 7)), ("rename", draw.randint(2, 9)), ("step", draw.randint(2, 8))]
    for what, at in moments:
        assert run(tmp_path, what, at) == -9, f"no {what} {at}"
    assert run(tmp_path) == 0
    found = adapters(tmp_path)
    assert found.keys() == undisturbed.keys()
    assert sorted(name.rpartition("-")[0] for name in found) == ["ors", "prototype_0", "prototype_1"]
    for name, file in found.items():
        one, other = load_file(file), load_file(undisturbed[name])
        assert one.keys() == other.keys()
        assert all(equal(one[key], other[key]) for key in one), name
    assert not list((tmp_path / "logs/store").glob("*/.*.partial"))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_artifacts_filled_together_survive_a_kill_between_their_names(tmp_path: Path, at: int):
    """In the store alone, without training: the builder is not asked a second time, whatever rename was the last."""
    script = f"""
import os, signal, sys
from pathlib import Path
from sarsynth.store import Request, Store

left = int(sys.argv[1])
replace = os.replace

def deadly(source, target):
    global left
    if not str(source).endswith(".draft"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = deadly

def build(folders):
    for request, folder in folders.items():
        (folder / "who").write_text(str(os.getpid()))

requests = [Request("adapter", name, {{"name": name}}, {{}}, "") for name in "abc"]
made = Store(Path({str(tmp_path)!r})).make_all(requests, build)
print(*((artifact.path / "who").read_text() for artifact in made.values()))
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", script, str(at)], env=env, capture_output=True)
    assert killed.returncode == -9
    again = subprocess.run([sys.executable, "-c", script, "0"], env=env, capture_output=True, text=True, check=True)
    assert len(set(again.stdout.splitlines()[-1].split())) == 1, "all of them are by one builder"
    assert str(os.getpid()) not in again.stdout
    assert not list(tmp_path.glob("*/.*.partial"))
