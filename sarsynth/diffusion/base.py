"""The frozen text-to-image base behind one narrow door: latents, text features, noise, images.

Pixels are float32 in [-1, 1], shape (B, 3, H, W). Latents are scaled to about unit variance, shape (B, C, h, w) with
h = H / factor. Text features have shape (B, L, D). This is the only file that knows how a base lies on disk.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from sarsynth import hashes
from sarsynth.diffusion import hub, layouts
from sarsynth.diffusion.hub import CANNY, SD15
from sarsynth.diffusion.layouts import Layout
from sarsynth.errors import UserError, one_line
from sarsynth.training.precision import FULL, Precision

NANO = Path(__file__).parents[1] / "assets" / "sd-nano"
EMBEDDED = "use the embedded one: base=sd-nano base.path=null"
REMEDY = f"download {SD15} (its folder, or v1-5-pruned-emaonly.safetensors) and set base.path to it, or {EMBEDDED}"

NANO_CONTROLNET = NANO.parent / "controlnet"
TRAINED = "train one: controlnet.use=trained controlnet.init=unet"
CONTROLNET_REMEDY = (
    f"download {CANNY} (its folder, or one safetensors file) and set base.controlnet to it, or {TRAINED}"
)
CONFIGURATION = layouts.BASE.without_weights()
# Channels of the layers that bring a contour to the size of the latents, by how many times smaller that is.
CONTOUR_CHANNELS = {2: (16, 32), 4: (16, 32, 64), 8: (16, 32, 96, 256)}


def resolve(path: str | None, config: str | None = None, *, fetch: bool = True) -> tuple[Path, str]:
    """Find a base on this machine, or fetch it from the hub, and hash it.

    Args:
        path: A folder in diffusers' layout, one safetensors file, or a hub id; None is the embedded `sd-nano`.
        config: For one file, which holds weights alone: a folder, or a hub id, with configurations and tokenizer; None
            is Stable Diffusion v1.5's.
        fetch: Whether the hub may be asked.

    Returns:
        Where it lies, and the hex sha256 over the names and contents of the files that `Base.load` opens.

    Raises:
        NotFetchedError: It is on the hub alone, and that may not be asked.
        UserError: There is none.
    """
    where = _find("base.path", path, NANO, layouts.BASE, REMEDY, EMBEDDED, fetch)
    if where.is_dir():
        return where, _hash(layouts.BASE.files(where))
    return where, _hash([where, *CONFIGURATION.files(_find_configuration(config, fetch))])


def resolve_controlnet(path: str | None, *, fetch: bool = True) -> tuple[Path, str]:
    """Find a ControlNet as `resolve` finds a base; None is the one inside the package, which belongs to `sd-nano`."""
    where = _find("base.controlnet", path, NANO_CONTROLNET, layouts.CONTROLNET, CONTROLNET_REMEDY, TRAINED, fetch)
    return where, _hash(layouts.CONTROLNET.files(where) if where.is_dir() else [where])


def _find_configuration(config: str | None, fetch: bool = True) -> Path:
    """Find configurations and tokenizer for one file of weights."""
    remedy = f"set base.config to a folder with the configurations and the tokenizer of {SD15}"
    return _find("base.config", config or SD15, None, CONFIGURATION, remedy, EMBEDDED, fetch)


def _find(
    key: str, path: str | None, embedded: Path | None, layout: Layout, remedy: str, otherwise: str, fetch: bool
) -> Path:
    """Find what a key names: a whole folder, a file, or a hub's repository."""
    where = embedded if path is None and embedded else Path(str(path)).expanduser()
    if not where.exists():
        if not hub.is_name(str(path)):
            raise UserError(f"{key}={path or 'null'}: no such folder or file; {remedy}")
        return hub.fetch(str(path), layout, key, otherwise, ask=fetch)
    if where.is_dir():
        try:
            layout.files(where)
        except ValueError as error:
            raise UserError(f"{key}={where}: {error} in this folder; {remedy}") from error
    return where


def _hash(files: Sequence[Path]) -> str:
    content = hashlib.sha256()
    for file in files:
        content.update(file.name.encode() + bytes.fromhex(hashes.of_file(file)))
    return content.hexdigest()


def architecture(where: Path) -> tuple[UNet2DConditionModel, Mapping[str, Any]] | None:
    """Describe a base without its weights: its U-Net, whose tensors have shapes alone, and the autoencoder's settings.

    Args:
        where: What `resolve` returned.

    Returns:
        None where no configuration lies: beside one safetensors file, or if the base is not here.
    """
    unet, vae = (where / part / "config.json" for part in ("unet", "vae"))
    if not (unet.is_file() and vae.is_file()):
        return None
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(json.loads(unet.read_text())), json.loads(vae.read_text())


