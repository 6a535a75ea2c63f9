"""Draw a method's images beside its result: real and added ones, scale strips, prototypes, nearest neighbours."""

from pathlib import Path

import torch

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.report import pictures
from sarsynth.stages.copy_images import COPIES
from sarsynth.stages.curate_images import classes, joining, synthetic_sizes
from sarsynth.stages.extract_features import synthetic_images
from sarsynth.stages.find_prototypes import draw_prototypes
from sarsynth.stages.generate_images import strip_name, strips
from sarsynth.stages.measure_copies import draw_neighbours
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact

DRAWN = ("synthetic", "augmented", "pasted")  # what a method adds that is worth a picture


def drawn(study: Study) -> list[Artifact]:
    """The artifacts that `draw_added` and `draw_stack` show."""
    method = study.settings.method
    if method.adds not in DRAWN:
        return []
    return [images(study, "train"), *([strips(study)] if method.tunes == "adapter" else [])]


def draw_added(study: Study, folder: Path) -> list[Path]:
    """Put a picture of real | added images, the rarest class first, beside what a method will come to; if it adds any.

    A run draws it as soon as there are some: it shows what is to be expected of all that follows.
    """
    if study.settings.method.adds not in DRAWN:
        return []
    return [(_draw_synthetic if study.settings.method.adds == "synthetic" else _draw_copies)(study, folder)]


def draw_stack(study: Study, folder: Path) -> list[Path]:
    """Put pictures of a method's adapters beside its result: strips over their scale, and prototypes."""
    method, files = study.settings.method, list[Path]()
    if method.adds != "synthetic":
        return files
    if method.tunes == "adapter":
        made = strips(study)
        for class_name in classes(study):
            name = strip_name(study, class_name)
            files.append(folder / f"strip_{name}")
            files[-1].write_bytes((made.path / name).read_bytes())
    if method.partition == "prototypes":
        files.append(draw_prototypes(study, folder))
    return files


def draw_quality(study: Study, folder: Path) -> list[Path]:
    """Put pictures of what was measured of a synthetic set beside its result: nearest neighbours."""
    return [draw_neighbours(study, folder)] if study.settings.method.adds == "synthetic" else []


def _draw_copies(study: Study, folder: Path) -> Path:
    adds, real = study.settings.method.adds, labelled(study, "train")
    copies = COPIES[adds](study, real, joining(study))
    return _draw_beside(study, real, str(adds), copies, folder / "real_vs_added.png", "added")


def _draw_synthetic(study: Study, folder: Path) -> Path:
    real = labelled(study, "train")
    first = {name: range(min(pictures.COLUMNS, size)) for name, size in synthetic_sizes(study).items()}
    made = synthetic_images(study, first)
    return _draw_beside(study, real, "synthetic", made, folder / "real_vs_synthetic.png", "synthetic")


def _draw_beside(
    study: Study, real: LabelledImages, heading: str, added: LabelledImages, file: Path, what: str
) -> Path:
    """Draw real images of each class, the rarest one first, and beside them what is added to it."""
    names = classes(study)
    order = torch.bincount(real.labels, minlength=len(names)).argsort(stable=True)
    place = order.argsort()
    sides = {"real": (real.images, place[real.labels]), heading: (added.images, place[added.labels])}
    title = f"{study.settings.method.name}: real and {what}"
    pictures.class_grid(sides, [names[label] for label in order.tolist()], title=title).save(file)
    return file
