"""The frozen text-to-image base: latents, text features, noise and images, whatever lies behind them.

Pixels are float32 in [-1, 1], shape (B, 3, H, W). Latents are scaled to about unit variance, shape (B, C, h, w) with
h = H / factor. Text features have shape (B, L, D).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from sarsynth.diffusion import layouts
from sarsynth.diffusion.hub import SD15, ModelSetting
from sarsynth.errors import UserError, one_line
from sarsynth.files import write_json
from sarsynth.training.precision import FULL, Precision

NANO = Path(__file__).parents[1] / "assets" / "sd-nano"
EMBEDDED = "use the embedded one: base=sd-nano base.path=null"
REMEDY = f"download {SD15} (its folder, or v1-5-pruned-emaonly.safetensors) and set base.path to it, or {EMBEDDED}"

SETTING = ModelSetting("base.path", layouts.BASE, REMEDY, EMBEDDED, NANO)
# For one file, which holds weights alone: configurations and tokenizer.
CONFIG_REMEDY = f"set base.config to a folder with the configurations and the tokenizer of {SD15}"
CONFIG_SETTING = ModelSetting("base.config", layouts.BASE.without_weights(), CONFIG_REMEDY, EMBEDDED)


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
    where = SETTING.find(path, ask=fetch)
    if where.is_dir():
        return where, layouts.digest(layouts.BASE.files(where))
    configuration = CONFIG_SETTING.find(config or SD15, ask=fetch)
    return where, layouts.digest([where, *CONFIG_SETTING.layout.files(configuration)])


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
        options = {"safety_checker": None, "feature_extractor": None, "dtype": torch.float32, "local_files_only": True}
        single = where.is_file()
        setting, folder = (CONFIG_SETTING, CONFIG_SETTING.find(config or SD15)) if single else (SETTING, where)
        try:
            with setting.layout.opened(folder) as (files, variant):
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
            network.register_to_config(_name_or_path="")  # the path is no part of what is made from it
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
        """Write the base in diffusers' layout, half precision, safetensors.

        A pipeline that is told no precision loads all of it in float32: transformers goes by the configuration, which
        would have the text encoder alone in half precision.
        """
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
        config = folder / "text_encoder" / "config.json"
        write_json(config, json.loads(config.read_text()) | {"dtype": "float32"})

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
        counts_and_losses = []
        tokens = self.tokenizer(texts, return_offsets_mapping=True, verbose=False)
        for text, ids, places in zip(texts, tokens.input_ids, tokens.offset_mapping, strict=True):
            lost = ""
            if len(ids) > self.text_length:
                (begin, _) = places[self.text_length - 1]  # where the end takes the place of a token
                kept = re.sub(r"\w+$", "", text[:begin]) if text[begin].isalnum() else text[:begin]
                lost = text[len(kept) :].strip(" ,")
            counts_and_losses.append((len(ids), lost))
        return counts_and_losses

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Map texts to features (B, L, D)."""
        tokens = self.tokenize(texts).to(self.text_encoder.device)
        return self.text_encoder(tokens).last_hidden_state.float()


def place_network(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a convolutional network to a device; on CUDA in the memory format that tensor cores work in."""
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    network.to(device=device, dtype=dtype, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it
