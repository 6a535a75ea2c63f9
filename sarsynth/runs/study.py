"""A study: ask for a result, and what is missing below it is made, once.

Each method of `Study` returns an artifact of the store. What an artifact is made from is named twice, and nowhere else:
by its settings and inputs (the fingerprint), and by its builder, which reads the same.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsynth import adapters, partitions, pictures, scales
from sarsynth.adapters import AdapterSpec
from sarsynth.base import Base, resolve
from sarsynth.classification import (
    Augmentation,
    Classifier,
    ClassifierRecipe,
    extract_features,
    fit_classifier,
)
from sarsynth.console import console, progress
from sarsynth.data.datamodules import LabelledImages, SeededDataModule
from sarsynth.data.latents import (
    LatentDataset,
    encode_images,
    encode_texts,
    load_latents,
    save_latents,
)
from sarsynth.data.records import ImageRecord, Source, Split, class_counts, deci, digest, minor_classes
from sarsynth.data.transforms import load_images, to_channels, to_uint8
from sarsynth.denoising import Denoiser
from sarsynth.errors import UserError
from sarsynth.fitting import Fitting
from sarsynth.partitions import Partition
from sarsynth.plan import added
from sarsynth.prompts import caption, captions
from sarsynth.runs.tables import partition_table
from sarsynth.sampling import SampleRequest, sample
from sarsynth.settings import Images, Optimisation, Settings
from sarsynth.store import Artifact, Store
from sarsynth.tracking import Tracker

STRIP_SCALES = (0.0, 0.5, 1.0)  # of the whole stack, as in the paper's Figure 1b
STRIP_IMAGES = 4  # a class and scale
Role = Literal["ors", "sar"]


class Study:
    """The artifacts of one composed configuration.

    Args:
        settings: The configuration.
        tracker: Where scalars and pictures of this run go.
        overrides: What was said on the command line; commands that the study proposes say it again.
    """

    def __init__(self, settings: Settings, tracker: Tracker, overrides: Sequence[str] = ()) -> None:
        self.settings, self.tracker, self.overrides = settings, tracker, overrides
        self.store = Store(Path(settings.paths.store), settings.build, console.print)
        self._shown: set[Artifact] = set()

    # --- What is there -----------------------------------------------------------------------------------------------

    @cached_property
    def sources(self) -> dict[Role, Source]:
        """The two image sets of a study."""
        return {"sar": open_source("data", self.settings.data), "ors": open_source("ors", self.settings.ors)}

    @cached_property
    def fingerprints(self) -> dict[Role, str]:
        """The content of each image set, hashed once a run."""
        return {role: source.fingerprint() for role, source in self.sources.items()}

    @property
    def classes(self) -> list[str]:
        """Names of the SAR classes, by label."""
        return self.sources["sar"].classes

    @cached_property
    def training(self) -> list[ImageRecord]:
        """The SAR training images of this study's split."""
        records = self._records("sar", "train")
        return deci(records, self.settings.seed) if self.settings.data.split == "deci" else records

    def _records(self, role: Role, split: Split) -> list[ImageRecord]:
        records = self.sources[role].records(split)
        if not records:
            key = "data" if role == "sar" else "ors"
            raise UserError(f"{key}: no {split} images; set {key}.{split} to a folder, a list file or a fraction")
        return records

    @cached_property
    def counts(self) -> dict[str, int]:
        """SAR training images of each class."""
        return class_counts(self.training, self.classes)

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
        path, content = resolve(self.settings.base.path)
        return Artifact("base", self.settings.base.name, content[:16], path)

    @cached_property
    def base(self) -> Base:
        """The frozen base in memory, on the device of this run."""
        return Base.load(self.base_artifact.path, self.settings.base.config).to(self.device)

    @cached_property
    def device(self) -> torch.device:
        """Where everything but training loops runs; those go where Lightning puts them."""
        accelerator = self.settings.trainer.options["accelerator"]
        return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")

    def command(self, script: str, *keys: str) -> str:
        """Say what a person types to make a part of this very study, e.g. `command("train.py", "stage=ors")`."""
        said = {key.partition("=")[0] for key in keys} | {"stage", "build"}
        kept = [override for override in self.overrides if override.partition("=")[0] not in said]
        return f"python {script} {shlex.join([*keys, *kept])}"

    def fitting(self, stage: str) -> Fitting:
        """How a training loop of one stage runs and where its scalars go."""
        return Fitting(self.settings.trainer.build, self.tracker.stage(stage))

    # --- Caches: what is computed once -------------------------------------------------------------------------------

    def images(self, split: Split) -> Artifact:
        """The SAR images of a split at the classifier's size, as tensors."""
        records = self.training if split == "train" else self._records("sar", split)
        source, size = self.sources["sar"], self.settings.classifier.image_size
        user = ("train.py", "stage=classifier") if split == "train" else ("evaluate.py", "method=none")

        def build(folder: Path) -> None:
            tensors = {
                "images": load_images(source, records, size),
                "labels": torch.tensor([record.label for record in records]),
            }
            save_file(tensors, folder / "images.safetensors")

        return self.store.make(
            "cache",
            f"{self.settings.data.name}-{split}-images",
            {"source": self.fingerprints["sar"], "records": digest(records), "image_size": size},
            {},
            build,
            command=self.command(*user),
        )

    def labelled(self, split: Split) -> LabelledImages:
        """The images of `images(split)` in memory."""
        tensors = load_file(self.images(split).path / "images.safetensors")
        return LabelledImages(tensors["images"], tensors["labels"])

    def latents(self, role: Role) -> Artifact:
        """Latents and text features of the training images of one set."""
        spec = self.settings.data if role == "sar" else self.settings.ors
        records = self.training if role == "sar" else self._records("ors", "train")
        source, size = self.sources[role], self.settings.base.image_size

        def build(folder: Path) -> None:
            images = load_images(source, records, size)
            texts = captions(spec.prompt, records, source.classes)
            encoded = encode_images(self.base, images, flip=spec.flip, title=f"encoding {role.upper()} images")
            save_latents(encoded | encode_texts(self.base, texts), folder)

        return self.store.make(
            "cache",
            f"{spec.name}-{role}-latents",
            {
                "source": self.fingerprints[role],
                "records": digest(records),
                "image_size": size,
                "prompt": spec.prompt,
                "flip": spec.flip,
            },
            {"base": self.base_artifact},
            build,
            command=self.command("train.py", f"stage={role}"),
        )

    # --- Stages ------------------------------------------------------------------------------------------------------

    def ors_adapter(self) -> Artifact:
        """The view: an adapter trained on optical remote-sensing images."""
        recipe = self.settings.train.ors
        return self._adapter("ors", "ors", recipe, recipe.rank, recipe.max_steps, None, {})

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
                fitting=self.fitting("classifier"),
                checkpoints=folder / "checkpoints",
                checkpoint_every=500,
            )
            rank_zero_only(classifier.save)(folder)

        return self.store.make(
            "classifier",
            recipe.network,
            {"recipe": recipe.as_dict(), "classes": self.classes, "seed": seed},
            {"images": self.images("train")},
            build,
            command=self.command("train.py", "stage=classifier"),
            collective=True,
        )

    def recipe(self) -> ClassifierRecipe:
        """The classifier's network and training; epochs count real images, so that every method gets equal steps."""
        chosen = self.settings.classifier
        return ClassifierRecipe(
            network=chosen.network,
            options=chosen.options,
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
        """The SAR training set in K clusters of classifier features; its class x cluster counts are always printed."""
        chosen = self.settings.prototypes
        partitions.check_k(chosen.k, len(self.training))
        classifier = self.classifier()

        def build(folder: Path) -> None:
            real = self.labelled("train")
            features = extract_features(Classifier.load(classifier.path), real.images)
            partitions.prototypes(
                features.numpy(), real.labels.numpy(), self.classes, chosen.k, self.settings.seed
            ).save(folder / "partition.json")

        made = self.store.make(
            "partition",
            f"prototypes-{chosen.k}",
            {"k": chosen.k, "seed": self.settings.seed},
            {"classifier": classifier, "images": self.images("train")},
            build,
            command=self.command("train.py", "stage=prototypes"),
        )
        if made not in self._shown:
            self._shown.add(made)
            console.print(partition_table(Partition.load(made.path / "partition.json")))
        return made

    def partition(self) -> tuple[Partition, dict[str, Artifact]]:
        """How the method divides the SAR training set, and the artifacts that this follows from."""
        labels = np.array([record.label for record in self.training])
        if self.settings.method.partition == "prototypes":
            made = self.prototypes()
            return Partition.load(made.path / "partition.json"), {"partition": made}
        return partitions.whole(labels, self.classes), {}

    def sar_adapters(self) -> dict[str, Artifact]:
        """The modality: the method's SAR adapters by name, one for each part of its partition that holds images.

        The parts share the budget of samples in proportion to their images.
        """
        self._check()
        method, recipe = self.settings.method, self.settings.train.sar
        assert method.rank is not None
        partition, inputs = self.partition()
        below = self.ors_adapter() if method.below and self.settings.stage2_on == "ors" else None
        made = {}
        for part, size in enumerate(partition.counts.sum(axis=0)):
            name = "sar" if partition.k == 1 else f"prototype_{part}"
            if size:
                steps = max(1, round(recipe.max_steps * size / len(self.training)))
                chosen = torch.from_numpy(np.flatnonzero(partition.assignments == part))
                made[name] = self._adapter(
                    name, "sar", recipe, method.rank, steps, chosen, inputs | ({"ors": below} if below else {})
                )
        return made

    def _adapter(
        self,
        name: str,
        role: Role,
        recipe: Optimisation,
        rank: int,
        steps: int,
        chosen: Tensor | None,
        inputs: Mapping[str, Artifact],
    ) -> Artifact:
        """Train one adapter on the latents of a set (or some of its images), on top of the adapter `inputs["ors"]`."""
        spec = AdapterSpec(rank, self.settings.adapter.target_modules)
        latents = self.latents(role)
        warmup = min(recipe.warmup_steps, steps // 10) if chosen is not None else recipe.warmup_steps
        seed = self.settings.seed
        w1 = self.settings.generate.scales[0]

        def build(folder: Path) -> None:
            unet = self.base.unet
            adapters.detach_all(unet)
            stack = {}
            if "ors" in inputs:
                adapters.load(unet, "ors", inputs["ors"].path)
                stack["ors"] = w1
            adapters.attach(unet, name, spec, seed)
            adapters.activate(unet, stack | {name: 1.0}, trainable=name)
            denoiser = Denoiser(
                unet,
                self.base.noise_scheduler,
                learning_rate=recipe.learning_rate,
                warmup_steps=warmup,
                max_steps=steps,
                weight_decay=recipe.weight_decay,
                seed=seed,
            )
            dataset = LatentDataset(load_latents(latents.path), chosen)
            self.fitting(name).fit(
                denoiser,
                SeededDataModule(dataset, batch_size=recipe.batch_size, max_steps=steps, seed=seed),
                title=f"adapter {name}",
                max_steps=steps,
                checkpoints=folder / "checkpoints",
                checkpoint_every=recipe.checkpoint_every,
                max_grad_norm=recipe.max_grad_norm,
            )
            unet.to(self.device)
            rank_zero_only(adapters.save)(unet, name, folder)
            adapters.detach_all(unet)

        return self.store.make(
            "adapter",
            name,
            {
                "rank": rank,
                "target_modules": spec.target_modules,
                "recipe": recipe.model_dump(exclude={"rank", "checkpoint_every"})
                | {"max_steps": steps, "warmup_steps": warmup},
                "chosen": None if chosen is None else chosen.tolist(),
                "scale_below": w1 if "ors" in inputs else None,
                "seed": seed,
            },
            {"base": self.base_artifact, "latents": latents, **inputs},
            build,
            command=self.command("train.py", f"stage={role}"),
            collective=True,
        )

    def _check(self) -> None:
        """Refuse now what the last stage would refuse after hours of training the first ones."""
        captions(self.settings.data.prompt, self.training, self.classes)
        if self.settings.method.partition == "prototypes":
            partitions.check_k(self.settings.prototypes.k, len(self.training))

    # --- Generation --------------------------------------------------------------------------------------------------

    def stack(self) -> tuple[dict[str, Artifact], dict[str, dict[str, float]]]:
        """The method's adapters by name, and for each class the scale of each."""
        self._check()
        method, (w1, w2) = self.settings.method, self.settings.generate.scales
        stack = {"ors": self.ors_adapter()} if method.below else {}
        if method.tunes == "nothing":
            return stack, {name: dict.fromkeys(stack, w1) for name in self.classes}
        partition, _ = self.partition()
        made = self.sar_adapters()
        assert method.mixing is not None
        weights = scales.MIXINGS[method.mixing](partition.counts)
        by_class = {
            class_name: dict.fromkeys(stack, w1)
            | {name: w2 * float(weights[label][0 if name == "sar" else int(name.rpartition("_")[2])]) for name in made}
            for label, class_name in enumerate(self.classes)
        }
        return stack | made, by_class

    def synthetic(self) -> Artifact:
        """The method's synthetic set: Hugging Face imagefolder, images/<class>/<index>.png and metadata.jsonl."""
        sizes = self.synthetic_sizes
        stack, by_class = self.stack()

        def build(folder: Path) -> None:
            rows = []
            with progress(f"images of {self.settings.method.name}", sum(sizes.values())) as advance:
                for label, class_name in enumerate(self.classes):
                    (folder / "images" / class_name).mkdir(parents=True, exist_ok=True)
                    files = [f"images/{class_name}/{index:06d}.png" for index in range(sizes[class_name])]
                    # Written whole or not at all, so a file that is there needs no second making.
                    missing = [index for index, file in enumerate(files) if not (folder / file).exists()]
                    advance(len(files) - len(missing))
                    for index, image in zip(
                        missing, self._sample(stack, by_class[class_name], label, missing), strict=True
                    ):
                        _save_png(image, folder / files[index])
                        advance()
                    prompt = caption(self.settings.data.prompt, class_name)
                    rows += [
                        {
                            "file_name": file,
                            "text": prompt,
                            "label": label,
                            "class_name": class_name,
                            "seed": self.settings.seed,
                            "method": self.settings.method.name,
                            "scales": by_class[class_name],
                            "contour": None,
                        }
                        for file in files
                    ]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / "metadata.jsonl").write_text(text, encoding="utf-8")

        return self.store.make(
            "synthetic",
            self.settings.method.name,
            self._recipe_of_images(by_class) | {"sizes": sizes},
            {"base": self.base_artifact, **stack},
            build,
            command=self.command("generate.py", f"method={self.settings.method.name}"),
        )

    def strips(self) -> Artifact:
        """For each class, a few seeds over the scale of the whole stack (paper Figure 1b), as a PNG."""
        stack, by_class = self.stack()

        def build(folder: Path) -> None:
            with progress("scale strips", len(self.classes) * len(STRIP_SCALES) * STRIP_IMAGES) as advance:
                for label, class_name in enumerate(self.classes):
                    columns = []
                    for scale in STRIP_SCALES:
                        scaled = {name: scale * value for name, value in by_class[class_name].items()}
                        columns.append(torch.stack(list(self._sample(stack, scaled, label, range(STRIP_IMAGES)))))
                        advance(STRIP_IMAGES)
                    images = torch.stack(columns, dim=1)  # (seeds, scales, C, H, W)
                    title = f"{self.settings.method.name}: {class_name}"
                    pictures.strip(images, STRIP_SCALES, title=title).save(folder / f"{class_name}.png")

        return self.store.make(
            "cache",
            f"{self.settings.method.name}-strips",
            self._recipe_of_images(by_class) | {"strip_scales": STRIP_SCALES, "images": STRIP_IMAGES},
            {"base": self.base_artifact, **stack},
            build,
            command=self.command("evaluate.py", f"method={self.settings.method.name}"),
        )

    def _recipe_of_images(self, by_class: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        return {
            "scales": by_class,
            "classes": self.classes,
            "channels": self.sources["sar"].channels,
            "prompt": self.settings.data.prompt,
            "image_size": self.settings.base.image_size,
            "guidance_scale": self.settings.generate.guidance_scale,
            "num_inference_steps": self.settings.generate.num_inference_steps,
            "sampler": self.settings.sampler.model_dump(by_alias=True),
            "seed": self.settings.seed,
        }

    def _sample(
        self, stack: Mapping[str, Artifact], by_name: Mapping[str, float], label: int, indices: Sequence[int]
    ) -> Any:
        """Yield uint8 images (C, H, W) of one class, by index, with the stack at the given scales."""
        unet = self.base.unet
        for name, artifact in stack.items():
            if name not in getattr(unet, "peft_config", {}):
                adapters.load(unet, name, artifact.path)
        adapters.activate(unet, {name: scale for name, scale in by_name.items() if scale})
        settings = self.settings.generate
        prompt = caption(self.settings.data.prompt, self.classes[label])
        batches = sample(
            self.base,
            self.settings.sampler.load().from_config(self.base.noise_scheduler.config, **self.settings.sampler.options),
            [SampleRequest(prompt, (self.settings.seed, label, index)) for index in indices],
            image_size=self.settings.base.image_size,
            guidance_scale=settings.guidance_scale,
            num_inference_steps=settings.num_inference_steps,
            batch_size=settings.batch_size,
        )
        for images in batches:
            yield from to_uint8(to_channels(images, self.sources["sar"].channels)).cpu()


def open_source(slot: str, images: Images) -> Source:
    """Build the reader of `data`, `ors` or `regular`; what it refuses is told with the full key."""
    try:
        return images.reader.build()
    except UserError as error:
        key, given, _ = str(error).partition("=")
        raise UserError(f"{slot}.{error}" if given and key in images.reader.options else f"{slot}: {error}") from error


def _save_png(image: Tensor, file: Path) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    staged = file.with_suffix(".part")
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(staged, format="png")
    staged.replace(file)
