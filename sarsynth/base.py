"""The frozen text-to-image base behind one narrow door: latents, text features, noise, images.

Pixels are float32 in [-1, 1], shape (B, 3, H, W). Latents are scaled to about unit variance, shape (B, C, h, w) with
h = H / factor. Text features have shape (B, L, D). This is the only file that knows how a base lies on disk.
"""

import hashlib
import re
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from sarsynth.errors import UserError, one_line

NANO = Path(__file__).parent / "assets" / "sd-nano"
HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REMEDY = (
    f"download {HUB_ID} (its folder, or v1-5-pruned-emaonly.safetensors) and set base.path to it, or use base=sd-nano"
)
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")


def resolve(path: str | None) -> tuple[Path, str]:
    """Find a base on this machine, or fetch it from the hub, and hash it.

    Args:
        path: A folder in diffusers' layout, one safetensors file, or a hub id; None is the embedded `sd-nano`.

    Returns:
        Where it lies, and the hex sha256 over the names and contents of its weights and configurations.

    Raises:
        UserError: There is none.
    """
    where = NANO if path is None else Path(path).expanduser()
    if not where.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
            raise UserError(f"base.path={path}: no such folder or file; {REMEDY}")
        try:
            where = Path(snapshot_download(str(path), allow_patterns=[f"{part}/*" for part in PARTS] + ["*.json"]))
        except Exception as error:  # no network, no such repository, no permission: all end here
            raise UserError(f"base.path={path}: not on this machine, and the hub gave nothing; {REMEDY}") from error
    if where.is_dir() and not (where / "model_index.json").is_file():
        raise UserError(f"base.path={where}: no model_index.json in this folder; {REMEDY}")
    files = (
        [where]
        if where.is_file()
        else sorted(f for f in where.rglob("*") if f.suffix in (".json", ".safetensors", ".txt"))
    )
    content = hashlib.sha256()
    for file in files:
        content.update(file.name.encode() + hashlib.file_digest(file.open("rb"), "sha256").digest())
    return where, content.hexdigest()


class Base(nn.Module):
    """A Stable Diffusion v1 model: autoencoder, U-Net with cross-attention, CLIP text encoder, noise schedule.

    Every weight is frozen; training code unfreezes what it tunes.
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
            config: For one file, which holds weights alone: a folder, or a hub id, with configurations and tokenizer.

        Raises:
            UserError: There is no Stable Diffusion v1 at `where`.
        """
        options = {"safety_checker": None, "torch_dtype": torch.float32}
        try:
            if where.is_file():
                pipe = StableDiffusionPipeline.from_single_file(str(where), config=config or HUB_ID, **options)
            else:
                pipe = StableDiffusionPipeline.from_pretrained(
                    where, feature_extractor=None, use_safetensors=True, local_files_only=True, **options
                )
        except Exception as error:  # the loaders raise almost anything at a folder or a file of another kind
            raise UserError(f"base.path={where}: {type(error).__name__}: {one_line(error)}; {REMEDY}") from error
        if not isinstance(pipe.unet, UNet2DConditionModel) or pipe.unet.config.addition_embed_type is not None:
            raise UserError(f"base.path={where}: not a Stable Diffusion v1; {REMEDY}")
        noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        return cls(pipe.vae, pipe.unet, pipe.text_encoder, pipe.tokenizer, noise_scheduler)

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
        posterior = self.vae.encode(images).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Map scaled latents to images, clipped to [-1, 1]."""
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Map texts to padded, truncated token ids of shape (B, L)."""
        length = self.text_encoder.config.max_position_embeddings
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return tokens.input_ids

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Map texts to features (B, L, D)."""
        return self.text_encoder(self.tokenize(texts).to(self.text_encoder.device)).last_hidden_state
