"""Sections on how F1 follows a number that a sweep varies: real images of minor classes, the share of synthetic ones.

Both give nothing where the sweep varies no such number.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from sarsynth.evidence.chance import LEVEL
from sarsynth.evidence.comparison import point_of
from sarsynth.report import plots, rows
from sarsynth.report.pieces import COUNT, Cell, Note, Piece, Table
from sarsynth.report.plots import Plot
from sarsynth.report.rows import Row
from sarsynth.report.sweep import Sweep
from sarsynth.report.verdict import of_curve, worths

IMAGES, SHARE = "data.minor_images", "augment.share"
Lines = dict[str, list[tuple[float, Row]]]  # by method, and what else it is: its rows, by the number that is varied


def learning_curve(sweep: Sweep) -> list[Piece]:
    """F1 over the number of real images of each minor class, with and without what a method adds.

    The band is the 95 % interval. An arrow goes from a method with its fewest real images to the number at which the
    row without a generator reaches the same minor-class F1 (monotone, straight between its points): what lies between
    is what the method is worth in real images. Nothing is known beyond the ends of that curve: ≥ and ≤ say so.
    """
    if not (lines := _lines(sweep, IMAGES)):
        return []
    read = [
        (name, row, row.entry["worth"]) for name, points in lines.items() for _, row in points if row.entry.get("worth")
    ]
    arrows: dict[str, tuple[float, float, float]] = {}
    for name, row, worth in read:
        arrows.setdefault(name, (worth["images"], 100 * float(row["minor_f1"].value or 0), worth["reaches"]))
    label = "real images of each minor class"
    figures = plots.both(plots.responses, _panels(sweep, lines), list(lines), label, doubling=True, arrows=arrows)
    plot = Plot("learning_curve", alt=f"F1 over the number of {label}", **figures)
    if not read:
        return [
            plot,
            Note("No worth: name a row without a generator, e.g. method=resample evaluate.baseline=resample."),
        ]
    caption = f"With how many real images the curve is as good; small: the {100 * (1 - LEVEL):.0f} % interval"
    columns = ["method", "real images", "as good as", "worth", "times"]
    table = [[Cell(name), Cell(worth["images"], COUNT), *_cells(worth)] for name, _, worth in read]
    return [*map(Note, worths(sweep.rows)), plot, Table(caption, columns, table)]


def _cells(worth: Mapping[str, Any]) -> list[Cell]:
    """The number that a method's images are as good as, how many more that is than they are, and how many times."""
    interval = worth["low"], worth["high"]
    forms = (partial(of_curve, worth=worth, way=way) for way in ("number", "more", "times"))
    return [Cell(worth["reaches"], form, interval=interval) for form in forms]


def dose(sweep: Sweep) -> list[Piece]:
    """F1 over the share of synthetic images among those that join a minor class, at equal numbers.

    At 0 real images are repeated and nothing else. The band is the 95 % interval: a line that stays in the band of its
    first point has not been shown to respond.
    """
    if not (lines := _lines(sweep, SHARE)):
        return []
    figures = plots.both(plots.responses, _panels(sweep, lines), list(lines), "synthetic share of what joins")
    return [Plot("dose_response", alt="F1 over the share of synthetic images", **figures)]


def _lines(sweep: Sweep, key: str) -> Lines:
    """The rows that say a number, in its order; none where no two of them differ by it alone."""
    lines: Lines = {}
    for row in sweep.rows:
        number, others = point_of(key, row.overrides)
        if number is not None:
            lines.setdefault(f"{row.result['method']} {others}".strip(), []).append((number, row))
    if not any(len({number for number, _ in points}) > 1 for points in lines.values()):
        return {}
    return {name: sorted(points, key=lambda point: point[0]) for name, points in lines.items()}


def _panels(sweep: Sweep, lines: Lines) -> dict[str, dict[str, np.ndarray]]:
    """What is plotted: the minor mean, each minor class, the macro mean."""
    titles = rows.scored(sweep.rows)
    minor = [column for column, title in titles.items() if title.endswith("*") and column != "minor_f1"]
    panels: dict[str, dict[str, np.ndarray]] = {}
    for column in ["minor_f1", *minor, "macro_f1"]:
        for name, points in lines.items():
            cells = [(number, row[column]) for number, row in points if row[column].value is not None]
            line = [(x, cell.value, *(cell.interval or (cell.value, cell.value))) for x, cell in cells]
            if line:
                scaled = np.asarray(line, dtype=float) * [1, 100, 100, 100]
                panels.setdefault(titles[column], {})[name] = scaled
    return panels
