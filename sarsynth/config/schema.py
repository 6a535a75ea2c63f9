"""The settings of a study: what the composed configuration must look like, checked before anything heavy is imported.

Values live in `conf/` alone; the models here say which keys there are and what they may hold. A key that names a class
(`_target_`) is checked against the signature of that class, which is read from its source, not by importing it.
"""

import ast
import importlib
import importlib.util
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sarsynth.errors import UserError

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
Wording = Text | dict[str, Text]  # a template, or one for each class and `default` for the others
Slot = Literal["data", "ors", "regular"]
DEVICES = r"auto|-1|[1-9]\d*|\d+(,\d+)+"  # of a machine, as Lightning names them


class Section(BaseModel):
    """A part of the configuration: every key is known, none has a default here unless it may be absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Component(Section):
    """A class by name and the arguments its constructor gets from the configuration."""

    target: Text = Field(alias="_target_")
    options: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, keys: Any) -> Any:
        if not isinstance(keys, Mapping):
            return keys
        return {"_target_": keys.get("_target_"), "options": {k: v for k, v in keys.items() if k != "_target_"}}

    def load(self) -> Any:
        """Import the class."""
        module, _, name = self.target.rpartition(".")
        return getattr(importlib.import_module(module), name)

    def build(self, **more: Any) -> Any:
        """Construct it from the configured arguments and those that only the caller knows."""
        return self.load()(**self.options, **more)


def _split_off(section: type[Section], keys: Any, name: str) -> Any:
    """Gather the keys that a section does not have into its component of that name."""
    if not isinstance(keys, Mapping):
        return keys
    ours = set(section.model_fields) - {name}
    return {k: keys[k] for k in keys if k in ours} | {name: {k: keys[k] for k in keys if k not in ours}}


class Base(Section):
    """The frozen diffusion model. `path` None is the one inside the package; `image_size` in px.

    `config` is for a path to one safetensors file: where its configurations and tokenizer lie, None for the hub.
    `controlnet` None is the ControlNet inside the package.
    """

    name: Text
    path: Text | None
    config: Text | None
    controlnet: Text | None
    image_size: Annotated[int, Field(ge=8, multiple_of=8)]


class Images(Section):
    """A set of images for training: its reader, and how captions are made from class names and texts.

    A `prompt` of one word is the name of a wording.
    `max_bad` is the share of images that may be unreadable or blank and are left out. Images of which a
    perceptual hash differs in up to `near_bits` of 64 bits are compared closely, and are one group if they show one
    picture.
    """

    name: Text
    prompt: Wording
    max_bad: Share
    near_bits: Annotated[int, Field(ge=0, le=64)]
    reader: Component

    @model_validator(mode="before")
    @classmethod
    def _split_off_reader(cls, keys: Any) -> Any:
        return _split_off(cls, keys, "reader")


class Encoded(Images):
    """A set that adapters train on; `flip` adds the mirror image of each, for the denoiser and the classifier."""

    flip: Literal["none", "horizontal", "vertical"]


class Data(Encoded):
    """The SAR set of the study. `allow_leak` trains on images that are also validation or test images.

    `deci_seed` draws the tenth of the training images that `split` deci is.
    """

    allow_leak: bool
    split: Literal["train", "deci"]
    deci_seed: Seed
    minor: Literal["auto"] | tuple[str, ...]


class Facts(Section):
    """Which keywords follow from annotations and pixels; see `sarsynth.captions.keywords.Rules`."""

    aspects: tuple[Literal["relation", "visibility", "heading", "size", "parts"], ...]
    noun: Text
    places: dict[str, Text]
    beside: NonNegative
    many: Annotated[int, Field(ge=2, le=11)]
    elongation: Annotated[float, Field(ge=1)]
    size: Literal["class", "image"]
    haze: Share
    contrast: NonNegative
    dark: Share
    bright: Share
    parts: tuple[Text, ...]


class Prompt(Section):
    """How captions come about: the named wordings, and the sets whose captions have keywords.

    `captions` are the templates of those sets. `describer` makes the keywords of what `facts` say of each image; None
    takes these as they are.
    """

    name: Text
    wordings: dict[Slot, dict[str, Wording]]
    captions: dict[Slot, Wording]
    facts: Facts | None
    describer: Component | None

    @model_validator(mode="before")
    @classmethod
    def _split_off_describer(cls, keys: Any) -> Any:
        if isinstance(keys, Mapping) and "_target_" not in keys:
            return {**keys, "describer": None}
        return _split_off(cls, keys, "describer")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.captions and self.facts is None:
            raise ValueError(f"captions of {', '.join(self.captions)} have no keywords; use prompt=keywords or llm")
        return self

    def build(self) -> Any:
        """Build the describer, None if there is none.

        Raises:
            UserError: It refuses a value; the message names the key but not the value, which may be a secret.
        """
        if self.describer is None:
            return None
        try:
            return self.describer.build()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
            raise UserError(f"prompt.{key}: {message[0].lower()}{message[1:]}") from None


class Loss(Section):
    """What a training image weighs: `beta` from 0, all classes alike, to 1, by inverse frequency; `gamma` is focal."""

    beta: Share
    gamma: NonNegative


class Method(Section):
    """One row of the results table, in the answers it is made of.

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


