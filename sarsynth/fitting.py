"""Run Lightning's Trainer so that a killed training goes on where it stopped and ends as if it had never stopped."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger

from sarsynth.console import progress

CHECKPOINT = "last.ckpt"
CPU = partial(Trainer, accelerator="cpu", devices=1)


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
        # Our own checkpoint: it holds optimiser states beside tensors, which weights_only refuses.
        trainer.fit(module, data, ckpt_path=resume if resume and resume.is_file() else None, weights_only=False)


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
