"""Low-rank adapters (LoRA) of the U-Net: begin, save, load, and fold a stack of them into the weights.

An adapter adds B A to the weight W of each layer it targets (Hu et al., arXiv 2106.09685), with lora_alpha equal to the
rank. A stack is a list of adapters with scales; its layers compute with W + sum_j s_j B_j A_j. Adapters are float32
even where the frozen weights are not: an optimiser's step is smaller than half precision can hold. Files use the names
of PEFT and diffusers; those of kohya's trainers (A1111, ComfyUI) are read and written too.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya, convert_unet_state_dict_to_peft
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sarsynth.errors import UserError, one_line
from sarsynth.files import staged

WEIGHTS = "adapter.safetensors"


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
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.fullmatch(spec.target_modules, name):
            out, *rest = layer.weight.shape
            a = torch.randn(spec.rank, *rest, generator=generator) / spec.rank
            b = torch.zeros(out, spec.rank, *(1 for _ in rest[1:]))
            adapter[name] = LowRank(a.to(layer.weight.device), b.to(layer.weight.device))
    if not adapter:
        raise UserError(f"adapter.targets: no layer of this base matches '{spec.target_modules}'")
    return adapter


def parameters(adapter: Adapter) -> int:
    """Count the weights of an adapter."""
    return sum(layer.a.numel() + layer.b.numel() for layer in adapter.values())


def count(file: Path) -> int:
    """Count the weights in a safetensors file without reading them."""
    with safe_open(file, "pt") as handle:
        return sum(math.prod(handle.get_slice(key).get_shape()) for key in handle.keys())  # noqa: SIM118


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


# --- Files ------------------------------------------------------------------------------------------------------------


def save(adapter: Adapter, file: Path) -> None:
    """Write an adapter as safetensors with its configuration inside, for `load_lora_weights` of diffusers."""
    ranks = {name: len(layer.a) for name, layer in adapter.items()}
    rank = max(ranks.values())
    others = {name: own for name, own in ranks.items() if own != rank}  # where the adapters of a stack differ in layers
    config = LoraConfig(
        r=rank, lora_alpha=rank, rank_pattern=others, alpha_pattern=others, target_modules=sorted(adapter)
    )
    with staged(file) as draft:
        StableDiffusionPipeline.save_lora_weights(
            draft.parent,
            unet_lora_layers=_state(adapter),
            unet_lora_adapter_metadata=config.to_dict(),
            weight_name=draft.name,
        )


def save_kohya(adapter: Adapter, file: Path) -> None:
    """Write an adapter with the keys of kohya's trainers, as A1111 and ComfyUI read them; alpha is the rank."""
    state = {f"unet.{name}": weight for name, weight in _state(adapter).items()}
    save_file({name: tensor.contiguous() for name, tensor in convert_state_dict_to_kohya(state).items()}, file)


def load(unet: UNet2DConditionModel, file: Path) -> dict[str, LowRank]:
    """Read an adapter of this U-Net, of diffusers, PEFT or kohya; on the U-Net's device.

    Raises:
        UserError: The file is missing, holds something else or values that are not finite, or does not fit this U-Net.
    """
    layers = {name: layer.weight for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    try:
        with safe_open(file, "pt") as handle:  # safetensors only: a pickle from outside could run code
            state = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            metadata = json.loads((handle.metadata() or {}).get("lora_adapter_metadata", "{}"))
        adapter = _adapter(state, metadata, layers)
        _check_fit(adapter, layers)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{file}: no adapter for this base ({one_line(error)[:200]}); train it again on this base, or name another"
        ) from error
    device = unet.device
    return {name: LowRank(a.to(device), b.to(device)) for name, (a, b) in adapter.items()}


def _state(adapter: Adapter) -> dict[str, Tensor]:
    """Name the matrices as PEFT does."""
    return {
        f"{name}.lora_{matrix}.weight": weight.detach().cpu().contiguous()
        for name, layer in adapter.items()
        for matrix, weight in (("A", layer.a), ("B", layer.b))
    }


def _adapter(state: dict[str, Tensor], metadata: Mapping[str, Any], layers: Mapping[str, Tensor]) -> Adapter:
    """Put an adapter together from a file's tensors, whose strength alpha / rank goes into B."""
    of_text = sorted(key for key in state if key.startswith(("lora_te", "text_encoder")))
    if of_text:
        raise ValueError(f"it adapts the text encoder too ({of_text[0]}), which stays frozen here")
    # kohya writes underscores where the U-Net has dots, which only the U-Net itself can tell apart.
    kohya = {f"lora_unet_{name.replace('.', '_')}": name for name in layers}
    alphas: dict[str, float] = {}
    for key in [key for key in state if key.startswith("lora_unet_")]:
        name, _, part = key.partition(".")
        if name not in kohya:
            raise ValueError(f"this U-Net has no layer {name.removeprefix('lora_unet_')}")
        if part == "alpha":
            alphas[kohya[name]] = float(state.pop(key))
        else:
            matrix = part.replace("lora_down", "lora_A").replace("lora_up", "lora_B")
            state[f"{kohya[name]}.{matrix}"] = state.pop(key)
    state = {key.removeprefix("unet."): weight for key, weight in state.items()}
    if not any(".lora_A." in key for key in state):
        state = convert_unet_state_dict_to_peft(state)  # of diffusers before it used PEFT
    common, patterns = metadata.get("unet.lora_alpha"), metadata.get("unet.alpha_pattern") or {}
    adapter = {}
    for key in [key for key in state if key.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        a, b = state.pop(key).float(), state.pop(f"{name}.lora_B.weight").float()
        alpha = alphas.get(name, patterns.get(name, common))
        adapter[name] = LowRank(a, b if alpha is None else b * (alpha / len(a)))
    if state:
        raise ValueError(f"{min(state)} is no part of a LoRA")
    return adapter


def _check_fit(adapter: Adapter, layers: Mapping[str, Tensor]) -> None:
    if not adapter:
        raise ValueError("it holds no layer")
    for name, (a, b) in adapter.items():
        if name not in layers:
            raise ValueError(f"this U-Net has no layer {name}")
        own, adapted = tuple(layers[name].shape), (len(b), *a.shape[1:])
        if own != adapted or b.shape[1:] != (len(a), *(1 for _ in own[2:])):
            raise ValueError(f"{name} is of shape {own} here and {adapted} there")
        if not (a.isfinite().all() and b.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite")
