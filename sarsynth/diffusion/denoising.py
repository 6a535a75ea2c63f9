"""Train a U-Net, adapters on it or a ControlNet for it to predict the noise that was added to latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from sarsynth.diffusion.controlnet import ContourConditioning, residuals, to_conditioning
from sarsynth.diffusion.routing import Route
from sarsynth.training.fitting import learning_rate_share
from sarsynth.training.tasks import Task


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


def min_snr_weights(noise_scheduler: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """How much a time step counts, so that levels of little noise, of which there are many, do not outweigh the others.

    Min-SNR weights (Hang et al., arXiv 2303.09556), as diffusers' training scripts have them: the signal-to-noise ratio
    up to `gamma` over itself for a base that predicts noise, over itself plus one for velocity. Shape (B,), in (0, 1].
    """
    snr = compute_snr(noise_scheduler, timesteps)
    velocity = noise_scheduler.config.prediction_type == "v_prediction"
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


@dataclass(frozen=True)
class TrainableGroup:
    """Weights that train by a schedule of their own: one adapter of several, or all there is to train.

    Groups share a run, but each ends as if it had been trained alone.
    """

    name: str  # for people
    parameters: Sequence[nn.Parameter]  # the weights
    learning_rate: float  # peak of the schedule, after a linear warm-up
    warmup_steps: int  # optimiser steps of warm-up
    max_steps: int  # optimiser steps; a group with fewer ends while the others go on
    weight_decay: float  # AdamW's
    decay: Literal["cosine", "constant"] = "cosine"  # `cosine` to zero, or `constant` after the warm-up
    faster: Sequence[nn.Parameter] = ()  # those of the weights that learn `ratio` times as fast
    ratio: float = 1.0
    snr_gamma: float | None = None  # see `min_snr_weights`; None: every time step counts alike

    @property
    def optimised(self) -> list[dict[str, Any]]:
        """The weights as the optimiser takes them, in two parts where some learn faster."""
        fast = {id(parameter) for parameter in self.faster} if self.ratio != 1 else set()
        plain = [parameter for parameter in self.parameters if id(parameter) not in fast]
        parts = [(plain, self.learning_rate), (self.faster, self.ratio * self.learning_rate)][: 2 if fast else 1]
        return [{"params": list(weights), "lr": rate, "weight_decay": self.weight_decay} for weights, rate in parts]

    @property
    def schedule(self) -> Callable[[int], float]:
        """From a step to the share of the peak learning rate."""
        return partial(learning_rate_share, warmup_steps=self.warmup_steps, max_steps=self.max_steps, decay=self.decay)


def is_trained(network: nn.Module) -> bool:
    """Whether some of a network's weights learn."""
    return any(parameter.requires_grad for parameter in network.parameters())


