"""A study: ask for a result, and what is missing below it is made, once.

Each method of `Study` returns an artifact of the store. What an artifact is made from is named twice, and nowhere else:
by its settings and inputs (the fingerprint), and by its builder, which reads the same.
"""

import json
import math
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsynth import processes
from sarsynth.captions.templates import digest_of
from sarsynth.classifier import pretrained
from sarsynth.classifier.augmentation import Augmentation
from sarsynth.classifier.classification import Classifier, ClassifierRecipe, extract_features, fit_classifier
from sarsynth.classifier.plan import added
from sarsynth.classifier.pretrained import Pretrained
from sarsynth.config.schema import Component, Encoded, Images, Settings, Slot, nearest
from sarsynth.console import console, progress
from sarsynth.data.datamodules import LabelledImages
from sarsynth.data.health import Scan
from sarsynth.data.radiometry import EightBit, Radiometry
from sarsynth.data.records import ImageRecord, Source, Split, class_counts, deci, digest, minor_classes
from sarsynth.data.transforms import load_images, to_channels, to_uint8
from sarsynth.diffusion import prototypes
from sarsynth.diffusion.adapters import Adapter, concatenate, folded, load
from sarsynth.diffusion.base import Base, architecture, resolve
from sarsynth.diffusion.controlnet import ContourConditioning
from sarsynth.diffusion.latents import Latents, write_latents, write_texts
from sarsynth.diffusion.prototypes import Partition
from sarsynth.diffusion.sampling import SampleRequest, sample
from sarsynth.errors import NotFetchedError, UserError
from sarsynth.report import pictures
from sarsynth.report.tables import counts_table, partition_table
from sarsynth.stages import describe, find_contours, fit_radiometry, image_sets, match_speckle, train_adapters, work
from sarsynth.stages.find_contours import Guides
from sarsynth.store.artifacts import CHECKPOINTS, UNKNOWN, Artifact
from sarsynth.store.building import Store
from sarsynth.tracking import Tracker
from sarsynth.training.compute import Compute
from sarsynth.training.fitting import Fitting
from sarsynth.training.precision import Precision
from sarsynth.training.tasks import StepOptions

STRIP_SCALES = (0.0, 0.5, 1.0)  # of the whole stack, as in the paper's Figure 1b
STRIP_IMAGES = 4  # a class and scale
WRITERS = 2  # threads that write images
Role = Literal["ors", "sar", "regular"]
Value = TypeVar("Value")
SLOTS: dict[Role, Slot] = {"sar": "data", "ors": "ors", "regular": "regular"}  # in the settings
STAGES: dict[Role, str] = {"sar": "sar", "ors": "ors", "regular": "controlnet"}  # that train on latents


