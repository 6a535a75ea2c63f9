"""Settings of what makes images: the base, the methods, adapters and contours, and how images are drawn."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from hydra.utils import instantiate
from pydantic import Field, field_validator, model_validator

from sarsynth.config.components import Component
from sarsynth.config.section import Count, NonNegative, PassPrecision, Section, Share, Text, Whole


class Base(Section):
    """The frozen diffusion model, and its ControlNet; `image_size` in px.

    `path` and `controlnet` None are the ones inside the package. `config` says where the configurations and tokenizer
    of a path to one safetensors file are; None asks the hub.
    """

    name: Text
    path: Text | None
    config: Text | None
    controlnet: Text | None
    image_size: Annotated[int, Field(ge=8, multiple_of=8)]


class Encoding(Section):
    """Encoding of a set's images to latents and of its captions to text features, `batch_size` at a time."""

    batch_size: Count


class Loss(Section):
    """Weight of a training image in the loss.

    `beta` 0 weighs all classes alike, 1 by inverse frequency; `gamma` is that of the focal loss.
    """

    beta: Share
    gamma: NonNegative


class Method(Section):
    """One row of the results table: what it adds to the training set, and what it trains for that.

    `start` is what a whole U-Net is tuned from; `rank` is that of all the method's SAR adapters together.
    `seed_offset` is added to the seeds of its classifiers.
    """

    name: Text
    adds: Literal["nothing", "real", "augmented", "pasted", "features", "synthetic"]
    sampling: Literal["uniform", "balanced"]
    loss: Loss
    below: Literal["ors"] | None
    tunes: Literal["nothing", "adapter", "unet"]
    start: Literal["base", "random"] | None
    partition: Literal["whole", "classes", "prototypes"] | None
    rank: Count | None
    mixing: Literal["own", "uniform", "bias"] | None
    seed_offset: Whole

    @model_validator(mode="after")
    def _agree(self) -> Self:
        tuned = {"partition": "adapter", "rank": "adapter", "mixing": "adapter", "start": "unet"}
        for key, tunes in tuned.items():
            if (getattr(self, key) is None) == (self.tunes == tunes):
                wanted = "..." if self.tunes == tunes else "null"
                raise ValueError(f"tunes={self.tunes} goes with {key}={wanted}")
        if self.tunes == "adapter" and (self.mixing == "own") == (self.partition == "prototypes"):
            raise ValueError(f"mixing={self.mixing} does not go with partition={self.partition}")
        if self.tunes == "unet" and self.below:
            raise ValueError(f"tunes=unet goes with below=null, not {self.below}")
        return self


class Adapter(Section):
    """Which modules of the U-Net have adapters: `targets` names one of `patterns`, regular expressions on names.

    SAR adapters see each image as often as any other (`sampling` uniform) or each class (balanced); where images are to
    follow contours, they learn under the `frozen` ControlNet with each image's own (`contours`), or without one. The
    frozen networks compute in a `precision` of their own meanwhile, of the same values as `generate.precision`.
    `path` is a LoRA trained elsewhere, which takes the place of the method's SAR adapter; what of it is for the
    `text_encoder`, which stays frozen here, is ignored if that is said.
    """

    path: Text | None
    text_encoder: Literal["refuse", "ignore"]
    targets: Text
    contours: Literal["frozen", "none"]
    sampling: Literal["uniform", "balanced"]
    precision: PassPrecision
    patterns: dict[str, Text]

    @field_validator("patterns")
    @classmethod
    def _expressions(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name}='{pattern}' is no regular expression: {error}") from None
        return patterns

    @property
    def target_modules(self) -> str:
        """The chosen pattern; PEFT wants it to match the whole name of a module."""
        return self.patterns[self.targets]


class Prototypes(Section):
    """K-means on the SAR training images: on features of the `classifier`, or on the latents of the `base`."""

    k: Count
    features: Literal["classifier", "base"]


def _check_rising(section: Section, *keys: str) -> None:
    """Refuse pairs of numbers of which the second is smaller."""
    for key in keys:
        low, high = getattr(section, key)
        if low > high:
            raise ValueError(f"{key}=[{low:g}, {high:g}] should be two rising numbers")


class Contours(Section):
    """The contours that generated images follow; none if `sources` is empty and `root` None.

    They are those of the sources' images, by Canny with `thresholds` after a `blur` in px, and the contour maps in the
    folder `root`. An image gives a contour if it has up to `max_instances` objects, all whole, of which no two have
    more than `max_overlap` (a share of the smaller box) in common. A contour serves up to `reuse_cap` images.
    `conditioning_scale` is that of the ControlNet, which acts in `guidance_interval`, shares of the sampling steps.
    """

    name: Text
    sources: tuple[Literal["data", "ors"], ...]
    root: Text | None
    thresholds: tuple[NonNegative, NonNegative]
    blur: NonNegative
    max_instances: Count
    max_overlap: Share
    reuse_cap: Count
    conditioning_scale: NonNegative
    guidance_interval: tuple[Share, Share]

    @property
    def wanted(self) -> bool:
        """Whether images follow contours at all."""
        return bool(self.sources or self.root)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _check_rising(self, "thresholds", "guidance_interval")
        return self


class ControlNet(Section):
    """Which ControlNet is used: `base.controlnet`, or that of stage `controlnet`, trained `on` a set from `init`."""

    use: Literal["base", "trained"]
    on: Literal["ors", "sar", "regular"]
    init: Literal["shipped", "unet"]


class Generate(Section):
    """The synthetic set; `scales` are w1 of the ORS adapter and w2 of all SAR adapters together.

    Guidance leads away from the `negative_prompt`: the `empty` caption, or for all classes but the largest that of the
    `majority`, the class of which there are most images, so that a rare class is told from the one that it passes for.
    It leads in `guidance_interval`, shares of the sampling steps; the others draw with the caption alone, in one pass.

    Networks draw in a `precision` of their own: `trainer` is that of `trainer.precision`; `auto` is bfloat16 on a CPU
    that is quicker by it, which a short measurement tells, float32 on another, and elsewhere the trainer's.
    """

    speckle: Literal["as_made", "matched"]
    per_class: Count
    scales: tuple[float, float]
    guidance_scale: NonNegative
    guidance_interval: tuple[Share, Share]
    negative_prompt: Literal["empty", "majority"]
    num_inference_steps: Count
    batch_size: Count
    precision: PassPrecision

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _check_rising(self, "guidance_interval")
        return self


class Preview(Section):
    """Pictures that adapters in training make of the first `prompts` captions, once `every` optimiser steps."""

    every: Count
    prompts: Count


class Sampler(Component):
    """A noise scheduler of diffusers, by which images are drawn."""

    what = "noise scheduler"
    provides = ("set_timesteps", "from_config")

    def from_config(self, config: Mapping[str, Any]) -> Any:
        """Construct it with the configuration of another scheduler, its own options apart."""
        return self.load().from_config(config, **instantiate(self.options, _convert_="all"))