class Encoding(Section):
    """How images become latents and captions become text features, so many at a time; once for each set."""

    batch_size: Count


class Adapter(Section):
    """Where adapters sit: the name of a pattern, and the patterns (regular expressions on names of U-Net modules).

    `path` is a LoRA trained elsewhere, which then is the method's SAR adapter.
    """

    path: Text | None
    targets: Text
    patterns: dict[str, Text]

    @property
    def target_modules(self) -> str:
        """The chosen pattern; PEFT wants it to match the whole name of a module."""
        return self.patterns[self.targets]


class Optimisation(Section):
    """A training loop: AdamW, linear warm-up, one cosine to zero. Steps are optimiser steps."""

    learning_rate: Positive
    warmup_steps: Whole
    max_steps: Count
    batch_size: Count
    weight_decay: NonNegative
    max_grad_norm: Positive
    checkpoint_every: Count


class AdapterTraining(Optimisation):
    """An adapter; `warmup_share` of its own steps, where it is given, takes the place of `warmup_steps`."""

    warmup_share: Share | None

    def warmup(self, steps: int, *, whole: bool) -> int:
        """Steps of warm-up of an adapter.

        Args:
            steps: Its own in all.
            whole: Whether it trains on the whole set. One of a part has fewer steps, of which a tenth at most is
                warm-up, unless a share says otherwise.
        """
        if self.warmup_share is not None:
            return round(self.warmup_share * steps)
        return self.warmup_steps if whole else min(self.warmup_steps, steps // 10)


class OrsTraining(AdapterTraining):
    """Stage `ors`. The rank of SAR adapters belongs to the method."""

    rank: Count


class SarTraining(AdapterTraining):
    """Stage `sar`; `scale_below` is that of the frozen ORS adapter below, as SAR adapters train."""

    scale_below: float


class Tuning(Optimisation):
    """A whole U-Net; what is kept is the moving average of its weights."""

    decay: Literal["cosine", "constant"]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]


class AutoencoderTraining(Optimisation):
    """First half of stage `base`; `kl_weight` is per latent value."""

    kl_weight: NonNegative


class UNetTraining(Optimisation):
    """Second half of stage `base`; `caption_dropout` is the share of images shown with an empty caption."""

    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    caption_dropout: Share


class ControlNetTraining(Optimisation):
    """Stage `controlnet`; `caption_dropout` is the share of images shown with an empty caption."""

    caption_dropout: Share


class BaseTraining(Section):
    """Stage `base`: the autoencoder first, then the U-Net together with its text encoder.

    `generic_pictures` of shapes on textures join the photographs; the autoencoder alone sees the speckled half of them.
    """

    generic_pictures: Annotated[int, Field(ge=10)]
    autoencoder: AutoencoderTraining
    unet: UNetTraining


