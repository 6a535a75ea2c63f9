"""Score a method: a classifier a seed on real and added images, and what each says of the real test images."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from sarsynth import program
from sarsynth.classifier.checkpoint_selection import CHOICES, Checkpoint, CheckpointSelection, Selected, weights_of
from sarsynth.classifier.learning import fit_classifier
from sarsynth.classifier.losses import Loss
from sarsynth.classifier.network import Classifier, ClassifierRecipe, predict
from sarsynth.classifier.oversampling import OverSampling
from sarsynth.classifier.scores import scores
from sarsynth.classifier.thresholds import best_thresholds, decide
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.records import class_counts, stratified_split
from sarsynth.errors import UserError
from sarsynth.stages.check_sizes import check_numbers
from sarsynth.stages.copy_images import COPIES, repeated_images
from sarsynth.stages.curate_images import classes, counts, joining, minor, planned, records, source, training
from sarsynth.stages.filter_images import filter_inputs, filter_report, joining_images
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import CHECKPOINT_EVERY, absent_weights, recipe, work_of_training
from sarsynth.store.artifacts import CHECKPOINTS, Artifact, Request

# In an artifact of an evaluation: what its classifiers say, how well, and they themselves, by number.
PREDICTIONS, SCORES, CLASSIFIERS = "logits.safetensors", "scores.json", "classifiers"
ADDS: dict[str, Callable[[Study, LabelledImages, Mapping[str, int]], LabelledImages | None]] = {
    "nothing": lambda study, real, sizes: None,
    "synthetic": lambda study, real, sizes: synthetic_and_repeated(study, real, sizes),
    **COPIES,
}  # what joins the real images, by `method.adds`


def recipe_of_method(study: Study) -> ClassifierRecipe:
    """The classifier's network and training, as the method changes it; never the number of its steps."""
    method, plain, features = study.settings.method, recipe(study), study.settings.augment.features
    steps = max(1, round(features.steps * plain.max_steps))
    return replace(
        plain,
        loss=Loss(**method.loss.model_dump()),
        sampling=method.sampling,
        oversampling=OverSampling(steps, features.neighbours) if method.adds == "features" else None,
    )


def learning_and_validation(study: Study) -> tuple[LabelledImages, LabelledImages | None]:
    """The real images that classifiers are trained on, and those that checkpoints are chosen on, None if none are.

    Where the data have no validation split, a stratified part of the training images is one, whole groups at a time.
    Only the classifiers of an evaluation go without it; adapters are trained on all training images.

    Raises:
        UserError: A class has no image left to train on.
    """
    real, settings = labelled(study, "train"), study.settings.evaluate
    if settings.topk == "none" and settings.thresholds == "none":
        return real, None
    if source(study, "sar").records("val"):
        return real, labelled(study, "val")
    chosen, _ = stratified_split(training(study, "sar"), [settings.val], study.settings.seed)
    paths = {record.path for record in chosen}
    apart = torch.tensor([record.path in paths for record in training(study, "sar")])
    for label, (name, count) in enumerate(counts(study).items()):
        if count and not (real.labels[~apart] == label).any():
            raise UserError(
                f"evaluate.val={settings.val}: no image of class {name} is left to train on (of {count}); "
                "give data.val, or use evaluate.topk=none evaluate.thresholds=none"
            )
    return real[~apart], real[apart]


def protocol(study: Study) -> dict[str, Any]:
    """Say how checkpoints are chosen: what of the settings changes a score."""
    settings = study.settings.evaluate
    chosen = {"thresholds": settings.thresholds} if settings.thresholds != "none" else {}
    if settings.topk == "none" and not chosen:
        return {"topk": settings.topk}
    given = bool(source(study, "sar").records("val"))
    of_checkpoints = {"topk"} if settings.topk == "none" else {"topk", "k", "keep", "every", "after"}
    return {
        **settings.model_dump(include=of_checkpoints),
        **chosen,
        "val": "val" if given else settings.val,
        "seed_of_val": None if given else study.settings.seed,
    }


def sizes(study: Study) -> dict[str, int]:
    """Images that join each class; none where the method adds nothing."""
    return joining(study) if study.settings.method.adds != "nothing" else {}


def joined_synthetic(study: Study) -> dict[str, int]:
    """Synthetic images that join each class, which are fewer than planned where a filter keeps too few."""
    if study.settings.method.adds != "synthetic":
        return dict.fromkeys(classes(study), 0)
    return {name: counted["joined"] for name, counted in filter_report(study)["per_class"].items()}


