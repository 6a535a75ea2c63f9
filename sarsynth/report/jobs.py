"""What the jobs of a sweep left on disk: their results, what sets them apart, rows of a table. Torch-free."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError

from sarsynth.errors import ERROR_FILE, UserError, one_line
from sarsynth.evidence.results import RESULT, leaks, read_result
from sarsynth.report.pictures import read_png
from sarsynth.report.tables import reliable_fid


@dataclass(frozen=True)
class Cell:
    """One job of a sweep.

    Attributes:
        folder: Hydra's folder of the job.
        result: What its result.json holds, None if it has none.
        error: Why it failed, None if it did not.
        method: Its method; empty if neither the command line nor a result says it.
        told: What the command line told it, by key.
        differs: What else it was told that not every job of the sweep was, by key.
    """

    folder: Path
    result: dict[str, Any] | None
    error: str | None
    method: str
    told: dict[str, str]
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
    """Read the folders of a sweep's jobs, in their order; the folder of a single run is its own only job."""
    told = {
        path.parents[1]: dict(line.partition("=")[::2] for line in yaml.safe_load(path.read_text(encoding="utf-8")))
        for path in [*folder.glob("*/.hydra/overrides.yaml"), *folder.glob(".hydra/overrides.yaml")]
    }
    found = []
    for job in sorted(told, key=lambda path: (len(path.name), path.name)):
        result, error = None, _read(job / ERROR_FILE)
        try:
            result = read_result(job / RESULT)
        except UserError as outdated:
            error = error or str(outdated)
        differs = {
            key: value
            for key, value in told[job].items()
            if key != "method" and any(other.get(key) != value for other in told.values())
        }
        method = told[job].get("method") or (result or {}).get("method", "")
        found.append(Cell(job, result, error, method, told[job], differs))
    return found


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def row(result: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a result to one row of results.csv: mean and standard deviation of each figure over the seeds.

    Without a FID, `n_real` and `n_synthetic` are fewer than `features`, or there are no synthetic images.
    """
    scores = result["classifier"]
    figures = {f"f1_{name}": per_class["f1"] for name, per_class in scores["per_class"].items()}
    figures |= {name: scores[name] for name in ("macro_f1", "minor_f1", "accuracy")}
    for name, per_class in scores["per_class"].items():
        figures |= {f"{key}_{name}": per_class[key] for key in ("precision", "recall") if key in per_class}
    flat: dict[str, Any] = {key: result[key] for key in ("method", "base", "data", "split")}
    flat["seeds"] = len(result["seeds"])
    flat |= {"topk": result["protocol"].get("topk"), "leaks": "; ".join(leaks(result))}
    for name, figure in figures.items():
        flat |= {name: figure["mean"], f"{name}_std": figure["std"]}
    for name, per_class in scores["per_class"].items():
        flat |= {f"support_{name}": per_class["support"]["mean"]} if "support" in per_class else {}
    fidelity = result["fidelity"]
    flat["features"] = fidelity["width"]
    flat["fid_preprocess"] = fidelity["preprocess"]
    by_class = {f"_{name}": fidelity["per_class"].get(name) for name in result["classes"]}
    for suffix, one in (by_class | {"": fidelity["pooled"]}).items():
        flat |= {f"kid{suffix}": one and one["kid"], f"fid{suffix}": one and reliable_fid(one)}
        flat |= {f"{key}{suffix}": one and one.get(key) for key in ("n_real", "n_synthetic")}
    return flat


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows whose columns may differ (jobs on different data)."""
    columns = list(dict.fromkeys(key for one in rows for key in one))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@contextmanager
def reading(file: Path, artifact: Path) -> Iterator[None]:
    """Say what is wrong with a file of the store, and what mends it, when what is done within fails.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        yield
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        wrong = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({one_line(error)})"
        raise UserError(f"{file} {wrong}; remove {artifact} and run the sweep again, which makes it anew") from error


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The first images of a class in a synthetic set, uint8 (1 or 3, H, W) each, and the prompt that they follow."""

    name: str
    prompt: str
    images: list[np.ndarray]


def read_set(folder: Path, most: int) -> list[ClassImages]:
    """Read up to `most` images of each class of a synthetic set, the first ones.

    Raises:
        UserError: One of them, or the list of them, is missing or damaged.
    """
    file = folder / "metadata.jsonl"
    with reading(file, folder):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = []
    for name in dict.fromkeys(one["class_name"] for one in rows):
        ours = [one for one in rows if one["class_name"] == name]
        images = []
        for one in ours[:most]:
            file = folder / one["file_name"]
            with reading(file, folder):
                images.append(read_png(file))
        found.append(ClassImages(name, ours[0]["text"], images))
    return found


def curves(file: Path) -> dict[str, np.ndarray]:
    """Read the scalars that the CSV logger wrote: step and value, float (N, 2), of each that has more than one."""
    found: dict[str, list[tuple[float, float]]] = {}
    with file.open(newline="", encoding="utf-8") as handle:
        for line in csv.DictReader(handle):
            for key, text in line.items():
                if text and key != "step" and line["step"]:
                    found.setdefault(key, []).append((float(line["step"]), float(text)))
    return {key: np.array(points) for key, points in found.items() if len(points) > 1}
