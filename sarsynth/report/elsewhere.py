"""The second test set (evaluate.also) beside the first: the same classifiers, the same tables. Torch-free."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sarsynth.evidence.chance import LEVEL
from sarsynth.evidence.results import MEANS, not_scored
from sarsynth.report import rows
from sarsynth.report.across import COMPARED, gains_by_method, score_with_gain
from sarsynth.report.pieces import Cell, Forest, Note, Piece, Table
from sarsynth.report.rows import TITLES, Row
from sarsynth.report.sweep import Sweep

PREFIX = "also_"  # of the columns of results.csv that are of the second test set


def carried_over(sweep: Sweep) -> list[Piece]:
    """The same classifiers, as they are, on a second test set: of another scene, sensor or season (evaluate.also).

    Of classes with images in both. Scores say how much harder the second set is; gains, over the same baseline, whether
    what a method gains on the first one is gained there too.
    """
    second = sweep.elsewhere
    if second is None:
        return [Note("There is no second test set: evaluate.also=NAME or FOLDER scores these classifiers on one.")]
    by_set = {named(one): {row.name: row for row in one.rows} for one in (sweep, second)}
    forests: list[Piece] = []
    for column in COMPARED:
        if groups := gains_by_method(by_set, [row.name for row in second.rows], column):
            title = TITLES[column].strip("*")
            caption = f"Gain in {title} F1 in points on both test sets, {100 * (1 - LEVEL):.0f} % intervals"
            forests.append(Forest(caption, "points", groups, 100))
    table = rows.gains_table(second.rows, f"Every gain on {named(second)}, in points")
    return [
        *map(Note, [*lines_of_classes(second), *notes(second)]),
        both(sweep, second),
        *forests,
        *([replace(table, folded=True)] if table else []),
    ]


def named(sweep: Sweep) -> str:
    """The name of a test set, or of all of them."""
    return ", ".join(dict.fromkeys(str(result["data"]) for result in sweep.results))


def lines_of_classes(second: Sweep) -> list[str]:
    """Say which classes only one of the two sets has."""
    found = (not_scored(one["data"], one["without_images"], one["unknown"]) for one in second.results)
    return list(dict.fromkeys(line for lines in found for line in lines))


def notes(second: Sweep) -> list[str]:
    """Say what would settle open gains, and why a row has none."""
    reasons: dict[str, list[str]] = {}
    for row in second.rows:
        if row.entry["note"]:
            reasons.setdefault(row.entry["note"], []).append(row.name)
    lines = [*second.significance["open"], *(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())]
    return [f"on {named(second)}: {line}" for line in lines]


def both(sweep: Sweep, second: Sweep) -> Table:
    """Scores on both test sets, a line each; below a score the gain over the baseline."""
    titles = rows.scored(sweep.rows)
    elsewhere = {row.name: row for row in second.rows}
    lines: list[list[Cell | str]] = []
    for row in sweep.rows:
        for one in filter(None, [row, elsewhere.get(row.name)]):
            cells = [_shared(one, column) for column in titles]
            lines.append([Cell(row.name), Cell(one.result["data"]), *cells])
    caption = "F1 in % of the same classifiers on both test sets, mean ± sd; means are over a set's own classes"
    return Table(caption, ["method", "test set", *titles.values()], lines)


def _shared(row: Row, column: str) -> Cell:
    """A score; where a set has no such class, why there is none."""
    if column in MEANS or column.removeprefix("f1_") in row.result["classes"]:
        return score_with_gain(row, column)
    return Cell(missing="-", meaning="no test image of this class")


def columns_elsewhere(sweep: Sweep) -> Mapping[str, dict[str, Any]]:
    """Columns of results.csv on the second test set, by the name of the row: its scores and gains."""
    if sweep.elsewhere is None:
        return {}
    return {
        row.name: {f"{PREFIX}data": row.result["data"]}
        | {f"{PREFIX}{column}": cell.value for column, cell in row.tested.items()}
        for row in sweep.elsewhere.rows
    }