class Training(Section):
    """The stages that train. `base` is None for a base that is not made here.

    At most `micro_batch` samples go through a network at once; what a step comes to depends neither on that nor on
    `gradient_checkpointing` and `compile`.
    """

    micro_batch: Count | Literal["auto"]
    gradient_checkpointing: bool
    compile: bool
    base: BaseTraining | None
    ors: OrsTraining
    sar: SarTraining
    finetune: Tuning
    scratch: Tuning
    controlnet: ControlNetTraining


class Contours(Section):
    """Where the contours come from that images follow, and how: `sources` none and `root` None follow nothing.

    `thresholds` are Canny's, `blur` in px. `root` is a folder of contour maps that join those of the sources' images.
    An image gives a contour if it has up to `max_instances` objects, all whole, of which no two have more than
    `max_overlap` (a share of the smaller box) in common. A contour serves up to `reuse_cap` images.
    `conditioning_scale` is that of the ControlNet, which acts between two shares of the sampling steps.
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
        for key in ("thresholds", "guidance_interval"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}=[{low:g}, {high:g}] should be two rising numbers")
        return self


class ControlNet(Section):
    """Which ControlNet is used, `base.controlnet` or that of stage `controlnet`: trained on what, begun from what."""

    use: Literal["base", "trained"]
    on: Literal["ors", "sar", "regular"]
    init: Literal["shipped", "unet"]


class Prototypes(Section):
    """K-means on the SAR training images: on features of the `classifier`, or on the latents of the `base`."""

    k: Count
    features: Literal["classifier", "base"]


class Views(Section):
    """Views of real images: shifted by up to the share `shift` of their side, with speckle of so many `looks`."""

    shift: Annotated[float, Field(ge=0, lt=1)]
    looks: Count


class Features(Section):
    """Over-sampling between nearest `neighbours`; the last layer learns from it alone for the share `steps` of all."""

    neighbours: Count
    steps: Annotated[float, Field(gt=0, lt=1)]


class Augment(Section):
    """How many images join each class: `ratio` times what `plan` says; how those are made that need no generator."""

    plan: Literal["double", "balance"] | dict[str, Whole]
    ratio: NonNegative
    views: Views
    features: Features


class Generate(Section):
    """The synthetic set. `scales` are w1 (ORS adapter) and w2 (all SAR adapters together)."""

    speckle: Literal["as_made", "matched"]
    per_class: Count
    scales: tuple[float, float]
    guidance_scale: NonNegative
    num_inference_steps: Count
    batch_size: Count


class Evaluate(Section):
    """What a score is of, and what it is compared with.

    `topk` none is the last step of a training. `mean` is the mean score of the `k` checkpoints that do best on
    validation images; `release_vote` takes the `keep` best of them, and of these a vote of the `k` best on the test
    set. Validation comes `every` so many epochs of real images, once the share `after` of the steps is done, on the
    data's own split, or where there is none on the share `val` of the training images, which then are not trained on.
    `baseline` is the method that the others of a sweep are compared with, in `replicates` bootstrap replicates; None
    compares nothing.
    """

    topk: Literal["none", "mean", "release_vote"]
    k: Count
    keep: Count
    every: Positive
    after: Share
    val: Annotated[float, Field(gt=0, lt=1)]
    baseline: Text | None
    replicates: Annotated[int, Field(ge=100)]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.k > self.keep:
            raise ValueError(f"keep={self.keep} checkpoints should be k={self.k} or more")
        return self


# Arguments of timm.create_model by which it would start from weights that no fingerprint knows.
WEIGHTS_OF_TIMM = frozenset(["pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"])


class Classifier(Section):
    """The network whose labels are the point of the study; `options` go to `timm.create_model`.

    `pretrained` says what weights it starts from: false, random ones; true, those that timm publishes for it; or a
    file, a folder or the address of a file.
    `image_size` and `shift` in px; `crop_scale` is a range of shares of the image's area, None crops nothing.
    """

    network: Text
    options: dict[str, Any]
    pretrained: bool | Text
    image_size: Count
    shift: Whole
    crop_scale: tuple[Positive, Positive] | None
    optimizer: Literal["sgd", "adamw"]
    learning_rate: Positive
    weight_decay: NonNegative
    warmup_steps: Whole
    epochs: Count
    batch_size: Count

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if own := sorted(WEIGHTS_OF_TIMM & self.options.keys()):
            raise ValueError(f"options.{own[0]}: say classifier.pretrained=true|false|FILE instead, and leave it out")
        low, high = self.crop_scale or (1.0, 1.0)
        if not low <= high <= 1:
            raise ValueError(f"crop_scale=[{low:g}, {high:g}] should be two rising shares of the image's area, up to 1")
        return self


class Fid(Section):
    """What the extractor of fidelity is shown: `normalised` images, as in its training, or the `release`'s input."""

    preprocess: Literal["normalised", "release"]


