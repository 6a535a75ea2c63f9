"""Stable Diffusion v1 in miniature: all of its parts and levels, random weights, a fraction of a second a step."""

from functools import cache

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sarsynth.diffusion.base import Base
from sarsynth.diffusion.latents import Latents, Texts, encode_images
from sarsynth.diffusion.samples import DenoisingSamples

WIDTH, LENGTH = 16, 12  # of text features, in tokens


@cache
def tiny_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer().train_new_from_iterator(["a SAR image of cargo ship", "a photo"], vocab_size=600)


def tiny_base(seed: int = 0, levels: int = 2, layers: int = 1) -> Base:
    """Build a base with all kinds of blocks of SD v1.5 at a twentieth of its widths (it has 4 levels of 2 layers)."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=layers,
            norm_num_groups=4,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, *(16,) * (levels - 1)),
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
            layers_per_block=layers,
            attention_head_dim=2,
            cross_attention_dim=WIDTH,
            norm_num_groups=4,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                projection_dim=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    schedule = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return Base(vae, unet, text_encoder, tokenizer, schedule)


def noisy(base: Base, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random inputs of a base's U-Net: latents, time steps, text features."""
    generator = torch.Generator().manual_seed(seed)
    config = base.unet.config
    latents = torch.randn(batch, config.in_channels, 8, 8, generator=generator)
    timesteps = torch.randint(1000, (batch,), generator=generator)
    return latents, timesteps, torch.randn(batch, LENGTH, config.cross_attention_dim, generator=generator)


@torch.no_grad()
def predict(base: Base, seed: int = 0) -> torch.Tensor:
    """The noise that a base's U-Net sees in those inputs."""
    return base.unet(*noisy(base, seed=seed)).sample


def samples(tensors: dict[str, torch.Tensor], **more) -> DenoisingSamples:
    """What denoisers train on, of encoded images in memory with their texts or token ids.

    `mean` and `deviation` have the shape (V, N, C, h, w).
    """
    ids = tensors.get("input_ids")
    text = Texts(tensors["text_features"], tensors["text_index"]) if ids is None else ids
    moments = torch.stack([tensors["mean"], tensors["deviation"]], dim=2).transpose(0, 1)
    return DenoisingSamples(Latents(moments), text, num_train_timesteps=1000, **more)


def encoded(base: Base, images: torch.Tensor, texts: list[str], flip: str = "none") -> dict[str, torch.Tensor]:
    """Images and texts as `samples` takes them."""
    mean, deviation = encode_images(base, images, flip=flip, batch_size=64).transpose(0, 1).unbind(2)
    unique = sorted(set(texts))
    index = torch.tensor([unique.index(text) for text in texts])
    return {"mean": mean, "deviation": deviation, "text_features": base.encode_text(unique), "text_index": index}
