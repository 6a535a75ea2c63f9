"""Sections on what the classifiers of each row reached, and whether a gain over the baseline is real."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sarsynth.evidence.chance import LEVEL, POWER
from sarsynth.evidence.results import MEANS
from sarsynth.report import plots, rows
from sarsynth.report.pieces import COUNT, Cell, Forest, Gallery, Note, Piece, Table, percent
from sarsynth.report.plots import Plot
from sarsynth.report.rows import Row
from sarsynth.report.sweep import MOST_ROWS, Sweep
from sarsynth.report.verdict import verdict

CAUSES = {  # of the spread of a figure, see `sarsynth.evidence.spending.causes`
    "generator": "generator",
    "sample": "sampling",
    "classifier": "classifier",
    "test_images": "test images",
    "together": "seeds and images together",
}
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


def spread(sweep: Sweep) -> list[Piece]:
    """Where the spread of each row's F1 comes from: what other seeds of each kind, and other test images, would add.

    Standard deviations of the mean over all seeds, in points; seeds and images together is what one seed gets right and
    another does not. One seed of a kind tells nothing of it: its part is then not known, and not in the intervals.
    """
    titles = {name.removeprefix("f1_"): title for name, title in rows.scored(sweep.rows).items()}
    lines: list[list[Cell | str]] = []
    drawn: dict[str, dict[str, list[Cell]]] = {}  # by row and cause, of as many rows as a figure has room for
    for place, row in enumerate(sweep.rows):
        if not (variance := row.entry.get("variance")):
            continue
        for cause, title in CAUSES.items():
            cells = [_deviation(row, cause, variance.get(name)) for name in titles]
            if all(cell.value is None and not cell.missing for cell in cells):
                continue  # the method has no seeds of this kind
            lines.append([Cell(row.name, detail=title), *cells])
            if place < MOST_ROWS:
                drawn.setdefault(row.name, {})[title] = cells
    if not lines:
        return [sweep.absent]
    table = Table("Standard deviation by cause, in points", ["method", *titles.values()], lines)
    hours = [Note(line) for line in _next_hours(sweep)]
    return [*hours, *_spread_plot(drawn, list(titles.values())), *_of_the_first(sweep), table]


def _spread_plot(deviations: Mapping[str, Mapping[str, Sequence[Cell]]], headings: Sequence[str]) -> list[Plot]:
    """The same as a figure, of rows by name and causes; none where of no row anything is known."""
    rows_of = deviations.values()
    known = [
        cause
        for cause in CAUSES.values()
        if any(cell.value is not None for of_row in rows_of for cell in of_row.get(cause, ()))
    ]
    if not known:
        return []
    nothing = [Cell()] * len(headings)
    panels = {
        heading: {cause: [of_row.get(cause, nothing)[place] for of_row in rows_of] for cause in known}
        for place, heading in enumerate(headings)
    }
    figure = plots.grouped_bars(panels, list(deviations), "points", scale=100)
    return [Plot("spread", figure, "Standard deviation of each figure by what it is due to, as in the table below")]


def _deviation(row: Row, cause: str, parts: Mapping[str, float | None] | None) -> Cell:
    """The standard deviation that a cause makes, or that it is not known; empty where a method has no such seeds."""
    if parts is None or not row.entry["seeds"].get(cause, 1):
        return Cell()
    if (value := parts[cause]) is None:
        return Cell(missing="one seed", meaning="how far others would part is not known, and not in the intervals")
    return Cell(value**0.5, percent)


def _next_hours(sweep: Sweep) -> list[str]:
    """What an hour more on each kind of seed would make of the interval of each row's gain."""
    lines = []
    for row in sweep.rows:
        spending = row.entry.get("next_hour")
        if spending and spending["options"]:
            ways = ", ".join(
                f"{option['spend_on']} seeds ({option['now']} to {option['then']}) ±{percent(option['half_width'])}"
                for option in spending["options"]
            )
            now = percent(spending["half_width"])
            lines.append(f"{row.name}: the interval of its {spending['figure']} is ±{now}; an hour more on {ways}.")
    return lines


def beyond_f1(sweep: Sweep) -> list[Piece]:
    """More than F1 at one threshold, with 95 % intervals: synthetic images change how often a class is expected.

    Balanced accuracy is the mean recall. PR-AUC, the area under the precision-recall curve of a class against all
    others (average precision), and its mean look at all thresholds. ECE, the expected calibration error, says how far
    the classifier's shares are from how often it is right: less is better. Marks as for F1, over the same baseline.
    """
    titles = {"balanced_accuracy": "balanced accuracy", "pr_auc": "PR-AUC", "ece": "ECE"}
    lines: list[list[Cell | str]] = []
    for row in sweep.rows:
        found = row.entry.get("scores") or {}
        areas = found.get("pr_auc_per_class") or {}
        gains_of_row = row.entry.get("gains") or {}
        of_classes = gains_of_row.get("pr_auc_per_class") or {}
        cells = [_estimated(found.get(name), gains_of_row.get(name), row) for name in titles]
        cells += [_estimated(areas.get(name), of_classes.get(name), row) for name in sweep.classes]
        lines.append([Cell(row.name), *cells])
    columns = ["method", *titles.values(), *(f"PR-AUC {title}" for title in sweep.classes.values())]
    return [Table("In %, over all seeds; small: the 95 % interval", columns, lines)]


def _estimated(found: Mapping[str, float] | None, gain: Mapping[str, Any] | None, row: Row) -> Cell:
    if found is None:
        return Cell()
    cell = Cell(found["value"], percent, None, (found["low"], found["high"]))
    if gain and row.baseline:
        meaning = f"p = {gain['p_holm']:.2g} against {row.baseline}"
        return replace(cell, mark=rows.arrow(gain), meaning=meaning)
    return cell


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
