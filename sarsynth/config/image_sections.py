"""Settings of the image sets: how they are read and captioned, and which synthetic images may join."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from sarsynth.config.components import Component, split_off
from sarsynth.config.section import Count, NonNegative, Section, Seed, Share, Text
from sarsynth.errors import UserError

Wording = Text | dict[str, Text]  # a template, or one for each class and `default` for the others
Slot = Literal["data", "ors", "regular"]


class Reader(Component):
    """What lists and reads the images of a set; see `sarsynth.data.records.Source`."""

    what = "reader of images"
    provides = ("records", "read", "fingerprint")


class ImageSet(Section):
    """A set of images: its reader, and which of its images are believed.

    Up to the share `max_bad` of the images may be unreadable or blank, and is left out, and so are those that the file
    `leave_out` lists. Images whose perceptual hashes differ in up to `near_bits` of 64 bits are compared closely; those
    that show one picture are one group. `fit` says what becomes of images that are not square.
    """

    name: Text
    max_bad: Share
    leave_out: Text | None
    fit: Literal["crop", "pad", "stretch"]
    near_bits: Annotated[int, Field(ge=0, le=64)]
    reader: Reader

    @model_validator(mode="before")
    @classmethod
    def _split_off_reader(cls, keys: Any) -> Any:
        return split_off(cls, keys, "reader")


class Images(ImageSet):
    """A set of images for training, and how captions are made from class names and texts.

    A `prompt` of one word names a wording.
    """

    prompt: Wording


class Encoded(Images):
    """A set that adapters train on; `flip` adds the mirror image of each, for adapters and classifiers."""

    flip: Literal["none", "horizontal", "vertical"]


class Data(Encoded):
    """The SAR set of the study.

    Training images that are also validation or test images are refused or, with `leak` drop, left out of training;
    `allow_leak` trains on them. `split` deci trains on a tenth of the
    training images, drawn with `deci_seed`. `minor_images` are the training images of each minor class that are left,
    as an order that `minor_seed` draws has them, so that more of them hold the fewer; None is all.
    """

    leak: Literal["refuse", "drop"]
    allow_leak: bool
    split: Literal["train", "deci"]
    deci_seed: Seed
    minor: Literal["auto"] | tuple[str, ...]
    minor_images: Count | None
    minor_seed: Seed

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.allow_leak and self.leak == "drop":
            raise ValueError("data.allow_leak=true keeps what data.leak=drop leaves out; say one of them")
        return self


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


class Describer(Component):
    """What finds keywords for images; see `sarsynth.captions.templates.Describer`."""

    what = "describer"
    provides = ("describe",)


class Prompt(Section):
    """How captions are made: named `wordings`, and `captions`, the templates of the sets whose captions have keywords.

    `facts` say what is known of each image. `describer` turns that into keywords; None takes it as it is.
    """

    name: Text
    wordings: dict[Slot, dict[str, Wording]]
    captions: dict[Slot, Wording]
    facts: Facts | None
    describer: Describer | None

    @model_validator(mode="before")
    @classmethod
    def _split_off_describer(cls, keys: Any) -> Any:
        if isinstance(keys, Mapping) and "_target_" not in keys:
            return {**keys, "describer": None}
        return split_off(cls, keys, "describer")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.captions and self.facts is None:
            raise ValueError(f"captions of {', '.join(self.captions)} have no keywords; use prompt=keywords or llm")
        return self

    def build(self) -> Any:
        """Build the describer; None without one.

        Raises:
            UserError: It refuses a value. The message names the key but not the value, which may be a secret.
        """
        if self.describer is None:
            return None
        try:
            self.describer.check_kind()
            return self.describer.build()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
            raise UserError(f"prompt.{key}: {message[0].lower()}{message[1:]}") from None
        except UserError as error:
            raise UserError(f"prompt.{error}") from error


class Rule(Component):
    """Which synthetic images stay; see `sarsynth.filters.Rule`."""

    what = "filter"
    provides = ("judge",)


class Filter(Section):
    """Which synthetic images may join: the name of a rule, and its class with its arguments."""

    name: Text
    rule: Rule

    @model_validator(mode="before")
    @classmethod
    def _split_off_rule(cls, keys: Any) -> Any:
        return split_off(cls, keys, "rule")
