"""The jobs of a sweep against their baseline: significance.json. Torch-free.

`significance.json` holds, all figures in [0, 1] and gains in [-1, 1]:

    version: 2
    of: {<job>: what its comparison rests on: method, overrides, classes, minor, leaks, baseline, replicates, and of
        each seed the fingerprint of its predictions}
    level, power: 0.05, 0.8
    rows: a row a job that has scores
        job: its folder, in the sweep's
        method, overrides: as in results.csv
        seeds, images: how many classifiers, how many test images
        baseline: the job that it is compared with; null if none is
        leaks: what is wrong with how its checkpoints are chosen; null if nothing is
        note: why it is compared with none, or what else to know; null if nothing
        scores: {<class>, minor_f1, macro_f1, accuracy: {value, low, high}}; null if its predictions cannot be read;
            F1 of a class by its name, no minor_f1 without a minor class
        gains: null without a baseline, else {
            per_class: {<class>: gain in F1}, minor_f1 (or null), macro_f1, accuracy: gain,
            mcnemar: {p, only_method: [images, a pair of classifiers each], only_baseline: […]}}
        where a gain is {delta, low, high, p, p_holm, significant, detectable, seeds, images}: see
        `sarsynth.evidence.significance.Gain`
    open: what would settle what is not significant, a line of text for each such row
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from sarsynth.errors import UserError
from sarsynth.evidence.chance import LEVEL, POWER
from sarsynth.evidence.predictions import Predictions
from sarsynth.evidence.significance import Gain, compare, estimate
from sarsynth.files import write_json

SIGNIFICANCE = "significance.json"
VERSION = 2
ONE_SEED = "one seed each: intervals know of the images alone, and nothing is called significant of less than two seeds"
SEED = 0  # of the bootstrap: the same results always have the same intervals


@dataclass(frozen=True)
class ScoredJob:
    """A job with scores."""

    job: str  # name of its folder
    overrides: str  # what sets it apart besides its method
    result: Mapping[str, Any]  # the content of its result.json

    @property
    def method(self) -> str:
        """Its method."""
        return self.result["method"]

    @property
    def name(self) -> str:
        """Its name in a line of text."""
        return f"{self.method} {self.overrides}".strip()

    @property
    def predictions(self) -> dict[str, str]:
        """Fingerprints of its predictions, by seed."""
        return {str(seed): self.result["inputs"][f"seed_{seed}"] for seed in self.result["seeds"]}

    @property
    def origin(self) -> dict[str, Any]:
        """Everything that its comparison rests on, beside the other jobs."""
        result, protocol = self.result, self.result["protocol"]
        return {
            "method": self.method,
            "overrides": self.overrides,
            **{key: list(result[key]) for key in ("classes", "minor")},
            **{key: protocol[key] for key in ("leaks", "baseline", "replicates")},
            "predictions": self.predictions,
        }


class Absent(UserError):
    """Predictions that are missing or damaged in this store; another store may have them."""


Known = Mapping[str, Predictions | UserError]  # the predictions of each job, or why there are none


def read_or_compare(jobs: Sequence[ScoredJob], store: Path, file: Path) -> dict[str, Any]:
    """Compare each job with that of its baseline which has the same overrides: the content of significance.json.

    The `file` is read if it is of these jobs, else written anew; it is not written where the store lacks predictions,
    and one that is of other jobs is removed.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a damaged one is as good as none
        stored = None
    about = {"version": VERSION, "of": {job.job: job.origin for job in jobs}}
    if isinstance(stored, dict) and all(stored.get(key) == value for key, value in about.items()):
        return stored
    file.unlink(missing_ok=True)
    known: dict[str, Predictions | UserError] = {}
    for job in jobs:
        try:
            known[job.job] = read_predictions(job, store)
        except UserError as error:
            known[job.job] = error
    entries = [_compared(job, jobs, known) for job in jobs]
    lines = [line for job, entry in zip(jobs, entries, strict=True) if (line := _open(job, entry))]
    content = about | {"level": LEVEL, "power": POWER, "rows": entries, "open": lines}
    if not any(isinstance(predictions, Absent) for predictions in known.values()):
        write_json(file, content)
    return content


