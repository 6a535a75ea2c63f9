"""After the last job of a sweep: results.csv, the table of all its jobs, and where the pictures lie. Torch-free."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sarsynth.console import console
from sarsynth.runs.tables import mean_fid, results_table

RESULT = "result.json"


class Summary(Callback):
    """Hydra's callback that sums a sweep up."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the jobs' results, write results.csv, print the table."""
        folder = Path(config.hydra.sweep.dir)
        files = sorted(folder.glob(f"*/{RESULT}"), key=lambda file: (len(file.parent.name), file.parent.name))
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        if not results:
            return
        write_csv([row(result) for result in results], folder / "results.csv")
        console.rule("[bold]results", align="left")
        console.print(results_table(results))
        console.print(f"  {folder / 'results.csv'}")
        for file, result in zip(files, results, strict=True):
            if pictures := sorted(file.parent.glob("*.png")):
                console.print(f"  {result['method']}: {file.parent}/ {' '.join(picture.name for picture in pictures)}")


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
