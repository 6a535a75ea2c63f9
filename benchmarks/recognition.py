"""Which share of a method's samples reference classifiers recognise: does the synthetic set show its classes at all?

    python benchmarks/recognition.py [--store logs/store] [--references 5] [--steps 1000] [--per-class 600] [overrides]

Reads every synthetic set of the embedded world in the store. Chance is 20 %. References of 1,000 steps recognise 87 %
of real chips; one that recognises 95 % takes six minutes of a core:
`--references 1 --steps 4000 --per-class 3000 'classifier.options.channels=[32,64,128,256]'`.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sarsynth.classifier.network import Classifier
from sarsynth.config.checks import check
from sarsynth.config.composition import CONF
from sarsynth.console import console
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.sim import CLASSES
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import recipe
from sarsynth.tracking import Tracker

import hydra
import numpy as np
import torch
from PIL import Image
from reference import SEED, recognised, reference
from rich.table import Table


def shown(classifiers: Sequence[Classifier], shown_set: LabelledImages) -> list[str]:
    """Recognised shares in %, over all references: those of the classes, their mean, and that of all images."""
    found = [recognised(classifier, shown_set.images, shown_set.labels) for classifier in classifiers]
    cells = []
    for name in found[0]:
        shares = [100 * shares[name] for shares in found]
        spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
        cells.append(f"{statistics.mean(shares):.1f}{spread}")
    return cells


def synthetic(folder: Path) -> LabelledImages | None:
    """The images of a synthetic set; None if it is not one of this world."""
    files = [sorted((folder / "images" / name).glob("*.png")) for name in CLASSES]
    if not all(files):
        return None
    images = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for group in files for file in group]))[:, None]
    return LabelledImages(images, torch.arange(len(CLASSES)).repeat_interleave(torch.tensor([*map(len, files)])))


def main(store: Path, references: int, steps: int, per_class: int, overrides: Sequence[str]) -> None:
    """Print the table."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        how = recipe(Study(check(hydra.compose("evaluate", list(overrides))), Tracker(None)))
    trained = [reference("sar", replace(how, max_steps=steps), per_class, SEED + index) for index in range(references)]
    classifiers, held_out = [classifier for classifier, _ in trained], trained[0][1]
    title = f"Images that {references} reference classifiers recognise, in %, mean ± standard deviation"
    table = Table("images", *CLASSES, "mean of classes", "all images", title=title)
    table.add_row("real, held out", *shown(classifiers, held_out))
    for card in sorted(store.glob("synthetic/*/card.json")):
        if of_set := synthetic(card.parent):
            table.add_row(card.parent.name, *shown(classifiers, of_set))
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("logs/store"), help="whose synthetic sets are read")
    parser.add_argument("--references", type=int, default=5, help="classifiers, which differ in their seed")
    parser.add_argument("--steps", type=int, default=1000, help="of a reference's training")
    parser.add_argument("--per-class", type=int, default=600, help="real chips of each class that it is trained on")
    parser.add_argument("overrides", nargs="*", help="of the study's classifier, whose network it is")
    given = parser.parse_args()
    main(given.store, given.references, given.steps, given.per_class, given.overrides)
