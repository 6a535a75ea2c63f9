"""The rows of a sweep against its baseline: significance.json, columns of results.csv, a table. Torch-free.

`significance.json` holds, all figures in [0, 1] and gains in [-1, 1]:

    version: 2
    of: {<job>: what its comparison follows from: method, overrides, classes, minor, leaks, baseline, replicates, and of
        each seed the fingerprint of its predictions}
    level, power: 0.05, 0.8
    rows: a row a job that has scores
        job: its folder, in the sweep's
        method, overrides: as in results.csv
        seeds, images: how many classifiers, how many test images
        baseline: the job that it is compared with; null if none is
        leaks: what is wrong with how its checkpoints are chosen; null if nothing
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
from sarsynth.evidence.significance import LEVEL, MEANS, POWER, Gain, Predictions, compare, estimate
from sarsynth.report import pages

SIGNIFICANCE = "significance.json"
VERSION = 2
OF_GAIN = ("low", "high", "p_holm", "detectable", "seeds", "images")
PARTS = [("delta", []), *((key, [key]) for key in OF_GAIN)]  # of a gain, in results.csv
ONE_SEED = "one seed each: intervals know of the images alone, and nothing is called significant of less than two seeds"
SEED = 0  # of the bootstrap: who looks at the same results again sees the same intervals


@dataclass(frozen=True)
class Row:
    """A job with scores.

    Attributes:
        job: Name of its folder.
        overrides: What sets it apart besides its method.
        result: What its result.json holds.
    """

    job: str
    overrides: str
    result: Mapping[str, Any]

    @property
    def method(self) -> str:
        """Its method."""
        return self.result["method"]

    @property
    def name(self) -> str:
        """What it is called in a line."""
        return f"{self.method} {self.overrides}".strip()

    @property
    def predictions(self) -> dict[str, str]:
        """Fingerprints of its predictions, by seed."""
        return {str(seed): self.result["inputs"][f"seed_{seed}"] for seed in self.result["seeds"]}

    @property
    def origin(self) -> dict[str, Any]:
        """All that its comparison follows from, beside the other rows."""
        result, asked = self.result, self.result["protocol"]
        return {
            "method": self.method,
            "overrides": self.overrides,
            **{key: list(result[key]) for key in ("classes", "minor")},
            **{key: asked[key] for key in ("leaks", "baseline", "replicates")},
            "predictions": self.predictions,
        }


class Absent(UserError):
    """Predictions that are not in this store, or damaged there; in another one they may well be."""


def read_or_compare(rows: Sequence[Row], store: Path, file: Path) -> dict[str, Any]:
    """Read what significance.json holds if it is of these rows, else compare them and write it.

    What is found without all predictions is not written, and what the file held of other rows is removed.

    Args:
        rows: The jobs of a sweep.
        store: Where the predictions lie that they rest on.
        file: The significance.json of the sweep.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a damaged one is as good as none
        stored = None
    if isinstance(stored, dict) and (stored.get("version"), stored.get("of")) == (VERSION, _origins(rows)):
        return stored
    file.unlink(missing_ok=True)
    known = _known(rows, store)
    found = _compared_all(rows, known)
    if not any(isinstance(one, Absent) for one in known.values()):
        pages.write(json.dumps(found, indent=2) + "\n", file)
    return found


def _origins(rows: Sequence[Row]) -> dict[str, Any]:
    return {row.job: row.origin for row in rows}


def significance(rows: Sequence[Row], store: Path) -> dict[str, Any]:
    """Compare each row with the row of its baseline that has the same overrides.

    Args:
        rows: The jobs of a sweep.
        store: Where the predictions lie that they rest on.

    Returns:
        What significance.json holds.
    """
    return _compared_all(rows, _known(rows, store))


def _known(rows: Sequence[Row], store: Path) -> dict[str, Predictions | UserError]:
    """The predictions of each job, or why there are none."""
    known: dict[str, Predictions | UserError] = {}
    for row in rows:
        try:
            known[row.job] = predictions(row, store)
        except UserError as error:
            known[row.job] = error
    return known


def _compared_all(rows: Sequence[Row], known: Mapping[str, Predictions | UserError]) -> dict[str, Any]:
    found = [_compared(row, rows, known) for row in rows]
    lines = [line for row, one in zip(rows, found, strict=True) if (line := _open(row, one))]
    about = {"version": VERSION, "of": _origins(rows), "level": LEVEL, "power": POWER}
    return about | {"rows": found, "open": lines}


