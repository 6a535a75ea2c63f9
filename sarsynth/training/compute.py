"""Where a study computes: device, precision and number of processes, as `trainer=` asks and this machine allows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer

from sarsynth import processes
from sarsynth.errors import UserError, one_line
from sarsynth.store.costs import Machine
from sarsynth.training.precision import Precision, choose

QUIET: dict[str, Any] = {
    "logger": False,
    **dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
}


@dataclass(frozen=True)
class Compute:
    """What Lightning makes of the settings of its Trainer on this machine."""

    # Lightning's Trainer with accelerator, devices, strategy and precision filled in
    make_trainer: Callable[..., Trainer]
    device: torch.device  # where this process computes, training loops and everything else alike
    precision: Precision  # in which networks compute
    processes: int  # processes of the job, over all of its nodes

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Compute":
        """Ask Lightning.

        Args:
            options: The arguments of its Trainer that `trainer=` gives; `precision` may be `auto`.

        Raises:
            UserError: This machine does not have what they ask for, or Lightning refuses them.
        """
        _check_devices(options)
        arguments = dict(options)
        asked = arguments.pop("precision", "auto")
        try:
            trainer = Trainer(**arguments, **QUIET)
        except Exception as error:  # Lightning raises almost anything at a value that it does not know
            given = ", ".join(f"{key}={value}" for key, value in options.items())
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"trainer: {given}: {reason}; mend one, or use trainer=cpu") from error
        _check_processes(trainer)
        device = trainer.strategy.root_device
        precision = choose(asked, device)
        if device.type == "cuda":
            arguments["benchmark"] = not arguments["deterministic"]  # shapes repeat: let cuDNN find its fastest way
        return cls(partial(Trainer, **arguments, precision=precision.name), device, precision, trainer.world_size)

    @classmethod
    def planned(cls, options: Mapping[str, Any]) -> "Compute":
        """Decide the same for a run that is only planned, on devices that need not be on this machine.

        Args:
            options: As for `of`.

        Returns:
            What no training can start with; `processes` is 0 if only another machine can tell.

        Raises:
            UserError: The precision depends on the card of another machine, or this one lacks what is asked for.
        """
        accelerator, asked, here = options["accelerator"], options["precision"], torch.cuda.is_available()
        cuda = accelerator in ("gpu", "cuda") or (accelerator == "auto" and here)
        if cuda and not here and asked == "auto":
            raise UserError(
                f"trainer.accelerator={accelerator}: no CUDA card is here to say what trainer.precision=auto comes to, "
                "and all that networks make depends on it; to plan for another machine say "
                "trainer.precision=bf16-mixed (compute capability 8.0 or more) or 16-mixed"
            )
        device = torch.device("cuda" if cuda else "mps" if accelerator == "mps" else "cpu")
        precision = choose(asked, device) if here or not cuda else Precision(asked)
        return cls(Trainer, device, precision, _count(options["devices"], cuda, here) * options["num_nodes"])

    @property
    def machine(self) -> Machine:
        """The machine, as the cards of artifacts that are made here name it."""
        if self.device.type != "cuda":
            return Machine("cpu", self.processes or None)
        return Machine(torch.cuda.get_device_name() if torch.cuda.is_available() else None, self.processes or None)

    @property
    def make_trainer_alone(self) -> Callable[..., Trainer]:
        """Lightning's Trainer of what this process trains by itself, on its device, whatever the others do."""
        devices = 1 if self.device.index is None else [self.device.index]
        return partial(self.make_trainer, devices=devices, num_nodes=1, strategy="auto")

    def enter(self) -> None:
        """Make this process compute there: its CUDA card the present one, its group joined, TF32 allowed."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")  # TF32; float32 on a CPU stays what it is
        processes.join("nccl" if self.device.type == "cuda" else "gloo")


def _check_devices(options: Mapping[str, Any]) -> None:
    """Refuse CUDA cards that are not here, with the remedy in one line, which Lightning's messages lack."""
    accelerator, devices = options.get("accelerator", "auto"), options.get("devices", "auto")
    if accelerator not in ("gpu", "cuda"):
        return
    there = torch.cuda.device_count()
    if not there:
        raise UserError(
            f"trainer.accelerator={accelerator}: torch {torch.__version__} sees no CUDA card on this machine; see what "
            "nvidia-smi says, or use trainer=cpu"
        )
    numbers = [int(number) for number in devices] if not isinstance(devices, int | str) else []
    wanted = max(numbers) + 1 if numbers else int(devices) if str(devices).isdecimal() else 0
    if wanted > there:
        raise UserError(
            f"trainer.devices={devices}: this machine has {there} CUDA card{'s' * (there > 1)}, numbered from 0; name "
            "fewer"
        )


def _count(devices: Any, cuda: bool, here: bool) -> int:
    """Count the devices per machine that `trainer.devices` names; 0 for all cards of another machine."""
    if isinstance(devices, list | tuple):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        return torch.cuda.device_count() if here and cuda else int(not cuda)
    return int(devices) if str(devices).isdecimal() else len(str(devices).split(","))


def _check_processes(trainer: Trainer) -> None:
    """Refuse a job whose processes are not as many as its trainer means to use: it would wait for ever."""
    started = processes.count()
    if trainer.num_nodes > 1 and started == 1:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}: start the script on every node with torchrun or srun, one process "
            "a device"
        )
    if started > 1 and trainer.world_size != started:
        raise UserError(
            f"{started} processes were started, but trainer.devices x trainer.num_nodes is {trainer.world_size}; make "
            "them equal, with trainer=ddp"
        )
