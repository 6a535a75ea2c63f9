"""The precision policy: frozen weights in the precision of `trainer.precision`, all trained weights in float32.

Autocast alone would keep the frozen base in float32 and cast its weights anew in every forward pass. So the base itself
is cast once; trained weights and optimiser states stay in float32 under autocast, since their updates are
smaller than half precision can hold (Micikevicius et al., arXiv 1710.03740).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from sarsynth.errors import UserError

Name = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Precision:
    """In which precision the networks of a study compute."""

    name: Name = "32-true"  # Lightning's; it is part of the fingerprint of whatever a network computes

    @property
    def compute(self) -> torch.dtype:
        """Of frozen weights, and of autocast."""
        return {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[self.name]

    @property
    def autoencoder(self) -> torch.dtype:
        """Of the autoencoder, whose activations overflow float16; bfloat16 has the range of float32."""
        return torch.float32 if self.name == "16-mixed" else self.compute

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Let networks with float32 weights compute in this precision inside the block."""
        if self.compute == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.compute)


FULL = Precision()


def choose(
    asked: Literal["auto"] | Name,
    device: torch.device,
    has_bfloat16: Callable[[], bool] = lambda: torch.cuda.is_bf16_supported(including_emulation=False),
) -> Precision:
    """Decide on a precision for a device.

    Args:
        asked: What `trainer.precision` says; `auto` is bfloat16 on a CUDA card that has it, float16 on an older
            one, and float32 elsewhere.
        device: Where networks compute.
        has_bfloat16: Whether the CUDA card has bfloat16 in hardware (compute capability 8.0 or more).

    Raises:
        UserError: The device does not have what is asked for.
    """
    if device.type != "cuda":
        if asked == "16-mixed":
            raise UserError("trainer.precision=16-mixed needs a CUDA card; use trainer.precision=auto")
        return FULL if asked == "auto" else Precision(asked)
    if asked == "auto":
        return Precision("bf16-mixed" if has_bfloat16() else "16-mixed")
    if asked == "bf16-mixed" and not has_bfloat16():
        raise UserError(
            "trainer.precision=bf16-mixed: this card has no bfloat16 (compute capability 8.0 or more has it); "
            "use trainer.precision=16-mixed"
        )
    return Precision(asked)
