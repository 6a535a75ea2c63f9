"""Which share of a method's samples a reference classifier recognises: does the synthetic set show its classes at all?

    python benchmarks/recognition.py [store]

Reads every synthetic set of the embedded world in the store (default: logs/store). Chance is 20 %.
"""

import sys
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

STEPS = 1000


def main(store: Path) -> None:
    """Print the table."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        how = recipe(Study(check(hydra.compose("evaluate")), Tracker(None)))
    classifier, held_out = reference("sar", replace(how, max_steps=STEPS))
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
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("logs/store"))
