"""Low-rank adapters on the frozen U-Net: attach, stack with scales, save, load.

An adapter adds scale * B A x to the output of each layer it targets (Hu et al., arXiv 2106.09685), with lora_alpha
equal to the rank. Adapters that are active together simply add; the stack is a mapping of names to scales.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError

from sarsynth.errors import UserError, one_line

WEIGHTS = "adapter.safetensors"


@dataclass(frozen=True)
class AdapterSpec:
    """What a new adapter looks like.

    Attributes:
        rank: PEFT's r.
        target_modules: Regular expression over the U-Net's module names.
    """

    rank: int
    target_modules: str


def attach(unet: UNet2DConditionModel, name: str, spec: AdapterSpec, seed: int) -> int:
    """Attach a fresh adapter that changes nothing yet (B = 0, A ~ N(0, 1 / rank)); it alone is trainable and active.

    Returns:
        The number of layers it sits on.

    Raises:
        UserError: No layer of the U-Net matches.
    """
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.rank, init_lora_weights="gaussian", target_modules=spec.target_modules
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            unet.add_adapter(config, name)
        except ValueError as error:
            raise UserError(f"adapter.targets: no layer of this base matches '{spec.target_modules}'") from error
    return len(adapted_layers(unet, name))


def adapted_layers(unet: UNet2DConditionModel, name: str) -> list[BaseTunerLayer]:
    """Return the layers that carry the adapter `name`."""
    return [m for m in unet.modules() if isinstance(m, BaseTunerLayer) and name in getattr(m, "lora_A", {})]


def activate(unet: UNet2DConditionModel, scales: Mapping[str, float], trainable: str | None = None) -> None:
    """Make a stack of attached adapters active at the given scales; freeze all of it but `trainable`."""
    if scales:
        unet.enable_lora()
        unet.set_adapters(list(scales), list(scales.values()))
    elif getattr(unet, "peft_config", None):
        unet.disable_lora()
    # Activating an adapter makes PEFT unfreeze it, also one that lies below the one that trains.
    for module in unet.modules():
        if isinstance(module, BaseTunerLayer):
            for name in module.lora_A:
                module.set_requires_grad(name, requires_grad=name == trainable)


def detach_all(unet: UNet2DConditionModel) -> None:
    """Remove every adapter; the U-Net is the base again."""
    if getattr(unet, "peft_config", None):
        unet.unload_lora()


def parameters(unet: UNet2DConditionModel, name: str) -> int:
    """Count the weights of one adapter."""
    return sum(p.numel() for key, p in unet.named_parameters() if ".lora_" in key and f".{name}." in key)


def save(unet: UNet2DConditionModel, name: str, folder: Path) -> None:
    """Write one adapter as safetensors with its configuration inside, for `load_lora_weights` of diffusers."""
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet, adapter_name=name),
        unet_lora_adapter_metadata=unet.peft_config[name].to_dict(),
        weight_name=WEIGHTS,
    )


def load(unet: UNet2DConditionModel, name: str, folder: Path) -> None:
    """Attach a saved adapter, frozen, under a name.

    Raises:
        UserError: The file is missing or does not fit this U-Net.
    """
    try:
        state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
            folder, weight_name=WEIGHTS, local_files_only=True, return_lora_metadata=True
        )
        wanted = {key.removeprefix("unet.") for key in state}
        unet.load_lora_adapter(state, network_alphas=alphas, adapter_name=name, prefix="unet", metadata=metadata)
        # The loader only warns of layers that are missing on either side.
        if not adapted_layers(unet, name) or set(get_peft_model_state_dict(unet, adapter_name=name)) != wanted:
            raise ValueError("its layers are not those of this U-Net")
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder / WEIGHTS}: no adapter for this base ({one_line(error)[:200]}); train it again on this base"
        ) from error