def read_predictions(job: ScoredJob, store: Path) -> Predictions:
    """Read what the classifiers of a job took the test images for.

    Raises:
        Absent: The predictions are missing in the store, or damaged there.
        UserError: There are too few test images to tell chance.
    """
    predicted: list[np.ndarray] = []
    labels, images = np.empty(0, dtype=int), None
    for fingerprint in job.predictions.values():
        file = next((store / "evaluation").glob(f"[!.]*-{fingerprint}/logits.safetensors"), None)
        if file is None:
            raise Absent(f"{store}/evaluation has no predictions -{fingerprint}; run the sweep again to make them")
        try:
            with safe_open(file, "np") as tensors:
                predicted.append(tensors.get_tensor("predicted"))
                labels = tensors.get_tensor("labels")
                about = {key: json.loads(text) for key, text in (tensors.metadata() or {}).items()}
                images = [" ".join(pair) for pair in zip(about["images"], about["digests"], strict=True)]
        except (SafetensorError, KeyError, ValueError) as error:
            raise Absent(f"{file}: cannot be read ({error}); delete its folder and run the sweep again") from error
    return Predictions(np.stack(predicted), labels, job.result["classes"], images)


def _compared(job: ScoredJob, jobs: Sequence[ScoredJob], known: Known) -> dict[str, Any]:
    """Compare one job: an entry of `rows`."""
    predictions, protocol = known[job.job], job.result["protocol"]
    entry: dict[str, Any] = {"job": job.job, "method": job.method, "overrides": job.overrides}
    entry |= {
        "seeds": len(job.result["seeds"]),
        "images": None if isinstance(predictions, UserError) else len(predictions.labels),
    }
    entry |= {"baseline": None, "note": None, "leaks": protocol["leaks"], "scores": None, "gains": None}
    if isinstance(predictions, UserError):
        return entry | {"note": str(predictions)}
    bootstrap = {"replicates": protocol["replicates"], "seed": SEED}
    minor, name = job.result["minor"], protocol["baseline"]
    entry["scores"] = {figure: asdict(score) for figure, score in estimate(predictions, minor, **bootstrap).items()}
    if name in (None, job.method):
        return entry
    base = next((other for other in jobs if (other.method, other.overrides) == (name, job.overrides)), None)
    if base is None:
        return entry | {"note": f"nothing to compare with: add {name} to the sweep's methods"}
    of_base = known[base.job]
    if isinstance(of_base, UserError):
        return entry | {"note": str(of_base)}
    try:
        comparison = compare(predictions, of_base, minor, **bootstrap)
    except UserError as error:
        return entry | {"note": f"{job.name} and {base.name} cannot be compared: {error}"}
    note = ONE_SEED if min(len(predictions.predicted), len(of_base.predicted)) == 1 else None
    return entry | {"baseline": base.job, "note": note, "gains": asdict(comparison)}


def _open(job: ScoredJob, entry: Mapping[str, Any]) -> str | None:
    """Say what would settle the question of the study: the gain in the minor mean, or in the macro one without it."""
    if entry["gains"] is None:
        return None
    figure = "minor_f1" if entry["gains"]["minor_f1"] else "macro_f1"
    gain = Gain(**entry["gains"][figure])
    if gain.significant or gain.detectable is None:
        return None
    opening = f"{job.name}: {figure} {100 * gain.delta:+.1f} is open"
    if entry["note"] == ONE_SEED:
        return f"{opening}: one seed does not tell how far seeds part; two or more do"
    ways = settling(asdict(gain), "times the test images")
    settled = f"would be settled by {' or '.join(ways)}" if ways else "would not be settled by seeds or images alone"
    return (
        f"{opening} and, were it the truth, {settled}; "
        f"what {entry['seeds']} seeds and {entry['images']:,} images show is {100 * gain.detectable:.1f} or more"
    )


def settling(gain: Mapping[str, Any], images: str) -> list[str]:
    """Say how many seeds, and how many times the `images`, would settle an open gain; none if it is settled."""
    ways = [f"{gain['seeds']:,} seeds"] if gain["seeds"] else []
    ways += [f"{gain['images']:,.1f} {images}"] if gain["images"] else []
    return ways
