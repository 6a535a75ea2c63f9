"""Train the study's own classifier, whose features make prototypes and measure fidelity: stage `classifier`."""

import math
from dataclasses import replace
from pathlib import Path

from sarsynth.classifier import pretrained
from sarsynth.classifier.augmentation import Augmentation
from sarsynth.classifier.learning import fit_classifier
from sarsynth.classifier.network import Classifier, ClassifierRecipe
from sarsynth.classifier.pretrained import Pretrained
from sarsynth.errors import NotFetchedError
from sarsynth.stages.curate_images import classes, training
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study, once
from sarsynth.store.artifacts import CHECKPOINTS, Artifact
from sarsynth.store.costs import PER_SAMPLE, Work

CHECKPOINT_EVERY = 500  # steps


@once
def classifier(study: Study) -> Artifact:
    """The study's own classifier, trained on all SAR training images and nothing else."""
    how, seed = replace(recipe(study), sampling=study.settings.classifier.sampling), study.settings.seed

    def build(folder: Path) -> None:
        fit_classifier(
            labelled(study, "train"),
            classes(study),
            how,
            seed=seed,
            fitting=study.fitting("classifier", alone=True),
            precision=study.precision,
            checkpoints=folder / CHECKPOINTS,
            checkpoint_every=CHECKPOINT_EVERY,
        ).save(folder)

    return study.make(
        "classifier",
        how.network,
        {"recipe": how.as_dict(), "classes": classes(study), "seed": seed},
        {"images": images(study, "train")},
        build,
        command=("train", "stage=classifier"),
        version=2,
        precision=study.precision.name,
        work=work_of_training(how, "classifier"),
        follows=absent_weights(study),
    )


def load_classifier(study: Study) -> Classifier:
    """The study's own classifier in memory, on the device of this run and in its precision."""
    return Classifier.load(classifier(study).path, study.device, study.precision)


@once
def start_weights(study: Study) -> Pretrained | None:
    """The weights that classifiers start from, None if these are random."""
    settings = study.settings.classifier
    try:
        return pretrained.find(settings.network, settings.pretrained, fetch=not study.planning)
    except NotFetchedError as error:
        return Pretrained(study.note_absent("weights", settings.network, error).fingerprint, error.source)


def absent_weights(study: Study) -> list[Artifact]:
    """What a plan would have to fetch to know the weights that classifiers start from."""
    start_weights(study)
    return [artifact for artifact in study.absent if artifact.kind == "weights"]


def recipe(study: Study) -> ClassifierRecipe:
    """The classifier's network and training; epochs count real images, so that every method gets equal steps."""
    settings = study.settings.classifier
    return ClassifierRecipe(
        network=settings.network,
        options=settings.options,
        pretrained=start_weights(study),
        image_size=settings.image_size,
        max_steps=math.ceil(settings.epochs * len(training(study, "sar")) / settings.batch_size),
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        augmentation=Augmentation(flip=study.settings.data.flip, shift=settings.shift, crop_scale=settings.crop_scale),
    )


def work_of_training(how: ClassifierRecipe, task: str, **like: str) -> Work:
    """The work in training a classifier."""
    about = {"network": how.network, "image_size": how.image_size} | like
    return Work(task, PER_SAMPLE, how.max_steps * how.batch_size, about, batch=how.batch_size)


def work_of_comparison(study: Study, task: str, count: int, **like: str | int) -> Work:
    """The work in comparing or measuring images at the classifier's size."""
    settings = study.settings.classifier
    return Work(task, "images", count, {"network": settings.network, "image_size": settings.image_size} | like)
