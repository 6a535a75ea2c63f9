"""Do a training step in as many equal parts as memory demands; the result is that of the whole step."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from sarsynth import processes
from sarsynth.console import console
from sarsynth.data.datamodules import SeededDataModule
from sarsynth.errors import UserError
from sarsynth.training.memory import Demand, demand, free_memory
from sarsynth.training.tasks import StepOptions, Task

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # Lightning's names


class MicroBatches(Callback):
    """Decides on the number of parts when a training begins, and sets it in trainer and data.

    Args:
        data: What the steps are fed with.
        options: How many samples may go through the network at once.
        title: Of the training, for messages.
    """

    def __init__(self, data: SeededDataModule, options: StepOptions, title: str) -> None:
        self.data, self.options, self.title = data, options, title

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Decide, before anything is loaded or fetched.

        Raises:
            UserError: Not even one sample of each stream fits.
        """
        parts, self.processes = 1, trainer.world_size
        rows = self.data.batch_size // trainer.world_size  # of each stream, in a step of this process
        if isinstance(pl_module, Task) and rows:
            streams = len(self.data.streams)
            limit = self._limit(trainer, pl_module)
            if limit < streams:
                raise UserError(
                    f"{self.title}: train.micro_batch={self.options.micro_batch}, but {streams} adapters train "
                    "together here, and one sample of each is the least; raise it or train fewer together"
                )
            parts = next(n for n in range(1, rows + 1) if rows % n == 0 and streams * rows // n <= limit)
            if parts > 1 and trainer.is_global_zero:
                console.print(
                    f"  {self.title}: each step of {streams * rows} samples in {parts} parts of "
                    f"{streams * rows // parts} (train.micro_batch={self.options.micro_batch})"
                )
        trainer.accumulate_grad_batches = self.data.micro_batches = parts

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count the steps that are done in the parts that a step has now; it may have had another number before."""
        batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            ready = counts["ready"]
            counts.update({name: batches + count - ready for name, count in counts.items()})

    def out_of_memory(self) -> str:
        """What to do if memory ran out all the same."""
        once = len(self.data.streams) * self.data.batch_size // (self.processes * self.data.micro_batches)
        least = once <= len(self.data.streams)
        remedies = [] if least else [f"set train.micro_batch={once // 2}"]
        return (
            f"memory ran out with {once} samples at once (train.micro_batch={self.options.micro_batch}); "
            f"{any_of([*remedies, *lower(self.options)])}"
        )

    def _limit(self, trainer: Trainer, task: Task) -> int:
        """How many samples may go through the network at once, on the device with the least free memory."""
        if self.options.micro_batch != "auto":
            return self.options.micro_batch
        averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        device, several = trainer.strategy.root_device, trainer.world_size > 1
        # Beside the weights lie their average, and what processes exchange.
        need = needs(task, self.data, self.options, device, trainer.precision, copies=averaged + several)
        free = free_memory(device, trainer.num_devices)
        limit, streams = need.samples(free), len(self.data.streams)
        limit = processes.least(limit) if several else limit
        if limit < streams:
            raise UserError(does_not_fit(self.title, need.total(streams), free, self.options))
        return limit


def needs(
    task: Task,
    data: SeededDataModule,
    options: StepOptions,
    device: torch.device,
    precision: str | int | None,
    *,
    copies: int = 0,
) -> Demand:
    """Estimate what a step of a task needs; `precision` is Lightning's name, `copies` as in `memory.demand`."""
    return demand(
        task,
        lambda samples: task.inputs(data.example(samples)),
        each=len(data.streams),
        device=device,
        autocast=HALF.get(str(precision)),
        checkpointed=task.networks if options.gradient_checkpointing else (),
        copies=copies,
    )


def does_not_fit(title: str, need: int, free: int, options: StepOptions) -> str:
    """The message that not even one sample at a time fits, and what would help."""
    remedies = [*lower(options), "lower the rank of adapters", "end what else fills it"]
    return (
        f"{title}: a step needs {need / 1e9:.2f} GB of memory with one sample at a time, and {free / 1e9:.2f} GB are "
        f"free; {any_of(remedies)}"
    )


def lower(options: StepOptions) -> list[str]:
    """What lowers the memory of a step that has one sample at a time."""
    checkpointing = [] if options.gradient_checkpointing else ["set train.gradient_checkpointing=true"]
    return [*checkpointing, "lower base.image_size"]


def any_of(remedies: list[str]) -> str:
    """Join remedies: `a, b or c`."""
    *first, last = remedies
    return f"{', '.join(first)} or {last}" if first else last
