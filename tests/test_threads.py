"""Threads of a run: those that wait sleep, and jobs side by side share the cores out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEEN = """
import os, runpy, sys
from types import SimpleNamespace
loaded = []
def run(*_):
    import torch
    print(os.environ["OMP_WAIT_POLICY"], "torch" in loaded)
class Watch:
    def find_spec(self, name, *_):
        if name == "torch" and "OMP_WAIT_POLICY" not in os.environ:
            loaded.append(name)
sys.meta_path.insert(0, Watch())
for script in ("train", "generate", "evaluate"):
    sys.modules[f"sarsynth.commands.{script}"] = SimpleNamespace(run=run)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script: str, folder: Path, *overrides: str, **variables: str) -> str:
    """Start a script whose command says which policy it sees, and whether torch was loaded before there was one."""
    code = f"import sys; sys.argv = {[str(ROOT / f'{script}.py'), *overrides]!r}\n{SEEN}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("script", ["train", "generate", "evaluate"])
def test_waiting_threads_sleep_before_torch_is_loaded(script: str, tmp_path: Path):
    stage = ["stage=ors"] if script == "train" else []
    assert run(script, tmp_path, *stage).splitlines()[-1] == "PASSIVE False"


def test_a_policy_of_ones_own_stays(tmp_path: Path):
    assert run("evaluate", tmp_path, OMP_WAIT_POLICY="ACTIVE").splitlines()[-1] == "ACTIVE False"
