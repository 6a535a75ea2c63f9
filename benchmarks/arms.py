"""Training sets against each other: one classifier and one number of steps, the test set of the study's world."""

import sys
from collections.abc import Mapping, Sequence

from sarsynth.classifier.learning import fit_classifier
from sarsynth.classifier.network import predict
from sarsynth.classifier.scores import scores
from sarsynth.config.checks import check
from sarsynth.config.composition import CONF
from sarsynth.console import console
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.radiometry import EightBit
from sarsynth.data.simulated import Simulated
from sarsynth.data.transforms import load_images
from sarsynth.stages.curate_images import classes, minor
from sarsynth.stages.open_images import opened
from sarsynth.stages.study import Study
from sarsynth.stages.sum_up import spread
from sarsynth.stages.train_classifier import recipe
from sarsynth.tracking import Tracker
from sarsynth.training.fitting import Fitting

import hydra
import torch
from rich.table import Table

LIKE_FU_SRS = ("data=sim", "augment=paper", "classifier.epochs=13")  # overrides: its counts, minor classes doubled
Arm = tuple[LabelledImages, LabelledImages | None]  # images, and those that join them


def demo(overrides: Sequence[str] = ()) -> Study:
    """The demo's study, with other settings where overrides say so."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return Study(check(hydra.compose("evaluate", ["experiment=demo", *overrides])), Tracker(None))


def said(seeds: int = 3) -> tuple[int, list[str]]:
    """What stands on the command line: a number of seeds, and overrides."""
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    return next(iter(numbers), seeds), [argument for argument in sys.argv[1:] if not argument.isdigit()]


def labelled(source: Simulated, split: str) -> LabelledImages:
    """Draw all images of a split."""
    records = source.records(split)
    return LabelledImages(
        load_images(source, records, source.image_size, EightBit()), torch.tensor([r.label for r in records])
    )


def compare(study: Study, arms: Mapping[str, Arm], seeds: int) -> None:
    """Print a table with a row an arm."""
    how, names, test = recipe(study), classes(study), labelled(opened(study)["sar"], "test")
    table = Table(title=f"F1 in %, mean ± sd over {seeds} seeds, {len(test)} test images, {how.max_steps} steps")
    for column in ("training set", *names, "minor", "macro"):
        table.add_column(column)
    for name, (images, more) in arms.items():
        runs = []
        for seed in range(seeds):
            classifier = fit_classifier(images, names, how, synthetic=more, seed=seed, fitting=Fitting(), title=name)
            runs.append(scores(predict(classifier, test.images).argmax(dim=1), test.labels, names, minor(study)))
        figures = [spread([run["per_class"][c]["f1"] for run in runs]) for c in names]
        figures += [spread([run[key] for run in runs]) for key in ("minor_f1", "macro_f1")]
        table.add_row(name, *(f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}" for figure in figures))
    console.print(table)
