"""Run Lightning's Trainer so that a killed training goes on where it stopped and ends as if it had never stopped."""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, Timer, WeightAveraging
from lightning.pytorch.loggers import Logger
from torch import Tensor

from sarsynth.console import console, progress
from sarsynth.data.datamodules import SeededDataModule
from sarsynth.errors import UserError, one_line
from sarsynth.files import staged
from sarsynth.training.compiling import compiling
from sarsynth.training.finite import FiniteWatch, NotFiniteError
from sarsynth.training.microbatches import MicroBatches
from sarsynth.training.tasks import StepOptions, Task

CHECKPOINT = "last.ckpt"
TOGETHER = 64  # weights that are averaged in one go, which bounds the memory that this takes
CPU = partial(Trainer, accelerator="cpu", devices=1)

LOOP = {  # arguments of every Trainer here: these loops know steps and no epochs
    "max_epochs": -1,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    # Our sampler shares out the global batch itself, so that the run does not depend on the process count, and it
    # begins where the step is, not where an epoch is.
    "use_distributed_sampler": False,
    "limit_train_batches": None,
    "overfit_batches": 0.0,
    "log_every_n_steps": 10,
}


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
    """How every training loop of a study runs: what `trainer=` and `logger=` chose."""

    # Lightning's Trainer with accelerator, devices, strategy and precision filled in
    make_trainer: Callable[..., Trainer] = CPU
    logger: Logger | bool = False  # where scalars go; False is nowhere
    options: StepOptions = field(default_factory=StepOptions)  # how a step is computed
    look_every: int | None = None  # steps between looks for values that are not finite, see `FiniteWatch`

    def fit(
        self,
        module: LightningModule,
        data: SeededDataModule,
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
            module: What to train; afterwards it is where it was trained.
            data: Its batches; sample order and noise must be functions of the global step (see data/streams.py).
            title: What the progress bar and messages call the training.
            max_steps: Optimiser steps in all.
            checkpoints: Folder of the checkpoint; None keeps none.
            checkpoint_every: Steps between checkpoints.
            max_grad_norm: Clip gradients to this global norm.
            callbacks: More callbacks.

        Raises:
            UserError: A loss or gradient is not finite (names the samples, the step and the last good checkpoint), the
                memory does not hold a step, or the trainer has ended before the last step.
        """
        checkpoint = None if checkpoints is None else checkpoints / CHECKPOINT
        parts = MicroBatches(data, self.options, title)
        own: list[Callback] = [parts, FiniteWatch(self.look_every), StepBar(title, max_steps), *callbacks]
        if self.logger:
            own.append(LearningRateMonitor("step"))
        if checkpoints is not None:
            own.append(Resumable(checkpoints, checkpoint_every))
        with self._networks(module, title) as more:
            loop = {**LOOP, "max_steps": max_steps, "gradient_clip_val": max_grad_norm}
            trainer = self.make_trainer(**loop, logger=self.logger, callbacks=[*own, *more])
            try:
                with _told(trainer, title, parts, checkpoint):
                    # The checkpoint is ours: it holds optimiser states beside tensors, which weights_only refuses.
                    trainer.fit(module, data, ckpt_path=_whole(checkpoint, title), weights_only=False)
            finally:
                module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
        _check_ended(trainer, title, max_steps)

    @contextmanager
    def _networks(self, module: LightningModule, title: str) -> Iterator[Sequence[Callback]]:
        """Have the networks of a task compute as the options say inside the block, with the callbacks for it."""
        with ExitStack() as stack:
            callbacks = []
            if isinstance(module, Task) and self.options.gradient_checkpointing:
                for network in module.networks:
                    if not network.is_gradient_checkpointing:
                        network.enable_gradient_checkpointing()
                        stack.callback(network.disable_gradient_checkpointing)
            if isinstance(module, Task) and self.options.compile and module.compilable:
                callbacks.append(stack.enter_context(compiling(module.compilable, title, module.variants)))
            yield callbacks


@contextmanager
def _told(trainer: Trainer, title: str, parts: MicroBatches, checkpoint: Path | None) -> Iterator[None]:
    """Say in a line what ended the training inside the block."""
    try:
        yield
    except SystemExit as error:
        if trainer.interrupted:  # by Ctrl-C, which Lightning makes an end of the process without a word
            raise KeyboardInterrupt from error
        raise
    except NotFiniteError as error:
        kept = f"the last good checkpoint is {checkpoint}" if _there(checkpoint) else "no checkpoint yet"
        raise UserError(f"{title}, {error}; {kept}; {error.remedy}") from error
    except torch.OutOfMemoryError as error:
        raise UserError(f"{title}: {parts.out_of_memory()}") from error


def _there(file: Path | None) -> Path | None:
    return file if file is not None and file.is_file() else None


def _whole(file: Path | None, title: str) -> Path | None:
    """The checkpoint to go on from; none if it is damaged, as a copy that broke off is: the training begins again."""
    if _there(file) is None:
        return None
    try:
        with ZipFile(file) as parts:  # type: ignore[arg-type]
            wrong = parts.testzip()
    except (BadZipFile, OSError, EOFError, zlib.error) as error:
        wrong = one_line(error)
    if wrong:
        console.print(f"  {title}: {file} is damaged ({wrong}); the training begins again", markup=False)
        return None
    return file


def _check_ended(trainer: Trainer, title: str, max_steps: int) -> None:
    """Refuse a training that ended before its last step, and name what ended it."""
    if trainer.global_step >= max_steps:  # a trainer may have set itself fewer
        return
    culprit = "a callback" if trainer.should_stop else "the trainer"
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    if any(timer.time_remaining() is not None and timer.time_remaining() <= 0 for timer in timers):  # type: ignore[operator]
        culprit = "max_time"
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        culprit = "fast_dev_run"
    raise UserError(
        f"{title}: {culprit} ended the training after {trainer.global_step} of {max_steps} steps; "
        "leave it out, and the training goes on from its last checkpoint"
    )


class Resumable(Callback):
    """Keep one checkpoint; the old one stays until the new one is whole, on disk, and renamed in its place.

    Lightning's `ModelCheckpoint` writes to the system's temporary folder and moves the file: from one file system to
    another that is a copy, which a kill can cut short.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the training goes on."""
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Write a checkpoint when it is time, at the end of a step."""
        before, self.step = self.step, trainer.global_step
        if self.step > before and self.every and self.step % self.every == 0 and self.step < trainer.max_steps:
            self.folder.mkdir(parents=True, exist_ok=True)
            with staged(self.folder / CHECKPOINT) if trainer.is_global_zero else nullcontext(self.folder) as draft:
                trainer.save_checkpoint(draft)  # all processes gather what rank 0 alone writes


class MovingAverage(WeightAveraging):
    """End a training with an exponential moving average of its weights.

    The decay of update n is (1 + n) / (10 + n) at most, so that the first weights do not count for long in a short
    training; Lightning's `EMAWeightAveraging` has one decay from the start.

    Args:
        decay: Of the average, in [0, 1).
        every: Optimiser steps between updates; with ten, the average costs next to nothing.
    """

    def __init__(self, decay: float, every: int = 1) -> None:
        # A text encoder's buffers are whole numbers, places of words.
        super().__init__(use_buffers=False, multi_avg_fn=partial(_moving_average, decay=decay))
        self.every = every

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the average where the weights are, and count its updates where counting waits for no device."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        assert self._average_model is not None
        self._average_model.n_averaged = torch.zeros_like(self._average_model.n_averaged, device="cpu")

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Update after every so many optimiser steps, and never for an epoch."""
        return step_idx is not None and step_idx % self.every == 0


def _moving_average(averages: list[Tensor], weights: list[Tensor], updates: Tensor | int, *, decay: float) -> None:
    slower = min(decay, (1 + int(updates)) / (10 + int(updates)))
    for start in range(0, len(averages), TOGETHER):
        some = slice(start, start + TOGETHER)
        # From the weights to the average: the other way round half a step would be rounded otherwise.
        torch._foreach_copy_(averages[some], torch._foreach_lerp(weights[some], averages[some], slower))


class StepBar(Callback):
    """A progress bar over optimiser steps with the time left and the running loss, on rank 0."""

    def __init__(self, title: str, max_steps: int) -> None:
        self.title, self.max_steps, self.note = title, max_steps, ""
        self.opened = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step where training goes on."""
        self.step = trainer.global_step
        bar = progress(self.title, self.max_steps, enabled=trainer.is_global_zero)
        self.advance = self.opened.enter_context(bar)
        self.advance(self.step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Advance by one step; the loss is read as often as the losses are looked at."""
        before, self.step = self.step, trainer.global_step
        if self.step == before:
            return
        watch = getattr(pl_module, "watch", None)
        if self.step % (watch.every if watch else 1) == 0 and "loss" in trainer.callback_metrics:
            self.note = f"loss {float(trainer.callback_metrics['loss']):.4f}"
        self.advance(1, self.note)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar when training failed."""
        self.opened.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        self.opened.close()
