"""The stages of a study, measured: training, generation, encoding, at the settings of a base and with few images."""

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sarsynth.cli import CONF
from sarsynth.commands.train import artifacts
from sarsynth.config.checks import check
from sarsynth.config.schema import Settings
from sarsynth.diffusion.base import place_network
from sarsynth.diffusion.controlnet import new_controlnet
from sarsynth.diffusion.latents import encode_images
from sarsynth.diffusion.sampling import ContourConditioning, SampleRequest, sample
from sarsynth.diffusion.step_interval import StepInterval
from sarsynth.stages.load_base import base as frozen_base
from sarsynth.stages.load_base import guidance, scheduler
from sarsynth.stages.study import Study
from sarsynth.tracking import Tracker

import hydra
import torch
from measuring import Clock, Effort, EnoughError, Figure, TooLongError, synchronize

# A few simulated images: a rate does not depend on how many there are, and simulating many would take minutes.
WORLD = (
    "data=sim",
    "data.train={cargo: 8, other: 4, fishing: 4, tanker: 4, dredger: 4}",
    "data.test=1",
    "ors.train=1",
    "logger=none",
)
SIZES = {
    "sd15": ("base=sd15", "classifier=resnet50", "classifier.pretrained=false", "classifier.epochs=1000"),
    "sd-nano": (
        "base=sd-nano",
        *(f"train.{stage}.batch_size=4" for stage in ("sar", "controlnet", "finetune")),
        *("generate.batch_size=2", "generate.num_inference_steps=2", "classifier.batch_size=8"),
    ),
}
COMPILED = 15  # steps after which a network that is compiled on the way runs as fast as it will
ENCODED = 64  # images at a time
PROMPTS = 4  # different ones among the images of a batch


@dataclass
class Bench:
    """Where and at which size things are measured.

    Attributes:
        device: `cuda` or `cpu`.
        size: The base: `sd15` or `sd-nano`.
        scratch: A folder that is empty at first.
        base: The folder of the base; None is the embedded one.
        effort: How long to measure.
        precision: Of what was measured last.
        trainings: How many have been measured: each has its own seed, so that none is found in the store.
    """

    device: str
    size: str
    scratch: Path
    base: Path | None
    effort: Effort
    precision: str | None = None
    trainings: int = 0

    def settings(self, script: str, overrides: Sequence[str]) -> Settings:
        """Compose settings of this size, on this device."""
        where = [f"paths.logs={self.scratch}", f"trainer={'gpu' if self.device == 'cuda' else 'cpu'}"]
        where += [f"base.path={self.base}"] if self.base else []
        with hydra.initialize_config_dir(str(CONF), job_name=script, version_base="1.3"):
            return check(hydra.compose(script, [*WORLD, *SIZES[self.size], *where, *overrides]))

    def study(self, settings: Settings) -> Study:
        """Open a study."""
        study = Study(settings, Tracker(None))
        study.compute.enter()
        self.precision = study.precision.name
        return study


def training(bench: Bench, overrides: tuple[str, ...]) -> list[Figure]:
    """Train a stage: to its end where that is set to the measured steps, else until it is measured."""
    effort = replace(bench.effort, warmup=COMPILED) if "train.compile=true" in overrides else bench.effort
    bench.trainings += 1
    own = [f"seed={bench.trainings}", *([f"train.sar.max_steps={effort.steps}"] if "method=lora" in overrides else [])]
    settings = bench.settings("train", (*overrides, *own))
    study, clock = bench.study(settings), Clock(effort)
    study.compute = replace(study.compute, make_trainer=partial(_clocked, study.compute.make_trainer, clock))
    with suppress(EnoughError):
        artifacts(study)
    return clock.figures()


def _clocked(make_trainer: Callable[..., Any], clock: Clock, *, callbacks: Sequence[Any], **more: Any) -> Any:
    return make_trainer(callbacks=[*callbacks, clock], **more)


def generation(bench: Bench, overrides: tuple[str, ...], *, contours: bool = False) -> list[Figure]:
    """Make images, batch after batch, with the sampler, steps and guidance of the settings."""
    settings = bench.settings("generate", overrides)
    study, chosen, size = bench.study(settings), settings.generate, settings.base.image_size
    base, control = frozen_base(study), None
    if contours:
        controlnet = new_controlnet(base, seed=0).requires_grad_(False).eval()
        place_network(controlnet, study.device, study.precision.compute)
        control = ContourConditioning(
            controlnet, settings.contours.conditioning_scale, StepInterval(*settings.contours.guidance_interval)
        )
    lines = torch.zeros(size, size, dtype=torch.uint8)
    lines[:: size // 8] = 255
    requests = [
        SampleRequest(f"a SAR image of ship {index % PROMPTS}", (0, index), lines if contours else None)
        for index in range(chosen.batch_size * (bench.effort.windows + 1))
    ]
    batches = sample(
        base,
        scheduler(study, base),
        requests,
        image_size=size,
        guidance=guidance(study),
        num_inference_steps=chosen.num_inference_steps,
        batch_size=chosen.batch_size,
        conditioning=control,
    )
    return [_rate("images a second", chosen.batch_size, lambda: next(batches), bench.effort)]


def controlled(bench: Bench, overrides: tuple[str, ...]) -> list[Figure]:
    """Make images that follow contours by a ControlNet."""
    return generation(bench, overrides, contours=True)


def encoding(bench: Bench, overrides: tuple[str, ...]) -> list[Figure]:
    """Encode images to latents."""
    settings = bench.settings("train", ("stage=sar", *overrides))
    base, size = frozen_base(bench.study(settings)), settings.base.image_size
    images, batch_size = torch.randint(256, (ENCODED, 1, size, size), dtype=torch.uint8), settings.encode.batch_size
    return [_rate("images a second", ENCODED, lambda: encode_images(base, images, batch_size=batch_size), bench.effort)]


def _rate(what: str, count: int, work: Callable[[], Any], effort: Effort) -> Figure:
    """Time work on `count` things, after it was done once to warm up.

    Raises:
        TooLongError: Even that took too long.
    """
    began = time.perf_counter()
    work()
    synchronize()
    rates: list[float] = []
    for _ in itertools.takewhile(lambda _: time.perf_counter() - began < effort.limit, range(effort.windows)):
        start = time.perf_counter()
        work()
        synchronize()
        rates.append(count / (time.perf_counter() - start))
    if not rates:
        raise TooLongError(f"{count} in more than {effort.limit:.0f} s")
    return Figure.of(what, "1/s", rates)
