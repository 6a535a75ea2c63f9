"""Steer a U-Net by contours: what a ControlNet adds to it, and how one is trained."""

from collections.abc import Sequence
from typing import Any

from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from sarsynth.diffusion.denoising import Denoiser, Track


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


class ControlTraining(Denoiser):
    """A `Denoiser` whose U-Net is frozen, and to which a ControlNet that sees the contour adds.

    The batch holds `contour` too, uint8 (B, V, H, W). Checkpoints hold the ControlNet alone.

    Args:
        controlnet: What to train; the parameters of the tracks are its own.
        unet: What it steers.
        noise_scheduler: Adds noise of level t to latents.
        tracks: What trains.
        names: The images, by row.
        no_text: Text features (L, D) of the empty caption, which samples whose own is dropped see instead, so that the
            contour alone has to tell what is to be seen (Zhang et al., arXiv 2302.05543).
    """

    def __init__(
        self,
        controlnet: ControlNetModel,
        unet: UNet2DConditionModel,
        noise_scheduler: DDPMScheduler,
        tracks: Sequence[Track],
        *,
        names: Sequence[str] = (),
        no_text: Tensor,
    ) -> None:
        unet.requires_grad_(False)
        super().__init__(unet, noise_scheduler, tracks, names=names, no_text=no_text)
        self.controlnet = controlnet
        self.networks = self.compilable = (controlnet, unet)

    def predict(self, noisy: Tensor, timesteps: Tensor, text_features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Predict the noise in latents (B, C, h, w) with the help of the contours."""
        steering = residuals(self.controlnet, noisy, timesteps, text_features, to_control(batch["contour"]))
        return self.unet(noisy, timesteps, text_features, **steering).sample
