"""A sweep as it lies on disk, and the figures that its report is made of."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from sarsynth.errors import UserError
from sarsynth.evidence.comparison import SIGNIFICANCE, Row, read_or_compare
from sarsynth.evidence.results import RESULT
from sarsynth.report import jobs
from sarsynth.report.jobs import Cell as Job
from sarsynth.report.pages import Cell, Note
from sarsynth.report.plots import Estimate
from sarsynth.store.artifacts import CARD

STORE = Path("logs/store")  # where it lies unless somebody says otherwise: conf/paths/default.yaml
ROWS = 12  # whose pictures a page carries
FEW = 10  # rows below which a rank correlation has no interval
REPLICATES = 2000  # of a bootstrap over rows
LEVEL = 0.95
MEANS = {"minor_f1": "minor*", "macro_f1": "macro", "accuracy": "accuracy"}
FIGURES = {"precision": "precision", "recall": "recall", "f1": "F1", "support": "test images"}  # of a class
RELEASE = "fid.preprocess=release: unnormalised input as the release's; compares with nothing else"


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep as it lies on disk; or a single run, which is a sweep of one job.

    Attributes:
        folder: Of the sweep.
        store: Of the artifacts that its results rest on.
        jobs: Those with a result, in their order.
        failed: Those with an error.
    """

    folder: Path
    store: Path
    jobs: list[Job]
    failed: list[Job]

    @classmethod
    def read(cls, folder: Path, store: Path) -> "Sweep":
        """Read the results of a folder.

        Raises:
            UserError: It is no folder of results, or holds one that this version cannot read.
        """
        if not folder.is_dir():
            raise UserError(f"report={folder} is not a folder; give one of logs/sweeps/evaluate or logs/runs/evaluate")
        found = jobs.cells(folder)
        scored = [job for job in found if job.result and "classifier" in job.result]
        outdated = [job for job in found if job.error and (job.folder / RESULT).exists()]
        if not scored and outdated:
            raise UserError(str(outdated[0].error))
        if not scored:
            raise UserError(f"report={folder} holds no {RESULT} of evaluate.py; give the folder of its sweep")
        return cls(folder, store, scored, [job for job in found if job.error])

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """What each job found."""
        return [job.result for job in self.jobs if job.result]

    @cached_property
    def rows(self) -> list[str]:
        """Short names of the jobs, each its own."""
        names = [job.heading for job in self.jobs]
        return [
            name if names.count(name) == 1 else f"{name} #{job.folder.name}"
            for name, job in zip(names, self.jobs, strict=True)
        ]

    @cached_property
    def classes(self) -> list[str]:
        """Classes of all jobs."""
        return list(dict.fromkeys(name for result in self.results for name in result["classes"]))

    @cached_property
    def minor(self) -> set[str]:
        """Classes that are minor in some job."""
        return {name for result in self.results for name in result["minor"]}

    @cached_property
    def titles(self) -> dict[str, str]:
        """Headings of all that is scored, by name."""
        return {name: self.title(name) for name in self.classes} | MEANS

    def title(self, class_name: str) -> str:
        """The name of a class, with a star if it is minor."""
        return f"{class_name}*" if class_name in self.minor else class_name

    @cached_property
    def significance(self) -> dict[str, Any]:
        """Intervals and gains: as the sweep left them, if it was these rows, else from the predictions in the store."""
        rows = [
            Row(job.folder.name, job.overrides, result) for job, result in zip(self.jobs, self.results, strict=True)
        ]
        return read_or_compare(rows, self.store, self.folder / SIGNIFICANCE)

    @cached_property
    def compared(self) -> list[dict[str, Any]]:
        """The entry of each job in it."""
        by_job = {row["job"]: row for row in self.significance["rows"]}
        return [by_job[job.folder.name] for job in self.jobs]

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return {card.parent.name.rpartition("-")[2]: card.parent for card in self.store.glob(f"*/[!.]*/{CARD}")}

    @cached_property
    def _cards(self) -> dict[str, dict[str, Any]]:
        return {}

    def artifact(self, fingerprint: str | None) -> Path | None:
        """The folder of an artifact; None if the store lacks it."""
        return self._folders.get(fingerprint or "")

    def card(self, fingerprint: str) -> dict[str, Any] | None:
        """The card of an artifact; None if the store lacks it."""
        folder = self.artifact(fingerprint)
        if folder is not None and fingerprint not in self._cards:
            self._cards[fingerprint] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return self._cards.get(fingerprint)

    def lineage(self, fingerprints: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The cards of artifacts and of all that they were made from."""
        found: dict[str, dict[str, Any]] = {}
        waiting = list(fingerprints)
        while waiting:
            fingerprint = waiting.pop()
            card = self.card(fingerprint)
            if card and fingerprint not in found:
                found[fingerprint] = card
                waiting += card["inputs"].values()
        return found

    @property
    def absent(self) -> Note:
        """Why something cannot be shown that is only in the store."""
        return Note(f"Not in the store at {self.store}; name the sweep's own with paths.store=… to see it.")


def estimate(figure: Mapping[str, Any] | None, interval: Mapping[str, float] | None) -> Estimate | None:
    """A figure over seeds, in percent, with its interval over test images and seeds."""
    if figure is None or figure["mean"] is None:
        return None
    low, high = (100 * interval["low"], 100 * interval["high"]) if interval else (None, None)
    return Estimate(100 * figure["mean"], low, high, [100 * value for value in figure["values"] if value is not None])


def gain_of(compared: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The gain over the baseline in F1 of a class, or in one of the means; None where nothing is compared."""
    gains = compared["gains"] or {}
    return gains.get(name) if name in MEANS else gains.get("per_class", {}).get(name)


def mark(gain: Mapping[str, Any] | None) -> str:
    """An arrow for a significant gain or loss."""
    if gain is None or not gain["significant"]:
        return ""
    return "▲" if gain["delta"] > 0 else "▼"


def f1(result: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """F1 of a class, or one of the means, over the seeds."""
    scores = result["classifier"]
    return scores.get(name) if name in MEANS else scored(result, name).get("f1")


def scored(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """All figures of a class; none if the row has no such class."""
    return result["classifier"]["per_class"].get(name) or {}


def distance(result: Mapping[str, Any], measure: str, class_name: str | None = None) -> float | None:
    """FID or KID of a class, or of all of them together; None without, or of fewer images than features for FID."""
    fidelity = result["fidelity"]
    figures = (fidelity["pooled"] if class_name is None else fidelity["per_class"].get(class_name)) or {}
    unreliable = measure == "fid" and not figures.get("fid_reliable")
    return None if unreliable else figures.get(measure)


def is_release(result: Mapping[str, Any]) -> bool:
    """Whether FID and KID of a row are of unnormalised images."""
    return result["fidelity"]["pooled"] is not None and result["fidelity"]["preprocess"] == "release"


def distance_cells(result: Mapping[str, Any]) -> list[Cell | str]:
    """FID and KID of all classes together; why there is no FID."""
    fidelity, fid, kid = result["fidelity"], distance(result, "fid"), distance(result, "kid")
    if fidelity["pooled"] is None:
        return ["", ""]
    sign, meaning = ("!", RELEASE) if is_release(result) else ("", "")
    few = Cell(f"n < {fidelity['width']}", "", mark=sign or "?", meaning=meaning or "fewer images than features")
    return [
        few if fid is None else Cell(f"{fid:.2f}", fid, mark=sign, meaning=meaning),
        "" if kid is None else Cell(f"{kid:.4f}", kid, mark=sign, meaning=meaning),
    ]


def figure_cell(value: float | None) -> Cell | str:
    """A figure of three digits, sorted by its value; empty for None."""
    return "" if value is None else Cell(f"{value:.3g}", value)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float] | None:
    """Spearman's rho of finite pairs with a 95 % interval, by a bootstrap over pairs.

    Args:
        x: Shape (N,).
        y: Shape (N,).

    Returns:
        rho and its interval; NaN for the interval of fewer than `FEW` pairs. None if there are fewer than three, or if
        one of the two never changes.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rho = float(stats.spearmanr(x, y).statistic)
    if len(x) < FEW:
        return rho, float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(len(x), size=(REPLICATES, len(x)))
    ranks = [stats.rankdata(values[drawn], axis=1) for values in (x, y)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in ranks]
    norm = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    rhos = (centred[0] * centred[1]).sum(axis=1)[norm > 0] / norm[norm > 0]
    low, high = np.quantile(rhos, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return rho, float(low), float(high)
