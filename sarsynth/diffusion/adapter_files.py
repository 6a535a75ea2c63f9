"""Write files of adapters; find and read those of diffusers, PEFT and kohya's trainers, at the strength they have."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.utils import convert_state_dict_to_kohya, convert_unet_state_dict_to_peft
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_of
from safetensors.torch import save_file
from torch import Tensor, nn

from sarsynth.diffusion.adapter_forms import KOHYA, PEFT, TRAINED_ON, UNET, AdapterFile, BadAdapter, OfText
from sarsynth.diffusion.adapters import Adapter, LowRank
from sarsynth.diffusion.hub import is_name
from sarsynth.errors import one_line
from sarsynth.files import staged

WEIGHTS = "adapter.safetensors"
IN_FOLDERS = (WEIGHTS, SAFETENSORS_WEIGHTS_NAME, LORA_WEIGHT_NAME_SAFE)  # what a folder may call its adapter


# --- Ours -------------------------------------------------------------------------------------------------------------


def save(adapter: Adapter, file: Path) -> None:
    """Write an adapter as safetensors with its configuration inside, for `load_lora_weights` of diffusers.

    Equal adapters give equal bytes: the header has one entry beside the tensors, since safetensors shuffles several.
    """
    with staged(file) as draft:
        save_file(_state(adapter), draft, {LORA_ADAPTER_METADATA_KEY: _config(adapter)})


def export(
    adapter: Adapter,
    file: Path,
    *,
    form: Literal["diffusers", "kohya"] = "diffusers",
    dtype: torch.dtype = torch.float32,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter for other programs, with what they show of it in its header; alpha is the rank.

    Equal adapters give equal bytes, so there is no date among it: it is written with its keys in order.

    Args:
        adapter: The adapter.
        file: To write.
        form: The names of its tensors: those of diffusers and PEFT, or of kohya's trainers, A1111 and ComfyUI.
        dtype: Of its tensors.
        about: More of the header, such as `ss_*` of kohya's trainers and `modelspec.*`
            (https://github.com/Stability-AI/ModelSpec, version 1.0.0).

    Raises:
        OverflowError: A value is too large for this precision.
    """
    rank = max(len(layer.a) for layer in adapter.values())
    state = {name: tensor.to(dtype) for name, tensor in _state(adapter).items()}
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise OverflowError(f"a weight is too large for {str(dtype).removeprefix('torch.')}")
    known = dict(about or {}) | {"ss_network_module": "networks.lora", "ss_network_dim": str(rank)}
    known |= {"ss_network_alpha": str(rank)}
    if form == "kohya":
        state = {name: tensor.contiguous() for name, tensor in convert_state_dict_to_kohya(state).items()}
    else:
        known[LORA_ADAPTER_METADATA_KEY] = _config(adapter)
    with staged(file) as draft:
        draft.write_bytes(_in_order(safetensors_of(state), known))


