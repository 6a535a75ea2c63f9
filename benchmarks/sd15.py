"""Stable Diffusion v1.5 as it is, but for its weights, which are random: what its size costs needs no download."""

from pathlib import Path

from sarsynth.diffusion.base import NANO

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS = 77  # of a text, start and end among them
INDEX = """{
  "_class_name": "StableDiffusionPipeline",
  "_diffusers_version": "0.6.0",
  "feature_extractor": ["transformers", "CLIPImageProcessor"],
  "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
  "scheduler": ["diffusers", "PNDMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"]
}
"""


def sd15_unet() -> UNet2DConditionModel:
    """Its U-Net."""
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=768,
    )


def sd15_vae() -> AutoencoderKL:
    """Its autoencoder."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )


def sd15_text_encoder() -> CLIPTextModel:
    """Its text encoder, that of CLIP ViT-L/14."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            projection_dim=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=0,
            eos_token_id=2,
        )
    )


def save_random(folder: Path, seed: int = 0) -> Path:
    """Write a base as one downloads it, in half precision: 2 GB. Its tokenizer is that of the embedded base.

    Returns:
        The folder.
    """
    with torch.device("meta"):
        unet, vae, text_encoder = sd15_unet(), sd15_vae(), sd15_text_encoder()
    _save_weights(unet, folder / "unet" / "diffusion_pytorch_model.safetensors", seed)
    _save_weights(vae, folder / "vae" / "diffusion_pytorch_model.safetensors", seed)
    _save_weights(text_encoder, folder / "text_encoder" / "model.safetensors", seed)
    unet.save_config(folder / "unet")
    vae.save_config(folder / "vae")
    text_encoder.config.save_pretrained(folder / "text_encoder")
    CLIPTokenizer.from_pretrained(NANO / "tokenizer", model_max_length=TOKENS).save_pretrained(folder / "tokenizer")
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_config(folder / "scheduler")
    (folder / "model_index.json").write_text(INDEX)
    return folder


def _save_weights(model: nn.Module, file: Path, seed: int) -> None:
    """Write a model that lives on the meta device with random weights in half precision."""
    table = torch.randn(1 << 20, generator=torch.Generator().manual_seed(seed)).half()

    def random(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 1:  # biases and the scales of norms
            return torch.zeros(tensor.shape, dtype=torch.half)
        values = table.repeat(tensor.numel() // len(table) + 1)[: tensor.numel()]
        return (values / (tensor.numel() / len(tensor)) ** 0.5).view(tensor.shape)  # keeps variance from layer to layer

    norms = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)}
    ones = {n: torch.ones(w.shape, dtype=torch.half) for n, w in model.state_dict().items() if n in norms}
    weights = ones | {n: random(w) for n, w in model.state_dict().items() if n not in norms}
    if isinstance(model, CLIPTextModel):  # names as in the published folder
        weights = {f"text_model.{n.removeprefix('text_model.')}": w for n, w in weights.items()}
    file.parent.mkdir(parents=True)
    save_file(weights, file, {"format": "pt"})
