"""The run that W&B has of a sweep as a whole: gains with their marks, the best of its rows, and its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sarsynth.commands.runs import about_sweep, logger_of
from sarsynth.config.components import Logger
from sarsynth.evidence.comparison import SIGNIFICANCE
from sarsynth.evidence.results import MEANS, RESULT
from sarsynth.report.html import REPORT
from sarsynth.report.rows import Row
from sarsynth.report.sweep import Sweep
from sarsynth.tracking import Tracker

GAINS = ("method", "score", "gain", "low", "high", "p", "mark", "baseline")


def track_sweep(config: DictConfig, folder: Path) -> None:
    """Put a sweep into a run of its own, in the group of its jobs; where the logger is W&B's, and jobs have scores.

    Args:
        config: The configuration of the sweep, with Hydra's section.
        folder: Of the sweep, with its report.

    Raises:
        UserError: A result cannot be read.
    """
    if not config.get("logger"):
        return
    chosen = Logger.model_validate(OmegaConf.to_container(config.logger, resolve=True))
    store = Path(config.paths.store)
    if not chosen.is_wandb or not (folder / REPORT).is_file():
        return
    sweep = Sweep.read(folder, store)
    about = about_sweep(chosen, folder, store, config.hydra.job.config_name, config.hydra.overrides.task)
    tracker = Tracker(logger_of(chosen, folder, about))
    tracker.config({"sweep": folder.name, "jobs": [job.name for job in sweep.jobs]})
    scored = [row.values for row in sweep.rows]
    columns = list(dict.fromkeys(column for values in scored for column in values))
    tracker.table("sweep/1_gains", GAINS, gains(sweep.rows))
    tracker.table(
        "sweep/2_results", ["row", *columns], [[row.name, *map(row.values.get, columns)] for row in sweep.rows]
    )
    tracker.page("sweep/3_report", folder / REPORT)
    tracker.scalars(best(sweep.rows))
    for job in sweep.jobs:
        assert job.result is not None
        name = f"result-{job.result['method']}-{job.result['data']}"
        tracker.artifact(name, "result", {"inputs": job.result["inputs"]}, [job.folder / RESULT], made=False)
    files = [file for file in (folder / REPORT, folder / SIGNIFICANCE, folder / "results.csv") if file.is_file()]
    tracker.artifact(f"report-{about['id']}", "report", {"sweep": folder.name}, files, made=True)
    tracker.finish("success")


def gains(rows: Sequence[Row]) -> list[list[Any]]:
    """The gains of all rows over their baselines, shares of 1, in the order of `GAINS`; ▲ ▼ mark significant ones."""
    return [
        [
            row.name,
            column.removeprefix("gain_"),
            cell.value,
            *(cell.interval or (None, None)),
            row[f"gain_p_holm_{column.removeprefix('gain_')}"].value,
            cell.mark,
            row.baseline,
        ]
        for row in rows
        for column, cell in row.cells.items()
        if column.startswith("gain_") and cell.interval
    ]


def best(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of the best row: by minor classes, where all rows have some, else by all classes."""
    measure = "minor_f1" if all(row["minor_f1"].value is not None for row in rows) else "macro_f1"
    winner = max(rows, key=lambda row: float(row[measure].value or 0))
    values = {name: winner[name].value for name in MEANS} | {
        f"gain_{name}": winner[f"gain_{name}"].value for name in MEANS
    }
    return {"best": winner.name} | {name: value for name, value in values.items() if value is not None}
