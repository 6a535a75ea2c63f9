"""After the last job of a sweep: results.csv, the table of all its jobs, their pictures side by side, and what failed.

Torch-free, as the process that starts the jobs is.
"""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from PIL import Image

from sarsynth import pictures
from sarsynth.console import console
from sarsynth.errors import ERROR_FILE
from sarsynth.runs.tables import cheaper, mean_fid, results_table

RESULT = "result.json"
SEEDS = 4  # images of a class and job in a class's own picture
SAMPLES = 3  # and in the picture of all classes


@dataclass(frozen=True)
class Cell:
    """One job of a sweep.

    Attributes:
        folder: Hydra's folder of the job.
        result: What its result.json holds, None if it has none.
        error: Why it failed, None if it did not.
        method: Its method; empty if neither the command line nor a result says it.
        differs: What else it was told that not every job of the sweep was, by key.
    """

    folder: Path
    result: dict[str, Any] | None
    error: str | None
    method: str
    differs: dict[str, str]

    @property
    def overrides(self) -> str:
        """What sets the job apart besides its method, as on the command line."""
        return " ".join(f"{key}={value}" for key, value in self.differs.items())

    @property
    def name(self) -> str:
        """What sets the job apart."""
        return f"{self.method} {self.overrides}".strip() or self.folder.name

    @property
    def heading(self) -> str:
        """The name with no more than the last part of each key."""
        short = [f"{key.rpartition('.')[2]}={value}" for key, value in self.differs.items()]
        return " ".join([self.method, *short]).strip() or self.folder.name


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The first images of a class in a synthetic set, uint8 (1 or 3, H, W) each, and the prompt that they follow."""

    name: str
    prompt: str
    images: list[np.ndarray]


class Summary(Callback):
    """Hydra's callback that sums a sweep up."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write results.csv and pictures, print the table; name what failed and exit with 1 if anything did."""
        folder = Path(config.hydra.sweep.dir)
        found = cells(folder)
        scored = [(cell, cell.result) for cell in found if cell.result and "classifier" in cell.result]
        if scored:
            rows = [{"method": result["method"], "overrides": cell.overrides} | row(result) for cell, result in scored]
            write_csv(rows, folder / "results.csv")
            console.rule("[bold]results", align="left")
            console.print(results_table([result for _, result in scored], [cell.overrides for cell, _ in scored]))
            if line := cheaper([(cell.name, result) for cell, result in scored]):
                console.print(f"  {line}", markup=False)
            console.print(f"  {folder / 'results.csv'}")
        for file in side_by_side(found, Path(config.paths.store), folder):
            console.print(f"  {file}")
        for cell in found:
            if files := sorted(cell.folder.glob("*.png")):
                console.print(f"  {cell.name}: {cell.folder}/ {' '.join(file.name for file in files)}", markup=False)
        if failed := [cell for cell in found if cell.error]:
            console.rule(f"[bold red]{len(failed)} of {len(found)} jobs failed", align="left")
            for cell in failed:
                console.print(f"  {cell.name}: {cell.folder}/ {cell.error}", markup=False)
            sys.exit(1)  # Hydra, which has nothing more to do, would turn an exception into a warning


def cells(folder: Path) -> list[Cell]:
    """Read the folders of a sweep's jobs, in their order."""
    told = {
        path.parents[1]: dict(line.partition("=")[::2] for line in yaml.safe_load(path.read_text(encoding="utf-8")))
        for path in folder.glob("*/.hydra/overrides.yaml")
    }
    found = []
    for job in sorted(told, key=lambda path: (len(path.name), path.name)):
        result = json.loads(_read(job / RESULT) or "null")
        differs = {
            key: value
            for key, value in told[job].items()
            if key != "method" and any(other.get(key) != value for other in told.values())
        }
        method = told[job].get("method") or (result or {}).get("method", "")
        found.append(Cell(job, result, _read(job / ERROR_FILE), method, differs))
    return found


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def row(result: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a result to one row of results.csv: mean and standard deviation of each figure over the seeds."""
    scores = result["classifier"]
    figures = {f"f1_{name}": per_class["f1"] for name, per_class in scores["per_class"].items()}
    figures |= {name: scores[name] for name in ("macro_f1", "minor_f1", "accuracy")}
    flat: dict[str, Any] = {key: result[key] for key in ("method", "base", "data", "split")}
    flat["seeds"] = len(result["seeds"])
    for name, figure in figures.items():
        flat |= {name: figure["mean"], f"{name}_std": figure["std"]}
    fidelity = result["fidelity"]["per_class"]
    flat |= {f"fid_{name}": (fidelity.get(name) or {}).get("fid") for name in result["classes"]}
    return flat | {"fid": mean_fid(result)}


def write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write rows whose columns may differ (jobs on different data)."""
    columns = list(dict.fromkeys(key for one in rows for key in one))
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def side_by_side(found: Sequence[Cell], store: Path, folder: Path) -> list[Path]:
    """Show the synthetic sets of a sweep's jobs beside each other: a picture of all classes and one of each.

    Equal indices start from equal noise, so a row of a class's picture differs by the job alone (the paper's Figure 1).

    Returns:
        The pictures; none if fewer than two sets of the same classes differ.
    """
    sets: dict[str, tuple[str, list[ClassImages]]] = {}  # by fingerprint, with the heading of the first job that has it
    for cell in found:
        made = cell.result["inputs"].get("synthetic") if cell.result else None
        if made and made not in sets:
            path = next((store / "synthetic").glob(f"*-{made}"))  # two names, if two methods come to the same set
            sets[made] = cell.heading, _read_set(path)
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


def _read_set(folder: Path) -> list[ClassImages]:
    """Read the first images of each class of a synthetic set."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    found = []
    for name in dict.fromkeys(one["class_name"] for one in rows):
        ours = [one for one in rows if one["class_name"] == name]
        images = []
        for one in ours[:SEEDS]:
            with Image.open(folder / one["file_name"]) as picture:
                pixels = np.asarray(picture)
            images.append(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))
        found.append(ClassImages(name, ours[0]["text"], images))
    return found
