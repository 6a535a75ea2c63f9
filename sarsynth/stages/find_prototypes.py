"""Find prototypes: the SAR training set in K clusters of features; and how any method divides that set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from sarsynth.classifier.network import extract_features
from sarsynth.console import console
from sarsynth.diffusion.latents import Latents
from sarsynth.diffusion.prototypes import Partition, check_k, class_groups, cluster, supposed, whole
from sarsynth.report import pictures
from sarsynth.report.terminal import partition_table
from sarsynth.stages.curate_images import classes, minor, training
from sarsynth.stages.encode_images import latents
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study, first, once_a_generator
from sarsynth.stages.train_classifier import classifier, load_classifier, work_of_comparison
from sarsynth.store.artifacts import Artifact

PARTITION = "partition.json"
LARGEST = 5  # classes of a prototype that its picture names


@once_a_generator
def prototypes(study: Study) -> Artifact:
    """The SAR training set in K clusters of features; its class x cluster counts are always printed."""
    settings = study.settings.prototypes
    check_k(settings.k, len(training(study, "sar")))
    describe, inputs = _features(study)

    def build(folder: Path) -> None:
        clusters = cluster(describe().numpy(), _labels(study), classes(study), settings.k, study.generator_seed)
        clusters.save(folder / PARTITION)

    artifact = study.make(
        "partition",
        f"prototypes-{settings.k}",
        {"k": settings.k, "seed": study.generator_seed},
        inputs,
        build,
        command=("train", "stage=prototypes"),
        precision=None if settings.features == "base" else study.precision.name,
        work=work_of_comparison(
            study, "prototypes", len(training(study, "sar")), k=settings.k, features=settings.features
        ),
    )
    if not study.planning and first(study, "prototypes", artifact.fingerprint):
        console.print(partition_table(Partition.load(artifact.path / PARTITION)))
    return artifact


def _features(study: Study) -> tuple[Callable[[], Tensor], dict[str, Artifact]]:
    """How to describe the SAR training images, float32 (N, F), and the artifacts that this follows from."""
    if study.settings.prototypes.features == "base":
        encoded = latents(study, "sar")
        return lambda: Latents.open(encoded.path).means(), {"latents": encoded}

    def describe() -> Tensor:
        return extract_features(load_classifier(study), labelled(study, "train").images)

    return describe, {"classifier": classifier(study), "images": images(study, "train")}


def partition(study: Study) -> tuple[Partition, dict[str, Artifact]]:
    """How the method divides the SAR training set, and the artifacts that this follows from.

    Where prototypes are not there yet, which only a plan lets pass, they are supposed to be of equal size.
    """
    labels, names = _labels(study), classes(study)
    match study.settings.method.partition:
        case "prototypes":
            artifact = prototypes(study)
            if artifact.complete:
                return Partition.load(artifact.path / PARTITION), {"partition": artifact}
            return supposed(labels, names, study.settings.prototypes.k), {"partition": artifact}
        case "classes":
            return class_groups(labels, names, minor(study)), {}
    return whole(labels, names), {}


def _labels(study: Study) -> np.ndarray:
    """Of the SAR training images, int (N,)."""
    return np.array([record.label for record in training(study, "sar")])


def draw_prototypes(study: Study, folder: Path) -> Path:
    """Show real images of each prototype, a row each, and its largest classes (the paper's Figure A1)."""
    found, real = Partition.load(prototypes(study).path / PARTITION), labelled(study, "train")
    names = []
    for part, counts in enumerate(found.counts.T):
        largest = sorted(zip(counts.tolist(), found.classes, strict=True), key=lambda pair: -pair[0])[:LARGEST]
        names.append("\n".join([f"prototype {part}", *(f"{name} {count}" for count, name in largest if count)]))
    file = folder / "prototypes.png"
    title = f"real images of each prototype (normalised mutual information with the classes: {found.nmi:.2f})"
    columns = 2 * pictures.COLUMNS
    pictures.class_grid({"": (real.images, found.assignments)}, names, title=title, columns=columns).save(file)
    return file