class Denoiser(Task):
    """The loss of latent diffusion (paper Eq. 1): mean of |noise - unet(noisy latents, t, text)|^2.

    This is for a base that predicts noise, as SD v1.5 does; one that predicts velocity is compared with the velocity.
    Only parameters that require gradients are optimised and stored in checkpoints; the frozen base is not.

    A batch holds one run of samples for each group that still trains; a group's loss is the mean over its own run, and
    its gradients are clipped by their own norm.

    Args:
        unet: The network, with its adapters routed and everything else frozen.
        noise_scheduler: Adds noise of level t to latents.
        groups: What trains.
        route: Tells the routed layers which adapters a batch is for; None where nothing is routed.
        names: The images of the data set, by row, for the message about one whose loss is not finite.
        text_encoder: Trained too, when a base is made; None where text features come with the batch.
        conditioning: A ControlNet that steers the U-Net by contours (Zhang et al., arXiv 2302.05543): it trains on the
            frozen U-Net, or frozen itself steers one that learns. A batch then holds `contour` too, uint8 (B, H, W).
            Where captions are dropped, the contour alone tells what is to be seen.
        no_text: The empty caption, which samples whose own is dropped see instead: its token ids (L,), or its text
            features (L, D) where there is no text encoder; None where no caption is dropped.
    """

    no_text: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        noise_scheduler: DDPMScheduler,
        groups: Sequence[TrainableGroup],
        *,
        route: Route | None = None,
        names: Sequence[str] = (),
        text_encoder: nn.Module | None = None,
        conditioning: ContourConditioning | None = None,
        no_text: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.conditioning = unet, text_encoder, conditioning
        self.controlnet = None if conditioning is None else conditioning.controlnet
        self.noise_scheduler = noise_scheduler
        self.groups, self.route, self.names = groups, route, names
        self.register_buffer("no_text", no_text, persistent=False)
        self.strict_loading = False  # checkpoints hold the trained parameters alone
        self.compilable = (unet,) if self.controlnet is None else (self.controlnet, unet)
        # What is frozen keeps no activations, so that none need computing again.
        self.networks = tuple(network for network in self.compilable if network is unet or is_trained(network))
        self.variants = len(groups)

    def active(self) -> list[int]:
        """The groups that the present step is for."""
        return [index for index, group in enumerate(self.groups) if self.trainer.global_step < group.max_steps]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the summed losses of the active groups; the batch is a share of `DenoisingSamples`."""
        active = self.active()
        if self.route is not None:
            # Stays until the next batch: with gradient checkpointing, the backward pass runs the layers again.
            self.route.active = active
        latents, noise, timesteps, rows = (batch[name] for name in ("latents", "noise", "timesteps", "row"))
        prediction = self(self.noise_scheduler.add_noise(latents, noise, timesteps), batch)
        errors = F.mse_loss(prediction, target(self.noise_scheduler, latents, noise, timesteps), reduction="none")
        errors = errors.flatten(1).mean(dim=1)  # (B,)
        self.watch.losses(errors.detach(), self.trainer.global_step, lambda index: self._name(int(rows[index])))
        errors, levels = errors.unflatten(0, (len(active), -1)), timesteps.view(len(active), -1)
        losses = torch.stack([self._loss(*part) for part in zip(active, errors, levels, strict=True)])
        step_losses = self.gather(batch_idx, losses, rows.view(len(active), -1))
        if step_losses is not None:
            self._log(active, step_losses)
        return losses.sum() + self._zero_of_ended(active)

    def _loss(self, index: int, errors: Tensor, timesteps: Tensor) -> Tensor:
        """The loss of a group, of its own samples (n,)."""
        gamma = self.groups[index].snr_gamma
        weights = 1.0 if gamma is None else min_snr_weights(self.noise_scheduler, timesteps, gamma)
        return (weights * errors).mean()

    def forward(self, noisy: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Predict the noise in latents (B, C, h, w) at the time steps and with the text of a batch."""
        inputs = noisy, batch["timesteps"], self._text_features(batch)
        added = {}
        if self.conditioning is not None:
            contours = to_conditioning(batch["contour"])
            added = residuals(self.conditioning.controlnet, *inputs, contours, self.conditioning.scale)
        return self.unet(*inputs, **added).sample

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        """Arguments for the forward pass of the shapes that a batch gives; their values are of no matter."""
        return batch["latents"], batch

    def _log(self, active: Sequence[int], losses: Tensor) -> None:
        """Log the losses of a whole step."""
        self.log("loss", losses.mean())
        if len(self.groups) > 1:
            self.log_dict({f"loss_{self.groups[index].name}": loss for index, loss in zip(active, losses, strict=True)})

    def _name(self, row: int) -> str:
        return self.names[row] if self.names else f"image {row}"

    def _zero_of_ended(self, active: Sequence[int]) -> Tensor | float:
        """Zero times the weights of ended groups: data-parallel processes wait for a gradient of every weight."""
        if self.trainer.world_size == 1:
            return 0.0
        ended = [group for index, group in enumerate(self.groups) if index not in active]
        return sum((0.0 * parameter.sum() for group in ended for parameter in group.parameters), torch.zeros(()))

    def _text_features(self, batch: dict[str, Tensor]) -> Tensor:
        """Text features (B, L, D), the empty caption's where one is dropped: from the batch, or of its token ids."""
        text = batch["text_features"][batch["text_index"]] if self.text_encoder is None else batch["input_ids"]
        if "dropped" in batch:
            shape = (-1, *(1 for _ in text.shape[1:]))
            text = torch.where(batch["dropped"].view(shape), self.no_text, text)
        return text if self.text_encoder is None else self.text_encoder(text).last_hidden_state

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with each group's own schedule."""
        parts = [(part, group.schedule) for group in self.groups for part in group.optimised]
        optimizer = torch.optim.AdamW([part for part, _ in parts], fused=True)
        lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [schedule for _, schedule in parts])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each group's gradients to the norm `gradient_clip_val`; a group that has ended has none."""
        active = self.active()
        for index, group in enumerate(self.groups):
            if index not in active:
                for parameter in group.parameters:
                    parameter.grad = None  # the optimiser passes over it
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            # Lightning leaves this to fused optimisers, which do it as they step: too late for a norm.
            scaler.unscale_(optimizer)
        limit = gradient_clip_val or float("inf")
        norms = torch.stack([clip_grad_norm_(self.groups[index].parameters, limit) for index in active])
        seen = self.step_record.rows

        def samples(index: int) -> str:
            return ", ".join(self._name(row) for row in torch.cat(seen, dim=1)[index].tolist())

        self.watch.gradients(norms, self.trainer.global_step, samples, optimizer, scaler)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out of the checkpoint."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
