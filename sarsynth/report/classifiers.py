"""What the classifiers of each row reached, and whether a gain over the baseline is real."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sarsynth.evidence.comparison import settling
from sarsynth.evidence.results import leaks
from sarsynth.report import plots
from sarsynth.report.pages import Cell, Gallery, Note, Plot, Section, Table
from sarsynth.report.plots import Estimate
from sarsynth.report.sweep import (
    FIGURES,
    MEANS,
    RELEASE,
    ROWS,
    Sweep,
    distance_cells,
    estimate,
    f1,
    gain_of,
    is_release,
    mark,
    scored,
)
from sarsynth.report.tables import cheaper, percent


def scores(sweep: Sweep) -> Section:
    """The table in the paper's form."""
    about = (
        "F1 on the real test set. The interval tells how far other test images and other seeds would move a figure. "
        "FID and KID compare synthetic with real training images in the features of the study's own classifier, all "
        "classes together: less is closer. There is no FID of fewer images than features."
    )
    names = [*sweep.classes, *MEANS]
    table = []
    for row, result, compared in zip(sweep.rows, sweep.results, sweep.compared, strict=True):
        wrong = leaks(result)
        line: list[Cell | str] = [Cell(row, None, f"{len(result['seeds'])} seeds", "!" * bool(wrong), "; ".join(wrong))]
        for name in names:
            figure, interval, gain = f1(result, name), (compared["scores"] or {}).get(name), gain_of(compared, name)
            text, _, deviation = percent(figure).partition("±")
            detail = f"± {deviation}" if text else ""
            detail += f"\n{100 * interval['low']:.1f}…{100 * interval['high']:.1f}" if interval else ""
            meaning = f"p = {gain['p_holm']:.2g} against {_baseline(sweep, compared)}" if gain else ""
            line.append(Cell(text, figure["mean"] if figure else None, detail, mark(gain), meaning))
        line += distance_cells(result)
        table.append(line)
    headings = [*(sweep.title(name) for name in sweep.classes), *MEANS.values(), "FID", "KID"]
    caption = "F1 in %, mean over classifier seeds; small: ± sd and the 95 % interval; * minor classes; ▲ ▼ significant"
    told = [f"! {one}" for one in dict.fromkeys(one for result in sweep.results for one in leaks(result))]
    told += [f"! FID and KID with {RELEASE}"] * any(map(is_release, sweep.results))
    cheap = cheaper(list(zip(sweep.rows, sweep.results, strict=True)))
    told += [cheap] if cheap else []
    failed = [f"Not shown: {job.name}. {job.error}" for job in sweep.failed]
    return Section(
        "results",
        "Results",
        about,
        [*map(Note, [*told, *failed]), Table(caption, ["method", *headings], table)],
    )


def _baseline(sweep: Sweep, compared: Mapping[str, Any]) -> str:
    names = {row["job"]: row["method"] for row in sweep.significance["rows"]}  # also of a job that is no longer shown
    names |= {job.folder.name: row for row, job in zip(sweep.rows, sweep.jobs, strict=True)}
    return names[compared["baseline"]]


def f1_plot(sweep: Sweep) -> Section:
    """F1 of each class and method, and what it is made of."""
    panels = {
        title: [
            estimate(f1(result, name), (compared["scores"] or {}).get(name))
            for result, compared in zip(sweep.results, sweep.compared, strict=True)
        ]
        for name, title in sweep.titles.items()
    }
    drawn = plots.estimates(panels, sweep.rows, "%")
    caption = "A mark is the mean, a tick one seed, a line the 95 % interval over test images and seeds."
    plot = Plot("f1", drawn, "F1 of each class and method, as in the table", caption)
    return Section("f1", "F1 by class", "", [plot, _by_class(sweep)])


def _by_class(sweep: Sweep) -> Table:
    """All figures of each class, a line each."""
    lines: list[list[Cell | str]] = []
    for row, result in zip(sweep.rows, sweep.results, strict=True):
        for figure, title in FIGURES.items():
            found = [scored(result, name).get(figure) for name in sweep.classes]
            lines.append([row, title, *(_class_cell(one, share=figure != "support") for one in found)])
    caption = "Precision, recall and F1 of each class in %, mean and ± sd over seeds, and its test images"
    return Table(caption, ["method", "figure", *map(sweep.title, sweep.classes)], lines, folded=True)