class Filter(Section):
    """Which synthetic images may join: the name of a rule, and its class with its arguments."""

    name: Text
    rule: Component

    @model_validator(mode="before")
    @classmethod
    def _split_off_rule(cls, keys: Any) -> Any:
        return _split_off(cls, keys, "rule")


class Trainer(Section):
    """What may be said of Lightning's Trainer.

    Everything else that it takes follows from the run, or would leave a training unfinished (`max_time`,
    `limit_train_batches`), or do it in another way than its fingerprint says. Adapters stay in float32, so there is no
    `bf16-true`; other strategies share out weights or processes in ways that no stage is made for.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: int | str | tuple[Whole, ...]
    num_nodes: Count
    strategy: Literal["auto", "ddp"]
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    deterministic: bool

    @field_validator("devices")
    @classmethod
    def _known(cls, devices: Any) -> Any:
        listed = isinstance(devices, tuple)
        if not (devices if listed else re.fullmatch(DEVICES, str(devices))):
            raise ValueError(f"{devices} names no devices; say how many, auto or -1 for all, or list them")
        return list(devices) if listed else devices


class Preview(Section):
    """Pictures of what an adapter in training makes, of the first few captions; `every` so many optimiser steps."""

    every: Count
    prompts: Count


class Paths(Section):
    """Folders, relative to where the script is started."""

    logs: Text
    store: Text


class Settings(Section):
    """The whole composed configuration; one tree for the three scripts."""

    # train.py alone has it
    stage: Literal["data", "base", "ors", "classifier", "prototypes", "sar", "controlnet"] | None = None
    # evaluate.py alone has it: instead of evaluating, rebuild the report of this sweep's folder
    report: Text | None = None
    # generate.py alone has these: instead of images, a LoRA file of all that the method does for a class
    export: Text | None = None
    export_format: Literal["diffusers", "kohya"] | None = None
    class_name: Text | None = None
    seed: Seed
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    build: Literal["auto", "require", "plan"]
    plan: Text | None  # the file that `build=plan` writes too
    pack: bool
    stage2_on: Literal["ors", "base"]
    base: Base
    data: Data
    ors: Encoded
    regular: Images
    radiometry: Component
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
    sampler: Component
    classifier: Classifier
    evaluate: Evaluate
    fid: Fid
    filter: Filter | None
    trainer: Trainer
    logger: Component | None
    preview: Preview | None = None  # of loggers that show pictures
    paths: Paths

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} should be distinct")
        if self.adapter.targets not in self.adapter.patterns:
            hint = nearest(self.adapter.targets, self.adapter.patterns)
            raise ValueError(f"adapter.targets={self.adapter.targets} is not among adapter.patterns; {hint}")
        for slot in get_args(Slot):
            self.wording(slot)
            images = getattr(self, slot)
            turned = isinstance(images, Encoded) and images.flip != "none"
            if turned and slot in self.prompt.captions and self.prompt.facts and "heading" in self.prompt.facts.aspects:
                raise ValueError(
                    f"{slot}.flip={images.flip} would turn the headings that captions name; say {slot}.flip=none, or "
                    "leave heading out of prompt.facts.aspects"
                )
        if self.plan and self.build != "plan":
            raise ValueError(f"plan={self.plan} is where a plan is written; say build=plan too")
        if self.export and not self.class_name:
            raise ValueError(f"export={self.export} needs class_name=..., the class that the file is to make images of")
        if self.adapter.path and self.method.partition not in (None, "whole"):
            raise ValueError(f"adapter.path is one adapter, and method={self.method.name} has several; use method=lora")
        if self.radiometry.target.endswith(".Log"):
            matched = self.method.adds == "synthetic" and self.generate.speckle == "matched"
            if matched or self.method.adds in ("augmented", "pasted"):
                key = "generate.speckle=matched" if matched else f"method={self.method.name}"
                raise ValueError(
                    f"{key} takes grey levels for amplitudes, and radiometry=log makes them decibels; "
                    "use radiometry=linear or mean_sigma"
                )
        if self.stage == "base" and self.train.base is None:
            raise ValueError(
                f"stage=base cannot make base={self.base.name}, which comes trained; base=sd-nano can be made"
            )
        return self

    def wording(self, slot: Slot, *, class_level: bool = False) -> Wording:
        """Give the template of a set's captions, names of wordings being looked up.

        Args:
            slot: Which set.
            class_level: That of images of which only the class is known, to be made for one.
        """
        said = getattr(self, slot).prompt if class_level else self.prompt.captions.get(slot, getattr(self, slot).prompt)
        if isinstance(said, dict) or not re.fullmatch(r"[\w-]+", said):
            return said
        known = self.prompt.wordings.get(slot, {})
        if said not in known:
            near = nearest(said, known) if known else "say a template such as `a photo of a {class_name}`"
            raise ValueError(f"{slot}.prompt={said} is no wording of prompt.wordings.{slot}; {near}")
        return known[said]


@dataclass(frozen=True)
class _Slot:
    """A place in the configuration for a component: what it may not say because the code does, and siblings."""

    key: str
    component: Component
    ours: frozenset[str] = frozenset()
    siblings: tuple[str, ...] = ()


def _slots(settings: Settings) -> Iterator[_Slot]:
    for key in ("data", "ors", "regular"):
        images: Images = getattr(settings, key)
        yield _Slot(key, images.reader, siblings=tuple(set(type(images).model_fields) - {"reader"}))
    yield _Slot("radiometry", settings.radiometry)
    if settings.prompt.describer:
        yield _Slot("prompt", settings.prompt.describer, siblings=tuple(set(Prompt.model_fields) - {"describer"}))
    yield _Slot("sampler", settings.sampler)
    if settings.filter:
        yield _Slot("filter", settings.filter.rule, siblings=("name",))
    if settings.logger:
        yield _Slot(
            "logger",
            settings.logger,
            ours=frozenset({"save_dir", "dir", "version", "id", "experiment", "group", "job_type"}),
        )


def check(config: DictConfig) -> Settings:
    """Turn a composed configuration into settings.

    Raises:
        UserError: A key is unknown or missing, or a value is out of place; the message names the key and what is near.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        choices = _choices(_annotation(Settings, key.split(".")))
        raise UserError(f"{key} is not set; say {key}={'|'.join(choices) or '...'}") from error
    except OmegaConfBaseException as error:
        told = str(error).splitlines()[0].removeprefix("UserError raised while resolving interpolation: ")
        raise UserError(f"{error.full_key}: {told}") from error
    try:
        settings = Settings.model_validate(plain)
    except ValidationError as error:
        raise UserError(_explain(error)) from error
    for slot in _slots(settings):
        _check_component(slot)
    settings.prompt.build()
    return settings