class Study:
    """The artifacts of one composed configuration.

    Args:
        settings: The configuration.
        tracker: Where scalars and pictures of this run go.
        overrides: What was said on the command line; commands that the study proposes say it again.
    """

    def __init__(self, settings: Settings, tracker: Tracker, overrides: Sequence[str] = ()) -> None:
        self.settings, self.tracker, self.overrides = settings, tracker, overrides
        trainer, self.planning = settings.trainer.model_dump(), settings.build == "plan"
        self.compute = Compute.planned(trainer) if self.planning else Compute.of(trainer)
        self.store = Store(Path(settings.paths.store), settings.build, console.print)
        self.scans: ByRole[Scan] = ByRole(lambda role: Scan.load(image_sets.scanned(self, role).path))
        # Without bad images, with groups that pixels show.
        self.sources: ByRole[Source] = ByRole(lambda role: image_sets.curated(self, role))
        # How the pixels of each become grey levels; optical images have them already.
        self.radiometry: ByRole[Radiometry] = ByRole(
            lambda role: (
                fit_radiometry.fitted(self, built("radiometry", self.settings.radiometry))
                if role == "sar"
                else EightBit()
            )
        )
        # What decides those grey levels: whatever is made from them names it.
        self.fingerprints: ByRole[dict[str, Any]] = ByRole(
            lambda role: {"content": self.sources[role].fingerprint(), "radiometry": self.radiometry[role].plain}
        )
        # Where captions have keywords, those of the training images.
        self.keywords: ByRole[Artifact | None] = ByRole(
            lambda role: describe.keywords_of(self, role, self.training_records(role))
        )
        self.captions: ByRole[list[str]] = ByRole(
            lambda role: describe.captions_of(self, role, self.training_records(role), self.keywords[role])
        )
        self._training: ByRole[list[ImageRecord]] = ByRole(self._trained_on)
        self.leaks: dict[str, Any] = {}  # what data.allow_leak let pass, by where it is
        self.crossing: dict[str, int] = {}  # near-duplicates across splits, of each set that was learnt from
        self.absent: dict[Artifact, NotFetchedError] = {}  # what a plan has to leave on the hub
        self._shown: set[Artifact] = set()
        self._counted: set[Role] = set()
        self._bases: dict[Artifact, Base] = {}
        self._adapters: dict[Artifact, Adapter] = {}

    # --- What is there -----------------------------------------------------------------------------------------------

    @cached_property
    def opened(self) -> dict[Role, Source]:
        """The image sets as they are; the photographs teach a ControlNet, if asked to.

        Raises:
            UserError: The settings name a class that the SAR set has not; said before any image is looked at.
        """
        opened = {role: open_source(slot, self.images_of(role)) for role, slot in SLOTS.items()}
        chosen, none = self.settings, dict.fromkeys(opened["sar"].classes, 0)
        added(chosen.augment.plan, none, minor_classes(none, chosen.data.minor), chosen.augment.ratio)
        if chosen.class_name is not None and chosen.class_name not in none:
            raise UserError(f"class_name={chosen.class_name}: {nearest(chosen.class_name, none)}")
        return opened

    @cached_property
    def contents(self) -> "ByRole[str]":
        """What lies in each of them, hashed once a run."""
        return ByRole(lambda role: self.opened[role].fingerprint())

    def slot(self, role: Role) -> Slot:
        """The key that a set has in the settings."""
        return SLOTS[role]

    @property
    def classes(self) -> list[str]:
        """Names of the SAR classes, by label."""
        return self.sources["sar"].classes

    @property
    def training(self) -> list[ImageRecord]:
        """The SAR training images of this study's split."""
        return self._training["sar"]

    def training_records(self, role: Role) -> list[ImageRecord]:
        """The images of a set that are trained on."""
        return self._training[role]

    def _trained_on(self, role: Role) -> list[ImageRecord]:
        """Choose them, warn of near-duplicates of held-out images, refuse held-out images themselves."""
        chosen = self._chosen() if role == "sar" else self.records(role, "train")
        image_sets.say_across(self, role)
        return image_sets.guard(self, role, chosen)

    def _chosen(self) -> list[ImageRecord]:
        """The SAR training images of this study's split; a table says how many images each split has."""
        data, whole = self.settings.data, self.records("sar", "train")
        chosen = deci(whole, data.deci_seed) if data.split == "deci" else whole
        splits = {"train": whole, data.split: chosen} | {s: self.sources["sar"].records(s) for s in ("val", "test")}
        counts = {split: class_counts(records, self.classes) for split, records in splits.items() if records}
        self.say_counts("sar", counts, data.split)
        return chosen

    def say_counts(self, role: Role, counts: Mapping[str, dict[str, int]], trained_on: str) -> None:
        """Print, once a run, how many images of each class a set has in each split.

        Args:
            role: Which set.
            counts: By split, those of each class.
            trained_on: The split whose counts decide which SAR classes are minor.
        """
        if self.planning or role in self._counted or not counts:
            return
        self._counted.add(role)
        sar = role == "sar" and trained_on in counts
        minor = minor_classes(counts[trained_on], self.settings.data.minor) if sar else []
        title = f"Images of {SLOTS[role]}={self.images_of(role).name}" + ", * for the minor classes" * bool(minor)
        console.print(counts_table(counts, minor, title))

    def records(self, role: Role, split: Split) -> list[ImageRecord]:
        """List a split of one set.

        Raises:
            UserError: It is empty.
        """
        records = self.sources[role].records(split)
        image_sets.check_bad(self, role)
        if not records:
            key = SLOTS[role]
            raise UserError(f"{key}: no {split} images; set {key}.{split} to a folder, a list file or a fraction")
        return records

    def images_of(self, role: Role) -> Images:
        """The settings of an image set."""
        return getattr(self.settings, SLOTS[role])

    def flip(self, role: Role) -> str:
        """Which mirror images join those of a set."""
        images = self.images_of(role)
        return images.flip if isinstance(images, Encoded) else "none"

    def samples(self, role: Role, records: Sequence[ImageRecord]) -> dict[str, Any]:
        """Which samples something is made from, for its card."""
        return image_sets.samples(self, role, records)

    @cached_property
    def counts(self) -> dict[str, int]:
        """SAR training images of each class."""
        return class_counts(self.training, self.classes)

    @cached_property
    def class_captions(self) -> dict[str, str]:
        """What is said of the images that are made of each SAR class."""
        return describe.captions_of_classes(self)

    @cached_property
    def minor(self) -> list[str]:
        """The classes that the study is to help."""
        return minor_classes(self.counts, self.settings.data.minor)

    @cached_property
    def plan(self) -> dict[str, int]:
        """Images that join each class."""
        augment = self.settings.augment
        return added(augment.plan, self.counts, self.minor, augment.ratio)

    @property
    def synthetic_sizes(self) -> dict[str, int]:
        """Images of each class in a synthetic set: as many as asked for, more where the plan needs more."""
        return {name: max(self.settings.generate.per_class, self.plan[name]) for name in self.classes}

    @cached_property
    def base_artifact(self) -> Artifact:
        """The frozen base: not of our making, so its fingerprint is a hash of its files."""
        chosen = self.settings.base
        return self.found("base", lambda fetch: resolve(chosen.path, chosen.config, fetch=fetch))

    def found(self, kind: str, find: Callable[[bool], tuple[Path, str]]) -> Artifact:
        """Find, or fetch, what is not of our making; a plan fetches nothing, and notes what a run would.

        Args:
            kind: Of artifact.
            find: Gives its place and the hash of its files; is told whether it may fetch them.
        """
        try:
            where, content = find(not self.planning)
        except NotFetchedError as error:
            return self.noted(kind, self.settings.base.name, error)
        return Artifact(kind, self.settings.base.name, content[:16], where)

    def noted(self, kind: str, name: str, error: NotFetchedError) -> Artifact:
        """Stand for what a plan leaves elsewhere."""
        artifact = Artifact(kind, name, f"{UNKNOWN}{error.source}", Path(error.source))
        self.absent[artifact] = error
        return artifact

    @cached_property
    def architecture(self) -> tuple[torch.nn.Module, Mapping[str, Any]] | None:
        """The base without its weights, from which a plan tells sizes; None where it cannot, or in a run."""
        return architecture(self.base_artifact.path) if self.planning else None

    @cached_property
    def base(self) -> Base:
        """The frozen base in memory, on the device of this run."""
        return Base.load(self.base_artifact.path, self.settings.base.config).place(self.device, self.precision)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.compute.device

    @property
    def precision(self) -> Precision:
        """In which networks compute."""
        return self.compute.precision

    def command(self, script: str, *keys: str) -> str:
        """Say what a person types to make a part of this very study, e.g. `command("train.py", "stage=ors")`."""
        said = {key.partition("=")[0] for key in keys} | {"stage", "build", "plan"}
        kept = [override for override in self.overrides if override.partition("=")[0] not in said]
        return f"python {script} {shlex.join([*keys, *kept])}"

    def fitting(self, stage: str, *, alone: bool = False) -> Fitting:
        """How a training loop of one stage runs, in all processes of the job or alone, and where its scalars go."""
        make_trainer = self.compute.make_trainer_alone if alone else self.compute.make_trainer
        return Fitting(make_trainer, self.tracker.stage(stage), self.step_options)

    @property
    def step_options(self) -> StepOptions:
        """How the steps of trainings are computed."""
        train = self.settings.train
        return StepOptions(train.micro_batch, train.gradient_checkpointing, train.compile)

    # --- Caches: what is computed once -------------------------------------------------------------------------------

    def images(self, split: Split) -> Artifact:
        """The SAR images of a split at the classifier's size, as tensors."""
        records = self.training if split == "train" else self.records("sar", split)
        source, size = self.sources["sar"], self.settings.classifier.image_size
        user = ("train.py", "stage=classifier") if split == "train" else ("evaluate.py", "method=none")

        def build(folder: Path) -> None:
            tensors = {
                "images": load_images(source, records, size, self.radiometry["sar"]),
                "labels": torch.tensor([record.label for record in records]),
            }
            save_file(tensors, folder / "images.safetensors")

        return self.store.make(
            "cache",
            f"{self.settings.data.name}-{split}-images",
            {"source": self.fingerprints["sar"], "records": digest(records), "image_size": size},
            {},
            build,
            version=1,
            command=self.command(*user),
            samples=self.samples("sar", records),
            work=work.images(self, len(records)),
        )

    def labelled(self, split: Split) -> LabelledImages:
        """The images of `images(split)` in memory."""
        tensors = load_file(self.images(split).path / "images.safetensors")
        records = self.training if split == "train" else self.records("sar", split)
        return LabelledImages(tensors["images"], tensors["labels"], [record.path for record in records])

    def encoded(self, role: Role) -> dict[str, Artifact]:
        """What a denoiser trains on: `latents` of the training images of one set, and `texts`, their captions."""
        return {"latents": self.latents(role), "texts": self.texts(role)}

    def latents(self, role: Role) -> Artifact:
        """Latents of the training images of one set."""
        spec, flip, records = self.images_of(role), self.flip(role), self.training_records(role)
        source, size = self.sources[role], self.settings.base.image_size

        def build(folder: Path) -> None:
            write_latents(
                self.base,
                lambda rows: load_images(source, records[rows.start : rows.stop], size, self.radiometry[role]),
                len(records),
                folder,
                flip=flip,
                batch_size=self.settings.encode.batch_size,
                title=f"encoding {role.upper()} images",
            )

        return self.store.make(
            "cache",
            f"{spec.name}-{role}-latents",
            {"source": self.fingerprints[role], "records": digest(records), "image_size": size, "flip": flip},
            {"base": self.base_artifact},
            build,
            version=2,
            command=self.command("train.py", f"stage={STAGES[role]}"),
            precision=self.precision.name,
            samples=self.samples(role, records),
            work=work.latents(self, role, len(records)),
            collective=True,
        )

    def texts(self, role: Role) -> Artifact:
        """Text features of the captions of the training images of one set."""
        spec, records, texts = self.images_of(role), self.training_records(role), self.captions[role]

        def build(folder: Path) -> None:
            write_texts(self.base, texts, folder, batch_size=self.settings.encode.batch_size)
            if processes.rank() == 0:
                describe.write_captions(folder, self.base, records, texts)

        made = self.store.make(
            "cache",
            f"{spec.name}-{role}-texts",
            {"records": digest(records), "captions": digest_of(texts)},
            {"base": self.base_artifact},
            build,
            version=2,
            command=self.command("train.py", f"stage={STAGES[role]}"),
            precision=self.precision.name,
            samples=self.samples(role, records),
            work=work.texts(self, texts),
            follows=self.wording_of(role),
            collective=True,
        )
        if not self.planning and made not in self._shown:
            self._shown.add(made)
            describe.warn_of_cuts(made.path, f"{SLOTS[role]}={spec.name}")
        return made

    def wording_of(self, role: Role) -> list[Artifact]:
        """The artifacts that the captions of a set were read from."""
        keywords = self.keywords[role]
        return [keywords] if keywords else []

    # --- Stages ------------------------------------------------------------------------------------------------------

    def ors_adapter(self) -> Artifact:
        """The view: an adapter trained on optical remote-sensing images."""
        return train_adapters.train([train_adapters.ors_training(self)])["ors"]

    def classifier(self) -> Artifact:
        """The study's own classifier: its features make prototypes and measure fidelity."""
        recipe = self.recipe()
        seed = self.settings.seed

        def build(folder: Path) -> None:
            classifier = fit_classifier(
                self.labelled("train"),
                self.classes,
                recipe,
                seed=seed,
                fitting=self.fitting("classifier", alone=True),
                precision=self.precision,
                checkpoints=folder / CHECKPOINTS,
                checkpoint_every=500,
            )
            classifier.save(folder)

        return self.store.make(
            "classifier",
            recipe.network,
            {"recipe": recipe.as_dict(), "classes": self.classes, "seed": seed},
            {"images": self.images("train")},
            build,
            version=1,
            command=self.command("train.py", "stage=classifier"),
            precision=self.precision.name,
            work=work.classifier(recipe, "classifier"),
            follows=self.start_of_classifiers,
        )

    def load_classifier(self, artifact: Artifact) -> Classifier:
        """A classifier in memory, on the device of this run and in its precision."""
        return Classifier.load(artifact.path, self.device, self.precision)

    @cached_property
    def pretrained(self) -> Pretrained | None:
        """The weights that classifiers start from, None if these are random."""
        chosen = self.settings.classifier
        try:
            return pretrained.find(chosen.network, chosen.pretrained, fetch=not self.planning)
        except NotFetchedError as error:
            return Pretrained(self.noted("weights", chosen.network, error).fingerprint, error.source)

    @property
    def start_of_classifiers(self) -> list[Artifact]:
        """What a plan would have to fetch to know it."""
        _ = self.pretrained
        return [artifact for artifact in self.absent if artifact.kind == "weights"]

    def recipe(self) -> ClassifierRecipe:
        """The classifier's network and training; epochs count real images, so that every method gets equal steps."""
        chosen = self.settings.classifier
        return ClassifierRecipe(
            network=chosen.network,
            options=chosen.options,
            pretrained=self.pretrained,
            image_size=chosen.image_size,
            max_steps=math.ceil(chosen.epochs * len(self.training) / chosen.batch_size),
            batch_size=chosen.batch_size,
            optimizer=chosen.optimizer,
            learning_rate=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            warmup_steps=chosen.warmup_steps,
            augmentation=Augmentation(flip=self.settings.data.flip, shift=chosen.shift, crop_scale=chosen.crop_scale),
        )

    def prototypes(self) -> Artifact:
        """The SAR training set in K clusters of features; its class x cluster counts are always printed."""
        chosen = self.settings.prototypes
        prototypes.check_k(chosen.k, len(self.training))
        describe, inputs = self._described()

        def build(folder: Path) -> None:
            labels = np.array([record.label for record in self.training])
            prototypes.cluster(describe().numpy(), labels, self.classes, chosen.k, self.settings.seed).save(
                folder / "partition.json"
            )

        made = self.store.make(
            "partition",
            f"prototypes-{chosen.k}",
            {"k": chosen.k, "seed": self.settings.seed},
            inputs,
            build,
            version=1,
            command=self.command("train.py", "stage=prototypes"),
            precision=None if chosen.features == "base" else self.precision.name,
            work=work.comparison(self, "prototypes", len(self.training), k=chosen.k, features=chosen.features),
        )
        if not self.planning and made not in self._shown:
            self._shown.add(made)
            console.print(partition_table(Partition.load(made.path / "partition.json")))
        return made

    def _described(self) -> tuple[Callable[[], Tensor], dict[str, Artifact]]:
        """How to describe the SAR training images, float32 (N, F), and the artifacts that this follows from."""
        if self.settings.prototypes.features == "base":
            latents = self.latents("sar")
            return lambda: Latents.open(latents.path).means(), {"latents": latents}
        classifier, images = self.classifier(), self.images("train")

        def describe() -> Tensor:
            return extract_features(self.load_classifier(classifier), self.labelled("train").images)

        return describe, {"classifier": classifier, "images": images}

    def partition(self) -> tuple[Partition, dict[str, Artifact]]:
        """How the method divides the SAR training set, and the artifacts that this follows from.

        Where prototypes are not there yet, which only a plan lets pass, they are supposed to be of equal size.
        """
        labels = np.array([record.label for record in self.training])
        match self.settings.method.partition:
            case "prototypes":
                made = self.prototypes()
                if made.complete:
                    return Partition.load(made.path / "partition.json"), {"partition": made}
                return prototypes.supposed(labels, self.classes, self.settings.prototypes.k), {"partition": made}
            case "classes":
                return prototypes.class_groups(labels, self.classes, self.minor), {}
        return prototypes.whole(labels, self.classes), {}

    def sar_adapters(self) -> dict[str, Artifact]:
        """The modality: the method's SAR adapters by name, one for each part of its partition that holds images."""
        self._check()
        if self.settings.adapter.path is not None:
            return {"sar": train_adapters.imported(self, Path(self.settings.adapter.path))}
        return train_adapters.train(train_adapters.sar_trainings(self))

    def tuned(self) -> list[Artifact]:
        """What stage `sar` of the method makes: its adapters, or a base of its own."""
        match self.settings.method.tunes:
            case "adapter":
                return list(self.sar_adapters().values())
            case "unet":
                return [train_adapters.tuned_base(self)]
        raise UserError(f"method={self.settings.method.name} tunes nothing; choose another method")

    def _check(self) -> None:
        """Refuse now what the last stage would refuse after hours of training the first ones."""
        _ = self.class_captions
        first = self.training[0]
        self.radiometry["sar"].levels(self.sources["sar"].read(first), first.path)
        if self.settings.adapter.path is not None and self.settings.method.tunes == "adapter":
            own = train_adapters.imported(self, Path(self.settings.adapter.path))
            if not self.planning:
                self._adapter(self.base, own)
            elif self.architecture:
                load(self.architecture[0], train_adapters.weights_of(own))
        if self.settings.method.below or "ors" in self.settings.contours.sources:
            self.training_records("ors")
        if self.settings.method.partition == "prototypes":
            prototypes.check_k(self.settings.prototypes.k, len(self.training))

    # --- Generation --------------------------------------------------------------------------------------------------

    def recipe_of_images(self) -> "ImageRecipe":
        """What the method's images are made with: its base, its adapters, and for each class their scales."""
        self._check()
        method, (w1, w2) = self.settings.method, self.settings.generate.scales
        if method.tunes == "unet":
            return ImageRecipe(train_adapters.tuned_base(self), {}, {name: {} for name in self.classes})
        below = {"ors": self.ors_adapter()} if method.below else {}
        if method.tunes == "nothing":
            return ImageRecipe(self.base_artifact, below, {name: dict.fromkeys(below, w1) for name in self.classes})
        assert method.mixing is not None
        partition, _ = self.partition()
        made = self.sar_adapters()
        weights = prototypes.MIXINGS[method.mixing](partition.counts)
        by_class = {
            class_name: dict.fromkeys(below, w1)
            | {name: w2 * float(weights[label][partition.names.index(name)]) for name in made}
            for label, class_name in enumerate(self.classes)
        }
        return ImageRecipe(self.base_artifact, below | made, by_class)

    @cached_property
    def guides(self) -> Guides:
        """The contours that images follow."""
        return find_contours.guides(self)

    @cached_property
    def control(self) -> ContourConditioning | None:
        """What makes images follow them."""
        return find_contours.control(self)

    def synthetic(self) -> Artifact:
        """The method's synthetic set, as it joins real images."""
        made = self._synthetic()
        return match_speckle.matched(self, made) if self.settings.generate.speckle == "matched" else made

    def _synthetic(self) -> Artifact:
        """The set as it is sampled: Hugging Face imagefolder, images/<class>/<index>.png and metadata.jsonl."""
        sizes, guides = self.synthetic_sizes, self.guides
        recipe = self.recipe_of_images()

        def build(folder: Path) -> None:
            said = list(self.class_captions.values())
            describe.warn_of_long(self._load(recipe.base), said, f"method={self.settings.method.name}")
            shares = self._shares(sizes)
            with progress(f"images of {self.settings.method.name}", sum(map(len, shares))) as advance:
                for label, share in enumerate(shares):
                    self._write_images(recipe, label, share, folder, advance)
            processes.barrier()  # the images of all processes are there
            if processes.rank():
                return
            rows = [
                {
                    "file_name": file_name(class_name, index),
                    "text": self.class_captions[class_name],
                    "label": label,
                    "class_name": class_name,
                    "seed": self.settings.seed,
                    "method": self.settings.method.name,
                    "scales": recipe.scales[class_name],
                    "contour": guides.name(label, index),
                }
                for label, class_name in enumerate(self.classes)
                for index in range(sizes[class_name])
            ]
            guides.report(folder)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            # What is no text in the name of a contour's file becomes an escape of JSON's.
            (folder / "metadata.jsonl").write_text(text, encoding="utf-8", errors="backslashreplace")

        return self.store.make(
            "synthetic",
            self.settings.method.name,
            self._settings_of_images(recipe) | {"sizes": sizes},
            {**recipe.inputs, **guides.inputs},
            build,
            version=1,
            command=self.command("generate.py", f"method={self.settings.method.name}"),
            precision=self.precision.name,
            work=work.sampling(self, "synthetic", sum(sizes.values())),
            follows=self.wording_of("sar"),
            collective=True,
        )

    def _shares(self, sizes: Mapping[str, int]) -> list[list[int]]:
        """Which images of each class, by label, this process makes.

        Processes share whole batches, so that an image comes from the same batch however many they are.
        """
        step = self.settings.generate.batch_size
        batches = [
            (label, range(start, min(start + step, sizes[class_name])))
            for label, class_name in enumerate(self.classes)
            for start in range(0, sizes[class_name], step)
        ]
        shares: list[list[int]] = [[] for _ in self.classes]
        for label, batch in processes.mine(batches):
            shares[label] += batch
        return shares

    def _write_images(
        self, recipe: "ImageRecipe", label: int, indices: Sequence[int], folder: Path, advance: Callable[[int], None]
    ) -> None:
        """Make the images of one class that are not there yet."""
        class_name = self.classes[label]
        files = {index: folder / file_name(class_name, index) for index in indices}
        # A file is written whole or not at all, so that one that is there needs no second making.
        missing = [index for index, file in files.items() if not file.exists()]
        advance(len(files) - len(missing))
        (folder / file_name(class_name, 0)).parent.mkdir(parents=True, exist_ok=True)
        images = self._sample(recipe, recipe.scales[class_name], label, missing)
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(WRITERS) as writers:  # a batch is compressed while the next one is made
            for index, image in zip(missing, images, strict=True):
                waiting.append(writers.submit(pictures.save_png, image.numpy(), files[index]))
                if len(waiting) > 2 * self.settings.generate.batch_size:
                    waiting.popleft().result()
                advance(1)
            for written in waiting:
                written.result()

    def strips(self) -> Artifact:
        """For each class, a few seeds over the scale of the whole stack (paper Figure 1b), as a PNG."""
        recipe = self.recipe_of_images()

        def build(folder: Path) -> None:
            with progress("scale strips", len(self.classes) * len(STRIP_SCALES) * STRIP_IMAGES) as advance:
                for label, class_name in enumerate(self.classes):
                    columns = []
                    for scale in STRIP_SCALES:
                        scaled = {name: scale * value for name, value in recipe.scales[class_name].items()}
                        columns.append(torch.stack(list(self._sample(recipe, scaled, label, range(STRIP_IMAGES)))))
                        advance(STRIP_IMAGES)
                    images = torch.stack(columns, dim=1)  # (seeds, scales, C, H, W)
                    title = f"{self.settings.method.name}: {class_name}"
                    pictures.strip(images, STRIP_SCALES, title=title).save(folder / f"{class_name}.png")

        return self.store.make(
            "cache",
            f"{self.settings.method.name}-strips",
            self._settings_of_images(recipe) | {"strip_scales": STRIP_SCALES, "images": STRIP_IMAGES},
            {**recipe.inputs, **self.guides.inputs},
            build,
            version=1,
            command=self.command("evaluate.py", f"method={self.settings.method.name}"),
            precision=self.precision.name,
            work=work.sampling(self, "strips", len(self.classes) * len(STRIP_SCALES) * STRIP_IMAGES),
            follows=self.wording_of("sar"),
        )

    def _settings_of_images(self, recipe: "ImageRecipe") -> dict[str, Any]:
        return {
            "scales": recipe.scales,
            "classes": self.classes,
            "channels": self.sources["sar"].channels,
            "captions": self.class_captions,
            "image_size": self.settings.base.image_size,
            "guidance_scale": self.settings.generate.guidance_scale,
            "num_inference_steps": self.settings.generate.num_inference_steps,
            "sampler": self.settings.sampler.model_dump(by_alias=True),
            "contours": self.guides.recipe,
            "seed": self.settings.seed,
        }

    def _sample(
        self, recipe: "ImageRecipe", by_name: Mapping[str, float], label: int, indices: Sequence[int]
    ) -> Iterator[Tensor]:
        """Yield uint8 images (C, H, W) of one class, by index, with the stack at the given scales."""
        base = self._load(recipe.base)
        stack = [(self._adapter(base, recipe.adapters[name]), scale) for name, scale in by_name.items() if scale]
        settings = self.settings.generate
        prompt = self.class_captions[self.classes[label]]
        with folded(base.unet, stack):
            batches = sample(
                base,
                self.settings.sampler.load().from_config(base.noise_scheduler.config, **self.settings.sampler.options),
                [
                    SampleRequest(prompt, (self.settings.seed, label, index), self.guides.contour(label, index))
                    for index in indices
                ],
                image_size=self.settings.base.image_size,
                guidance_scale=settings.guidance_scale,
                num_inference_steps=settings.num_inference_steps,
                batch_size=settings.batch_size,
                conditioning=self.control,
            )
            for images in batches:
                yield from to_uint8(to_channels(images, self.sources["sar"].channels)).cpu()

    def exported(self) -> "ImageRecipe":
        """What the images of the method are made with, if that can be one adapter.

        Raises:
            UserError: The method is no stack of adapters.
        """
        if self.settings.method.tunes != "adapter":
            raise UserError(f"method={self.settings.method.name} has no adapters to export; choose another method")
        return self.recipe_of_images()

    def export(self, class_name: str) -> Adapter:
        """All that the method does to the base for one class, as one adapter.

        Raises:
            UserError: The method is no stack of adapters.
        """
        recipe = self.exported()
        base = self._load(recipe.base)
        named = recipe.scales[class_name].items()
        return concatenate([(self._adapter(base, recipe.adapters[name]), scale) for name, scale in named if scale])

    def _load(self, artifact: Artifact) -> Base:
        """A base in memory: the study's own, or the last one that was tuned from it."""
        if artifact == self.base_artifact:
            return self.base
        if artifact not in self._bases:
            self._bases = {artifact: Base.load(artifact.path).place(self.device, self.precision)}
        return self._bases[artifact]

    def _adapter(self, base: Base, artifact: Artifact) -> Adapter:
        if artifact not in self._adapters:
            self._adapters[artifact] = load(base.unet, train_adapters.weights_of(artifact))
        return self._adapters[artifact]


