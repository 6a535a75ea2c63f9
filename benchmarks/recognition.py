"""Which share of a method's samples a reference classifier recognises: does the synthetic set show its classes at all?

    python benchmarks/recognition.py [--store logs/store] [--steps 1000] [--per-class 600] [overrides of the classifier]

Reads every synthetic set of the embedded world in the store. Chance is 20 %. A reference of 1,000 steps recognises 86 %
of real chips; one that recognises 95 % takes six minutes of a core:
`--steps 4000 --per-class 3000 'classifier.options.channels=[32,64,128,256]'`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sarsynth.config.checks import check
from sarsynth.config.composition import CONF
from sarsynth.console import console
from sarsynth.sim import CLASSES
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import recipe
from sarsynth.tracking import Tracker

import hydra
import numpy as np
import torch
from PIL import Image
from reference import recognised, reference
from rich.table import Table


def main(store: Path, steps: int, per_class: int, overrides: Sequence[str]) -> None:
    """Print the table."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        how = recipe(Study(check(hydra.compose("evaluate", list(overrides))), Tracker(None)))
    classifier, held_out = reference("sar", replace(how, max_steps=steps), per_class)
    table = Table(title="Share of the images that a reference classifier recognises, in %")
    for column in ("images", *CLASSES, "all"):
        table.add_column(column)

    def add(name: str, shares: dict[str, float]) -> None:
        table.add_row(name, *(f"{100 * share:.0f}" for share in shares.values()))

    add("real, held out", recognised(classifier, held_out.images, held_out.labels))
    for card in sorted(store.glob("synthetic/*/card.json")):
        files = [sorted((card.parent / "images" / name).glob("*.png")) for name in CLASSES]
        if all(files):
            images = torch.from_numpy(np.stack([np.asarray(Image.open(f)) for group in files for f in group]))[:, None]
            labels = torch.arange(len(CLASSES)).repeat_interleave(torch.tensor([len(group) for group in files]))
            add(card.parent.name, recognised(classifier, images, labels))
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("logs/store"), help="whose synthetic sets are read")
    parser.add_argument("--steps", type=int, default=1000, help="of the reference's training")
    parser.add_argument("--per-class", type=int, default=600, help="real chips of each class that it is trained on")
    parser.add_argument("overrides", nargs="*", help="of the study's classifier, whose network it is")
    given = parser.parse_args()
    main(given.store, given.steps, given.per_class, given.overrides)
