"""Sweeps and jobs over several nodes: a SLURM of two nodes on this machine, and Ray."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from test_sweeps import ROOT, TINY, made

from sarsynth.report.jobs import read_jobs

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""
# What submitit asks of sacct, from the controller itself: there is no accounting here.
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
scontrol -o show job | awk '{ delete is; for (i = 1; i <= NF; i++) { split($i, part, "="); is[part[1]] = part[2] }
  id = "ArrayJobId" in is ? is["ArrayJobId"] "_" is["ArrayTaskId"] : is["JobId"]
  print id "|" is["JobState"] "|" is["NodeList"] }'
"""
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs the extra sweeps: pip install -e '.[sweeps]'"
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A controller and two nodes here; returns the environment in which its commands find it."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "srun"))):
        pytest.skip("SLURM is not installed: apt-get install slurm-wlm")
    folder, user = tmp_path_factory.mktemp("slurm"), psutil.Process().username()
    (folder / "state").mkdir()
    about = {"host": socket.gethostname().partition(".")[0], "user": user, "folder": folder}
    (folder / "slurm.conf").write_text(CONF.format(ports=[find_free_network_port() for _ in range(3)], **about))
    (folder / "sacct").write_text(SACCT)
    (folder / "sacct").chmod(0o755)
    env = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}:{os.environ['PATH']}"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    daemons = [
        subprocess.Popen([*words, "-D"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in (["slurmctld", "-c"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"])
    ]
    try:
        for _ in range(100):
            found = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=env, capture_output=True, text=True)
            if found.stdout.split() == ["idle", "2"]:
                break
            time.sleep(0.2)
        else:
            pytest.skip(f"this SLURM does not start as {user}: see {folder}/slurmctld.log")
        yield env
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(20)


def kill_task(number: int) -> None:
    """End the process of a task of an array as a node failure does."""
    for _ in range(600):
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                if "submitit.core._submit" in words and process.environ().get("SLURM_ARRAY_TASK_ID") == str(number):
                    return process.kill()
            except psutil.Error:
                pass
        time.sleep(0.1)
    raise AssertionError("the task never began")


@needs_submitit
def test_an_array_shares_a_store_and_outlives_a_task_that_dies(slurm, tmp_path: Path):
    few = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10"]
    words = ["-m", "hydra/launcher=slurm", *few, "method=none,weighted,resample", *TINY]
    with (tmp_path / "out").open("w") as out:
        sweep = subprocess.Popen(
            [sys.executable, str(ROOT / "evaluate.py"), *words], cwd=tmp_path, env=slurm, stdout=out, stderr=out
        )
        kill_task(1)
        code = sweep.wait(300)
    said = (tmp_path / "out").read_text()
    assert code == 1, said
    (folder,) = (tmp_path / "logs/sweeps/evaluate").iterdir()
    assert [bool(job.result) for job in read_jobs(folder)] == [True, False, True], said
    assert read_jobs(folder)[1].error.startswith("lost: ")
    assert (folder / "report.html").is_file()
    assert "none     │ " in said  # the screen of all jobs
    assert set(Counter(made(said)).values()) == {1}


def test_one_job_on_two_nodes(slurm, tmp_path: Path):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"]
    words = ["srun", "-N2", "-n2", "--ntasks-per-node=1", sys.executable, str(ROOT / "train.py"), "stage=ors"]
    env = slurm | {"MASTER_ADDR": "127.0.0.1"}  # the names of these nodes are no hosts
    done = subprocess.run([*words, *ddp, *TINY], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("made   adapter/ors-") == 1
    assert len([*tmp_path.glob("logs/store/adapter/ors-*/adapter.safetensors")]) == 1


def test_jobs_of_ray_share_one_screen(tmp_path: Path):
    pytest.importorskip("ray", reason="needs the extra sweeps: pip install -e '.[sweeps]'")
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [str(ROOT / "evaluate.py"), "-m", "hydra/launcher=ray_tasks", "method=none,resample", *TINY]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "(_run_job" not in done.stdout + done.stderr  # each line is told by its job, once
    assert "resample │ " in done.stdout
    assert set(Counter(made(done.stdout)).values()) == {1}
    assert [*tmp_path.glob("logs/sweeps/evaluate/*/report.html")]
