"""What is there already, asked for again: turns of `speed.py` that have no peer, and goals in seconds."""

import json
import shutil
from pathlib import Path

from sarsynth.evidence.fidelity import fidelity
from sarsynth.stages.measure_fidelity import FIGURES, write_figures
from sarsynth.store.artifacts import Request
from sarsynth.store.building import Store

import growth
import torch
from contests import Lap, Laps, take_turns
from torch import Tensor


def fidelity_again(real: Tensor, synthetic: Tensor, store: Path, rounds: int) -> Laps:
    """Fidelity that was measured once: a process that asks for it finds its artifact, and reads the figures.

    Args:
        real: Features, (images, width).
        synthetic: The same.
        store: An empty folder.
        rounds: How often.
    """
    request = Request("evaluation", "fidelity", {"images": len(real)}, {}, version=1, command="speed.py")
    labels = torch.zeros(len(real), dtype=torch.long), torch.zeros(len(synthetic), dtype=torch.long)

    def measure(folder: Path) -> None:
        write_figures(folder, fidelity(real, labels[0], synthetic, labels[1], ["ship"]))

    def look() -> None:
        found = Store(store, "require", report=lambda line: None).make(request, measure)
        assert json.loads((found.path / FIGURES).read_text(encoding="utf-8"))["pooled"]

    Store(store, report=lambda line: None).make(request, measure)
    return take_turns(look, (), rounds)


def summed_up(cells: int, scratch: Path, rounds: int) -> Laps:
    """The end of a sweep of which nothing was missing: intervals, gains, tables, report and pictures of its cells.

    Args:
        cells: How many.
        scratch: An empty folder.
        rounds: How often, each time of a sweep that has none of it.
    """
    laps = Laps()
    for method in growth.CELLS:
        growth.measured(method, 0, scratch)
    for _ in range(rounds):
        shutil.rmtree(scratch / f"sweep_{cells}", ignore_errors=True)
        laps.ours.append(Lap.of(growth.sweep_of(cells, scratch)))
    return laps
