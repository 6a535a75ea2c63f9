"""Make images: seeded noise, classifier-free guidance, any noise scheduler of diffusers."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from sarsynth.data.seeds import step_seed
from sarsynth.diffusion.attention import texts_projected_once
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.controlnet import ContourConditioning, residuals, seen_by, to_conditioning
from sarsynth.diffusion.step_interval import ALWAYS, StepInterval

# From inputs (B, C, h, w), their timestep, and which step it is of how many, to the noise in them, same shape.
Predictor = Callable[[Tensor, Tensor, int, int], Tensor]


@dataclass(frozen=True)
class SampleRequest:
    """One image to make."""

    prompt: str  # its text
    seed: tuple[int, ...]  # integers that alone decide its noise, e.g. (seed, label, index).
    # what it is to follow, uint8 (image_size, image_size), 255 on edges; None if it follows none
    contour: Tensor | None = field(default=None, compare=False)
    negative_prompt: str = ""  # the text that guidance leads away from


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), in some of the steps.

    Where there is much noise it leads away from what was learned, and where there is little it changes no more what is
    seen (Kynkäänniemi et al., arXiv 2404.07724); a step without it is one pass of the networks instead of two.
    """

    scale: float = 1.0  # 1 is none
    interval: StepInterval = ALWAYS  # in which it leads

    @property
    def throughout(self) -> bool:
        """Whether all steps are alike."""
        return self.scale == 1 or self.interval == ALWAYS

    def leads(self, step: int, steps: int) -> bool:
        """Whether a step needs the negative prompt too."""
        return self.scale != 1 and self.interval.holds(step, steps)

    def passes(self, steps: int) -> int:
        """Passes of the networks for one image, a step with guidance being two."""
        return steps + sum(self.leads(step, steps) for step in range(steps))

    @property
    def passes_at_once(self) -> int:
        """In a step with guidance, for one image."""
        return 1 if self.scale == 1 else 2


@torch.no_grad()
def sample(
    base: Base,
    noise_scheduler: SchedulerMixin,
    requests: Sequence[SampleRequest],
    *,
    image_size: int,
    guidance: Guidance,
    num_inference_steps: int,
    batch_size: int,
    conditioning: ContourConditioning | None = None,
) -> Iterator[Tensor]:
    """Yield images (B, 3, image_size, image_size) in [-1, 1], in the order of the requests.

    An image depends on its request and on the adapters that are active on the base, and not on the batch size.

    Args:
        base: The base, its adapters active at the scales wanted.
        noise_scheduler: Turns noise predictions into steps.
        requests: What to make.
        image_size: Side in pixels, a multiple of the base's latent factor.
        guidance: How far it leads from each request's negative prompt, and in which steps.
        num_inference_steps: Steps of the scheduler.
        batch_size: Images at a time.
        conditioning: How each request's contour conditions its image; None ignores contours.
    """
    if not requests:  # as when all images of a class are there when a run resumes
        return
    device = base.unet.device
    prompts = sorted({text for request in requests for text in (request.prompt, request.negative_prompt)})
    features = dict(zip(prompts, base.encode_text(prompts), strict=True))
    side = image_size // base.latent_factor
    shape = (base.unet.config.in_channels, side, side)
    with texts_projected_once(base.unet, *([conditioning.controlnet] if conditioning else [])):
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            generators = [torch.Generator().manual_seed(step_seed(*request.seed)) for request in batch]
            latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
            text_features = torch.stack([features[request.prompt] for request in batch])
            negative = torch.stack([features[request.negative_prompt] for request in batch])
            contours = _contours(batch).to(device) if conditioning else None
            predict = _predictor(base, text_features, negative, contours, guidance, conditioning)
            yield base.decode(solve(noise_scheduler, latents, generators, num_inference_steps, predict))


def _predictor(
    base: Base,
    text_features: Tensor,
    negative: Tensor,
    contours: Tensor | None,
    guidance: Guidance,
    conditioning: ContourConditioning | None,
) -> Predictor:
    """Predict the noise in a batch of images with texts, negative prompts and contours of their own."""
    dtype = base.unet.dtype
    alone, both = text_features.to(dtype), torch.cat([negative, text_features]).to(dtype)
    seen = seen_by(conditioning.controlnet, contours.to(dtype)) if conditioning and contours is not None else None

    def predict(inputs: Tensor, timestep: Tensor, step: int, steps: int) -> Tensor:
        led = guidance.leads(step, steps)
        inputs, texts = inputs.to(dtype), both if led else alone
        inputs = torch.cat([inputs, inputs]) if led else inputs
        added = {}
        if conditioning and seen is not None and conditioning.interval.holds(step, steps):
            maps = torch.cat([seen, seen]) if led else seen
            added = residuals(conditioning.controlnet, inputs, timestep, texts, maps, conditioning.scale, seen=True)
        noise_pred = base.unet(inputs, timestep, texts, **added).sample.float()
        if led:
            negative_pred, guided = noise_pred.chunk(2)
            noise_pred = negative_pred + guidance.scale * (guided - negative_pred)
        return noise_pred

    return predict


def solve(
    noise_scheduler: SchedulerMixin,
    noise: Tensor,
    generators: list[torch.Generator],
    num_inference_steps: int,
    predict: Predictor,
) -> Tensor:
    """Take all steps from noise to latents.

    Args:
        noise_scheduler: Turns noise predictions into steps.
        noise: Shape (B, C, h, w), of unit variance.
        generators: One an image, from which stochastic schedulers draw.
        num_inference_steps: Steps of the scheduler.
        predict: Predicts the noise.

    Returns:
        Same shape.
    """
    noise_scheduler.set_timesteps(num_inference_steps, device=noise.device)
    takes_generator = "generator" in inspect.signature(noise_scheduler.step).parameters
    extra = {"generator": generators} if takes_generator else {}
    latents = noise * noise_scheduler.init_noise_sigma
    steps = len(noise_scheduler.timesteps)  # more than asked for where a step is made of several
    for step, timestep in enumerate(noise_scheduler.timesteps):
        inputs = noise_scheduler.scale_model_input(latents, timestep)
        latents = noise_scheduler.step(predict(inputs, timestep, step, steps), timestep, latents, **extra).prev_sample
    return latents


def _contours(requests: Sequence[SampleRequest]) -> Tensor:
    """Contours as a ControlNet takes them: (B, 3, H, W) in [0, 1]."""
    return to_conditioning(torch.stack([request.contour for request in requests if request.contour is not None]))
