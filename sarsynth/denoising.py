"""Train a U-Net, or adapters on it, to predict the noise that was added to latents."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from sarsynth.data.datamodules import step_seed


class Draws:
    """Random numbers of one training step: drawn for the whole global batch, of which this process keeps its rows.

    So a run is the same run however its batch is shared out over processes, and wherever it was resumed.
    """

    def __init__(self, seed: int, step: int, rows: int, rank: int, world_size: int) -> None:
        self.generator = torch.Generator().manual_seed(step_seed(seed, step))
        self.total, self.mine = rows * world_size, slice(rank, None, world_size)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, shape (B, *shape)."""
        return torch.randn(self.total, *shape, generator=self.generator)[self.mine]

    def uniform(self) -> Tensor:
        """Numbers in [0, 1), shape (B,)."""
        return torch.rand(self.total, generator=self.generator)[self.mine]

    def integers(self, below: int) -> Tensor:
        """Integers in [0, below), shape (B,)."""
        return torch.randint(below, (self.total,), generator=self.generator)[self.mine]


def target(noise_scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what a base is to predict: noise (Ho et al., arXiv 2006.11239) or velocity (arXiv 2202.00512).

    Raises:
        ValueError: The base predicts something else.
    """
    match noise_scheduler.config.prediction_type:
        case "epsilon":
            return noise
        case "v_prediction":
            return noise_scheduler.get_velocity(latents, noise, timesteps)
        case other:
            raise ValueError(f"a base that predicts {other} cannot be trained here")


class Denoiser(LightningModule):
    """The loss of latent diffusion (paper Eq. 1): mean of |noise - unet(noisy latents, t, text)|^2.

    That is what a base predicts noise with, as SD v1.5 does; one that predicts velocity is held to the velocity.
    Only parameters that require gradients are optimised and stored in checkpoints; the frozen base is not.

    Args:
        unet: The network, with its adapters attached and everything else frozen.
        noise_scheduler: Adds noise of level t to latents.
        learning_rate: Peak of the schedule: linear warm-up, then one cosine to zero.
        warmup_steps: Optimiser steps of warm-up.
        max_steps: Optimiser steps in all.
        weight_decay: AdamW's.
        text_encoder: Tuned along, for training a base; None where text features come with the batch.
        no_text: Token ids (L,) of the empty caption, which a share `caption_dropout` of the samples sees instead.
        seed: Noise and time steps are functions of (seed, step, place in the global batch).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        noise_scheduler: DDPMScheduler,
        *,
        learning_rate: float,
        warmup_steps: int,
        max_steps: int,
        weight_decay: float = 0.01,
        text_encoder: nn.Module | None = None,
        no_text: Tensor | None = None,
        caption_dropout: float = 0.0,
        seed: int,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.noise_scheduler = noise_scheduler
        self.learning_rate, self.warmup_steps, self.max_steps = learning_rate, warmup_steps, max_steps
        self.weight_decay, self.seed = weight_decay, seed
        self.no_text, self.caption_dropout = no_text, caption_dropout
        self.strict_loading = False  # checkpoints hold the tuned parameters alone

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of latent means and deviations (B, V, C, h, w) in V views, and their text."""
        draw = Draws(
            self.seed, self.trainer.global_step, len(batch["mean"]), self.trainer.global_rank, self.trainer.world_size
        )
        rows = torch.arange(len(batch["mean"]))
        view = draw.integers(batch["mean"].shape[1])
        mean, deviation = (batch[name][rows, view] for name in ("mean", "deviation"))  # (B, C, h, w)
        latents = mean + deviation * draw.normal(mean.shape[1:]).to(self.device)
        noise = draw.normal(mean.shape[1:]).to(self.device)
        timesteps = draw.integers(self.noise_scheduler.config.num_train_timesteps).to(self.device)
        dropped = draw.uniform() < self.caption_dropout
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        prediction = self.unet(noisy, timesteps, self._text_features(batch, dropped)).sample
        loss = F.mse_loss(prediction, target(self.noise_scheduler, latents, noise, timesteps))
        self.log("loss", loss)
        return loss

    def _text_features(self, batch: dict[str, Tensor], dropped: Tensor) -> Tensor:
        """Text features (B, L, D): as they come, or of the token ids, some of them dropped."""
        if self.text_encoder is None or self.no_text is None:
            return batch["text_features"]
        token_ids = torch.where(dropped[:, None].to(self.device), self.no_text, batch["input_ids"])
        return self.text_encoder(token_ids).last_hidden_state

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on what is not frozen; warm-up and cosine, stepped once an optimiser step."""
        tuned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        assert tuned, "no parameter requires a gradient"
        optimizer = torch.optim.AdamW(tuned, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        lr_scheduler = get_cosine_schedule_with_warmup(optimizer, self.warmup_steps, self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out of the checkpoint."""
        tuned = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in tuned}