@dataclass(frozen=True)
class ImageRecipe:
    """What the images of a method are made with.

    Attributes:
        base: The study's base, or the one that the method tuned.
        adapters: By name.
        scales: For each class, the scale of each adapter.
    """

    base: Artifact
    adapters: Mapping[str, Artifact]
    scales: Mapping[str, Mapping[str, float]]

    @property
    def inputs(self) -> dict[str, Artifact]:
        """All of them, by role."""
        return {"base": self.base, **self.adapters}


def file_name(class_name: str, index: int) -> str:
    """Name the file of one image of a synthetic set."""
    return f"images/{class_name}/{index:06d}.png"


class ByRole(dict[Role, Value]):
    """What each image set has, made when it is first asked for."""

    def __init__(self, make: Callable[[Role], Value]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, role: Role) -> Value:
        self[role] = made = self._make(role)
        return made


def open_source(slot: str, images: Images) -> Source:
    """Build the reader of `data`, `ors` or `regular`."""
    return built(slot, images.reader)


def built(slot: str, component: Component) -> Any:
    """Build what one key of the settings names; what it refuses is told with the full key."""
    try:
        return component.build()
    except UserError as error:
        key, given, _ = str(error).partition("=")
        raise UserError(f"{slot}.{error}" if given and key in component.options else f"{slot}: {error}") from error
