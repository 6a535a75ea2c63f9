"""One stage of a study: `python train.py stage=sar method=plora` makes that, and what it lacks below it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.table import Table

from sarsynth.console import console
from sarsynth.partitions import Partition
from sarsynth.runs.pretraining import make_base
from sarsynth.runs.session import session
from sarsynth.runs.study import Study
from sarsynth.scales import prototype_weights
from sarsynth.settings import Settings
from sarsynth.store import Artifact


def run(settings: Settings, folder: Path) -> None:
    """Make one stage's artifacts and say where they lie."""
    with session(settings, folder) as study:
        for artifact in STAGES[settings.stage or ""](study):
            console.print(f"  {artifact.path}")


def prototypes(study: Study) -> list[Artifact]:
    """Make the partition and print what it is made of."""
    made = study.prototypes()
    print_partition(Partition.load(made.path / "partition.json"))
    return [made]


def sar(study: Study) -> list[Artifact]:
    """Make the method's SAR adapters."""
    return list(study.sar_adapters().values())


STAGES: dict[str, Callable[[Study], list[Artifact]]] = {
    "base": lambda study: [make_base(study)],
    "ors": lambda study: [study.ors_adapter()],
    "classifier": lambda study: [study.classifier()],
    "prototypes": prototypes,
    "sar": sar,
}


def print_partition(partition: Partition) -> None:
    """Print the class x cluster counts, the mixing weights that follow, and how far clusters are from classes."""
    table = Table(title="Images of each class in each prototype, and the class's bias-score weights")
    table.add_column("class")
    for part in range(partition.k):
        table.add_column(f"prototype {part}", justify="right")
    weights = prototype_weights(partition.counts)
    for name, row, shares in zip(partition.classes, partition.counts, weights, strict=True):
        table.add_row(name, *(f"{count}  ({share:.2f})" for count, share in zip(row, shares, strict=True)))
    table.add_row("all", *map(str, np.sum(partition.counts, axis=0)))
    console.print(table)
    console.print(
        f"normalised mutual information with the classes: {partition.nmi:.2f} (1: prototypes are the classes)"
    )
