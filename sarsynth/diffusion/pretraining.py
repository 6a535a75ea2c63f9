"""Train a small base from photographs: first its autoencoder, then its U-Net together with its text encoder."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sarsynth.data.datamodules import ByRow, SeededDataModule
from sarsynth.data.transforms import to_float
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.latents import Latents, encode_images
from sarsynth.diffusion.samples import DenoisingSamples, Draws
from sarsynth.training.fitting import Fitting, MovingAverage, learning_rate_share
from sarsynth.training.tasks import Task

TEXT_WIDTH = 96
TEXT_LENGTH = 40
EMA_EVERY = 10  # optimiser steps between updates of the moving average, whose cost is then nothing


@dataclass(frozen=True)
class TrainingRecipe:
    """How a network is trained: AdamW, linear warm-up, then one cosine to zero. Steps are optimiser steps."""

    learning_rate: float
    warmup_steps: int
    max_steps: int
    batch_size: int
    weight_decay: float
    max_grad_norm: float
    checkpoint_every: int


@dataclass(frozen=True)
class AutoencoderRecipe(TrainingRecipe):
    """How the autoencoder is trained; `kl_weight` weighs the KL divergence per latent value."""

    kl_weight: float


@dataclass(frozen=True)
class UNetRecipe(TrainingRecipe):
    """How U-Net and text encoder are trained.

    A share `caption_dropout` of the images is shown without text: classifier-free guidance needs a model of images
    without text. The moving average over the weights decays by `ema_decay` every EMA_EVERY steps.
    """

    ema_decay: float
    caption_dropout: float


class Autoencoding(Task):
    """Train an autoencoder to give images back: mean absolute and squared error, and a little KL divergence.

    Args:
        vae: What to train.
        recipe: How.
        seed: Of the noise on latents, a function of (seed, step).
    """

    def __init__(self, vae: AutoencoderKL, recipe: AutoencoderRecipe, seed: int) -> None:
        super().__init__()
        self.vae, self.networks = vae, (vae,)
        self.recipe, self.seed = recipe, seed

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of uint8 images (B, 3, H, W)."""
        images = to_float(batch[0])
        part, shares = batch_idx % self.parts, self.trainer.world_size * self.parts
        noise = Draws(self.seed, self.global_step, len(images) * shares).normal(self._latents(images))
        places = slice(self.global_rank + part * self.trainer.world_size, None, shares)
        decoded, posterior = self(images, noise[places].to(self.device))
        loss = F.l1_loss(decoded, images) + F.mse_loss(decoded, images)
        loss = loss + self.recipe.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        self.watch.losses(loss.detach()[None], self.global_step, lambda _: "the batch")
        step_losses = self.gather(batch_idx, loss[None])
        if step_losses is not None:
            self.log("loss", step_losses.mean())
        return loss

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, DiagonalGaussianDistribution]:
        """Encode and decode images (B, 3, H, W) with noise on their latents; also returns these."""
        posterior = self.vae.encode(images).latent_dist
        return self.vae.decode(posterior.mean + posterior.std * noise).sample, posterior

    def inputs(self, batch: tuple[Tensor]) -> tuple[Any, ...]:
        """Arguments for the forward pass of the shapes that a batch gives; their values are of no matter."""
        images = to_float(batch[0])
        return images, torch.empty(len(images), *self._latents(images))

    def _latents(self, images: Tensor) -> tuple[int, ...]:
        """Shape of an image's latents, (C, h, w)."""
        config = self.vae.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        return config.latent_channels, images.shape[2] // factor, images.shape[3] // factor

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine, stepped once an optimiser step."""
        recipe = self.recipe
        optimizer = torch.optim.AdamW(self.vae.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        schedule = partial(learning_rate_share, warmup_steps=recipe.warmup_steps, max_steps=recipe.max_steps)
        lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}


def nano_autoencoder() -> AutoencoderKL:
    """Build the autoencoder of `sd-nano`: factor 4, 16 latent channels, so that speckle survives it."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def nano_unet(image_size: int) -> UNet2DConditionModel:
    """Build the U-Net of `sd-nano`: the blocks of SD v1.5 at three levels.

    Cross-attention stands at the two coarser ones: at the finest it would cost a third of a step on a CPU.
    """
    return UNet2DConditionModel(
        sample_size=image_size // 4,
        in_channels=16,
        out_channels=16,
        block_out_channels=(48, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        # diffusers names the number of heads so for SD v1 configurations.
        attention_head_dim=(2, 3, 4),
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )


def nano_tokenizer(texts: list[str], vocabulary: int = 900) -> CLIPTokenizer:
    """Learn a byte-pair vocabulary from texts and every printable ASCII character, so that any prompt has tokens."""
    characters = [f"{a}{b}" for a in string.printable.strip() for b in "a1"] + list(string.printable.strip())
    tokenizer = CLIPTokenizer().train_new_from_iterator(texts + characters, vocab_size=vocabulary)
    tokenizer.model_max_length = TEXT_LENGTH
    return tokenizer


def nano_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build the text encoder of `sd-nano` for a tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def noise_schedule() -> DDPMScheduler:
    """The noise levels of SD v1.5; but the network predicts velocity.

    A small U-Net that predicts noise has to pass all of it through its few channels unharmed, and what it loses is
    magnified into coloured grain where noise prevails; velocity asks for the picture there (docs/log.md has the trial).
    The last level is pure noise, which is what sampling starts from (Lin et al., arXiv 2305.08891): otherwise a trace
    of each picture's mean brightness is left in it, and images of dark domains such as SAR come out grey.
    """
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def train_autoencoder(
    images: Tensor, recipe: AutoencoderRecipe, *, seed: int, fitting: Fitting, checkpoints: Path
) -> AutoencoderKL:
    """Train the autoencoder of `sd-nano` on uint8 images (N, 3, H, W), from its checkpoint in `checkpoints` if any.

    `seed` decides weights, order and noise.
    """
    torch.manual_seed(seed)
    vae = nano_autoencoder()
    task, samples = Autoencoding(vae, recipe, seed), ByRow(TensorDataset(images))
    _fit(task, samples, recipe, "autoencoder", seed=seed, fitting=fitting, checkpoints=checkpoints)
    return vae.eval()


def _fit(
    task: Task,
    samples: Dataset[Any],
    recipe: TrainingRecipe,
    title: str,
    *,
    seed: int,
    fitting: Fitting,
    checkpoints: Path,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train a network of the base on all samples."""
    fitting.fit(
        task,
        SeededDataModule.whole(samples, batch_size=recipe.batch_size, max_steps=recipe.max_steps, seed=seed),
        title=title,
        max_steps=recipe.max_steps,
        checkpoints=checkpoints,
        checkpoint_every=recipe.checkpoint_every,
        max_grad_norm=recipe.max_grad_norm,
        callbacks=callbacks,
    )


def measure_latents(vae: AutoencoderKL, images: Tensor) -> float:
    """Return the scaling factor of an autoencoder: one over the standard deviation of the latents of `images`."""
    with torch.no_grad():
        return float(1 / vae.encode(to_float(images)).latent_dist.mean.std())


def train_base(
    vae: AutoencoderKL,
    images: Tensor,
    texts: list[str],
    recipe: UNetRecipe,
    *,
    seed: int,
    encode_batch_size: int,
    fitting: Fitting,
    checkpoints: Path,
) -> Base:
    """Train U-Net and text encoder of `sd-nano` on captioned images; returns the base with averaged weights.

    The images are uint8 (N, 3, side, side) with N texts; `encode_batch_size` of them are encoded at a time. `seed`
    decides weights, order, noise and dropout. A checkpoint in the folder `checkpoints` is gone on from.
    """
    torch.manual_seed(seed)
    tokenizer = nano_tokenizer(texts)
    base = Base(vae, nano_unet(images.shape[-1]), nano_text_encoder(tokenizer), tokenizer, noise_schedule())
    base.unet.requires_grad_(True)
    base.text_encoder.requires_grad_(True)
    weights = [*base.unet.parameters(), *base.text_encoder.parameters()]
    group = TrainableGroup(
        "base", weights, recipe.learning_rate, recipe.warmup_steps, recipe.max_steps, recipe.weight_decay
    )
    no_text = base.tokenize([""])[0]
    task = Denoiser(base.unet, base.noise_scheduler, [group], text_encoder=base.text_encoder, no_text=no_text)
    samples = DenoisingSamples(
        Latents(encode_images(base, images, batch_size=encode_batch_size)),
        base.tokenize(texts),
        num_train_timesteps=base.noise_scheduler.config.num_train_timesteps,
        caption_dropout=recipe.caption_dropout,
    )
    _fit(
        task.train(),
        samples,
        recipe,
        "U-Net and text encoder",
        seed=seed,
        fitting=fitting,
        checkpoints=checkpoints,
        callbacks=[MovingAverage(recipe.ema_decay, EMA_EVERY)],
    )
    return base.requires_grad_(False).eval()
