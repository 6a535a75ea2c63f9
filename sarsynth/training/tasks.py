"""What a module tells its training loop, so that a step can be done in parts, checkpointed or compiled."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import ModelMixin
from lightning.pytorch import LightningModule
from torch import Tensor

from sarsynth.training.finite import FiniteWatch


@dataclass(frozen=True)
class StepOptions:
    """How a step is computed: its result stays the same, but for rounding."""

    # the largest number of samples that go through the network at once; `auto` is what memory holds. A step of more
    # samples is done in equal parts.
    micro_batch: int | Literal["auto"] = "auto"
    # compute the activations of each block of a network again in the backward pass instead of keeping them (Chen et
    # al., arXiv 1604.06174)
    gradient_checkpointing: bool = False
    compile: bool = False  # compile the denoising networks with `torch.compile`


@dataclass
class StepRecord:
    """What is known of the present step, from its first part until it is whole."""

    # of each part that is done, shape (K,), one for each of K groups of weights
    losses: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)  # of each part that is done, the images that it saw, shape (K, B)


class Task(LightningModule):
    """A module that trains by steps of equal parts: Lightning accumulates the gradients of their mean losses.

    Its forward pass is what a training step differentiates.

    Attributes:
        watch: Is told of losses and gradients.
        step_record: What the parts of the present step came to.
        networks: What may be checkpointed: diffusers' own.
        compilable: What may be compiled.
        variants: How often what is computed changes for good.
    """

    networks: Sequence[ModelMixin] = ()
    compilable: Sequence[ModelMixin] = ()
    variants: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.watch = FiniteWatch()
        self.step_record = StepRecord()

    def inputs(self, batch: Any) -> tuple[Any, ...]:
        """Arguments for the forward pass of the shapes that a batch gives; their values are of no matter."""
        raise NotImplementedError

    def gather(self, batch_idx: int, losses: Tensor, rows: Tensor | None = None) -> Tensor | None:
        """Note the losses (K,) of a part of a step, and the rows (K, B) of its images if messages are to name them.

        Returns:
            The losses of the step (K,) with its last part, None before.
        """
        if batch_idx % self.parts == 0:
            self.step_record = StepRecord()
        record = self.step_record
        record.losses.append(losses.detach())
        if rows is not None:
            record.rows.append(rows)
        return torch.stack(record.losses).mean(dim=0) if len(record.losses) == self.parts else None

    @property
    def parts(self) -> int:
        """In how many parts a step is done."""
        return self.trainer.accumulate_grad_batches