def _class_cell(figure: Mapping[str, Any] | None, share: bool) -> Cell | str:
    if figure is None or figure["mean"] is None:
        return ""
    text, _, deviation = percent(figure).partition("±")
    return Cell(text, figure["mean"], f"± {deviation}") if share else Cell(f"{figure['mean']:,.0f}", figure["mean"])


def gains(sweep: Sweep) -> Section:
    """Whether a gain over the baseline is real, and what would settle it."""
    found = sweep.significance
    about = (
        "Points of F1 (and of accuracy) over the baseline on the same test images. ▲ ▼: significant, for classes after "
        "Holm's correction; it takes two seeds or more to call anything that. Small: the "
        f"{100 * (1 - found['level']):.0f} % interval over images and seeds, the smallest gain that this test set and "
        f"these seeds show with a chance of {100 * found['power']:.0f} %, and how many seeds, or times the test "
        "images, would show an open one, were it the truth."
    )
    notes = [Note(line) for line in found["open"]]
    reasons: dict[str, list[str]] = {}
    for row, compared in zip(sweep.rows, sweep.compared, strict=True):
        if compared["note"]:
            reasons.setdefault(compared["note"], []).append(row)
    notes += [Note(f"{', '.join(rows)}: {reason}") for reason, rows in reasons.items()]
    against = [index for index, compared in enumerate(sweep.compared) if compared["gains"]]
    if not against:
        return Section("gains", "Gains", about, [Note("No row has a baseline: evaluate.baseline=…"), *notes])
    table = []
    for index in against:
        compared = sweep.compared[index]
        p = (compared["gains"]["mcnemar"] or {}).get("p")
        line: list[Cell | str] = [Cell(sweep.rows[index], detail=f"over {_baseline(sweep, compared)}")]
        line += [_gain_cell(gain_of(compared, name)) for name in sweep.titles]
        table.append([*line, "" if p is None else Cell(f"{p:.3f}", p)])
    panels = {
        title: [_gain_estimate(gain_of(sweep.compared[index], name)) for index in against]
        for name, title in sweep.titles.items()
    }
    drawn = plots.estimates(
        panels, [sweep.rows[index] for index in against], "points over the baseline", every=sweep.rows, zero=True
    )
    columns = ["method", *sweep.titles.values(), "p"]
    return Section(
        "gains",
        "Gains",
        about,
        [
            Plot("gains", drawn, "Gain of each method over the baseline, by class, as in the table below"),
            Table(
                "Gain over the baseline in points, its interval, the smallest gain to be seen; p: McNemar, accuracy",
                columns,
                table,
            ),
            *notes,
        ],
    )


def _gain_cell(gain: Mapping[str, Any] | None) -> Cell | str:
    if gain is None:
        return ""
    detail = f"{100 * gain['low']:+.1f}…{100 * gain['high']:+.1f}"
    if gain["detectable"] is not None:  # something varied
        detail += f"\n≥ {100 * gain['detectable']:.1f}"
    if ways := settling(gain, "x images"):
        detail += "\n" + " or\n".join(ways)
    return Cell(f"{100 * gain['delta']:+.1f}", gain["delta"], detail, mark(gain), f"p = {gain['p_holm']:.2g}")


def _gain_estimate(gain: Mapping[str, Any] | None) -> Estimate | None:
    return None if gain is None else Estimate(100 * gain["delta"], 100 * gain["low"], 100 * gain["high"])


def confusions(sweep: Sweep) -> Section:
    """Who is taken for whom."""
    about = "Of all images of a class (a line), how many percent are called what; over all seeds."
    drawn = [
        Plot(
            f"confusion_{index}",
            plots.confusion(np.sum(result["classifier"]["confusion"]["values"], axis=0), result["classes"], name),
            f"Confusion matrix of {name}",
        )
        for index, (name, result) in enumerate(zip(sweep.rows, sweep.results, strict=True))
    ]
    return Section("confusion", "Confusion", about, [Gallery("each row", drawn, folded=len(drawn) > ROWS)])