def predictions(row: Row, store: Path) -> Predictions:
    """Read what the classifiers of a job said of the test images.

    Raises:
        Absent: The store has them no longer, or they are damaged.
        UserError: Chance cannot be told from so few images.
    """
    said: list[np.ndarray] = []
    labels, images = np.empty(0, dtype=int), None
    for fingerprint in row.predictions.values():
        file = next((store / "evaluation").glob(f"[!.]*-{fingerprint}/logits.safetensors"), None)
        if file is None:
            raise Absent(f"{store}/evaluation has no predictions -{fingerprint}; run the sweep again to make them")
        try:
            with safe_open(file, "np") as tensors:
                said.append(tensors.get_tensor("predicted"))
                labels = tensors.get_tensor("labels")
                about = {key: json.loads(text) for key, text in (tensors.metadata() or {}).items()}
                images = [" ".join(one) for one in zip(about["images"], about["digests"], strict=True)]
        except (SafetensorError, KeyError, ValueError) as error:
            raise Absent(f"{file}: cannot be read ({error}); delete its folder and run the sweep again") from error
    return Predictions(np.stack(said), labels, row.result["classes"], images)


def _compared(row: Row, rows: Sequence[Row], known: Mapping[str, Predictions | UserError]) -> dict[str, Any]:
    """Compare one row: an entry of `rows`."""
    ours, asked = known[row.job], row.result["protocol"]
    about: dict[str, Any] = {
        "job": row.job,
        "method": row.method,
        "overrides": row.overrides,
        "seeds": len(row.result["seeds"]),
        "images": None if isinstance(ours, UserError) else len(ours.labels),
        "baseline": None,
        "note": None,
        "leaks": asked["leaks"],
        "scores": None,
        "gains": None,
    }
    if isinstance(ours, UserError):
        return about | {"note": str(ours)}
    settings = {"replicates": asked["replicates"], "seed": SEED}
    minor = row.result["minor"]
    about["scores"] = {name: asdict(one) for name, one in estimate(ours, minor, **settings).items()}
    if asked["baseline"] in (None, row.method):
        return about
    base = next((one for one in rows if (one.method, one.overrides) == (asked["baseline"], row.overrides)), None)
    if base is None:
        return about | {"note": f"nothing to compare with: add {asked['baseline']} to the sweep's methods"}
    theirs = known[base.job]
    if isinstance(theirs, UserError):
        return about | {"note": str(theirs)}
    try:
        found = compare(ours, theirs, minor, **settings)
    except UserError as error:
        return about | {"note": f"{row.name} and {base.name} cannot be compared: {error}"}
    note = ONE_SEED if min(len(ours.predicted), len(theirs.predicted)) == 1 else None
    return about | {"baseline": base.job, "note": note, "gains": asdict(found)}


def _open(row: Row, found: Mapping[str, Any]) -> str | None:
    """Say what would settle the question that the study is about: the minor mean, or the macro one if there is none."""
    if found["gains"] is None:
        return None
    figure = "minor_f1" if found["gains"]["minor_f1"] else "macro_f1"
    gain = Gain(**found["gains"][figure])
    if gain.significant or gain.detectable is None:
        return None
    begun = f"{row.name}: {figure} {100 * gain.delta:+.1f} is open"
    if found["note"] == ONE_SEED:
        return f"{begun}: one seed does not tell how far seeds part; two or more do"
    ways = settling(asdict(gain), "times the test images")
    settled = f"would be settled by {' or '.join(ways)}" if ways else "would not be settled by seeds or images alone"
    return (
        f"{begun} and, were it the truth, {settled}; "
        f"what {found['seeds']} seeds and {found['images']:,} images show is {100 * gain.detectable:.1f} or more"
    )


def settling(gain: Mapping[str, Any], images: str) -> list[str]:
    """Say how many seeds, and how many times the `images`, would settle an open gain; none if it is settled."""
    ways = [f"{gain['seeds']:,} seeds"] if gain["seeds"] else []
    ways += [f"{gain['images']:,.1f} {images}"] if gain["images"] else []
    return ways


def columns(found: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the gains of one row for results.csv; nothing without a baseline."""
    gains = found["gains"]
    if gains is None:
        return {}
    named = {f"f1_{name}": gain for name, gain in gains["per_class"].items()} | {name: gains[name] for name in MEANS}
    flat = {"_".join(["gain", *part, name]): gain[key] for name, gain in named.items() if gain for key, part in PARTS}
    return flat | ({"mcnemar_p": gains["mcnemar"]["p"]} if gains["mcnemar"] else {})
