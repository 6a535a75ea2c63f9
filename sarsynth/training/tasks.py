"""What a training loop must know of what it trains to take its steps in parts, checkpointed or compiled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import ModelMixin
from lightning.pytorch import LightningModule

from sarsynth.training.finite import FiniteWatch


@dataclass(frozen=True)
class StepOptions:
    """How a step is computed, which is of no matter to what it computes, but for rounding.

    Attributes:
        micro_batch: The largest number of samples that go through the network at once; `auto` is what memory holds. A
            step of more samples is done in equal parts.
        gradient_checkpointing: Compute the activations of each block of a network again in the backward pass instead of
            keeping them (Chen et al., arXiv 1604.06174).
        compile: Compile the denoising networks with `torch.compile`.
    """

    micro_batch: int | Literal["auto"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False


class Task(LightningModule):
    """A module that trains by steps of equal parts: Lightning accumulates the gradients of their mean losses.

    Its forward pass is what a training step differentiates.

    Attributes:
        watch: Is told of losses and gradients.
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

    def inputs(self, batch: Any) -> tuple[Any, ...]:
        """The arguments of the forward pass for a batch, up to their values."""
        raise NotImplementedError

    @property
    def parts(self) -> int:
        """In how many parts a step is done."""
        return self.trainer.accumulate_grad_batches