def _in_order(content: bytes, about: Mapping[str, str]) -> bytes:
    """Put entries into a header, with keys in order, which safetensors shuffles, and hashes of what follows it.

    The hash is that of kohya's `sshs_model_hash` and of `modelspec.hash_sha256`: over all tensors, without the header.
    """
    begin = 8 + int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8:begin]), content[begin:]
    digest = hashlib.sha256(tensors).hexdigest()
    entries = dict(about) | {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"}
    header["__metadata__"] = dict(sorted(entries.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors begin where they are aligned
    return len(text).to_bytes(8, "little") + text + tensors


def read_header(file: Path) -> dict[str, str]:
    """Read what the header of a safetensors file says; nothing of one that is none."""
    try:
        return dict(AdapterFile.open(file).metadata)
    except BadAdapter:
        return {}


def _config(adapter: Adapter) -> str:
    """The configuration of an adapter as diffusers keeps it in a file; alpha is the rank."""
    ranks = {name: len(layer.a) for name, layer in adapter.items()}
    rank = max(ranks.values())
    others = {name: own for name, own in ranks.items() if own != rank}  # where the adapters of a stack differ in layers
    config = LoraConfig(r=rank, lora_alpha=rank, rank_pattern=others, alpha_pattern=others)
    inside = {f"{UNET}{key}": value for key, value in (config.to_dict() | {"target_modules": sorted(adapter)}).items()}
    return json.dumps(inside, indent=2, sort_keys=True)


def _state(adapter: Adapter) -> dict[str, Tensor]:
    """Name the matrices as diffusers does."""
    return {
        f"{UNET}{name}.lora_{matrix}.weight": weight.detach().cpu().contiguous()
        for name, layer in adapter.items()
        for matrix, weight in (("A", layer.a), ("B", layer.b))
    }


def count(file: Path) -> int:
    """Count the weights in a safetensors file without reading them."""
    with safe_open(file, "pt") as handle:
        return sum(math.prod(handle.get_slice(key).get_shape()) for key in handle.keys())  # noqa: SIM118


# --- Those of others --------------------------------------------------------------------------------------------------


def find(path: Path) -> Path:
    """Find the file of an adapter that is named by itself, or by the folder that diffusers, PEFT or we wrote it to.

    Raises:
        BadAdapter: There is none, or it is nothing that can be read.
    """
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir() if file.suffix == ".safetensors" or file.is_dir())
        for name in IN_FOLDERS:
            if name in names:
                return path / name
        inside = f"say which one of {', '.join(names[:5])}" if names else "name one safetensors file"
        raise BadAdapter(path, f"a folder without {', '.join(IN_FOLDERS)}", inside)
    if not path.exists():
        of_hub = not path.suffix and is_name(str(path))
        fetch = f", or fetch it from the hub with `hf download {path} --local-dir FOLDER`" if of_hub else ""
        raise BadAdapter(path, "cannot be read (no such file)", f"name one safetensors file{fetch}")
    if not path.is_file():
        raise BadAdapter(path, "cannot be read (no regular file)", "name one safetensors file")
    return path


def parts(file: Path) -> list[Path]:
    """The files that decide what an adapter is: the one with its tensors, and PEFT's configuration beside it.

    Raises:
        BadAdapter: It is no safetensors file.
    """
    beside = AdapterFile.open(file).config_beside
    return [file, beside] if beside and beside.is_file() else [file]


def load(unet: UNet2DConditionModel, file: Path, *, of_text: OfText = "refuse") -> dict[str, LowRank]:
    """Read an adapter of this U-Net, of diffusers, PEFT or kohya; on the U-Net's device, its strength in B.

    Args:
        unet: Which layers there are, and of what shapes.
        file: A safetensors file.
        of_text: Whether tensors of the text encoder, which stays frozen here, are left out, and a line says so.

    Raises:
        BadAdapter: The file is missing, is of another kind, holds values that are not finite, does not say how strong
            it is, or does not fit this U-Net.
    """
    layers = {name: layer.weight for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    found = AdapterFile.open(file)
    found.check_kind(layers)
    keys = found.keys_of_unet(of_text)
    try:
        with safe_open(file, "pt") as handle:
            state = {key: handle.get_tensor(key) for key in keys}
        matrices, alphas = _matrices(state, layers)
        adapter = {name: LowRank(a, b * found.factor(name, len(a), alphas)) for name, (a, b) in matrices.items()}
        _check_fit(adapter, layers)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BadAdapter(file, f"no adapter for this base ({one_line(error)[:200]})", TRAINED_ON) from error
    device = unet.device
    return {name: LowRank(a.to(device), b.to(device)) for name, (a, b) in adapter.items()}


def _matrices(state: dict[str, Tensor], layers: Mapping[str, Tensor]) -> tuple[dict[str, LowRank], dict[str, float]]:
    """Put A and B of each layer together, float32, and the alphas that stand among the tensors.

    Raises:
        ValueError: There is a tensor that belongs to neither, or no such layer, or one of the two is missing.
    """
    # kohya writes underscores where the U-Net has dots, which only the U-Net itself can tell apart.
    kohya = {f"{KOHYA}{name.replace('.', '_')}": name for name in layers}
    alphas: dict[str, float] = {}
    for key in [key for key in state if key.startswith(KOHYA)]:
        name, _, part = key.partition(".")
        if name not in kohya:
            raise ValueError(f"this U-Net has no layer {name.removeprefix(KOHYA)}")
        if part == "alpha":
            alphas[kohya[name]] = float(state.pop(key))
        else:
            matrix = part.replace("lora_down", "lora_A").replace("lora_up", "lora_B")
            state[f"{kohya[name]}.{matrix}"] = state.pop(key)
    state = {key.removeprefix(PEFT).removeprefix(UNET): weight for key, weight in state.items()}
    if not any(".lora_A." in key for key in state):
        state = convert_unet_state_dict_to_peft(state)  # of diffusers before it used PEFT
    matrices = {}
    for key in [key for key in state if key.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        if (other := f"{name}.lora_B.weight") not in state:
            raise ValueError(f"it has no {other}")
        matrices[name] = LowRank(state.pop(key).float(), state.pop(other).float())
    if state:
        raise ValueError(f"{min(state)} is no part of a LoRA")
    return matrices, alphas


def _check_fit(adapter: Adapter, layers: Mapping[str, Tensor]) -> None:
    """Refuse an adapter that the layers have no place for, or that would spoil them."""
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
