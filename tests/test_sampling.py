"""Images: functions of seed and recipe, whatever the batch; guidance and schedulers as diffusers has them."""

from collections.abc import Sequence
from dataclasses import replace

import diffusers
import pytest
import torch
from test_conf import settings
from tiny import tiny_base
from torch import Tensor

from sarsynth.data.seeds import step_seed
from sarsynth.data.transforms import to_uint8
from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.sampling import Guidance, SampleRequest, sample
from sarsynth.diffusion.step_interval import StepInterval
from sarsynth.training.precision import FULL, Precision

PROMPTS = ["a SAR image of cargo ship", "a photo", "a SAR image of cargo ship", "tanker"]
REQUESTS = [SampleRequest(prompt, (7, label, 3)) for label, prompt in enumerate(PROMPTS)]
SCHEDULERS = [
    "DPMSolverMultistepScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DDPMScheduler",
    "HeunDiscreteScheduler",
    "UniPCMultistepScheduler",
]


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


def images(base: Base, requests=REQUESTS, scheduler: str = "DPMSolverMultistepScheduler", **changes) -> Tensor:
    """All images of some requests, (N, 3, 16, 16)."""
    noise_scheduler = getattr(diffusers, scheduler).from_config(base.noise_scheduler.config)
    recipe = {"image_size": 16, "guidance": Guidance(3.0), "num_inference_steps": 4, "batch_size": 4}
    return torch.cat(list(sample(base, noise_scheduler, requests, **(recipe | changes))))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_image_does_not_depend_on_its_batch(base: Base, scheduler: str):
    """Stochastic schedulers included: each image has a generator of its own."""
    known = images(base, scheduler=scheduler)
    assert known.shape == (4, 3, 16, 16)
    assert known.isfinite().all()
    assert known.abs().max() <= 1
    assert known.std(dim=(1, 2, 3)).min() > 0.01
    assert torch.equal(images(base, scheduler=scheduler), known), "the same call gives the same images"
    for batch_size in (1, 3):
        difference = to_uint8(images(base, scheduler=scheduler, batch_size=batch_size)).int() - to_uint8(known).int()
        assert difference.abs().max() <= 1
    backwards = images(base, REQUESTS[::-1], scheduler, batch_size=2).flip(0)
    assert (to_uint8(backwards).int() - to_uint8(known).int()).abs().max() <= 1


def test_an_image_of_the_shipped_base_does_not_depend_on_its_batch(nano: Base):
    requests = [SampleRequest("a photo of a cargo ship", (0, 0, index)) for index in range(3)]
    recipe = {"image_size": 64, "num_inference_steps": 3}
    known = to_uint8(images(nano, requests, batch_size=3, **recipe)).int()
    assert (to_uint8(images(nano, requests, batch_size=2, **recipe)).int() - known).abs().max() <= 1
    assert (known[0] - known[1]).abs().max() > 16


def test_what_is_drawn_in_bfloat16_differs_by_less_than_a_grey_level():
    """From the embedded base, whose images span all 256 of them: half a level on average, few in the worst pixel."""
    requests = [SampleRequest("a photo of a cargo ship", (0, 0, index)) for index in range(2)]
    plain, drawn = (
        to_uint8(images(Base.load(NANO).place(torch.device("cpu"), precision), requests, image_size=64)).float()
        for precision in (FULL, Precision("bf16-mixed"))
    )
    assert not torch.equal(plain, drawn)
    assert (plain - drawn).abs().mean() < 0.5
    assert (plain - drawn).abs().max() < 16


def test_every_part_of_the_seed_and_the_prompt_count(base: Base):
    seeds = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    made = images(base, [SampleRequest("a photo", seed) for seed in seeds])
    for one in range(len(seeds)):
        for other in range(one):
            assert (made[one] - made[other]).abs().max() > 0.05
    texts = images(base, [SampleRequest(prompt, (0, 0, 0)) for prompt in ("a photo", "tanker", "tanker")], batch_size=3)
    assert not torch.equal(texts[0], texts[1])
    torch.testing.assert_close(texts[1], texts[2])


