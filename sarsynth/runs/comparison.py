"""The rows of a sweep against its baseline: significance.json, columns of results.csv, a table. Torch-free.

`significance.json` holds, all figures in [0, 1] and gains in [-1, 1]:

    version: 1
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
        `sarsynth.significance.Gain`
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
from sarsynth.significance import LEVEL, MEANS, POWER, Gain, Predictions, compare, estimate

SIGNIFICANCE = "significance.json"
VERSION = 1
PARTS = [("delta", []), *((key, [key]) for key in ("low", "high", "p_holm", "detectable"))]  # of a gain, in results.csv
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


def significance(rows: Sequence[Row], store: Path) -> dict[str, Any]:
    """Compare each row with the row of its baseline that has the same overrides.

    Args:
        rows: The jobs of a sweep.
        store: Where the predictions lie that they rest on.

    Returns:
        What significance.json holds.
    """
    known: dict[str, Predictions | str] = {}
    for row in rows:
        try:
            known[row.job] = predictions(row.result, store)
        except UserError as error:
            known[row.job] = str(error)
    found = [_compared(row, rows, known) for row in rows]
    lines = [line for row, one in zip(rows, found, strict=True) if (line := _open(row, one))]
    return {"version": VERSION, "level": LEVEL, "power": POWER, "rows": found, "open": lines}


def predictions(result: Mapping[str, Any], store: Path) -> Predictions:
    """Read what the classifiers of a result said of the test images.

    Raises:
        UserError: The store has them no longer, they are damaged, or chance cannot be told from so few images.
    """
    said: list[np.ndarray] = []
    labels, images = np.empty(0, dtype=int), None
    for seed in result["seeds"]:
        fingerprint = result["inputs"][f"seed_{seed}"]
        file = next((store / "evaluation").glob(f"[!.]*-{fingerprint}/logits.safetensors"), None)
        if file is None:
            raise UserError(f"{store}/evaluation has no predictions -{fingerprint}; run the sweep again to make them")
        try:
            with safe_open(file, "np") as tensors:
                said.append(tensors.get_tensor("predicted"))
                labels = tensors.get_tensor("labels")
                about = {key: json.loads(text) for key, text in (tensors.metadata() or {}).items()}
                images = [" ".join(one) for one in zip(about["images"], about["digests"], strict=True)]
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); delete its folder and run the sweep again") from error
    return Predictions(np.stack(said), labels, result["classes"], images)


def _compared(row: Row, rows: Sequence[Row], known: Mapping[str, Predictions | str]) -> dict[str, Any]:
    """Compare one row: an entry of `rows`."""
    ours, asked = known[row.job], row.result["protocol"]
    about: dict[str, Any] = {
        "job": row.job,
        "method": row.method,
        "overrides": row.overrides,
        "seeds": len(row.result["seeds"]),
        "images": None if isinstance(ours, str) else len(ours.labels),
        "baseline": None,
        "note": None,
        "leaks": asked["leaks"],
        "scores": None,
        "gains": None,
    }
    if isinstance(ours, str):
        return about | {"note": ours}
    settings = {"replicates": asked["replicates"], "seed": SEED}
    minor = row.result["minor"]
    about["scores"] = {name: asdict(one) for name, one in estimate(ours, minor, **settings).items()}
    if asked["baseline"] in (None, row.method):
        return about
    base = next((one for one in rows if (one.method, one.overrides) == (asked["baseline"], row.overrides)), None)
    if base is None:
        return about | {"note": f"nothing to compare with: add {asked['baseline']} to the sweep's methods"}
    theirs = known[base.job]
    if isinstance(theirs, str):
        return about | {"note": theirs}
    try:
        found = compare(ours, theirs, minor, **settings)
    except UserError as error:
        return about | {"note": f"{row.name} and {base.name} cannot be compared: {error}"}
    note = "one seed each: intervals know of the images alone" if about["seeds"] == 1 else None
    return about | {"baseline": base.job, "note": note, "gains": asdict(found)}


def _open(row: Row, found: Mapping[str, Any]) -> str | None:
    """Say what would settle the question that the study is about: the minor mean, or the macro one if there is none."""
    if found["gains"] is None:
        return None
    figure = "minor_f1" if found["gains"]["minor_f1"] else "macro_f1"
    gain = Gain(**found["gains"][figure])
    if gain.significant or gain.detectable is None:
        return None
    ways = [f"{gain.seeds} seeds"] if gain.seeds else []
    ways += [f"{gain.images:.1f} times the test images"] if gain.images else []
    settled = f"would be settled by {' or '.join(ways)}" if ways else "would not be settled by seeds or images alone"
    return (
        f"{row.name}: {figure} {100 * gain.delta:+.1f} is open and, were it the truth, {settled}; "
        f"what {found['seeds']} seeds and {found['images']:,} images show is {100 * gain.detectable:.1f} or more"
    )


def columns(found: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the gains of one row for results.csv; nothing without a baseline."""
    gains = found["gains"]
    if gains is None:
        return {}
    named = {f"f1_{name}": gain for name, gain in gains["per_class"].items()} | {name: gains[name] for name in MEANS}
    flat = {"_".join(["gain", *part, name]): gain[key] for name, gain in named.items() if gain for key, part in PARTS}
    return flat | ({"mcnemar_p": gains["mcnemar"]["p"]} if gains["mcnemar"] else {})
