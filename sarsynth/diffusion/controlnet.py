"""A ControlNet, which makes images follow contours: find, begin, load, save and use one."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.hub import CANNY, ModelSetting
from sarsynth.diffusion.layouts import CONTROLNET, digest
from sarsynth.diffusion.step_interval import ALWAYS, StepInterval
from sarsynth.errors import UserError, one_line

NANO_CONTROLNET = NANO.parent / "controlnet"
TRAINED = "train one: controlnet.use=trained controlnet.init=unet"
REMEDY = f"download {CANNY} (its folder, or one safetensors file) and set base.controlnet to it, or {TRAINED}"
SETTING = ModelSetting("base.controlnet", CONTROLNET, REMEDY, TRAINED, NANO_CONTROLNET)
# Channels of the layers that bring a contour to the size of the latents, by how many times smaller that is.
CONTOUR_CHANNELS = {2: (16, 32), 4: (16, 32, 64), 8: (16, 32, 96, 256)}


def resolve_controlnet(path: str | None, *, fetch: bool = True) -> tuple[Path, str]:
    """Find a ControlNet as `base.resolve` finds a base; None is the embedded one, which belongs to `sd-nano`."""
    where = SETTING.find(path, ask=fetch)
    return where, digest(CONTROLNET.files(where) if where.is_dir() else [where])


def new_controlnet(base: Base, seed: int) -> ControlNetModel:
    """Begin a ControlNet (Zhang et al., arXiv 2302.05543) from a base: a copy of the U-Net's way down, adding nothing.

    It takes contours of shape (B, 3, H, W) in [0, 1].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _controlnet_of(base, load_weights_from_unet=True).float()  # it is to be trained, whatever the base is in


def _controlnet_of(base: Base, *, load_weights_from_unet: bool) -> ControlNetModel:
    return ControlNetModel.from_unet(
        base.unet,
        conditioning_embedding_out_channels=CONTOUR_CHANNELS[base.latent_factor],
        load_weights_from_unet=load_weights_from_unet,
    )


def load_controlnet(where: Path, base: Base) -> ControlNetModel:
    """Load a frozen ControlNet for a base.

    Args:
        where: What `resolve_controlnet` returned: a folder in diffusers' layout, or one safetensors file.
        base: What it is to steer.

    Raises:
        UserError: There is none at `where`, or one for another architecture.
    """
    options = {"dtype": torch.float32, "local_files_only": True}
    try:
        if where.is_file():
            with TemporaryDirectory() as folder:  # the file has no configuration; only one fits the base
                with torch.device("meta"):
                    _controlnet_of(base, load_weights_from_unet=False).save_config(folder)
                controlnet = ControlNetModel.from_single_file(str(where), config=folder, **options)
        else:
            with CONTROLNET.opened(where) as (files, variant):
                controlnet, loaded = ControlNetModel.from_pretrained(
                    files, use_safetensors=True, variant=variant, output_loading_info=True, **options
                )
            if loaded["missing_keys"]:
                raise ValueError(f"it has no {min(loaded['missing_keys'])}")
    except Exception as error:  # the loaders raise almost anything at a folder or a file of another kind
        message = f"{type(error).__name__}: {one_line(error).partition('. ')[0][:200]}"
        if isinstance(error, NotImplementedError):  # what is missing in a file stays without memory until it is moved
            message = "weights of a ControlNet are missing"
        raise UserError(f"base.controlnet={where}: {message}; {REMEDY}") from error
    _check_fit(where, controlnet.config, base.unet.config, base.vae.config)
    controlnet.register_to_config(_name_or_path="")
    return controlnet.requires_grad_(False).eval()


def save_controlnet(controlnet: ControlNetModel, folder: Path) -> None:
    """Write a ControlNet in diffusers' layout, half precision, safetensors."""
    controlnet.half().save_pretrained(folder, safe_serialization=True)
    controlnet.float()


def check_controlnet(where: Path, base: Path) -> None:
    """Refuse a ControlNet of another architecture by its configuration, where there is one; loads no weights.

    Args:
        where: What `resolve_controlnet` returned.
        base: What `resolve` returned.

    Raises:
        UserError: It does not fit.
    """
    if where.is_dir() and base.is_dir():
        files = (where / "config.json", base / "unet" / "config.json", base / "vae" / "config.json")
        _check_fit(where, *(json.loads(file.read_text()) for file in files))


def _check_fit(where: Path, controlnet: Mapping[str, Any], unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Compare configurations."""
    keys = ("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim")
    pairs = {key: (controlnet.get(key), unet.get(key)) for key in keys}
    channels = controlnet.get("conditioning_embedding_out_channels", CONTOUR_CHANNELS[8])
    pairs["latent factor"] = (2 ** (len(channels) - 1), 2 ** (len(vae["block_out_channels"]) - 1))
    for key, (its, wanted) in pairs.items():
        if json.dumps(its) != json.dumps(wanted):  # a list or a tuple
            raise UserError(
                f"base.controlnet={where}: made for another architecture ({key} {its}, this base has {wanted}); "
                f"{REMEDY}"
            )


# --- Use -------------------------------------------------------------------------------------------------------------


def to_conditioning(contours: Tensor) -> Tensor:
    """Map contours, uint8 (B, H, W), 255 on edges, to what a ControlNet takes: float (B, 3, H, W) in [0, 1]."""
    return (contours.float() / 255)[:, None].expand(-1, 3, -1, -1)


def seen_by(controlnet: ControlNetModel, conditioning: Tensor) -> Tensor:
    """What the first layers of a ControlNet make of contours, (B, 3, H, W) in [0, 1]: shape (B, C, h, w).

    They work on all pixels and look at nothing else, so that it is the same in all steps of an image that is drawn.
    """
    return controlnet.controlnet_cond_embedding(conditioning)


def residuals(
    controlnet: ControlNetModel,
    latents: Tensor,
    timesteps: Tensor,
    text_features: Tensor,
    conditioning: Tensor,
    scale: float = 1.0,
    *,
    seen: bool = False,
) -> dict[str, Any]:
    """Compute what a ControlNet adds to the U-Net, as keyword arguments of the U-Net's forward.

    Args:
        controlnet: Made for that U-Net.
        latents: Noisy, shape (B, C, h, w).
        timesteps: Shape (B,) or ().
        text_features: Shape (B, L, D).
        conditioning: Contours as `to_conditioning` gives them, shape (B, 3, H, W), or what `seen_by` made of them.
        scale: Factor on all of it.
        seen: Whether it is that.
    """
    with _without_first_layers(controlnet) if seen else nullcontext():
        if seen and controlnet.config.controlnet_conditioning_channel_order == "bgr":
            conditioning = conditioning.flip(1)  # which the ControlNet turns back; contours are grey
        down, middle = controlnet(
            latents, timesteps, text_features, conditioning, conditioning_scale=scale, return_dict=False
        )
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


@contextmanager
def _without_first_layers(controlnet: ControlNetModel) -> Iterator[None]:
    embedding = controlnet.controlnet_cond_embedding
    controlnet.controlnet_cond_embedding = nn.Identity()
    try:
        yield
    finally:
        controlnet.controlnet_cond_embedding = embedding


@dataclass(frozen=True)
class ContourConditioning:
    """A ControlNet in use: how contours condition the images that a base makes."""

    controlnet: ControlNetModel  # on the device of the base
    scale: float = 1.0  # factor on what it adds; 0 is the base alone
    interval: StepInterval = ALWAYS  # in which it acts
