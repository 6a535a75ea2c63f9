"""Steer a U-Net by contours: what a ControlNet adds to it, and how one is trained."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import Dataset

from sarsynth.contours import unpack
from sarsynth.data.latents import FLIPS, LatentDataset
from sarsynth.denoising import Draws, target


def to_control(contours: Tensor) -> Tensor:
    """Map contours, uint8 (B, H, W), 255 on edges, to what a ControlNet takes: float (B, 3, H, W) in [0, 1]."""
    return (contours.float() / 255)[:, None].expand(-1, 3, -1, -1)


def residuals(
    controlnet: ControlNetModel,
    latents: Tensor,
    timesteps: Tensor,
    text_features: Tensor,
    control: Tensor,
    conditioning_scale: float = 1.0,
) -> dict[str, Any]:
    """Compute what a ControlNet adds to the U-Net, as the keyword arguments of the U-Net's forward.

    Args:
        controlnet: Made for that U-Net.
        latents: Noisy, shape (B, C, h, w).
        timesteps: Shape (B,) or ().
        text_features: Shape (B, L, D).
        control: Contours, shape (B, 3, H, W), in [0, 1].
        conditioning_scale: Factor on all of it.
    """
    down, middle = controlnet(
        latents, timesteps, text_features, control, conditioning_scale=conditioning_scale, return_dict=False
    )
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


class ContourDataset(Dataset[dict[str, Tensor]]):
    """Encoded images with their contours, by a whole batch of indices at a time.

    Args:
        latents: `mean` and `deviation` (V, N, C, h, w) and texts, as in `LatentDataset`.
        packed: Contours of the images as they are, packed, uint8 (N, H, W / 8).
        flip: Of the second view: `none`, `horizontal` or `vertical`.
    """

    def __init__(self, latents: Mapping[str, Tensor], packed: Tensor, flip: str) -> None:
        self.latents, self.packed, self.axis = LatentDataset(latents), packed, FLIPS[flip]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the batch of a `LatentDataset` and `contour`, uint8 (B, V, H, W)."""
        contours = torch.from_numpy(unpack(self.packed[indices].numpy()))[:, None]  # (B, 1, H, W)
        views = [contours] if self.axis is None else [contours, contours.flip(self.axis)]
        return self.latents[indices] | {"contour": torch.cat(views, dim=1)}


class ControlTraining(LightningModule):
    """The loss of a `Denoiser` where the U-Net is frozen and a ControlNet that sees the contour adds to it.

    Checkpoints hold the ControlNet alone.

    Args:
        controlnet: What to train.
        unet: What it steers.
        noise_scheduler: Adds noise of level t to latents.
        learning_rate: Peak of the schedule: linear warm-up, then one cosine to zero.
        warmup_steps: Optimiser steps of warm-up.
        max_steps: Optimiser steps in all.
        weight_decay: AdamW's.
        no_text: Text features (L, D) of the empty caption, which a share `caption_dropout` of the samples sees instead.
        caption_dropout: So that the contour alone has to tell what is to be seen (Zhang et al., arXiv 2302.05543).
        seed: Noise and time steps are functions of (seed, step, place in the global batch).
    """

    no_text: Tensor

    def __init__(
        self,
        controlnet: ControlNetModel,
        unet: UNet2DConditionModel,
        noise_scheduler: DDPMScheduler,
        *,
        learning_rate: float,
        warmup_steps: int,
        max_steps: int,
        weight_decay: float,
        no_text: Tensor,
        caption_dropout: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.controlnet, self.unet = controlnet.requires_grad_(True), unet.requires_grad_(False)
        self.noise_scheduler = noise_scheduler
        self.learning_rate, self.warmup_steps, self.max_steps = learning_rate, warmup_steps, max_steps
        self.weight_decay, self.caption_dropout, self.seed = weight_decay, caption_dropout, seed
        self.register_buffer("no_text", no_text, persistent=False)
        self.strict_loading = False  # checkpoints hold no U-Net

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch: latents in V views, their text features, and `contour` (B, V, H, W)."""
        trainer = self.trainer
        draw = Draws(self.seed, trainer.global_step, len(batch["mean"]), trainer.global_rank, trainer.world_size)
        chosen = torch.arange(len(batch["mean"])), draw.integers(batch["mean"].shape[1])
        mean, deviation, contours = (batch[name][chosen] for name in ("mean", "deviation", "contour"))
        latents = mean + deviation * draw.normal(mean.shape[1:]).to(self.device)
        noise = draw.normal(mean.shape[1:]).to(self.device)
        timesteps = draw.integers(self.noise_scheduler.config.num_train_timesteps).to(self.device)
        dropped = (draw.uniform() < self.caption_dropout).to(self.device)
        text_features = torch.where(dropped[:, None, None], self.no_text, batch["text_features"])
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        steering = residuals(self.controlnet, noisy, timesteps, text_features, to_control(contours))
        prediction = self.unet(noisy, timesteps, text_features, **steering).sample
        loss = F.mse_loss(prediction, target(self.noise_scheduler, latents, noise, timesteps))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on the ControlNet; warm-up and cosine, stepped once an optimiser step."""
        parameters = self.controlnet.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        lr_scheduler = get_cosine_schedule_with_warmup(optimizer, self.warmup_steps, self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen U-Net out of the checkpoint."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weight for name, weight in state.items() if name.startswith("controlnet.")}
