"""What the jobs of the paper's Table 3 ask a card for: how much of what, counted from their composed settings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sarsynth.cli import check_jobs
from sarsynth.config.schema import Settings

from hydra._internal.utils import get_args_parser

PUBLISHED = {"sar": 6971, "ors": 53101}  # training images of the paper's two sets, which no configuration knows
OVERRIDES = ("experiment=table3", "base=sd15", "classifier=resnet50")
TENTH = 10  # data.split=deci draws one image in ten


@dataclass(frozen=True)
class Work:
    """One kind of work.

    Attributes:
        name: What is made.
        times: How many of it: each is made once, whatever the number of jobs that use it.
        each: Samples or images that one of them takes.
        keys: The settings that this follows from.
        rate: The measured case whose samples or images a second apply.
    """

    name: str
    times: int
    each: int
    keys: str
    rate: str

    def hours(self, rates: Mapping[str, float]) -> float | None:
        """Hours of the card at these samples or images a second, by case; None where its rate is not known."""
        return self.times * self.each / rates[self.rate] / 3600 if self.rate in rates else None


def jobs_of(*overrides: str) -> list[Settings]:
    """Compose and check the jobs of `python evaluate.py -m` with these overrides."""
    return [settings for settings, _ in check_jobs("evaluate", get_args_parser().parse_args(["-m", *overrides]))]


def works(jobs: Sequence[Settings], images: Mapping[str, int] = PUBLISHED) -> list[Work]:
    """Count what the jobs of one sweep make, each artifact once.

    Args:
        jobs: They may differ in method and `data.split` alone.
        images: Training images of the `sar` and the `ors` set.
    """
    splits = list(dict.fromkeys(job.data.split for job in jobs))
    tuning = [job for job in jobs if job.method.tunes != "nothing"]
    counted = _latents(tuning, images) if tuning else []
    return [*counted, *_trainings(jobs), *_images(jobs), *_classifiers(jobs, splits, images["sar"])]


def _latents(tuning: Sequence[Settings], images: Mapping[str, int]) -> list[Work]:
    """Views of the training images that the autoencoder encodes, once for each split and for the ORS set."""
    first = tuning[0]
    splits = {job.data.split for job in tuning}
    seen = sum(_size(split, images["sar"]) for split in splits) * _views(first.data.flip)
    works = [Work("latents of SAR images", 1, seen, "--sar, data.split, data.flip", "encoding")]
    if any(job.method.below for job in tuning):
        seen = images["ors"] * _views(first.ors.flip)
        works.append(Work("latents of ORS images", 1, seen, "--ors, ors.flip", "encoding"))
    return works


def _trainings(jobs: Sequence[Settings]) -> Iterator[Work]:
    """Adapters and tuned bases: one of each method and split, the ORS adapter once."""
    first = jobs[0].train
    if any(job.method.below for job in jobs):
        each = first.ors.max_steps * first.ors.batch_size
        yield Work("ORS adapter", 1, each, "train.ors.max_steps x batch_size", "lora")
    methods = {job.method.name: job.method for job in jobs}
    for name, method in methods.items():
        times = len({job.data.split for job in jobs if job.method.name == name})
        if method.tunes == "adapter":
            each, keys = first.sar.max_steps * first.sar.batch_size, "train.sar.max_steps x batch_size"
            rate = "lora" if method.partition == "whole" else "plora"
            yield Work(f"SAR adapters of {name}", times, each, f"{keys}, data.split", rate)
        elif method.tunes == "unet":
            key = "finetune" if method.start == "base" else "scratch"
            recipe = getattr(first, key)
            each, keys = recipe.max_steps * recipe.batch_size, f"train.{key}.max_steps x batch_size"
            yield Work(f"U-Net of {name}", times, each, f"{keys}, data.split", "finetune")


def _images(jobs: Sequence[Settings]) -> Iterator[Work]:
    """Synthetic sets."""
    making = [job for job in jobs if job.method.adds == "synthetic"]
    if making:
        first = making[0]
        classes = len(first.data.reader.options["train"])
        each = first.generate.per_class * classes
        keys = f"generate.per_class x {classes} classes of data, method, data.split"
        contours = "generation, contours" if first.contours.wanted else "generation"
        yield Work("synthetic sets", len(making), each, keys, contours)


def _classifiers(jobs: Sequence[Settings], splits: Sequence[str], images: int) -> Iterator[Work]:
    """Those of the evaluations, and one of each split whose features make prototypes and measure fidelity."""
    for split in splits:
        of_split = [job for job in jobs if job.data.split == split]
        chosen, size = of_split[0].classifier, _size(split, images)
        each = math.ceil(chosen.epochs * size / chosen.batch_size) * chosen.batch_size
        times = sum(len(job.seeds) for job in of_split) + 1
        keys = "seeds x jobs + 1, classifier.epochs x --sar"
        yield Work(f"classifiers on {split}", times, each, keys, "classifier")


def _size(split: str, images: int) -> int:
    return round(images / TENTH) if split == "deci" else images


def _views(flip: str) -> int:
    return 1 if flip == "none" else 2
