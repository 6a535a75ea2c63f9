"""Train a U-Net, or adapters on it, to predict the noise that was added to latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from sarsynth.data.datamodules import step_seed
from sarsynth.fitting import check_finite, learning_rate_share
from sarsynth.routing import Route


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


@dataclass(frozen=True)
class Track:
    """One training among those that share a run: an adapter of several, or all there is.

    What happens on a track depends on nothing but its own fields: it ends as if it had been trained alone.

    Attributes:
        name: For people.
        parameters: What it tunes.
        learning_rate: Peak of the schedule, after a linear warm-up.
        warmup_steps: Optimiser steps of warm-up.
        max_steps: Optimiser steps; a shorter track ends while the others go on.
        weight_decay: AdamW's.
        seed: Sample order, noise and time steps are functions of (seed, step, place in the global batch).
        decay: `cosine` to zero, or `constant` after the warm-up.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    learning_rate: float
    warmup_steps: int
    max_steps: int
    weight_decay: float
    seed: int
    decay: Literal["cosine", "constant"] = "cosine"


class Denoiser(LightningModule):
    """The loss of latent diffusion (paper Eq. 1): mean of |noise - unet(noisy latents, t, text)|^2.

    That is what a base predicts noise with, as SD v1.5 does; one that predicts velocity is held to the velocity.
    Only parameters that require gradients are optimised and stored in checkpoints; the frozen base is not.

    A batch holds one run of samples for each track that still trains; a track's loss is the mean over its own run, and
    its gradients are clipped by their own norm.

    Args:
        unet: The network, with its adapters routed and everything else frozen.
        noise_scheduler: Adds noise of level t to latents.
        tracks: What trains.
        route: Tells the routed layers which adapters a batch is for; None where nothing is routed.
        names: The images of the data set, by row, for the message about one that does harm.
        text_encoder: Tuned along, for training a base; None where text features come with the batch.
        no_text: The empty caption, which a share `caption_dropout` of the samples sees instead: its token ids (L,), or
            its text features (L, D) where there is no text encoder; None where no caption is dropped.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        noise_scheduler: DDPMScheduler,
        tracks: Sequence[Track],
        *,
        route: Route | None = None,
        names: Sequence[str] = (),
        text_encoder: nn.Module | None = None,
        no_text: Tensor | None = None,
        caption_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.noise_scheduler = noise_scheduler
        self.tracks, self.route, self.names = tracks, route, names
        self.no_text, self.caption_dropout = no_text, caption_dropout
        self.strict_loading = False  # checkpoints hold the tuned parameters alone

    def active(self) -> list[int]:
        """The tracks that the present step is for."""
        return [index for index, track in enumerate(self.tracks) if self.trainer.global_step < track.max_steps]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the summed losses of the active tracks.

        The batch holds `mean` and `deviation` of latents, (B, V, C, h, w) in V views, their text, and `row`, (B,).
        """
        active = self.active()
        if self.route is not None:
            self.route.active = active
        rows = len(batch["mean"]) // len(active)
        drawn = [self._draw(self.tracks[index], rows, batch["mean"].shape) for index in active]
        view, jitter, noise, timesteps, dropped = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        noise, timesteps = noise.to(self.device), timesteps.to(self.device)
        mean, deviation = (batch[name][torch.arange(len(view)), view] for name in ("mean", "deviation"))  # (B, C, h, w)
        latents = mean + deviation * jitter.to(self.device)
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        prediction = self.predict(noisy, timesteps, self._text_features(batch, dropped), batch, view)
        errors = F.mse_loss(prediction, target(self.noise_scheduler, latents, noise, timesteps), reduction="none")
        errors = errors.flatten(1).mean(dim=1)  # (B,)
        self._samples = batch["row"]
        check_finite(errors, "loss", self.trainer.global_step, lambda index: self._name(int(batch["row"][index])))
        losses = errors.unflatten(0, (len(active), -1)).mean(dim=1)
        self.log("loss", losses.mean())
        if len(self.tracks) > 1:
            self.log_dict({f"loss_{self.tracks[index].name}": loss for index, loss in zip(active, losses, strict=True)})
        return losses.sum() + self._nothing(active)

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text_features: Tensor, batch: dict[str, Tensor], view: Tensor
    ) -> Tensor:
        """Predict the noise in latents (B, C, h, w); which view (B,) of an image they are is of no matter here."""
        return self.unet(noisy, timesteps, text_features).sample

    def _name(self, row: int) -> str:
        return self.names[row] if self.names else f"image {row}"

    def _draw(self, track: Track, rows: int, shape: Sequence[int]) -> tuple[Tensor, ...]:
        """View, normal numbers for latents and noise, time steps and dropped captions of a track's run."""
        trainer = self.trainer
        draw = Draws(track.seed, trainer.global_step, rows, trainer.global_rank, trainer.world_size)
        view = draw.integers(shape[1])
        jitter, noise = draw.normal(shape[2:]), draw.normal(shape[2:])
        timesteps = draw.integers(self.noise_scheduler.config.num_train_timesteps)
        return view, jitter, noise, timesteps, draw.uniform() < self.caption_dropout

    def _nothing(self, active: Sequence[int]) -> Tensor | float:
        """Zero, by way of the tracks that have ended: data-parallel processes wait for a gradient of everything."""
        if self.trainer.world_size == 1:
            return 0.0
        ended = [track for index, track in enumerate(self.tracks) if index not in active]
        return sum((0.0 * parameter.sum() for track in ended for parameter in track.parameters), torch.zeros(()))

    def _text_features(self, batch: dict[str, Tensor], dropped: Tensor) -> Tensor:
        """Text features (B, L, D), some captions being dropped: as they come, or of the token ids."""
        text = batch["text_features" if self.text_encoder is None else "input_ids"]
        if self.no_text is not None:
            shape = (-1, *(1 for _ in text.shape[1:]))
            text = torch.where(dropped.view(shape).to(self.device), self.no_text.to(self.device), text)
        return text if self.text_encoder is None else self.text_encoder(text).last_hidden_state

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, a group a track, each with its own schedule."""
        groups = [
            {"params": list(track.parameters), "lr": track.learning_rate, "weight_decay": track.weight_decay}
            for track in self.tracks
        ]
        optimizer = torch.optim.AdamW(groups, fused=True)
        schedules: list[Callable[[int], float]] = [
            partial(learning_rate_share, warmup_steps=t.warmup_steps, max_steps=t.max_steps, decay=t.decay)
            for t in self.tracks
        ]
        lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedules)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each track's gradients to the norm `gradient_clip_val`; a track that has ended has none."""
        active = self.active()
        norms = []
        for index, track in enumerate(self.tracks):
            if index in active:
                norms.append(clip_grad_norm_(track.parameters, gradient_clip_val or float("inf")))
            else:
                for parameter in track.parameters:
                    parameter.grad = None  # the optimiser passes over it
        # In half precision the gradient scaler meets overflow by leaving the step out; that is its way, and no harm.
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            each = self._samples.view(len(active), -1)
            check_finite(
                torch.stack(norms),
                "gradient",
                self.trainer.global_step,
                lambda index: ", ".join(self._name(row) for row in each[index].tolist()),
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out of the checkpoint."""
        tuned = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in tuned}
