"""Low-rank adapters (LoRA) of the U-Net: begin them, join them, and fold a stack of them into the weights.

An adapter adds B A to the weight W of each layer it targets (Hu et al., arXiv 2106.09685), with lora_alpha equal to the
rank. A stack is a list of adapters with scales; its layers compute with W + sum_j s_j B_j A_j. Adapters are float32
even where the frozen weights are not: an optimiser's step is smaller than half precision can hold.
`adapter_files.py` reads and writes them.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from sarsynth.errors import UserError


@dataclass(frozen=True)
class AdapterSpec:
    """What a new adapter looks like."""

    rank: int  # PEFT's r
    target_modules: str  # regular expression over the U-Net's module names, which has to match the whole name


class LowRank(NamedTuple):
    """The update of one layer: `a` (R, in, *kernel) and `b` (out, R, *ones), as PEFT's lora_A and lora_B have them."""

    a: Tensor
    b: Tensor

    def delta(self) -> Tensor:
        """B A in the shape of the layer's weight, (out, in, *kernel)."""
        return (self.b.flatten(1) @ self.a.flatten(1)).unflatten(1, self.a.shape[1:])


Adapter = Mapping[str, LowRank]  # by the U-Net's module names
Stack = Sequence[tuple[Adapter, float]]


def fresh(unet: UNet2DConditionModel, spec: AdapterSpec, seed: int) -> dict[str, LowRank]:
    """Begin an adapter that changes nothing yet: B = 0, A ~ N(0, 1 / rank²), PEFT's `gaussian`; on the U-Net's device.

    Raises:
        UserError: No layer of the U-Net matches.
    """
    generator = torch.Generator().manual_seed(seed)
    adapter = {}
    for name, weight in _targets(unet, spec.target_modules).items():
        out, *rest = weight.shape
        a = torch.randn(spec.rank, *rest, generator=generator) / spec.rank
        b = torch.zeros(out, spec.rank, *(1 for _ in rest[1:]))
        adapter[name] = LowRank(a.to(weight.device), b.to(weight.device))
    return adapter


def widths(unet: UNet2DConditionModel, target_modules: str) -> dict[str, int]:
    """The highest rank that an update of each targeted layer can have; raises what `fresh` raises."""
    return {
        name: min(weight.shape[0], math.prod(weight.shape[1:]))
        for name, weight in _targets(unet, target_modules).items()
    }


def _targets(unet: UNet2DConditionModel, target_modules: str) -> dict[str, Tensor]:
    """The weights of the layers that an adapter targets, by name."""
    weights = {
        name: layer.weight
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.fullmatch(target_modules, name)
    }
    if not weights:
        raise UserError(f"adapter.targets: no layer of this base matches '{target_modules}'")
    return weights


def parameters(adapter: Adapter) -> int:
    """Count the weights of an adapter."""
    return sum(layer.a.numel() + layer.b.numel() for layer in adapter.values())


def concatenate(stack: Stack) -> dict[str, LowRank]:
    """Join a stack into one adapter whose rank is the sum of theirs; the scales go into B. It is exact."""
    names = dict.fromkeys(name for adapter, _ in stack for name in adapter)
    parts = {name: [(adapter[name], scale) for adapter, scale in stack if name in adapter] for name in names}
    return {
        name: LowRank(torch.cat([part.a for part, _ in layers]), torch.cat([s * part.b for part, s in layers], dim=1))
        for name, layers in parts.items()
    }


@contextmanager
def folded(unet: UNet2DConditionModel, stack: Stack) -> Iterator[None]:
    """Compute with W + sum_j s_j B_j A_j inside the block, at the cost of the base alone.

    The sum is taken in float32 and rounded once to the precision of the base. The base's own weights are put back
    afterwards, bit for bit.
    """
    layers, device = dict(unet.named_modules()), unet.device  # which diffusers looks for in all modules
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        changed = {
            name: (layers[name].weight.float() + update.delta().to(device)).to(layers[name].weight.dtype)
            for name, update in concatenate([(adapter, scale) for adapter, scale in stack if scale]).items()
        }
    with replaced(unet, {f"{name}.weight": weight for name, weight in changed.items()}):
        yield


@contextmanager
def replaced(unet: UNet2DConditionModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Compute with other weights, by parameter name, inside the block; the U-Net's own come back afterwards."""
    parameters = {name: unet.get_parameter(name) for name in weights}
    kept = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name].to(parameter)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = kept[name]
