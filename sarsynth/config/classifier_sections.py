"""Settings of the classifiers: what joins their training set, how they train, what their scores are of."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sarsynth.config.components import targets
from sarsynth.config.image_sections import ImageSet
from sarsynth.config.section import BelowOne, Count, NonNegative, Positive, Section, Share, Text, Whole

# Arguments of timm.create_model by which a network would start from weights that no fingerprint knows.
WEIGHTS_OF_TIMM = frozenset(["pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"])


class Views(Section):
    """Views of real images: shifted by up to the share `shift` of their side, with speckle of so many `looks`."""

    shift: BelowOne
    looks: Count


class Features(Section):
    """Features between nearest `neighbours`: the last layer alone learns from them, for the last share `steps`."""

    neighbours: Count
    steps: Annotated[float, Field(gt=0, lt=1)]


class Augment(Section):
    """How many images a class has in the end (`plan`), and how those are made that join without a generator.

    Of the images of a class in the end the share `share` is synthetic, of minor classes as far as their real images
    leave room, or of all `classes` alike; what else joins repeats real images.
    """

    plan: Literal["double", "balance"] | dict[str, Whole]
    share: Share
    classes: Literal["minor", "all"]
    views: Views
    features: Features


class Classifier(Section):
    """The network that every method is scored by; `options` go to `timm.create_model`.

    `pretrained` says what weights it starts from: false, random ones; true, those that timm publishes for it; or a
    file, a folder or the address of a file.
    `image_size` and `shift` in px; `crop_scale` is a range of shares of the image's area, None crops nothing.
    `sampling` is that of the study's own classifier, whose features make prototypes; methods have theirs.
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
    sampling: Literal["uniform", "balanced"]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if own := sorted(WEIGHTS_OF_TIMM & self.options.keys()):
            raise ValueError(f"options.{own[0]}: say classifier.pretrained=true|false|FILE instead, and leave it out")
        for key, _ in targets("options", self.options):
            raise ValueError(f"{key}: timm builds the network itself, from words and numbers; leave it out")
        low, high = self.crop_scale or (1.0, 1.0)
        if not low <= high <= 1:
            raise ValueError(f"crop_scale=[{low:g}, {high:g}] should be two rising shares of the image's area, up to 1")
        return self


class Evaluate(Section):
    """Which checkpoints a score is of, and what it is compared with.

    `topk` none scores the last step of a training. `mean` is the mean score of the `k` checkpoints that do best on
    validation images; `release_vote` keeps the `keep` best of those, and lets the `k` that do best on the test set
    vote. A checkpoint is validated every `every` epochs of real images, from the share `after` of the steps on, on the
    data's own validation split; without one, on the share `val` of the training images, which are then not trained on.
    `thresholds` validation names classes by thresholds that are chosen on the same images, none by the largest logit.
    `baseline` is the method that the others of a sweep are compared with, in `replicates` bootstrap replicates; None
    compares nothing.
    `also` is a second test set, of another scene, sensor or season: the classifiers are scored on it too, as they are.
    """

    topk: Literal["none", "mean", "release_vote"]
    thresholds: Literal["none", "validation"]
    k: Count
    keep: Count
    every: Positive
    after: Share
    val: Annotated[float, Field(gt=0, lt=1)]
    baseline: Text | None
    replicates: Annotated[int, Field(ge=100)]
    also: ImageSet | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.k > self.keep:
            raise ValueError(f"keep={self.keep} checkpoints should be k={self.k} or more")
        if self.thresholds != "none" and self.topk == "release_vote":
            raise ValueError("thresholds=validation does not go with topk=release_vote, where labels are voted for")
        return self


class Fid(Section):
    """Input of the feature extractor: `normalised` images, as in its training, or those of the authors' `release`."""

    preprocess: Literal["normalised", "release"]