def by_hand(base: Base, request: SampleRequest, scales: Sequence[float]) -> Tensor:
    """DDIM (eta 0) for one image, written out, each step with a guidance scale of its own."""
    steps = len(scales)
    text, negative = (base.encode_text([words])[0] for words in (request.prompt, request.negative_prompt))
    noise_scheduler = diffusers.DDIMScheduler.from_config(base.noise_scheduler.config)
    noise_scheduler.set_timesteps(steps)
    kept = noise_scheduler.alphas_cumprod
    generator = torch.Generator().manual_seed(step_seed(*request.seed))
    latents = torch.randn(base.unet.config.in_channels, 8, 8, generator=generator)[None]
    for t, guidance_scale in zip(noise_scheduler.timesteps.tolist(), scales, strict=True):
        guided, unguided = (base.unet(latents, t, features[None]).sample for features in (text, negative))
        noise = unguided + guidance_scale * (guided - unguided)
        clean = (latents - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()
        before = t - 1000 // steps
        rest = kept[before] if before >= 0 else noise_scheduler.final_alpha_cumprod
        latents = rest.sqrt() * clean + (1 - rest).sqrt() * noise
    return base.decode(latents)


@pytest.mark.parametrize("negative_prompt", ["", "cargo ship"])
@pytest.mark.parametrize("guidance_scale", [1.0, 0.0, 7.5])
@torch.no_grad()
def test_guidance_is_the_papers_formula(base: Base, guidance_scale: float, negative_prompt: str):
    """With a negative prompt in place of the empty one, as diffusers' pipelines have it."""
    request = replace(REQUESTS[0], negative_prompt=negative_prompt)
    made = images(base, [request], "DDIMScheduler", guidance=Guidance(guidance_scale))
    torch.testing.assert_close(made, by_hand(base, request, [guidance_scale] * 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("interval", "scales"),
    [((0.25, 0.75), (1, 5, 5, 1)), ((0.0, 0.5), (5, 5, 1, 1)), ((0.3, 1.0), (1, 1, 5, 5)), ((0.3, 0.7), (1, 1, 1, 1))],
)
@torch.no_grad()
def test_guidance_leads_in_the_steps_that_lie_in_its_interval(base: Base, monkeypatch, interval, scales):
    """The others draw with the prompt alone, in half a batch."""
    request, rows, forward = replace(REQUESTS[0], negative_prompt="cargo ship"), [], base.unet.forward
    known = by_hand(base, request, scales)
    monkeypatch.setattr(base.unet, "forward", lambda x, *rest, **more: rows.append(len(x)) or forward(x, *rest, **more))
    guidance = Guidance(5.0, StepInterval(*interval))
    torch.testing.assert_close(images(base, [request], "DDIMScheduler", guidance=guidance), known, rtol=0, atol=1e-4)
    assert rows == [2 if scale != 1 else 1 for scale in scales]
    assert guidance.passes(4) == sum(rows)
    assert Guidance(1.0, StepInterval(*interval)).passes(4) == 4


def test_no_guidance_is_the_conditional_model_at_half_the_cost(base: Base, monkeypatch):
    rows = []
    forward = base.unet.forward
    monkeypatch.setattr(base.unet, "forward", lambda x, *rest, **more: rows.append(len(x)) or forward(x, *rest, **more))
    plain = images(base, guidance=Guidance(1.0))
    assert rows == [4] * 4
    rows.clear()
    nearly = images(base, guidance=Guidance(1.0 + 1e-6))
    assert rows == [8] * 4, "both halves in one batch"
    torch.testing.assert_close(plain, nearly, rtol=0, atol=1e-4)
    assert (plain - images(base, guidance=Guidance(5.0))).abs().max() > 0.01


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_the_base_predicts_is_what_the_scheduler_takes(prediction: str):
    """A network that always knows the answer ends at the very latents, whichever way it is asked to put it."""
    base = tiny_base()
    base.noise_scheduler.register_to_config(prediction_type=prediction)
    goal = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    kept = base.noise_scheduler.alphas_cumprod

    def oracle(latents: Tensor, timestep: Tensor, text_features: Tensor) -> object:
        share = kept[int(timestep)]
        noise = (latents - share.sqrt() * goal) / (1 - share).sqrt()
        answer = noise if prediction == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * goal
        return type("Output", (), {"sample": answer})()

    base.unet.forward = oracle
    made = images(base, REQUESTS[:1], "DDIMScheduler", guidance=Guidance(1.0), num_inference_steps=20)
    torch.testing.assert_close(made, base.decode(goal), rtol=0, atol=0.02)


@pytest.mark.parametrize("option", ["dpm", "ddim", "euler"])
def test_the_samplers_of_the_configuration_run(base: Base, option: str):
    chosen = settings(f"sampler={option}").sampler
    noise_scheduler = chosen.from_config(base.noise_scheduler.config)
    recipe = {"image_size": 16, "guidance": Guidance(2.0), "num_inference_steps": 3, "batch_size": 2}
    (made,) = sample(base, noise_scheduler, REQUESTS[:2], **recipe)
    assert made.isfinite().all()


def test_nothing_asked_nothing_made(base: Base):
    scheduler = diffusers.DDIMScheduler.from_config(base.noise_scheduler.config)
    recipe = {"image_size": 16, "guidance": Guidance(), "num_inference_steps": 2, "batch_size": 2}
    assert list(sample(base, scheduler, [], **recipe)) == []