def scale_warning(settings: Settings) -> str | None:
    """Say so if w1 + w2 of what the method uses lies outside (0.5, 2), the paper's range; None if all is well."""
    if settings.method.tunes != "adapter":
        return None
    w1, w2 = settings.generate.scales
    total = w2 + (w1 if settings.method.below else 0.0)
    if 0.5 < total < 2:
        return None
    terms = "w1 + w2" if settings.method.below else "w2"
    return f"generate.scales: {terms} = {total:g} lies outside (0.5, 2), the range in which the paper's images hold up"


def nearest(word: str, valid: Iterable[str], section: str = "") -> str:
    """Name the valid word nearest to a wrong one, and all of them if they are few.

    Args:
        word: What was said.
        valid: What could have been.
        section: Dotted key of the section whose keys these are, if they are keys.
    """
    words = sorted(valid)
    closest = ".".join(filter(None, [section, *get_close_matches(word, words, n=1, cutoff=0.0)]))
    return f"the nearest is {closest}" + (f" (of {', '.join(words)})" if 1 < len(words) <= 12 else "")


def _explain(error: ValidationError) -> str:
    """The most telling of pydantic's errors, in one line."""
    order = ["extra_forbidden", "value", "literal_error", "missing"]

    def rank(detail: Any) -> int:
        told = detail["type"] if detail["type"] in order else "value"
        # A union complains once for each of its branches; a word was meant to be one of the words.
        misread = isinstance(detail["input"], str) != (told == "literal_error")
        return order.index(told) + len(order) * (told in ("value", "literal_error") and misread)

    first = min(error.errors(include_url=False), key=rank)
    keys = [str(part) for part in first["loc"] if "[" not in str(part)]  # `dict[str,int]` names a branch, not a key
    key, value = ".".join(keys).replace(".target", "._target_"), first["input"]
    match first["type"]:
        case "extra_forbidden":
            section = keys[:-1]
            near = nearest(keys[-1], _fields(_annotation(Settings, section)), ".".join(section))
            ours = "; all else of Lightning's Trainer follows from the run" if section == ["trainer"] else ""
            return f"unknown key {key}; {near}{ours}"
        case "missing":
            return f"key {key} is missing"
        case "value_error":
            return (f"{key}: " if key else "") + first["msg"].removeprefix("Value error, ")
        case "literal_error":
            return (
                f"{key}={value} is not a value of {key}; {nearest(str(value), _choices(_annotation(Settings, keys)))}"
            )
    return f"{key}={value}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _annotation(model: Any, keys: Sequence[str]) -> Any:
    """The type that a dotted key has, None if there is no such key."""
    for key in keys:
        if key.isdigit():  # a place in a list, whose type says what may stand there
            continue
        fields = _fields(model)
        if key not in fields:
            return None
        model = fields[key]
    return model


