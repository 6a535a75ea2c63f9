"""Does the simulated world leave room for synthesis? F1 on imbalanced, resampled and balanced training data.

    python benchmarks/world.py [seeds]

The classifier and its number of steps are the same in every row; the test set is that of `data=sim`.
"""

import sys
from pathlib import Path

import hydra
import torch
from rich.table import Table

from sarsynth.classification import fit_classifier, predict, scores
from sarsynth.console import console
from sarsynth.data.datamodules import LabelledImages
from sarsynth.data.radiometry import EightBit
from sarsynth.data.simulated import Simulated
from sarsynth.data.transforms import load_images
from sarsynth.fitting import Fitting
from sarsynth.runs.copies import repeated_images
from sarsynth.runs.evaluation import spread
from sarsynth.runs.study import Study
from sarsynth.settings import check
from sarsynth.tracking import Tracker


def labelled(source: Simulated, split: str) -> LabelledImages:
    """Draw all images of a split."""
    records = source.records(split)
    return LabelledImages(
        load_images(source, records, source.image_size, EightBit()), torch.tensor([r.label for r in records])
    )


def main(seeds: int) -> None:
    """Print the table."""
    with hydra.initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        study = Study(check(hydra.compose("evaluate", ["experiment=demo"])), Tracker(None))
    recipe, source, classes = study.recipe(), study.sources["sar"], study.classes
    real, test = labelled(source, "train"), labelled(source, "test")
    total, most = len(real), max(study.counts.values())

    def balanced(size: int) -> LabelledImages:
        return labelled(Simulated("sar", source.seed, size, 0, source.image_size), "train")

    arms = {
        f"imbalanced, {total} images": (real, None),
        "the same, minor classes doubled": (real, repeated_images(study, real, study.plan)),
        f"balanced, {total // len(classes)} a class": (balanced(total // len(classes)), None),
        f"balanced, {most} a class": (balanced(most), None),
    }
    table = Table(title=f"F1 in %, mean ± sd over {seeds} seeds, {len(test)} test images, {recipe.max_steps} steps")
    for column in ("training set", *classes, "minor", "macro"):
        table.add_column(column)
    for name, (images, more) in arms.items():
        runs = []
        for seed in range(seeds):
            classifier = fit_classifier(
                images, classes, recipe, synthetic=more, seed=seed, fitting=Fitting(), title=name
            )
            runs.append(scores(predict(classifier, test.images).argmax(dim=1), test.labels, classes, study.minor))
        figures = [spread([run["per_class"][c]["f1"] for run in runs]) for c in classes]
        figures += [spread([run[key] for run in runs]) for key in ("minor_f1", "macro_f1")]
        table.add_row(name, *(f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}" for figure in figures))
        console.print(name, table.columns[-1]._cells[-1])
    console.print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
