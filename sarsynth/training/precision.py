"""The precision policy: frozen weights in a precision that settings choose, all trained weights in float32.

Autocast alone would keep the frozen base in float32 and cast its weights anew in every forward pass. So the base itself
is cast once; trained weights and optimiser states stay in float32 under autocast, since their updates are
smaller than half precision can hold (Micikevicius et al., arXiv 1710.03740).

It is that of `trainer.precision`. Two kinds of passes may have another one: those that draw images
(`generate.precision`), where nothing trains, and those in which adapters learn (`adapter.precision`).
"""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock

from sarsynth.errors import UserError
from sarsynth.files import write_json

Name = Literal["32-true", "bf16-mixed", "16-mixed"]

# Numbers in the widest activations of a pass (latent cells of all samples x channels of the first level), from which on
# bfloat16 pays on a CPU that is quicker by it: eight samples of `sd-nano`, one of Stable Diffusion v1.5. With fewer,
# calls and weights that oneDNN brings into its own order take most of the time (docs/speed.md has figures).
MANY = 8 * 16 * 16 * 48
# From which gain of one convolution on: passes have other work too, and weights are cast in each of a training.
WORTHWHILE = 1.25
DTYPES = torch.float32, torch.bfloat16
WIDE, WEIGHTS = (8, 128, 16, 16), (128, 128, 3, 3)  # of the convolution that is timed
TURNS = 9


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


def choose_for_pass(
    asked: Literal["trainer", "auto"] | Name,
    trainer: Precision,
    device: torch.device,
    activations: int,
    *,
    key: str,
    gain: Callable[[], float],
) -> Precision:
    """Decide on a precision for passes through the U-Net, which may be another one than that of the trainer.

    Args:
        asked: What the key says; `auto` is bfloat16 on a CPU that is quicker by it where a pass is large enough,
            float32 on another CPU, and elsewhere the precision of the trainer, as `trainer` always is.
        trainer: What `trainer.precision` came to.
        device: Where networks compute.
        activations: Latent cells of all samples of a pass, times the channels of the U-Net's first level.
        key: Of the settings, for messages.
        gain: Of bfloat16 on this CPU (`bfloat16_gain`); asked where it matters.

    Raises:
        UserError: The device does not have what is asked for.
    """
    if asked == "trainer" or (asked == "auto" and device.type != "cpu"):
        return trainer
    if asked == "auto":
        return Precision("bf16-mixed") if activations >= MANY and gain() >= WORTHWHILE else FULL
    here = device.type != "cuda" or torch.cuda.is_available()  # a plan may be for the card of another machine
    return choose(asked, device, key=key) if here else Precision(asked)


def bfloat16_gain(kept: Path) -> float:
    """How many times as fast a convolution of this CPU is in bfloat16 as in float32; 1 where it has no instructions.

    What is made depends on it, so all processes and runs that share a store should have the same: it is measured once
    for each model of CPU.

    Args:
        kept: A JSON file that has it by model; where its folder is missing or closed, nothing is kept.
    """
    has = torch.cpu.get_capabilities()
    if not (has.get("amx_bf16") or has.get("avx512_bf16")):
        return 1.0
    model = str(has.get("cpu_name"))
    known = _read(kept)
    if model not in known and kept.parent.is_dir():
        with suppress(OSError), FileLock(kept.with_suffix(".lock")):
            known = {model: measured_gain()} | _read(kept)  # what another process was quicker with is left
            write_json(kept, known)
    return known[model] if model in known else measured_gain()


def _read(kept: Path) -> dict[str, float]:
    """The gains in a file; none where it is missing or damaged, which is made anew."""
    try:
        return {str(model): float(gain) for model, gain in json.loads(kept.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@cache
def measured_gain() -> float:
    """Measure it: CPU time of the present thread, either precision in turns, the median.

    It is not looked up, since AVX-512's instructions are twice as fast as float32's on some CPUs and no faster on
    others. It takes a tenth of a second.
    """
    ratios = [1.0]
    with torch.no_grad():
        pairs = [(torch.zeros(*WIDE, dtype=dtype), torch.zeros(*WEIGHTS, dtype=dtype)) for dtype in DTYPES]
        for turn in range(TURNS + 1):
            full, half = (_seconds(*pair) for pair in pairs)
            if turn and half > 0:  # the first one finds the ways; clocks may be coarse
                ratios.append(full / half)
    return statistics.median(ratios)


def _seconds(inputs: torch.Tensor, weights: torch.Tensor) -> float:
    began = time.thread_time()
    torch.nn.functional.conv2d(inputs, weights, padding=1)
    return time.thread_time() - began