def _fields(annotation: Any) -> dict[str, Any]:
    """The keys that a section (or an optional one) has, and their types."""
    for model in (annotation, *typing.get_args(annotation)):
        if isinstance(model, type) and issubclass(model, BaseModel):
            return {field.alias or name: field.rebuild_annotation() for name, field in model.model_fields.items()}
    return {}


def _choices(annotation: Any) -> list[str]:
    """The words that a type allows, however deep in a union they stand."""
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    return [word for part in typing.get_args(annotation) for word in _choices(part)]


# --- Signatures, read from source -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One argument of a constructor; `choices` are those of a `Literal`, empty if anything goes."""

    name: str
    required: bool
    choices: tuple[str, ...]


# Loggers that hand unknown arguments on, and to whom.
FORWARDS = {"lightning.pytorch.loggers.wandb.WandbLogger": "wandb.sdk.wandb_init.init"}


def _check_component(slot: _Slot) -> None:
    target = slot.component.target
    parameters = {parameter.name: parameter for parameter in signature(target, f"{slot.key}._target_")}
    allowed = (set(parameters) - slot.ours) | set(slot.siblings)
    for name, value in slot.component.options.items():
        if name in slot.ours:
            raise UserError(f"{slot.key}.{name} is decided by the run itself; remove it")
        if name not in allowed:
            raise UserError(f"unknown key {slot.key}.{name}; {nearest(name, allowed, slot.key)}")
        choices = parameters[name].choices
        if choices and isinstance(value, str) and value not in choices:
            raise UserError(f"{slot.key}.{name}={value} is not a value of {slot.key}.{name}; {nearest(value, choices)}")
    for parameter in parameters.values():
        if parameter.required and parameter.name not in slot.component.options and parameter.name not in slot.ours:
            raise UserError(f"key {slot.key}.{parameter.name} is missing, which {target} needs")


