"""Threads of a run: those that wait sleep, and jobs side by side share the cores out."""

import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest

from sarsynth.config.composition import CONF

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


def test_jobs_side_by_side_share_the_cores_out():
    """By loky, whatever OpenMP and others would take on their own."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        launcher = hydra.compose("evaluate", ["experiment=demo"], return_hydra_config=True).hydra.launcher
    code = f"""
from joblib import Parallel, cpu_count, delayed
def threads():
    import os, sarsynth, torch
    return torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"]
print(Parallel(n_jobs={launcher.n_jobs}, backend="loky")(delayed(threads)() for _ in range(2)), cpu_count())
"""
    environment = {key: value for key, value in os.environ.items() if "_NUM_THREADS" not in key}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    found, cores = done.stdout.rsplit(" ", 1)
    each = max(1, int(cores) // 2)
    assert found == str([(each, "PASSIVE"), (each, "PASSIVE")])
