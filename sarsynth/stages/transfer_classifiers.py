"""Score trained classifiers on a second test set, `evaluate.also`, as they are: of another scene, sensor or season.

Classes are matched by name. Images of classes that the classifiers do not know are not scored; what is taken for a
class of which the second set has no image is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sarsynth.classifier.checkpoint_selection import majority
from sarsynth.classifier.network import Classifier, predict
from sarsynth.classifier.thresholds import best_thresholds, decide
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.radiometry import EightBit
from sarsynth.data.records import ImageRecord, class_counts
from sarsynth.errors import LeakError, UserError
from sarsynth.evidence.results import not_scored
from sarsynth.stages.curate_images import classes, minor, records, say, some, source, training
from sarsynth.stages.fit_radiometry import radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.open_images import SLOTS, Role, image_settings, scan_of
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.score_classifiers import CLASSIFIERS, learning_and_validation, seeds_of, write_predictions
from sarsynth.stages.study import Study, first, once
from sarsynth.store.artifacts import Artifact, Request
from sarsynth.store.costs import Work

KEY = SLOTS["also"]
UNLIKE = 1.5  # times as many pixels along a side, from which on ships may be of another size


@dataclass(frozen=True)
class InCommon:
    """Which classes the classifiers and the second test set have in common, by name."""

    shared: list[str]  # in the order of the classifiers' labels
    without_images: list[str]  # classes that only the classifiers know: the second set has no test image of them
    unknown: dict[str, int]  # classes that only the second set has, and how many test images; these are not scored


@once
def classes_in_common(study: Study) -> InCommon:
    """Match the classes of the second test set with those of the classifiers."""
    known, theirs = classes(study), source(study, "also").classes
    counts = {name: size for name, size in class_counts(records(study, "also", "test"), theirs).items() if size}
    return InCommon(
        [name for name in known if name in counts],
        [name for name in known if name not in counts],
        {name: size for name, size in counts.items() if name not in known},
    )


def check_second_set(study: Study) -> None:
    """Refuse a second test set that the classifiers cannot be scored on, and say which of its classes are; if any.

    Raises:
        UserError: It shares no class with the study, or its images are of another kind.
        LeakError: Some of its images are learnt from.
    """
    if study.settings.evaluate.also is None:
        return
    common = classes_in_common(study)
    if not common.shared:
        raise UserError(
            f"{KEY}: none of its classes ({', '.join(common.unknown)}) is one of the classifiers' "
            f"({', '.join(classes(study))}); classes are matched by name: rename its folders"
        )
    _check_pixels(study)
    learnt = learnt_line(study)
    if learnt and not study.settings.data.allow_leak:
        raise LeakError(
            f"{learnt}; remove them, or list them in a file: data@{KEY}=… {KEY}.leave_out=FILE; or say "
            "data.allow_leak=true, which every result will tell"
        )
    if not study.planning and first(study, "second set"):
        name = name_of_second_set(study)
        say(f"{KEY}: {', '.join(common.shared)} are scored on {name} too")
        for line in not_scored(name, common.without_images, common.unknown):
            say(f"{KEY}: {line}")
        _warn(study, learnt)


def name_of_second_set(study: Study) -> str:
    """What the second set is called in results, where the first one may have the same name."""
    name = image_settings(study, "also").name
    return name if name != study.settings.data.name else f"{name} (also)"


@once
def learnt_line(study: Study) -> str | None:
    """Say which images of the second test set are learnt from, or chosen by; None if none are."""
    known = {
        scan_of(study, "sar").content(record): f"{record.split} image {record.path}"
        for record in [*source(study, "sar").records("val"), *training(study, "sar")]
    }
    test = records(study, "also", "test")
    found = {record.path: known.get(scan_of(study, "also").content(record)) for record in test}
    learnt = [f"{path} is {whose}" for path, whose in found.items() if whose]
    return f"{KEY}: {len(learnt)} of its {len(test)} test images are learnt from: {some(learnt)}" if learnt else None


def _check_pixels(study: Study) -> None:
    """Refuse images that the classifiers cannot see as they see those that they learnt from."""
    own, theirs, test = source(study, "sar"), source(study, "also"), records(study, "also", "test")
    if own.channels != theirs.channels:
        raise UserError(
            f"{KEY}.channels={theirs.channels}: the classifiers see images of {own.channels}, as data has; "
            f"say {KEY}.channels={own.channels}, or give data of {theirs.channels}"
        )
    scan = scan_of(study, "also")
    if isinstance(radiometry(study, "also"), EightBit):
        unlike = [record.path for record in test if scan.dtypes[scan.rows[record.path]] != "uint8"]
        if unlike:
            dtype = scan.dtypes[scan.rows[unlike[0]]]
            raise UserError(
                f"{KEY}: {len(unlike)} of its images have {dtype} pixels ({unlike[0]}), and the classifiers learn from "
                "grey levels of 8 bits; convert them, or say radiometry=linear for all"
            )
    if framing(study, "sar").extent and not framing(study, "also").extent:
        raise UserError(
            f"{KEY}: the scale (gsd) of its images is not known, and those of data are seen at one scale; give theirs "
            "in metadata.jsonl or the manifest"
        )


def _warn(study: Study, learnt: str | None) -> None:
    """Say what makes scores on the second set hard to read."""
    test, scan = records(study, "also", "test"), scan_of(study, "also")
    own = {scan_of(study, "sar").content(record) for record in records(study, "sar", "test")}
    lines = [learnt] if learnt else []
    if again := sum(scan.content(record) in own for record in test):
        lines.append(f"{KEY}: {again} of its {len(test)} test images are test images of data too")
    sides = [_side(study, "sar", training(study, "sar")), _side(study, "also", test)]
    if max(sides) > UNLIKE * min(sides) and not framing(study, "sar").extent:
        lines.append(
            f"{KEY}: its images are {sides[1]:.0f} px along a side, those of data {sides[0]:.0f}, and all are resized "
            f"to {study.settings.classifier.image_size}; data@{KEY}=… {KEY}.crop=PIXELS, or gsd, mends that"
        )
    for line in lines:
        say(line, "[yellow]warning:[/]")


def _side(study: Study, role: Role, chosen: Sequence[ImageRecord]) -> float:
    scan = scan_of(study, role)
    return float(np.median(scan.sizes[[scan.rows[record.path] for record in chosen]].min(axis=1)))


# --- Predictions ------------------------------------------------------------------------------------------------------


def tested(study: Study) -> LabelledImages:
    """The test images of the second set that are scored, in memory, with the labels that the classifiers have."""
    test, known, theirs = labelled(study, "test", "also"), classes(study), source(study, "also").classes
    shared = classes_in_common(study).shared
    labels = torch.tensor([known.index(name) if name in shared else -1 for name in theirs])[test.labels]
    scored = replace(test, labels=labels)
    return scored[labels >= 0]


def every_transferred(study: Study, evaluations: Sequence[Artifact]) -> list[Artifact]:
    """Let classifiers that are there name the images of the second test set; nothing without one.

    Args:
        study: Of which they are.
        evaluations: What `every_trained` gave: where the classifiers lie.

    Returns:
        For each an artifact, in the same order. `logits.safetensors` and `scores.json`: as those of `trained`, of the
        images that are scored; labels are the classifiers', as `classes` of the metadata names them.
    """
    if study.settings.evaluate.also is None:
        return []
    requests = {_request(study, seed, made): made for seed, made in zip(_seeds(study), evaluations, strict=True)}
    found = study.store.make_each(list(requests), lambda request, folder: _predict(study, requests[request], folder))
    return list(found.values())


def _seeds(study: Study) -> list[int]:
    """The classifier seed of each evaluation."""
    return [seed for cell in study.cells for seed in seeds_of(cell)]


def _request(study: Study, seed: int, evaluation: Artifact) -> Request:
    method, how, name = study.settings.method, study.settings.classifier, image_settings(study, "also").name
    images_of_set = len(records(study, "also", "test"))
    return Request(
        "evaluation",
        f"{method.name}-seed-{seed}-on-{name}",
        {"classes": classes(study), "minor": minor(study), "scored": classes_in_common(study).shared},
        {"classifiers": evaluation, "test": images(study, "test", "also")},
        version=1,
        command=study.command("evaluate", f"method={method.name}", f"seeds=[{seed - method.seed_offset}]"),
        precision=study.precision.name,
        work=Work("prediction", "images", images_of_set, {"network": how.network, "image_size": how.image_size}),
    )


def _predict(study: Study, evaluation: Artifact, folder: Path) -> None:
    test, settings = tested(study), study.settings.evaluate
    known = [
        Classifier.load(place, study.device, study.precision)
        for place in sorted((evaluation.path / CLASSIFIERS).iterdir(), key=lambda place: int(place.name))
    ]
    logits = torch.stack([predict(classifier, test.images) for classifier in known])
    predicted = logits.argmax(dim=2)
    if settings.topk == "release_vote":
        predicted = majority(predicted, len(classes(study)))
    if settings.thresholds != "none":
        limits = _thresholds(study, known)
        predicted = torch.stack([decide(*each) for each in zip(logits, limits, strict=True)])
    write_predictions(study, test, logits, predicted, folder)


def _thresholds(study: Study, known: Sequence[Classifier]) -> list[Tensor]:
    """The thresholds of each classifier, which were chosen on the study's own validation images."""
    _, validation = learning_and_validation(study)
    assert validation is not None
    return [best_thresholds(predict(classifier, validation.images), validation.labels) for classifier in known]