def signature(target: str, key: str = "_target_") -> list[Parameter]:
    """Read the parameters of a class or function from its source, without importing its module.

    Args:
        target: Dotted path, also through modules that only re-export the name.
        key: The configuration key that holds it, for the message.

    Raises:
        UserError: There is no such module, or no such name in it.
    """
    found = _definition(target)
    if found is None:
        module, _, name = target.rpartition(".")
        known = {f"{module}.{other}" for other in _names(module)}
        near = nearest(f"{module}.{name}", known) if known else f"no module {module} with a class in it"
        raise UserError(f"{key}={target} does not exist; {near}")
    module, node = found
    parameters = _parameters(module, node)
    if forward := FORWARDS.get(f"{module}.{node.name}"):
        known = {parameter.name for parameter in parameters}
        parameters += [parameter for parameter in signature(forward) if parameter.name not in known]
    return parameters


Definition = ast.ClassDef | ast.FunctionDef


def _tree(module: str) -> tuple[ast.Module, str] | None:
    """Parse a module; return its tree and the package that its relative imports start from."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        spec = None
    for location in (spec.submodule_search_locations or []) if spec else []:
        place = Path(location, *rest)
        for file, package in [
            (place / "__init__.py", module),
            (place.with_name(f"{place.name}.py"), module.rpartition(".")[0]),
        ]:
            if file.is_file():
                return ast.parse(file.read_bytes()), package
    return None


def _definition(target: str) -> tuple[str, Definition] | None:
    """Find where a class or function is written; return its module and its syntax tree."""
    module, _, name = target.rpartition(".")
    if (parsed := _tree(module)) is None:
        return None
    tree, package = parsed
    for node in tree.body:
        if isinstance(node, Definition) and node.name == name:
            return module, node
    for found in ast.walk(tree):
        if isinstance(found, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * found.level + (found.module or ""), package)
            for alias in found.names:
                if (alias.asname or alias.name) == name and f"{origin}.{alias.name}" != target:
                    return _definition(f"{origin}.{alias.name}")
    return None


def _names(module: str) -> set[str]:
    """The public classes and functions that a module defines, or a package hands on."""
    if (parsed := _tree(module)) is None:
        return set()
    tree, package = parsed
    names = {node.name for node in tree.body if isinstance(node, Definition)}
    if package == module:
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names |= {alias.asname or alias.name for node in imports for alias in node.names}
    return {name for name in names if name.isidentifier() and not name.startswith("_")}


def _parameters(module: str, node: Definition) -> list[Parameter]:
    if isinstance(node, ast.FunctionDef):
        return _arguments(node)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _arguments(item)[1:]
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        return [_parameter(ast.unparse(field.target), field.annotation, field.value is None) for field in fields]
    for base in node.bases:
        if found := _definition(f"{module}.{ast.unparse(base)}"):
            return _parameters(*found)
    return []


def _arguments(function: ast.FunctionDef) -> list[Parameter]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    optional = len(positional) - len(arguments.defaults)
    return [_parameter(a.arg, a.annotation, index < optional) for index, a in enumerate(positional)] + [
        _parameter(a.arg, a.annotation, default is None)
        for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]


def _parameter(name: str, annotation: ast.expr | None, required: bool) -> Parameter:
    nodes = list(ast.walk(annotation)) if annotation else []
    literals = [
        node for node in nodes if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal")
    ]
    free = any(isinstance(node, ast.Name) and node.id == "str" for node in nodes)  # `Literal[...] | str`
    words = [leaf.value for node in literals for leaf in ast.walk(node.slice) if isinstance(leaf, ast.Constant)]
    return Parameter(name, required, () if free else tuple(word for word in words if isinstance(word, str)))
