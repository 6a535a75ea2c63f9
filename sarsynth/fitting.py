"""Run Lightning's Trainer so that a killed training goes on where it stopped and ends as if it had never stopped."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, WeightAveraging
from lightning.pytorch.loggers import Logger
from torch import Tensor, distributed

from sarsynth.console import progress
from sarsynth.errors import UserError

CHECKPOINT = "last.ckpt"
NAMED = 8  # samples in a message
CPU = partial(Trainer, accelerator="cpu", devices=1)


class NotFiniteError(UserError):
    """A loss or a gradient is NaN or infinite; nothing has been changed by it."""


def check_finite(values: Tensor, what: str, step: int, name: Callable[[int], str], *, alone: bool = False) -> None:
    """Stop a training before values that are not finite reach a weight.

    All processes of a data-parallel training call it together, and stop together: one that went on alone would report
    nothing but a lost connection.

    Args:
        values: Shape (N,).
        what: Of what they are the values.
        step: The step that they would have been used for.
        name: Says whose the value at an index is; asked only if that one is not finite.
        alone: This process trains by itself, whatever the others do.

    Raises:
        NotFiniteError: Some are NaN or infinite; the message names whose.
    """
    named = [name(index) for index in (~values.isfinite()).nonzero()[:, 0].tolist()]
    if not alone:
        named = _of_all_processes(named, values.device)
    if named:
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        raise NotFiniteError(f"step {step}: the {what} is not finite for {', '.join(named[:NAMED])}{more}")


def _of_all_processes(names: Sequence[str], device: torch.device) -> list[str]:
    """Join the names that the processes of a training have, each name once."""
    several = [list(names)]
    if distributed.is_available() and distributed.is_initialized():
        found = torch.tensor(len(names), device=device)
        distributed.all_reduce(found)  # a number a step; names travel only if there are some
        several = [[] for _ in range(distributed.get_world_size())]
        if found:
            distributed.all_gather_object(several, list(names))
    return list(dict.fromkeys(one for part in several for one in part))


def learning_rate_share(
    step: int, *, warmup_steps: int, max_steps: int, decay: Literal["cosine", "constant"] = "cosine", floor: float = 0.0
) -> float:
    """Share of the peak learning rate: linear from `floor` to 1 at `warmup_steps`, then half a cosine or constant."""
    if step < warmup_steps:
        share = step / warmup_steps
    elif decay == "constant":
        share = 1.0
    else:
        progressed = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
        share = (1 + math.cos(math.pi * progressed)) / 2
    return floor + (1 - floor) * share


@dataclass(frozen=True)
class Fitting:
    """How every training loop of a study runs: what `trainer=` and `logger=` chose.

    Attributes:
        make_trainer: Lightning's Trainer with accelerator, devices, strategy and precision filled in.
        logger: Where scalars go; False is nowhere.
    """

    make_trainer: Callable[..., Trainer] = CPU
    logger: Logger | bool = False

    def fit(
        self,
        module: LightningModule,
        data: LightningDataModule,
        *,
        title: str,
        max_steps: int,
        checkpoints: Path | None = None,
        checkpoint_every: int = 0,
        max_grad_norm: float | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Train a module in place for `max_steps` optimiser steps, from its last checkpoint if there is one.

        Args:
            module: What to train.
            data: Its batches; sample order and noise must be functions of the global step (see data/datamodules.py).
            title: What the progress bar says.
            max_steps: Optimiser steps in all.
            checkpoints: Folder of the checkpoint that resumes this training; None keeps none.
            checkpoint_every: Steps between checkpoints.
            max_grad_norm: Clip gradients to this global norm.
            callbacks: More callbacks.

        Raises:
            UserError: A loss or gradient is not finite; names the samples, the step and the last good checkpoint.
        """
        own: list[Callback] = [StepBar(title, max_steps), *callbacks]
        if self.logger:
            own.append(LearningRateMonitor("step"))
        resume = None
        if checkpoints is not None:
            own.append(Resumable(checkpoints, checkpoint_every))
            resume = checkpoints / CHECKPOINT
        trainer = self.make_trainer(
            logger=self.logger,
            max_steps=max_steps,
            max_epochs=-1,
            gradient_clip_val=max_grad_norm,
            callbacks=own,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            # Our sampler shares out the global batch itself, so that the run does not depend on the process count.
            use_distributed_sampler=False,
            log_every_n_steps=10,
        )
        try:
            # Our own checkpoint: it holds optimiser states beside tensors, which weights_only refuses.
            trainer.fit(module, data, ckpt_path=resume if resume and resume.is_file() else None, weights_only=False)
        except NotFiniteError as error:
            kept = f"the last good checkpoint is {resume}" if resume and resume.is_file() else "no checkpoint yet"
            raise UserError(f"{title}, {error}; {kept}; mend the images or lower the learning rate") from error


class Resumable(Callback):
    """Keep one checkpoint; a new one is written aside and renamed, so that the old one stays until it is whole."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Write a checkpoint when it is time."""
        if self.every and trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps:
            self.folder.mkdir(parents=True, exist_ok=True)
            staged = self.folder / f"{CHECKPOINT}.new"
            trainer.save_checkpoint(staged)
            if trainer.is_global_zero:
                with staged.open("rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(staged, self.folder / CHECKPOINT)


class MovingAverage(WeightAveraging):
    """End a training with an exponential moving average of its weights.

    The decay grows to its value as (1 + n) / (10 + n), so that the first weights do not weigh on a short training.

    Args:
        decay: Of the average, in [0, 1).
        every: Optimiser steps between updates; with some, the average costs nothing.
    """

    def __init__(self, decay: float, every: int = 1) -> None:
        # A text encoder's buffers are whole numbers, places of words.
        super().__init__(use_buffers=False, avg_fn=partial(_moving_average, decay=decay))
        self.every = every

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Update after every so many optimiser steps, and never for an epoch."""
        return step_idx is not None and step_idx % self.every == 0


def _moving_average(average: Tensor, current: Tensor, updates: Tensor | int, *, decay: float) -> Tensor:
    slower = min(decay, (1 + int(updates)) / (10 + int(updates)))
    return torch.lerp(current, average, slower)


class StepBar(Callback):
    """A progress bar over optimiser steps with the time left and the running loss, on rank 0."""

    def __init__(self, title: str, max_steps: int) -> None:
        self.title, self.max_steps = title, max_steps

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Open the bar at the step where training goes on."""
        self.bar = progress(self.title, self.max_steps, enabled=trainer.is_global_zero)
        self.advance = self.bar.__enter__()
        self.advance(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Advance by one step."""
        loss = trainer.callback_metrics.get("loss")
        self.advance(1, "" if loss is None else f"loss {float(loss):.4f}")

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Close the bar, also when training failed."""
        if hasattr(self, "bar"):
            self.bar.__exit__(None, None, None)
            del self.bar
