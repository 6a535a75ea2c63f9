"""Where a study computes: devices and processes as Lightning counts them, and in one line what is not there."""

import os
from pathlib import Path

import pytest
import torch
from processes import run_on_two

from sarsynth import processes
from sarsynth.errors import UserError
from sarsynth.training import compute
from sarsynth.training.compute import Compute

CPU = {
    "accelerator": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": "auto",
    "deterministic": False,
}


def test_a_cpu_is_one_process_in_full_precision():
    found = Compute.of(CPU)
    assert (found.device, found.precision.name, found.processes) == (torch.device("cpu"), "32-true", 1)
    assert found.make_trainer(logger=False).precision == "32-true"


def test_devices_of_a_cpu_are_processes():
    assert Compute.of(CPU | {"devices": 3, "strategy": "ddp"}).processes == 3


@pytest.mark.parametrize(
    ("options", "cards", "message"),
    [
        ({"accelerator": "gpu"}, 0, "trainer.accelerator=gpu: torch .* sees no CUDA card .*trainer=cpu"),
        ({"accelerator": "cuda", "devices": 3}, 2, "trainer.devices=3: this machine has 2 CUDA cards, .*name fewer"),
        ({"accelerator": "gpu", "devices": [1]}, 1, "trainer.devices=.1.: this machine has 1 CUDA card, "),
        ({"devices": [1]}, 0, "trainer: .*devices=.*mend one, or use trainer=cpu"),
        ({"precision": "16-mixed"}, 0, "trainer.precision=16-mixed needs a CUDA card"),
        ({"num_nodes": 2, "strategy": "ddp"}, 0, "trainer.num_nodes=2: start the script on every node with torchrun"),
    ],
)
def test_what_a_machine_has_not_is_one_line(options, cards, message, monkeypatch):
    monkeypatch.setattr(compute.torch.cuda, "device_count", lambda: cards)
    with pytest.raises(UserError, match=message) as refusal:
        Compute.of(CPU | options)
    assert "\n" not in str(refusal.value)


def test_as_many_processes_as_the_trainer_means_to_use(monkeypatch):
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match="2 processes were started, but trainer.devices x trainer.num_nodes is 1"):
        Compute.of(CPU)


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, (3, 4)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, (2, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script that no srun started
    ],
)
def test_who_this_process_is(variables, place, monkeypatch):
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(key, raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert (processes.rank(), processes.count()) == place
    assert list(processes.mine(range(10))) == list(range(place[0], 10, place[1]))


def meet(folder: Path) -> None:
    processes.join("gloo")
    (folder / f"came-{processes.rank()}").touch()
    processes.barrier()
    assert len(list(folder.iterdir())) == 2, "both are here"
    processes.barrier()
    processes.leave()


def test_processes_meet(tmp_path: Path):
    assert run_on_two(meet, tmp_path) == [0, 0]


def say(folder: Path) -> None:
    if (folder / "0 of 2").exists():  # the second time
        raise UserError(f"said by {processes.rank()}")
    processes.join("gloo")
    processes.barrier()
    (folder / f"{processes.rank()} of {processes.count()}").touch()


def test_a_launch_starts_each_once_and_tells_what_was_wrong(tmp_path: Path):
    environment = dict(os.environ)
    processes.launch(say, (tmp_path,), 2)
    assert {path.name for path in tmp_path.iterdir()} == {"0 of 2", "1 of 2"}
    with pytest.raises(UserError, match="^said by [01]$"):
        processes.launch(say, (tmp_path,), 2)
    assert dict(os.environ) == environment, "the process that launched is nobody's rank"
