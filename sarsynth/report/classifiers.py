"""Sections on what the classifiers of each row reached, and whether a gain over the baseline is real."""

from dataclasses import replace
from typing import Any

import numpy as np

from sarsynth.evidence.chance import LEVEL, POWER
from sarsynth.evidence.results import MEANS
from sarsynth.report import plots, rows
from sarsynth.report.pieces import COUNT, Cell, Forest, Gallery, Note, Piece, Table
from sarsynth.report.plots import Plot
from sarsynth.report.sweep import MOST_ROWS, Sweep
from sarsynth.report.verdict import verdict

MOST_INTERVALS = 40  # of classes that are shown without being asked for


def scores(sweep: Sweep) -> list[Piece]:
    """F1 on the real test set.

    The interval tells how far other test images and other seeds would move a figure. FID and KID compare synthetic with
    real training images in the features of the study's own classifier, all classes together: less is closer. There is
    no FID of fewer images than features.
    """
    table = rows.scores_table(
        sweep.rows,
        "F1 in %, mean over classifier seeds; small: ± sd and the 95 % interval; * minor classes; ▲ ▼ significant",
    )
    said = verdict(sweep.rows)
    failed = [f"Not shown: {job.name}. {job.error}" for job in sweep.failed]
    return [*map(Note, [*table.notes, *said, *failed]), table]


def learned_from(sweep: Sweep) -> list[Piece]:
    """Images of each class that a classifier learns from, all rows at as many steps; small: where they come from.

    Synthetic images are made by adapters that learned with or without contours in the loop, and saw each class, or each
    image, as often as any other (adapter.contours, adapter.sampling).
    """
    lines: list[list[Cell | str]] = []
    for name, result in zip(sweep.names, sweep.results, strict=True):
        if not (learning := result.get("learning")):
            continue
        training, counts = result["training"], []
        for class_name in sweep.classes:
            total, synthetic = learning["samples"][class_name], learning["synthetic"][class_name]
            repeated = total - synthetic - result["counts"][class_name]
            parts = {"repeated": max(0, repeated), "synthetic": synthetic}
            counts.append(Cell(total, COUNT, detail=", ".join(f"{size} {of}" for of, size in parts.items() if size)))
        lines.append(
            [name, *counts, Cell(learning["steps"], COUNT), training.get("contours", ""), training.get("sampling", "")]
        )
    if not lines:
        return [Note("These results do not say what their classifiers learned from.")]
    columns = ["method", *sweep.classes, "steps", "contours in the loop", "order of adapters"]
    return [Table("Images a classifier learns from", columns, lines)]


def f1_by_class(sweep: Sweep) -> list[Piece]:
    """A mark is the mean, a tick one seed, a line the 95 % interval over test images and seeds."""
    shown = sweep.rows[:MOST_ROWS]
    panels = {title: [row[column] for row in shown] for column, title in rows.scored(sweep.rows).items()}
    figures = plots.both(plots.estimates, panels, sweep.names[:MOST_ROWS], "%", scale=100)
    every = "Precision, recall and F1 of each class in %, mean and ± sd over seeds, and its test images"
    plot = Plot("f1", alt="F1 of each class and method, as in the table", **figures)
    return [plot, *_of_the_first(sweep), rows.classes_table(sweep.rows, every)]


def _of_the_first(sweep: Sweep) -> list[Note]:
    """Say so, where a figure has fewer rows than the sweep: each takes a second to draw."""
    more = len(sweep.rows) > MOST_ROWS
    return [Note(f"Figures are of the first {MOST_ROWS} rows; tables and results.csv have all.")] if more else []


def gains(sweep: Sweep) -> list[Piece]:
    """Points of F1 (and of accuracy) over the baseline on the same test images.

    A dot is the gain, the line its interval over images and seeds. ▲ ▼ and a strong colour: significant, for classes
    after Holm's correction; it takes two seeds or more to call anything that. The table, folded away, has the smallest
    gain that this test set and these seeds would show, and how many seeds, or times the test images, would show an open
    one, were it the truth.
    """
    notes: list[Piece] = [Note(line) for line in sweep.significance["open"]]
    reasons: dict[str, list[str]] = {}
    for row in sweep.rows:
        if row.entry["note"]:
            reasons.setdefault(row.entry["note"], []).append(row.name)
    notes += [Note(f"{', '.join(names)}: {reason}") for reason, names in reasons.items()]
    caption = (
        f"Every gain over the baseline in points, its {100 * (1 - LEVEL):.0f} % interval, the smallest gain to be seen "
        f"with a chance of {100 * POWER:.0f} %; p: McNemar, accuracy"
    )
    table = rows.gains_table(sweep.rows, caption)
    if table is None:
        return [Note("No row has a baseline: evaluate.baseline=…"), *notes]
    return [*_forests(sweep), *notes, replace(table, folded=True), _gains_plot(sweep)]


def _forests(sweep: Sweep) -> list[Piece]:
    """Gains as labelled intervals: of the means, and of each class."""
    compared = [row for row in sweep.rows if row.baseline]
    over = ", ".join(dict.fromkeys(row.baseline for row in compared))
    titles = rows.scored(sweep.rows)
    groups = {
        titles[column]: [
            (row.name, row[f"gain_{column}"]) for row in compared if row[f"gain_{column}"].value is not None
        ]
        for column in [*MEANS, *(column for column in titles if column not in MEANS)]
    }
    means = {title: cells for title, cells in groups.items() if title in {titles[column] for column in MEANS} and cells}
    by_class = {title: cells for title, cells in groups.items() if title not in means and cells}
    caption = f"F1 (and accuracy) above {over}, in points, with {100 * (1 - LEVEL):.0f} % intervals"
    many = sum(map(len, by_class.values())) > MOST_INTERVALS
    return [
        Forest(f"{caption}: means", "points", means, 100),
        Forest(f"{caption}: each class", "points", by_class, 100, folded=many),
    ]


def _gains_plot(sweep: Sweep) -> Gallery:
    """The same as a figure, for papers and slides; it lies beside the page."""
    compared = [row for row in sweep.rows if row.baseline][:MOST_ROWS]
    panels = {title: [row[f"gain_{column}"] for row in compared] for column, title in rows.scored(sweep.rows).items()}
    names = [row.name for row in compared]
    options: dict[str, Any] = {"scale": 100, "every": sweep.names, "zero": True}
    figures = plots.both(plots.estimates, panels, names, "points over the baseline", **options)
    plot = Plot("gains", alt="Gain of each method over the baseline, by class, as in the table", **figures)
    return Gallery("The same beside each other, a panel a class", [plot], folded=True)


def confusions(sweep: Sweep) -> list[Piece]:
    """Of all images of a class (a line), how many percent are called what; over all seeds."""
    matrices = [
        Plot(
            f"confusion_{index}",
            plots.confusion(np.sum(result["classifier"]["confusion"]["values"], axis=0), result["classes"], name),
            f"Confusion matrix of {name}",
        )
        for index, (name, result) in enumerate(zip(sweep.names[:MOST_ROWS], sweep.results[:MOST_ROWS], strict=True))
    ]
    return [Gallery("each row", matrices), *_of_the_first(sweep)]