class Base(nn.Module):
    """A Stable Diffusion v1 model: autoencoder, U-Net with cross-attention, CLIP text encoder, noise schedule.

    Every weight is frozen; training code unfreezes what it tunes. What goes in and comes out is float32, whatever the
    precision within.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        noise_scheduler: DDPMScheduler,
    ) -> None:
        super().__init__()
        self.vae, self.unet, self.text_encoder = vae, unet, text_encoder
        self.tokenizer, self.noise_scheduler = tokenizer, noise_scheduler
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, where: Path, config: str | None = None) -> Self:
        """Load a base from a folder in diffusers' layout or from one safetensors file.

        Args:
            where: What `resolve` returned.
            config: What `resolve` was given.

        Raises:
            UserError: There is no Stable Diffusion v1 at `where`.
        """
        single = where.is_file()
        options = {
            "safety_checker": None,
            "feature_extractor": None,
            "torch_dtype": torch.float32,
            "local_files_only": True,
        }
        folder, layout = (_find_configuration(config), CONFIGURATION) if single else (where, layouts.BASE)
        try:
            with layout.opened(folder) as (files, variant):
                if single:
                    pipe = StableDiffusionPipeline.from_single_file(str(where), config=str(files), **options)
                else:
                    pipe = StableDiffusionPipeline.from_pretrained(
                        files, use_safetensors=True, variant=variant, **options
                    )
        except Exception as error:  # the loaders raise almost anything at a folder or a file of another kind
            raise UserError(f"base.path={where}: {type(error).__name__}: {one_line(error)}; {REMEDY}") from error
        if not isinstance(pipe.unet, UNet2DConditionModel) or pipe.unet.config.addition_embed_type is not None:
            raise UserError(f"base.path={where}: not a Stable Diffusion v1; {REMEDY}")
        for network in (pipe.vae, pipe.unet):
            network.register_to_config(_name_or_path="")  # where it lay is no part of what is made from it
        noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        return cls(pipe.vae, pipe.unet, pipe.text_encoder, pipe.tokenizer, noise_scheduler)

    def place(self, device: torch.device, precision: Precision = FULL) -> Self:
        """Move the base to where it computes, in the precision of frozen weights."""
        self.text_encoder.to(device, precision.compute)
        place_network(self.unet, device, precision.compute)
        place_network(self.vae, device, precision.autoencoder)
        return self

    def forget_unet(self, seed: int) -> None:
        """Give the U-Net random weights, as before any training."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet = UNet2DConditionModel.from_config(self.unet.config)

    def save(self, folder: Path) -> None:
        """Write the base in diffusers' layout, half precision, safetensors."""
        pipe = StableDiffusionPipeline(
            self.vae,
            self.text_encoder,
            self.tokenizer,
            self.unet,
            self.noise_scheduler,
            None,
            None,
            requires_safety_checker=False,
        )
        pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
        pipe.to(torch.float32)

    @property
    def latent_factor(self) -> int:
        """Pixels a latent cell spans along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to the mean and standard deviation of their scaled latents, both (B, C, h, w)."""
        posterior = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean.float() * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Map scaled latents to images, clipped to [-1, 1]."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return self.vae.decode(scaled).sample.float().clamp(-1, 1)

    @property
    def text_length(self) -> int:
        """Tokens of a text that count, start and end among them: 77 for Stable Diffusion v1.5."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Map texts to padded, truncated token ids of shape (B, L)."""
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids

    def cut(self, texts: list[str]) -> list[tuple[int, str]]:
        """Say how many tokens each text has, start and end among them, and which of its words `tokenize` cuts off.

        A word that is cut in two counts as lost.
        """
        found = []
        tokens = self.tokenizer(texts, return_offsets_mapping=True, verbose=False)
        for text, ids, places in zip(texts, tokens.input_ids, tokens.offset_mapping, strict=True):
            lost = ""
            if len(ids) > self.text_length:
                (begin, _) = places[self.text_length - 1]  # where the end takes the place of a token
                kept = re.sub(r"\w+$", "", text[:begin]) if text[begin].isalnum() else text[:begin]
                lost = text[len(kept) :].strip(" ,")
            found.append((len(ids), lost))
        return found

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Map texts to features (B, L, D)."""
        tokens = self.tokenize(texts).to(self.text_encoder.device)
        return self.text_encoder(tokens).last_hidden_state.float()


def place_network(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a convolutional network to a device; on CUDA in the memory format that tensor cores work in."""
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    network.to(device=device, dtype=dtype, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it


# --- ControlNet -------------------------------------------------------------------------------------------------------


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
    options = {"torch_dtype": torch.float32, "local_files_only": True}
    try:
        if where.is_file():
            with TemporaryDirectory() as folder:  # the file has no configuration, but what fits the base has only one
                with torch.device("meta"):
                    _controlnet_of(base, load_weights_from_unet=False).save_config(folder)
                controlnet = ControlNetModel.from_single_file(str(where), config=folder, **options)
        else:
            with layouts.CONTROLNET.opened(where) as (files, variant):
                controlnet, loaded = ControlNetModel.from_pretrained(
                    files, use_safetensors=True, variant=variant, output_loading_info=True, **options
                )
            if loaded["missing_keys"]:
                raise ValueError(f"it has no {min(loaded['missing_keys'])}")
    except Exception as error:  # the loaders raise almost anything at a folder or a file of another kind
        told = f"{type(error).__name__}: {one_line(error).partition('. ')[0][:200]}"
        if isinstance(error, NotImplementedError):  # what is missing in a file stays without memory until it is moved
            told = "weights of a ControlNet are missing"
        raise UserError(f"base.controlnet={where}: {told}; {CONTROLNET_REMEDY}") from error
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
    for key, (theirs, ours) in pairs.items():
        if json.dumps(theirs) != json.dumps(ours):  # whether list or tuple
            raise UserError(
                f"base.controlnet={where}: made for another architecture ({key} {theirs}, this base has {ours}); "
                f"{CONTROLNET_REMEDY}"
            )