def synthetic_and_repeated(study: Study, real: LabelledImages, sizes: Mapping[str, int]) -> LabelledImages:
    """The synthetic images that join, and as many repeated ones as the plan asks for beside them."""
    left = {name: size - joined_synthetic(study)[name] for name, size in sizes.items()}
    return joining_images(study) + repeated_images(study, real, left)


def seeds_of(study: Study) -> list[int]:
    """Seeds of the method's classifiers."""
    return [seed + study.settings.method.seed_offset for seed in study.settings.seeds]


def drawn_by(study: Study, seed: int) -> dict[str, int | None]:
    """The seeds that the evaluation of a classifier is of, by kind; None of what the method has none."""
    settings = study.settings
    return {
        "generator": study.generator_seed if settings.has_generator else None,
        "sample": study.sample_seed if settings.has_samples else None,
        "classifier": seed,
    }


def role(seeds: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Name an evaluation, and its training: by its classifier seed alone at the seeds of the first cell."""
    cell = "".join(f"_{key}_{seeds[key]}" for key in ("generator", "sample") if seeds[key] is not None)
    is_first = all(seeds[key] == first[key] for key in ("generator", "sample"))
    return f"seed_{seeds['classifier']}{'' if is_first else cell}"


def every_trained(study: Study) -> list[Artifact]:
    """What `trained` gives for every generator seed, sample seed and classifier seed, the last of these changing first.

    Each classifier seed is the same at all cells, and with all methods.
    """
    return [artifact for cell in study.cells for artifact in trained(cell, seeds_of(cell))]


def check_tested(study: Study) -> None:
    """Refuse what cannot be scored: one class alone, one without a test image, more images than memory holds.

    Raises:
        UserError: It is so.
    """
    if len(classes(study)) < 2:
        raise UserError(
            f"data: {classes(study)[0]} is the only class, so that any score is 100 %; give two classes or more, or "
            f"make images alone with {program.command('generate')}"
        )
    tested = class_counts(records(study, "sar", "test"), classes(study))
    if empty := [name for name, count in tested.items() if not count]:
        raise UserError(f"data: no test image of class {empty[0]}, so it cannot be scored; add some, or leave it out")
    check_numbers(study)


def trained(study: Study, seeds: Sequence[int]) -> list[Artifact]:
    """Train a classifier a seed on real + added images and predict the test set; processes of a job share the seeds.

    Returns:
        For each seed an artifact. `logits.safetensors`: `logits`, float32 (checkpoints, images, classes),
        of the checkpoints that were chosen; `predicted`, int64 (vectors, images), labels whose scores are averaged;
        `labels`, int64 (images,), the true ones; and as metadata, in JSON, `images`, their names, `digests`, the
        beginnings of their pixels' sha256, `classes`, and `steps` of the checkpoints. `scores.json`: what `scores`
        gives. `classifiers/<number>/`: the classifier of each of these checkpoints.
    """
    requests = {request: seed for seed, request in zip(seeds, _requests(study, seeds), strict=True)}
    made = study.store.make_each(list(requests), lambda request, folder: _train(study, requests[request], folder))
    return list(made.values())


def _requests(study: Study, seeds: Sequence[int]) -> list[Request]:
    how, method, checkpoints = recipe_of_method(study), study.settings.method, protocol(study)
    inputs = {"train": images(study, "train"), "test": images(study, "test")}
    if synthetic_set := method.adds == "synthetic":
        inputs |= {"synthetic": synthetic(study), **filter_inputs(study)}
    if checkpoints.get("val") == "val":
        inputs["val"] = images(study, "val")
    settings = {
        "recipe": how.as_dict(),
        "classes": classes(study),
        "minor": minor(study),
        "adds": method.adds,
        "sizes": sizes(study),
        # Which real images serve again, and how, follows from the study's seed.
        "seed_of_copies": None if method.adds == "nothing" else study.settings.seed,
        "synthetic": {name: added.synthetic for name, added in planned(study).items()} if synthetic_set else None,
        "views": study.settings.augment.views.model_dump() if method.adds == "augmented" else None,
        "protocol": checkpoints,
    }
    return [
        Request(
            "evaluation",
            f"{method.name}-seed-{seed}",
            settings | {"seed": seed},
            inputs,
            version=3,
            command=study.command("evaluate", f"method={method.name}", f"seeds=[{seed - method.seed_offset}]"),
            precision=study.precision.name,
            work=work_of_training(how, "evaluation", topk=study.settings.evaluate.topk),
            follows=absent_weights(study),
        )
        for seed in seeds
    ]


def _train(study: Study, seed: int, folder: Path) -> None:
    """Train the classifier of one seed, and write what it says of the test images."""
    _write(study, *fit(study, seed, folder), folder)


def fit(study: Study, seed: int, folder: Path) -> tuple[Classifier, Selected]:
    """Train the classifier of one seed, and choose checkpoints; those of the training lie in the folder meanwhile."""
    how, method, settings = recipe_of_method(study), study.settings.method, study.settings.evaluate
    real, validation = learning_and_validation(study)
    test = labelled(study, "test")
    selection = None
    if validation is not None and settings.topk != "none":
        selection = CheckpointSelection(
            validation,
            test.images,
            every=max(1, round(settings.every * len(training(study, "sar")) / how.batch_size)),
            after=round(settings.after * how.max_steps),
            keep=settings.keep,
        )
    called = role(drawn_by(study, seed), drawn_by(study.cells[0], seed))
    classifier = fit_classifier(
        real,
        classes(study),
        how,
        synthetic=ADDS[method.adds](study, real, sizes(study)),
        seed=seed,
        fitting=study.fitting(called, alone=True),
        precision=study.precision,
        title=f"classifier, {method.name}, {called.replace('_', ' ')}",
        checkpoints=folder / CHECKPOINTS,
        checkpoint_every=CHECKPOINT_EVERY,
        callbacks=[selection] if selection else [],
    )
    if selection is None:
        kept = [Checkpoint(how.max_steps, None, predict(classifier, test.images), weights_of(classifier))]
    else:
        kept = selection.kept
    chosen = CHOICES[settings.topk](kept, test.labels, classes(study), settings.k)
    if validation is None or settings.thresholds == "none":
        return classifier, chosen
    predicted = [
        decide(checkpoint.logits, best_thresholds(predict(known, validation.images), validation.labels))
        for known, checkpoint in each(classifier, chosen)
    ]
    return classifier, replace(chosen, predicted=torch.stack(predicted))


def each(classifier: Classifier, chosen: Selected) -> Iterator[tuple[Classifier, Checkpoint]]:
    """Give a classifier the weights of each chosen checkpoint in turn."""
    for checkpoint in chosen.checkpoints:
        classifier.load_state_dict(dict(checkpoint.weights))
        yield classifier.eval(), checkpoint


def _write(study: Study, classifier: Classifier, chosen: Selected, folder: Path) -> None:
    logits = torch.stack([checkpoint.logits for checkpoint in chosen.checkpoints])
    steps = [checkpoint.step for checkpoint in chosen.checkpoints]
    write_predictions(study, labelled(study, "test"), logits, chosen.predicted, folder, steps=steps)
    for number, (known, _) in enumerate(each(classifier, chosen)):
        known.save(folder / CLASSIFIERS / str(number))


def write_predictions(
    study: Study, test: LabelledImages, logits: Tensor, predicted: Tensor, folder: Path, **about: Any
) -> None:
    """Write what classifiers say of test images, and how well: `logits.safetensors` and `scores.json` of `trained`.

    Args:
        study: Whose classes these are.
        test: The images, with labels of these classes.
        logits: Float32 (checkpoints, images, classes).
        predicted: Labels, int64 (vectors, images).
        folder: Where the files go.
        about: What else the metadata say.
    """
    about = {
        "images": [test.name(row) for row in range(len(test))],
        "digests": [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in test.images],
        "classes": classes(study),
        **about,
    }
    metadata = {key: json.dumps(value) for key, value in about.items()}
    tensors = {"logits": logits, "predicted": predicted, "labels": test.labels}
    save_file(tensors, folder / PREDICTIONS, metadata)
    figures = averaged([scores(labels, test.labels, classes(study), minor(study)) for labels in predicted])
    (folder / SCORES).write_text(json.dumps(figures, indent=2) + "\n")


def averaged(figures: Sequence[Any]) -> Any:
    """Average what is built alike, number by number; None stays None, and a single one stays as it is."""
    first = figures[0]
    if len(figures) == 1 or first is None:
        return first
    if isinstance(first, Mapping):
        return {key: averaged([figure[key] for figure in figures]) for key in first}
    if isinstance(first, Sequence):
        return [averaged(column) for column in zip(*figures, strict=True)]
    return float(np.mean(figures))
