"""The settings of a study: the whole composed configuration, and what its sections must agree on.

Values live in `conf/` alone; the models say which keys there are and what they may hold.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from sarsynth.captions.templates import check_fields
from sarsynth.config.classifier_sections import Augment, Classifier, Evaluate, Fid
from sarsynth.config.components import Logger, Radiometry
from sarsynth.config.generator_sections import (
    Adapter,
    Base,
    Contours,
    ControlNet,
    Encoding,
    Generate,
    Method,
    Preview,
    Prototypes,
    Sampler,
)
from sarsynth.config.image_sections import Data, Encoded, Filter, Images, Prompt, Slot, Wording
from sarsynth.config.section import Section, Seed, Text
from sarsynth.config.training_sections import Trainer, Training
from sarsynth.diffusion.step_interval import StepInterval
from sarsynth.errors import nearest

WANDB_NAME, WANDB_TAG = 128, 64  # characters that W&B takes of a name or group, and of a job type or tag


Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


class Paths(Section):
    """Folders, relative to where the script is started."""

    logs: Text
    store: Text


class Settings(Section):
    """The whole composed configuration; one tree for the three scripts."""

    # train.py alone has it
    stage: Literal["data", "base", "ors", "classifier", "prototypes", "sar", "controlnet"] | None = None
    # evaluate.py alone has it: the folder of a sweep whose report is made again, in place of an evaluation, or several
    report: Text | Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    # generate.py alone has these: one LoRA file of all that the method does for a class, or the synthetic set, with a
    # card for others; where it goes, and to which repository of the hub
    export: Text | None = None
    export_format: Literal["diffusers", "kohya", "images"] | None = None
    export_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    class_name: Text | None = None
    license: Text | None = None
    results: Text | None = None
    push: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    push_private: bool | None = None
    seed: Seed
    generator_seeds: Seeds
    sample_seeds: Seeds
    seeds: Seeds
    notice: Text | None  # said before and after a sweep, and in its report
    build: Literal["auto", "require", "plan"]
    plan: Text | None  # a file that `build=plan` writes the plan to as well
    doctor: bool  # look at the machine, in place of a run
    pack: bool
    stage2_on: Literal["ors", "base"]
    base: Base
    data: Data
    ors: Encoded
    regular: Images
    radiometry: Radiometry
    prompt: Prompt
    method: Method
    encode: Encoding
    adapter: Adapter
    train: Training
    prototypes: Prototypes
    contours: Contours
    controlnet: ControlNet
    augment: Augment
    generate: Generate
    sampler: Sampler
    classifier: Classifier
    evaluate: Evaluate
    fid: Fid
    filter: Filter | None
    trainer: Trainer
    logger: Logger | None
    preview: Preview | None = None  # of loggers that show pictures
    paths: Paths

    @model_validator(mode="after")
    def _check_script_keys(self) -> Self:
        for key in ("generator_seeds", "sample_seeds", "seeds"):
            seeds = getattr(self, key)
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{key}={list(seeds)} should be distinct")
        if self.plan and self.build != "plan":
            raise ValueError(f"plan={self.plan} is where a plan is written; say build=plan too")
        if self.exports and self.export_format != "images" and not self.class_name:
            key = f"export={self.export}" if self.export else f"push={self.push}"
            raise ValueError(
                f"{key} needs class_name=..., the class that the file is to make images of; or say "
                "export_format=images, for the synthetic set"
            )
        if self.stage == "base" and self.train.base is None:
            raise ValueError(
                f"stage=base cannot make base={self.base.name}, which comes trained; base=sd-nano can be made"
            )
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> Self:
        adapter, method = self.adapter, self.method
        if adapter.targets not in adapter.patterns:
            hint = nearest(adapter.targets, adapter.patterns)
            raise ValueError(f"adapter.targets={adapter.targets} is not among adapter.patterns; {hint}")
        if adapter.path and method.partition not in (None, "whole"):
            raise ValueError(f"adapter.path is one adapter, and method={method.name} has several; use method=lora")
        return self

    @model_validator(mode="after")
    def _check_captions(self) -> Self:
        named_headings = self.prompt.facts is not None and "heading" in self.prompt.facts.aspects
        for slot in get_args(Slot):
            for class_level in (False, True):
                key, wording = self._named_wording(slot, class_level)
                _check_templates(
                    key, wording, ("class_name", "text", *["keywords"] * key.startswith("prompt.captions"))
                )
            images = getattr(self, slot)
            mirrored = isinstance(images, Encoded) and images.flip != "none"
            if mirrored and named_headings and slot in self.prompt.captions:
                raise ValueError(
                    f"{slot}.flip={images.flip} would turn the headings that captions name; say {slot}.flip=none, or "
                    "leave heading out of prompt.facts.aspects"
                )
        return self

    @model_validator(mode="after")
    def _check_intervals(self) -> Self:
        sections: dict[str, Contours | Generate] = {"generate": self.generate}
        sections |= {"contours": self.contours} if self.contours.wanted else {}
        steps = self.generate.num_inference_steps
        for name, section in sections.items():
            interval = StepInterval(*section.guidance_interval)
            if not any(interval.holds(step, steps) for step in range(steps)):
                raise ValueError(
                    f"{name}.guidance_interval=[{interval.start:g},{interval.end:g}] holds none of the "
                    f"generate.num_inference_steps={steps} steps whole; widen it"
                )
        return self

    @model_validator(mode="after")
    def _check_radiometry(self) -> Self:
        if not self.radiometry.target.endswith(".Log"):
            return self
        matched = self.method.adds == "synthetic" and self.generate.speckle == "matched"
        if matched or self.method.adds in ("augmented", "pasted"):
            key = "generate.speckle=matched" if matched else f"method={self.method.name}"
            raise ValueError(
                f"{key} takes grey levels for amplitudes, and radiometry=log makes them decibels; "
                "use radiometry=linear or mean_sigma"
            )
        return self

    @model_validator(mode="after")
    def _check_logger(self) -> Self:
        if self.preview and self.logger is None:
            raise ValueError(f"preview.every={self.preview.every} draws for a logger; say logger=csv or logger=wandb")
        if self.logger is None:
            return self
        if self.logger.artifacts and not self.logger.is_wandb:
            raise ValueError("logger.artifacts is of W&B alone; say logger=wandb, or leave it out")
        said = self.logger.said
        words = {key: said[key] for key in ("name", "group", "job_type") if key in said} | {
            f"tags[{place}]": tag for place, tag in enumerate(said.get("tags", []))
        }
        for key, word in words.items():
            most = WANDB_NAME if key in ("name", "group") else WANDB_TAG
            if not 1 <= len(word) <= most:
                raise ValueError(f"logger.{key} has {len(word)} characters, and W&B takes 1 to {most}; shorten it")
        return self

    @property
    def has_generator(self) -> bool:
        """Whether something is trained by which the method's images come out otherwise with another generator seed."""
        method, imported = self.method, self.adapter.path is not None
        trains = method.tunes == "unet" or method.below is not None or (method.tunes == "adapter" and not imported)
        return method.adds == "synthetic" and trains

    @property
    def has_samples(self) -> bool:
        """Whether images are drawn, which come out otherwise with another sample seed."""
        return self.method.adds == "synthetic"

    @property
    def exports(self) -> bool:
        """Whether something is written for others."""
        return bool(self.export or self.push)

    def wording(self, slot: Slot, *, class_level: bool = False) -> Wording:
        """Give the template of a set's captions; the name of a wording is replaced by the wording.

        Args:
            slot: Which set.
            class_level: The template for images of which only the class is known, such as those to be made.
        """
        return self._named_wording(slot, class_level)[1]

    def _named_wording(self, slot: Slot, class_level: bool) -> tuple[str, Wording]:
        """Give the key of a wording too."""
        key, wording = f"{slot}.prompt", getattr(self, slot).prompt
        if not class_level and slot in self.prompt.captions:
            key, wording = f"prompt.captions.{slot}", self.prompt.captions[slot]
        if isinstance(wording, dict) or not re.fullmatch(r"[\w-]+", wording):
            return key, wording
        known = self.prompt.wordings.get(slot, {})
        if wording not in known:
            hint = nearest(wording, known) if known else "say a template such as `a photo of a {class_name}`"
            raise ValueError(f"{slot}.prompt={wording} is no wording of prompt.wordings.{slot}; {hint}")
        return f"prompt.wordings.{slot}.{wording}", known[wording]


def _check_templates(key: str, wording: Wording, fields: Sequence[str]) -> None:
    """Refuse templates with more in braces than the plain names of what is filled in."""
    for name, template in wording.items() if isinstance(wording, dict) else [("", wording)]:
        try:
            check_fields(template, fields)
        except ValueError as error:
            more = "" if "keywords" in fields else "; {keywords} can stand in prompt.captions"
            raise ValueError(f"{'.'.join(filter(None, [key, name]))}='{template}': {error}{more}") from None
