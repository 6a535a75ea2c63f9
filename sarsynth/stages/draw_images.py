"""Draw a method's images beside its result: real and added ones, scale strips, prototypes, nearest neighbours."""

from pathlib import Path

from sarsynth.report import pictures
from sarsynth.stages.copy_images import COPIES
from sarsynth.stages.curate_images import classes, joining, synthetic_sizes
from sarsynth.stages.extract_features import synthetic_images
from sarsynth.stages.find_prototypes import draw_prototypes
from sarsynth.stages.generate_images import strips
from sarsynth.stages.measure_copies import draw_neighbours
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact

DRAWN = ("synthetic", "augmented", "pasted")  # what a method adds that is worth a picture


def drawn(study: Study) -> list[Artifact]:
    """The artifacts that `draw` shows."""
    method = study.settings.method
    if method.adds not in DRAWN:
        return []
    return [images(study, "train"), *([strips(study)] if method.tunes == "adapter" else [])]


def draw(study: Study, folder: Path) -> list[Path]:
    """Put a method's pictures beside its result: real | added images; of a stack strips and prototypes."""
    method = study.settings.method
    if method.adds not in DRAWN:
        return []
    if method.adds != "synthetic":
        return [_draw_copies(study, folder)]
    files = [_draw_synthetic(study, folder)]
    if method.tunes == "adapter":
        made = strips(study)
        for class_name in classes(study):
            files.append(folder / f"strip_{class_name}.png")
            files[-1].write_bytes((made.path / f"{class_name}.png").read_bytes())
    if method.partition == "prototypes":
        files.append(draw_prototypes(study, folder))
    return files


def draw_quality(study: Study, folder: Path) -> list[Path]:
    """Put pictures of what was measured of a synthetic set beside its result: nearest neighbours."""
    return [draw_neighbours(study, folder)] if study.settings.method.adds == "synthetic" else []


def _draw_copies(study: Study, folder: Path) -> Path:
    adds, real = study.settings.method.adds, labelled(study, "train")
    copies = COPIES[adds](study, real, joining(study))
    sides = {"real": (real.images, real.labels), str(adds): (copies.images, copies.labels)}
    file = folder / "real_vs_added.png"
    title = f"{study.settings.method.name}: real and added"
    pictures.class_grid(sides, classes(study), title=title).save(file)
    return file


def _draw_synthetic(study: Study, folder: Path) -> Path:
    real = labelled(study, "train")
    first = {name: range(min(pictures.COLUMNS, size)) for name, size in synthetic_sizes(study).items()}
    made = synthetic_images(study, first)
    sides = {"real": (real.images, real.labels), "synthetic": (made.images, made.labels)}
    file = folder / "real_vs_synthetic.png"
    title = f"{study.settings.method.name}: real and synthetic"
    pictures.class_grid(sides, classes(study), title=title).save(file)
    return file
