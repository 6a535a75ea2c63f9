"""What the jobs of a sweep left on disk: their results, what sets them apart, rows of a table. Torch-free."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sarsynth.errors import ERROR_FILE
from sarsynth.runs.tables import mean_fid

RESULT = "result.json"


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
