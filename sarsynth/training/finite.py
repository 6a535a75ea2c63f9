"""Stop a training at the first loss or gradient that is NaN or infinite, before anything that it spoilt is kept.

On a CPU each value is looked at as it comes. To look at a value on an accelerator is to wait for it, so there they are
noted as they come and looked at every so many steps, before each checkpoint and at the end; until then a step with a
gradient that is not finite is left out by the optimiser itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from torch.amp import GradScaler
from torch.optim import Optimizer

from sarsynth.errors import UserError

NAMED = 8  # samples in a message
EVERY = 50  # steps between looks on an accelerator
OVERFLOWS = 32  # in a row: a gradient scaler that begins at 2^16 has then gone down to 2^-16, so it is not the scale


class NotFiniteError(UserError):
    """A loss or a gradient is NaN or infinite; nothing that it changed has been kept.

    Attributes:
        remedy: What may help.
    """

    def __init__(self, message: str, remedy: str = "mend the images or lower the learning rate") -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class Defect:
    """Values of one step that are not finite: of what, and whose."""

    step: int
    what: str
    names: Sequence[str]

    @property
    def moment(self) -> tuple[int, bool]:
        """Orders defects in time: in a step the loss comes before the gradient."""
        return self.step, self.what != "loss"


def check_finite(values: Tensor, what: str, step: int, name: Callable[[int], str], *, alone: bool = False) -> None:
    """Stop a training before values that are not finite reach a weight.

    All processes of a data-parallel training call it together, and stop together: one that went on alone would report
    nothing but a lost connection.

    Args:
        values: Shape (N,).
        what: Of what they are the values, `loss` or `gradient`.
        step: The step that they would have been used for.
        name: Says whose the value at an index is; asked only if that one is not finite.
        alone: This process trains by itself, whatever the others do.

    Raises:
        NotFiniteError: Some are NaN or infinite; the message names whose.
    """
    bad = (~values.isfinite()).nonzero()[:, 0].tolist()
    _stop_at(Defect(step, what, [name(index) for index in bad]) if bad else None, values.device, alone)


def _stop_at(defect: Defect | None, device: torch.device, alone: bool) -> None:
    """Raise the first of the defects that the processes of a training have, if there is any."""
    several = [defect] if alone else _of_all_processes(defect, device)
    defects = [each for each in several if each is not None]
    if not defects:
        return
    first = min(defects, key=lambda each: each.moment)
    names = list(dict.fromkeys(name for each in defects if each.moment == first.moment for name in each.names))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise NotFiniteError(f"step {first.step}: the {first.what} is not finite for {', '.join(names[:NAMED])}{more}")


def _of_all_processes(defect: Defect | None, device: torch.device) -> list[Defect | None]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [defect]
    several: list[Defect | None] = [None] * distributed.get_world_size()
    count = torch.tensor(int(defect is not None), device=device)
    distributed.all_reduce(count)  # a number; names travel only if there are some
    if count:
        distributed.all_gather_object(several, defect)
    return several


@dataclass(frozen=True)
class _Note:
    """Which values of a step are finite (N,), and how to name those that are not."""

    finite: Tensor
    what: str
    step: int
    name: Callable[[int], str]


class FiniteWatch(Callback):
    """Watches over the losses and gradients of the module that a Trainer fits, which reports them.

    Args:
        every: Optimiser steps between looks; None is 1 on a CPU, where a value that is not finite stops the training
            before the step that it belongs to, and EVERY elsewhere.
    """

    def __init__(self, every: int | None = None) -> None:
        self.asked, self.every, self.alone = every, every or 1, True
        self.notes: list[_Note] = []
        self.began = self.looked = 0  # the step that training went on from, and that of the last look
        self.overflows: Tensor | None = None  # in a row, up to the present step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the module report here."""
        self.alone = trainer.world_size == 1
        self.every = self.asked or (1 if trainer.strategy.root_device.type == "cpu" else EVERY)
        pl_module.watch = self  # type: ignore[assignment]  # any module of ours has it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the training goes on."""
        self.began = self.looked = trainer.global_step

    def losses(self, values: Tensor, step: int, name: Callable[[int], str]) -> None:
        """Take note of losses (N,), before they are differentiated.

        Raises:
            NotFiniteError: Some are NaN or infinite, and this is the time to look.
        """
        if self.every == 1:
            check_finite(values, "loss", step, name, alone=self.alone)
        else:
            self.notes.append(_Note(values.isfinite(), "loss", step, name))

    def gradients(
        self, norms: Tensor, step: int, name: Callable[[int], str], optimizer: Optimizer, scaler: GradScaler | None
    ) -> None:
        """Take note of gradients, before the optimiser uses them.

        A gradient scaler meets overflow by leaving the step out and scaling by less; that is its way, and no defect,
        unless it never ends.

        Args:
            norms: Of the gradients, not scaled, shape (N,).
            step: Which step they are for.
            name: Says whose the gradient at an index is.
            optimizer: Passes over a step that is not finite and not looked at, if it is a fused one.
            scaler: Of gradients, if there is one.

        Raises:
            NotFiniteError: Some are NaN or infinite, and this is the time to look.
        """
        finite = norms.isfinite()
        if scaler is not None:
            before = torch.zeros((), device=norms.device) if self.overflows is None else self.overflows
            self.overflows = torch.where(finite.all(), 0.0, before + 1)
        elif self.every == 1:
            check_finite(norms, "gradient", step, name, alone=self.alone)
        else:
            self.notes.append(_Note(finite, "gradient", step, name))
            if getattr(optimizer, "_step_supports_amp_scaling", False):  # the door that gradient scalers use
                good = torch.stack([note.finite.all() for note in self.notes if note.step == step]).all()
                optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]

    def look(self) -> None:
        """Wait for what has been noted since the last look.

        Raises:
            NotFiniteError: The first values that are not finite, or a gradient scaler that leaves out step after step.
        """
        if self.notes:
            notes, self.notes = self.notes, []
            finite = torch.cat([note.finite for note in notes])
            _stop_at(_first_defect(notes, finite.tolist()), finite.device, self.alone)
        if self.overflows is not None and self.overflows >= OVERFLOWS:
            self._never_ending()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Look, when it is time."""
        if trainer.global_step - self.looked >= self.every:
            self.looked = trainer.global_step
            self.look()

    def on_save_checkpoint(self, *_: Any) -> None:
        """Look, so that what is kept is good."""
        self.look()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the last time: a training of which every step was left out is none."""
        self.look()
        if self.overflows is not None and not self.began and self.overflows >= trainer.global_step:
            self._never_ending()

    def _never_ending(self) -> NoReturn:
        assert self.overflows is not None
        raise NotFiniteError(
            f"the last {int(self.overflows)} steps were all left out, since gradients overflow float16 whatever they "
            "are scaled by",
            "use trainer.precision=bf16-mixed or 32-true, or lower the learning rate",
        )


def _first_defect(notes: Sequence[_Note], finite: Sequence[bool]) -> Defect | None:
    """Name the values of the first of some notes, put one after the other, that are not finite."""
    defects, start = [], 0
    for note in notes:
        count = len(note.finite)
        bad = [index for index in range(count) if not finite[start + index]]
        if bad:
            defects.append(Defect(note.step, note.what, [note.name(index) for index in bad]))
        start += count
    if not defects:
        return None
    first = min(defects, key=lambda each: each.moment)
    names = [name for each in defects if each.moment == first.moment for name in each.names]
    return Defect(first.step, first.what, names)
