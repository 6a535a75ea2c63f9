"""Killed with SIGKILL, anywhere, and again: what stands in the end is what an undisturbed run leaves."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
from safetensors.torch import load_file
from test_pipeline import ROOT, TINY
from test_pipeline_contours import TRAINED
from torch import equal

from sarsynth import cli
from sarsynth.training import fitting

OFTEN = [f"train.{stage}.checkpoint_every={steps}" for stage, steps in {"ors": 1, "sar": 2, "controlnet": 1}.items()]
BASE = [
    f"train.base.{part}.{key}={value}"
    for part in ("autoencoder", "unet")
    for key, value in {"max_steps": 3, "warmup_steps": 1, "batch_size": 2, "checkpoint_every": 1}.items()
]
RUNS = {
    "prototypes": ["train", "stage=sar", "method=plora", "train.sar.max_steps=12"],
    "controlnet": ["train", "stage=controlnet", *TRAINED, "train.controlnet.max_steps=6"],
    "base": ["train", "stage=base", "regular.train=2", "train.base.generic_pictures=10", *BASE],
    "table": ["evaluate", "method=2lora"],
}
KILLS = {"prototypes": 2}  # where a run is killed more than once


def attend(folder: Path, overrides: list[str], fatal: int) -> None:
    """Run a script and count its training steps and renames; die at one of them, which is never a good moment."""
    count = 0

    def counted(function):
        def counting(*args, **kwargs):
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counting

    fitting.StepBar.on_train_batch_end = counted(fitting.StepBar.on_train_batch_end)
    os.replace = counted(os.replace)
    os.chdir(folder)
    script, *said = overrides
    sys.argv = [f"{script}.py", *said, *TINY, *OFTEN]
    cli.main(script)
    (folder / "count").write_text(str(count))


def run(folder: Path, overrides: list[str], fatal: int = 0) -> int:
    folder.mkdir(exist_ok=True)
    return processes.run(attend, folder, overrides, fatal, timeout=900)


def weights(folder: Path) -> dict[str, Path]:
    """Everything but images that a store holds, by kind, label and fingerprint."""
    store = folder / "logs/store"
    return {str(file.relative_to(store)): file for file in sorted(store.rglob("*.safetensors"))}


def figures(folder: Path) -> list[dict[str, Any]]:
    """What runs of evaluate.py found, but for what it cost."""
    found = [json.loads(file.read_text()) for file in folder.glob("logs/runs/evaluate/*/result.json")]
    return [{key: one[key] for key in ("classifier", "fidelity", "realism", "memorisation")} for one in found]


@pytest.mark.parametrize("stage", RUNS)
def test_what_is_killed_at_random_ends_as_if_undisturbed(stage: str, tmp_path: Path):
    whole, killed, draw = tmp_path / "whole", tmp_path / "killed", random.Random(7)
    assert run(whole, RUNS[stage]) == 0
    moments = int((whole / "count").read_text())
    kills = KILLS.get(stage, 1)
    for _ in range(kills):  # each in its share of all moments, so that there is one for the next kill too
        assert run(killed, RUNS[stage], draw.randint(1, (moments - 1) // kills)) == -9
    assert run(killed, RUNS[stage]) == 0
    known, found = weights(whole), weights(killed)
    assert len(found) > 1
    assert found.keys() == known.keys()
    for name, file in found.items():
        one, other = load_file(file), load_file(known[name])
        assert one.keys() == other.keys()
        assert all(equal(one[key], other[key]) for key in one), name
    assert figures(killed) == figures(whole)
    assert len(figures(killed)) == (stage == "table")
    assert not list((killed / "logs/store").glob("*/.*.partial"))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_artifacts_filled_together_survive_a_kill_between_their_names(tmp_path: Path, at: int):
    """In the store alone, without training: the builder is not asked a second time, whatever rename was the last."""
    script = f"""
import os, signal, sys
from pathlib import Path
from sarsynth.store.artifacts import Request
from sarsynth.store.building import Store

left = int(sys.argv[1])
replace = os.replace

def deadly(source, target):
    global left
    if ".staged-" not in str(source):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = deadly

def build(folders):
    for request, folder in folders.items():
        (folder / "who").write_text(str(os.getpid()))

requests = [Request("adapter", name, {{"name": name}}, {{}}, 1, "") for name in "abc"]
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
