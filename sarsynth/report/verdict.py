"""What a sweep comes to, in plain words: which row is ahead, of which by how much, and whether that may be chance.

Says what the intervals of significance.json say, and no more. Torch-free.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sarsynth.evidence.chance import LEVEL
from sarsynth.evidence.comparison import point_of
from sarsynth.report.pieces import percent
from sarsynth.report.rows import TITLES, Row, cheaper

FIGURES = {"minor_f1": "minor-class F1", "macro_f1": "macro F1"}


def verdict(rows: Sequence[Row]) -> list[str]:
    """Say in a line or a few which row is best; nothing of a single one."""
    if len(rows) < 2:
        return []
    if lines := worths(rows):  # rows with more real images are ahead of those with fewer: nothing to be told
        return lines
    column = "minor_f1" if all(row["minor_f1"].value is not None for row in rows) else "macro_f1"
    best = max(rows, key=lambda row: _score(row, column))
    if level := [row.name for row in rows if row is not best and _score(row, column) == _score(best, column)]:
        return [f"{best.name} and {', '.join(level)} are level: {FIGURES[column]} {percent(_score(best, column))} %"]
    lines = [f"{best.name} is ahead: {FIGURES[column]} {percent(_score(best, column))} %{_lead(best, rows, column)}"]
    lines += _losses(best)
    if warning := "; ".join(dict.fromkeys(row.heading.meaning for row in rows if row.heading.meaning)):
        lines.append(f"not to be taken at its word: {warning}")
    if (line := cheaper(rows)) or (line := _untested(best, rows, column)):
        lines.append(line)
    return lines


def worths(rows: Sequence[Row]) -> list[str]:
    """Say how many real images each method is worth that has the fewest; nothing of other sweeps."""
    told: dict[str, Row] = {}
    for row in sorted((row for row in rows if row.entry.get("worth")), key=lambda row: row.entry["worth"]["images"]):
        _, others = point_of("data.minor_images", row.overrides)
        told.setdefault(f"{row.result['method']} {others}".strip(), row)
    return [_worth(name, row.result["protocol"]["baseline"], row.entry["worth"]) for name, row in told.items()]


def _worth(name: str, baseline: str, worth: Mapping[str, Any]) -> str:
    has = worth["images"]
    reaches, low, high = (of_curve(worth[end], worth) for end in ("reaches", "low", "high"))
    more, least, most = (of_curve(worth[end], worth, "more") for end in ("reaches", "low", "high"))
    return (
        f"with {has} real images of each minor class, {name} reaches the minor-class F1 that {baseline} "
        f"reaches with {reaches} ({100 * (1 - LEVEL):.0f} % interval {low} to {high}): it is worth {more} real images "
        f"({least} to {most})"
    )


def of_curve(images: float, worth: Mapping[str, Any], way: Literal["number", "more", "times"] = "number") -> str:
    """Write a number of images read off a curve, or how many more or times what there are; at its ends a bound."""
    bound = "≥ " * (images >= worth["last"]) + "≤ " * (images <= worth["first"])
    has = worth["images"]
    written = {"number": f"{images:.1f}", "more": f"{images - has:+.1f}", "times": f"{images / has:.2f}"}[way]
    return bound + written.removesuffix(".0")


def _lead(best: Row, rows: Sequence[Row], column: str) -> str:
    """How far the best row lies above its baseline, and whether that is more than chance."""
    gains: Mapping[str, Any] = best.entry.get("gains") or {}
    if gain := gains.get(column):
        interval = f"{100 * (1 - LEVEL):.0f} % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"
        points = f"{100 * gain['delta']:.1f} points above {best.baseline} ({interval})"
        if gain["significant"]:
            return f", {points}: significant"
        return f", {points}: not significant, so it may be chance"
    if any(row.baseline == best.name for row in rows):
        return ", the row that the others are compared with: none of them beats it"
    return "; nothing says whether that is more than chance, for it is compared with no other row"


def _losses(best: Row) -> list[str]:
    """Which classes pay for the lead of the best row, beyond chance."""
    gains: Mapping[str, Any] = (best.entry.get("gains") or {}).get("per_class", {})
    lost = {name: -gain["delta"] for name, gain in gains.items() if gain["significant"] and gain["delta"] < 0}
    told = " and ".join(f"{100 * points:.1f} points of F1 of {name}" for name, points in lost.items())
    return [f"it costs {told}: significant too"] if lost else []


def _untested(best: Row, rows: Sequence[Row], column: str) -> str | None:
    """Say so if the best row was not tested against the best of those that need no generator."""
    plain = [row for row in rows if not row.is_synthetic]
    if not plain or not best.baseline:
        return None
    rival = max(plain, key=lambda row: _score(row, column))
    if rival.name == best.baseline:
        return None
    lead = 100 * (_score(best, column) - _score(rival, column))
    return (
        f"the best row without a generator, {rival.name}, lies {lead:.1f} points of {TITLES[column].strip('*')} F1 "
        f"below; evaluate.baseline={rival.result['method']} tells whether that is more than chance"
    )


def _score(row: Row, column: str) -> float:
    return float(row[column].value or 0)
