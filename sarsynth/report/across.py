"""The same methods on several data sets beside each other. Torch-free."""

from collections.abc import Mapping
from dataclasses import replace

from sarsynth.evidence.chance import LEVEL
from sarsynth.report.pieces import Cell, Forest, Note, Piece, Table
from sarsynth.report.rows import TITLES, Row
from sarsynth.report.sweep import Sweep

COMPARED = ("minor_f1", "macro_f1")  # means that speak of any data set, whatever its classes


def across(sweep: Sweep) -> list[Piece]:
    """Each method on each data set: its scores, and its gain over that data set's own baseline.

    Scores of two data sets say how hard these are; gains say on which of them a method pays.
    """
    rows = {label: {row.name: row for row in part.rows} for label, part in sweep.parts.items()}
    methods = list(dict.fromkeys(name for by_name in rows.values() for name in by_name))
    pieces: list[Piece] = [Note(f"Not shown: {job.name}. {job.error}") for job in sweep.failed]
    for column in COMPARED:
        title = TITLES[column].strip("*")
        if groups := gains_by_method(rows, methods, column):
            caption = (
                f"Gain in {title} F1 in points, over the baseline of each data set, {100 * (1 - LEVEL):.0f} % intervals"
            )
            pieces.append(Forest(caption, "points", groups, 100))
        lines = [[Cell(name), *(score_with_gain(rows[label].get(name), column) for label in rows)] for name in methods]
        caption = (
            f"{title} F1 in %, mean over classifier seeds; small: ± sd, and the gain with its interval".capitalize()
        )
        pieces.append(Table(caption, ["method", *rows], lines))
    return pieces


def gains_by_method(
    rows: Mapping[str, Mapping[str, Row]], methods: list[str], column: str
) -> dict[str, list[tuple[str, Cell]]]:
    """Gains by method, a line a data set; methods that have none on any are left out."""
    groups: dict[str, list[tuple[str, Cell]]] = {}
    for name in methods:
        for label, by_name in rows.items():
            row = by_name.get(name)
            if row is not None and row[f"gain_{column}"].value is not None:
                groups.setdefault(name, []).append((f"{label} (over {row.baseline})", row[f"gain_{column}"]))
    return groups


def score_with_gain(row: Row | None, column: str) -> Cell:
    """A score, below it its gain."""
    if row is None:
        return Cell()
    gain = row[f"gain_{column}"]
    detail = f"{gain.text} ({' to '.join(gain.ends)})" if gain.value is not None else ""
    return replace(row[column], interval=None, detail=detail)
