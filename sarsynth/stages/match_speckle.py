"""Match the speckle of a synthetic set to that of real images, where the settings ask for it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np

from sarsynth.console import console
from sarsynth.data.seeds import step_seed
from sarsynth.data.transforms import load_images
from sarsynth.errors import UserError
from sarsynth.evidence.speckle import Moments, Speckle, moments
from sarsynth.report.pictures import read_png, save_png
from sarsynth.stages.curate_images import classes, samples, source, synthetic_sizes, training
from sarsynth.stages.fit_radiometry import fingerprint, radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.generate_images import sampled, stems
from sarsynth.stages.study import Study, once_a_cell
from sarsynth.store.artifacts import CARD, Artifact
from sarsynth.store.costs import Work

SPECKLE = "speckle.json"
MEASURED = 500  # images of each side, at most

Item = TypeVar("Item")


@once_a_cell
def synthetic(study: Study) -> Artifact:
    """The method's synthetic set, as it joins real images."""
    made = sampled(study)
    return matched(study, made) if study.settings.generate.speckle == "matched" else made


def matched(study: Study, made: Artifact) -> Artifact:
    """Multiply the images of a set by the speckle that they lack beside the training images.

    Returns:
        A set like `made`, with `speckle.json`: the moments of clutter of `real` training images, of the images `made`
        and `matched`, and the `factor`, null where nothing was missing.

    Raises:
        UserError: One side has no clutter to measure.
    """
    records, size = _spread(training(study, "sar")), study.settings.base.image_size
    method = study.settings.method.name

    def build(folder: Path) -> None:
        names = sorted(str(file.relative_to(made.path)) for file in made.path.glob("images/*/*.png"))
        measured = _spread(names)
        pixels = load_images(
            source(study, "sar"), records, size, radiometry(study, "sar"), framing(study, "sar")
        ).numpy()
        real, before = _moments(pixels, "training images"), _moments(_read(made.path, measured), f"images of {method}")
        factor = Speckle.missing(real, before)
        # The whole set anew, so that a run that was cut off and goes on puts no speckle on speckle.
        shutil.copytree(made.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CARD))
        if factor is not None:
            labels = {stems(study)[class_name]: label for label, class_name in enumerate(classes(study))}
            for name in names:
                label, index = labels[Path(name).parent.name], int(Path(name).stem)
                rng = np.random.default_rng(step_seed(study.sample_seed, label, index))
                save_png(factor.on(read_png(made.path / name), rng), folder / name)
        after = _moments(_read(folder, measured), f"images of {method}")
        console.print(
            f"  looks of clutter: {real.looks:.1f} in training images; of {method} {before.looks:.1f} as made, "
            f"{after.looks:.1f} matched"
        )
        figures = {"real": real, "made": before, "matched": after, "factor": factor}
        plain = {name: figure and asdict(figure) for name, figure in figures.items()}
        (folder / SPECKLE).write_text(json.dumps(plain, indent=2) + "\n")

    return study.make(
        "synthetic",
        f"{method}-matched",
        {"source": fingerprint(study, "sar"), "image_size": size, "seed": study.sample_seed},
        {"synthetic": made},
        build,
        version=2,
        command=("generate", f"method={method}"),
        samples=samples(study, "sar", records),
        work=Work("speckle", "images", sum(synthetic_sizes(study).values()), {"image_size": size}),
    )


def _spread(items: Sequence[Item]) -> Sequence[Item]:
    """Up to as many of them as are measured, evenly spread."""
    return items[:: 1 + (len(items) - 1) // MEASURED]


def _read(folder: Path, names: Sequence[str]) -> np.ndarray:
    return np.stack([read_png(folder / name) for name in names])


def _moments(images: np.ndarray, what: str) -> Moments:
    if (found := moments(images)) is None:
        raise UserError(f"generate.speckle=matched: {what} have no clutter to measure; use generate.speckle=as_made")
    return found
