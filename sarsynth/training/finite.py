"""Stop a training at the first loss or gradient that is NaN or infinite, before a checkpoint keeps what it spoilt.

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
class _Note:
    """Which values of a step are finite (N,), and how to name those that are not; `what` is `loss` or `gradient`."""

    finite: Tensor
    what: str
    step: int
    name: Callable[[int], str]


@dataclass(frozen=True)
class _Defect:
    """Values of one step that are not finite: of what, and whose."""

    step: int
    what: str
    names: Sequence[str]

    @property
    def moment(self) -> tuple[int, bool]:
        """Orders defects in time: in a step the loss comes before the gradient."""
        return self.step, self.what != "loss"


def _check(notes: Sequence[_Note], *, alone: bool) -> None:
    """Stop a training before values that are not finite reach a weight.

    All processes of a data-parallel training call it together, and stop together: one that went on alone would report
    nothing but a lost connection. `alone` says that this process trains by itself, whatever the others do.

    Raises:
        NotFiniteError: Some are NaN or infinite; the message names whose, of the first step that has any.
    """
    finite = torch.cat([note.finite for note in notes])
    defects = []
    for note, values in zip(notes, finite.cpu().split([len(note.finite) for note in notes]), strict=True):
        if bad := (~values).nonzero()[:, 0].tolist():
            defects.append(_Defect(note.step, note.what, [note.name(index) for index in bad]))
    if not alone:
        defects = _of_all_processes(defects, finite.device)
    if not defects:
        return
    first = min(defects, key=lambda defect: defect.moment)
    names = list(dict.fromkeys(name for defect in defects if defect.moment == first.moment for name in defect.names))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise NotFiniteError(f"step {first.step}: the {first.what} is not finite for {', '.join(names[:NAMED])}{more}")


def _of_all_processes(defects: list[_Defect], device: torch.device) -> list[_Defect]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return defects
    count = torch.tensor(len(defects), device=device)
    distributed.all_reduce(count)  # a number; names travel only if there are some
    if not count:
        return []
    of_all: list[list[_Defect]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(of_all, defects)
    return [defect for of_one in of_all for defect in of_one]


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
        self._note(_Note(values.isfinite(), "loss", step, name))

    def _note(self, note: _Note) -> None:
        self.notes.append(note)
        if self.every == 1:
            self.look()

    def gradients(
        self, norms: Tensor, step: int, name: Callable[[int], str], optimizer: Optimizer, scaler: GradScaler | None
    ) -> None:
        """Take note of gradients, before the optimiser uses them.

        A gradient scaler answers overflow by leaving the step out and scaling by less: no defect, unless it never ends.

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
        else:
            self._note(_Note(finite, "gradient", step, name))
            if self.every > 1 and getattr(optimizer, "_step_supports_amp_scaling", False):  # what gradient scalers use
                good = torch.stack([note.finite.all() for note in self.notes if note.step == step]).all()
                optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]

    def look(self) -> None:
        """Wait for what has been noted since the last look.

        Raises:
            NotFiniteError: The first values that are not finite, or a gradient scaler that leaves out step after step.
        """
        if self.notes:
            notes, self.notes = self.notes, []
            _check(notes, alone=self.alone)
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
