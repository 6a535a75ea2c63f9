"""After the last job of a sweep: its report and table, the pictures of its jobs side by side, and what failed.

Torch-free, as the process that starts the jobs is.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sarsynth.console import console
from sarsynth.errors import UserError
from sarsynth.processes import rank
from sarsynth.report import pictures
from sarsynth.report.jobs import Cell, ClassImages, cells, read_set
from sarsynth.report.tables import cheaper, gains_table, results_table

SEEDS = 4  # images of a class and job in a class's own picture
SAMPLES = 3  # and in the picture of all classes


class Summary(Callback):
    """Hydra's callback that sums a sweep up."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report and pictures, print the table; name what failed and exit with 1 if anything did."""
        if rank():
            return
        folder = Path(config.hydra.sweep.dir)
        found = cells(folder)
        scored = [(cell, cell.result) for cell in found if cell.result and "classifier" in cell.result]
        reported = True
        if scored:
            console.rule("[bold]results", align="left")
            console.print(results_table([result for _, result in scored], [cell.overrides for cell, _ in scored]))
            if line := cheaper([(cell.name, result) for cell, result in scored]):
                console.print(f"  {line}", markup=False)
            reported = write_report(folder, Path(config.paths.store))
        for file in side_by_side(found, Path(config.paths.store), folder):
            console.print(f"  {file}")
        for cell in found:
            if files := sorted(cell.folder.glob("*.png")):
                console.print(f"  {cell.name}: {cell.folder}/ {' '.join(file.name for file in files)}", markup=False)
        if failed := [cell for cell in found if cell.error]:
            console.rule(f"[bold red]{len(failed)} of {len(found)} jobs failed", align="left")
            for cell in failed:
                console.print(f"  {cell.name}: {cell.folder}/ {cell.error}", markup=False)
        if failed or not reported:
            sys.exit(1)  # Hydra, which has nothing more to do, would turn an exception into a warning


def write_report(folder: Path, store: Path) -> bool:
    """Write the report of a sweep and print its gains; a defect in it hides nothing of what else there is to say."""
    from sarsynth.report import page  # it draws and fits: two seconds to import, and Hydra asks every run for this file

    try:
        files = page.write(folder, store)
        show_gains(page.Sweep.read(folder, store).significance)
    except Exception:
        logging.getLogger(__name__).exception("no report: a defect")
        return False
    for file in files:
        console.print(f"  {file}")
    return True


def show_gains(found: Mapping[str, Any]) -> None:
    """Print what significance.json holds: the table, what would settle open questions, and what could not be told."""
    if table := gains_table(found):
        console.print(table)
    notes = {row["note"]: row["method"] for row in reversed(found["rows"]) if row["note"]}
    for line in [*found["open"], *(f"{method}: {note}" for note, method in notes.items())]:
        console.print(f"  {line}", markup=False)


def side_by_side(found: Sequence[Cell], store: Path, folder: Path) -> list[Path]:
    """Show the synthetic sets of a sweep's jobs beside each other: a picture of all classes and one of each.

    Equal indices start from equal noise, so a row of a class's picture differs by the job alone (the paper's Figure 1).

    A set that cannot be read is left out, and named.

    Returns:
        The pictures; none if fewer than two sets of the same classes differ.
    """
    sets: dict[str, tuple[str, list[ClassImages]]] = {}  # by fingerprint, with the heading of the first job that has it
    for cell in found:
        made = cell.result["inputs"].get("synthetic") if cell.result else None
        if made and made not in sets:
            path = next((store / "synthetic").glob(f"*-{made}"))  # two names, if two methods come to the same set
            try:
                sets[made] = cell.heading, read_set(path, SEEDS)
            except UserError as error:
                console.print(f"  {cell.name}: {error}", markup=False)
    first = next(iter(sets.values()), ("", []))[1]
    alike = [
        one for one in sets.values() if [a_class.name for a_class in one[1]] == [a_class.name for a_class in first]
    ]
    if len(alike) < 2:
        return []
    title = "the same seeds of each class side by side"
    groups = [(heading, [a_class.images[:SAMPLES] for a_class in by_class]) for heading, by_class in alike]
    files = [folder / "side_by_side.png"]
    pictures.compose(groups, [a_class.name for a_class in first], title).save(files[0])
    for index, a_class in enumerate(first):
        columns = [(heading, [[image] for image in by_class[index].images]) for heading, by_class in alike]
        files.append(folder / f"side_by_side_{a_class.name}.png")
        names = [f"seed {seed}" for seed in range(max(len(rows) for _, rows in columns))]
        pictures.compose(columns, names, a_class.prompt).save(files[-1])
    return files
