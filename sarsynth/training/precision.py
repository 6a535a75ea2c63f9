"""The precision policy: frozen weights in the precision of `trainer.precision`, all trained weights in float32.

Autocast alone would keep the frozen base in float32 and cast its weights anew in every forward pass. So the base itself
is cast once; trained weights and optimiser states stay in float32 under autocast, since their updates are
smaller than half precision can hold (Micikevicius et al., arXiv 1710.03740).

Where images are drawn nothing trains, and the precision may be another one: `generate.precision`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from sarsynth.errors import UserError

Name = Literal["32-true", "bf16-mixed", "16-mixed"]

# Latent cells of all samples of a pass, from which on a CPU with AMX draws quicker in bfloat16; with fewer, calls and
# weights that oneDNN brings into its own order take most of the time (docs/speed.md has figures).
MANY_CELLS = 2048


@dataclass(frozen=True)
class Precision:
    """In which precision the networks of a study compute."""

    name: Name = "32-true"  # Lightning's; it is part of the fingerprint of whatever a network computes

    @property
    def compute(self) -> torch.dtype:
        """Of frozen weights, and of autocast."""
        return {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[self.name]

    @property
    def words(self) -> str:
        """The same for people."""
        return str(self.compute).removeprefix("torch.")

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
    *,
    key: str = "trainer.precision",
) -> Precision:
    """Decide on a precision for a device.

    Args:
        asked: What the key says; `auto` is bfloat16 on a CUDA card that has it, float16 on an older one, and float32
            elsewhere.
        device: Where networks compute.
        has_bfloat16: Whether the CUDA card has bfloat16 in hardware (compute capability 8.0 or more).
        key: Of the settings, for messages.

    Raises:
        UserError: The device does not have what is asked for.
    """
    if device.type != "cuda":
        if asked == "16-mixed":
            raise UserError(f"{key}=16-mixed needs a CUDA card; use {key}=auto")
        return FULL if asked == "auto" else Precision(asked)
    if asked == "auto":
        return Precision("bf16-mixed" if has_bfloat16() else "16-mixed")
    if asked == "bf16-mixed" and not has_bfloat16():
        raise UserError(
            f"{key}=bf16-mixed: this card has no bfloat16 (compute capability 8.0 or more has it); use {key}=auto"
        )
    return Precision(asked)


def choose_for_sampling(
    asked: Literal["auto"] | Name,
    trained: Precision,
    device: torch.device,
    cells: int,
    has_amx: Callable[[], bool] = lambda: bool(torch.cpu.get_capabilities().get("amx_bf16")),
) -> Precision:
    """Decide on a precision in which images are drawn.

    Args:
        asked: What `generate.precision` says; `auto` is bfloat16 on a CPU with AMX where a pass has many latent cells,
            float32 on another CPU, and elsewhere the precision of trainings.
        trained: What `trainer.precision` came to.
        device: Where networks compute.
        cells: Latent cells of all samples of a pass.
        has_amx: Whether the CPU multiplies matrices of bfloat16 in hardware.

    Raises:
        UserError: The device does not have what is asked for.
    """
    if asked == "auto":
        quick = Precision("bf16-mixed") if cells >= MANY_CELLS and has_amx() else FULL
        return quick if device.type == "cpu" else trained
    here = device.type != "cuda" or torch.cuda.is_available()  # a plan may be for the card of another machine
    return choose(asked, device, key="generate.precision") if here else Precision(asked)
