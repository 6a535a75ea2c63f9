"""The report of a sweep, from what its jobs stored and nothing else: report.html, plots, results.csv, results.tex.

A section is a row of `SECTIONS` and a function of the sweep that gives the pieces it shows; readers see its docstring
below the heading. One whose data are missing says so in a line; one that is of other sweeps gives no pieces, and is
left out. Torch-free.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sarsynth.console import console
from sarsynth.errors import UserError, one_line
from sarsynth.evidence.comparison import shown
from sarsynth.evidence.results import MEANS, RESULT
from sarsynth.files import write_text
from sarsynth.report import csv, html, latex, rows
from sarsynth.report.across import across
from sarsynth.report.classifiers import beyond_f1, confusions, f1_by_class, gains, learned_from, scores, spread
from sarsynth.report.distances import decoupling, fidelity, realism
from sarsynth.report.elsewhere import carried_over, columns_elsewhere
from sarsynth.report.html import REPORT
from sarsynth.report.images import feature_map, memorisation, samples, strips
from sarsynth.report.pieces import Cell, Gallery, Piece, Section
from sarsynth.report.plots import Plot
from sarsynth.report.provenance import commands, costs, learning, prototypes, settings
from sarsynth.report.published import beside_paper, csv_columns
from sarsynth.report.responses import dose, learning_curve
from sarsynth.report.sweep import Sweep

PLOTS = "plots"
LOST = (LookupError, TypeError, AttributeError, ValueError)  # what comes of a result without a key, or with another's

SECTIONS: tuple[tuple[str, str, Callable[[Sweep], list[Piece]]], ...] = (  # address within the page, heading
    ("results", "Results", scores),
    ("f1", "F1 by class", f1_by_class),
    ("gains", "Gains", gains),
    ("paper", "Beside the paper", beside_paper),
    ("worth", "Worth in real images", learning_curve),
    ("dose", "Dose and response", dose),
    ("elsewhere", "Does it carry over?", carried_over),
    ("spread", "Where the spread comes from", spread),
    ("beyond", "Beyond F1", beyond_f1),
    ("learned", "What classifiers learn from", learned_from),
    ("samples", "Images", samples),
    ("confusion", "Confusion", confusions),
    ("fidelity", "Fidelity", fidelity),
    ("realism", "Radar realism", realism),
    ("memorisation", "Copies and diversity", memorisation),
    ("decoupling", "Fidelity against F1", decoupling),
    ("features", "Features", feature_map),
    ("strips", "Scale strips", strips),
    ("prototypes", "Prototypes", prototypes),
    ("learning", "Learning curves", learning),
    ("settings", "Settings that differ", settings),
    ("cost", "Cost", costs),
    ("commands", "Make it again", commands),
)
ACROSS = ("across", "Across data sets", across)  # before them, where there is more than one data set


def write(sweep: Sweep) -> list[Path]:
    """Write the report of a sweep into its folder; where it has several data sets, each has all the sections.

    Returns:
        report.html, results.csv and results.tex.

    Raises:
        UserError: A result lacks something, or is of another kind.
    """
    with blaming(sweep):
        parts = [_section(sweep, *ACROSS)] if len(sweep.parts) > 1 else []
        for place, (label, part) in enumerate(sweep.parts.items()):
            prefix = (f"set{place}-", f"{label}: ") if label else ("", "")
            parts += [_section(part, prefix[0] + anchor, prefix[1] + heading, of) for anchor, heading, of in SECTIONS]
    parts = [section for section in parts if section.pieces]
    folder = sweep.folder
    shutil.rmtree(folder / PLOTS, ignore_errors=True)
    for section in parts:
        of_set, _, _ = section.anchor.rpartition("-")
        for plot in _plots(section.pieces):
            (folder / PLOTS / of_set).mkdir(parents=True, exist_ok=True)
            plot.save(folder / PLOTS / of_set)
    second = columns_elsewhere(sweep)
    table = [
        {"method": row.result["method"], "overrides": row.overrides}
        | row.values
        | second.get(row.name, {})
        | csv_columns(row)
        for row in sweep.rows
    ]
    page = html.render("report.html", **_head(sweep), parts=parts, verdict=None)
    contents = {REPORT: page, "results.csv": csv.text(table), "results.tex": _latex(sweep)}
    for name, content in contents.items():
        write_text(folder / name, content)
    return [folder / name for name in contents]


def _section(sweep: Sweep, anchor: str, heading: str, pieces: Callable[[Sweep], list[Piece]]) -> Section:
    return Section(anchor, heading, " ".join(str(pieces.__doc__).split()), pieces(sweep))


def run(folders: Sequence[Path], store: Path, own: Path) -> None:
    """Write the report of a sweep again, from what is stored; name its files, and the jobs that are not in it.

    Args:
        folders: Of the sweeps; the report of one lies beside its jobs.
        store: Of the artifacts that they rest on.
        own: Where the report of several sweeps lies.
    """
    one = len(folders) == 1
    sweep = Sweep.read(folders[0], store) if one else Sweep.read_several(folders, store, own)
    for file in write(sweep):
        console.print(f"  {file}", markup=False)
    for job in sweep.failed:
        console.print(f"  not shown: {job.name}: {job.folder}/ {job.error}", markup=False)


@contextmanager
def blaming(sweep: Sweep) -> Iterator[None]:
    """Where results cannot be shown, find the one that is to blame, by showing each alone.

    Raises:
        UserError: Names its file.
    """
    try:
        yield
    except LOST as error:
        for job in sweep.jobs:
            with TemporaryDirectory() as scratch:  # as the folder of a sweep, in which comparing leaves a file
                alone = replace(sweep, folder=Path(scratch), jobs=[job], failed=[])
                try:
                    _ = _head(alone), _latex(alone), [pieces(alone) for *_, pieces in SECTIONS]
                except LOST as wrong:
                    told = f"{type(wrong).__name__}: {one_line(wrong)}"
                    raise UserError(
                        f"{job.folder / RESULT}: something in it is lost or of another kind ({told}); run its command "
                        "again, which makes only what is missing"
                    ) from error
        raise


def _plots(pieces: Iterable[Piece]) -> Iterable[Plot]:
    for piece in pieces:
        if isinstance(piece, Gallery):
            yield from _plots(piece.pictures)
        elif isinstance(piece, Plot):
            yield piece


def _head(sweep: Sweep) -> dict[str, Any]:
    def named(key: str) -> str:
        return ", ".join(dict.fromkeys(str(result[key]) for result in sweep.results))

    seeds = sorted({shown(rows.seeds_of(result)) for result in sweep.results})
    sizes = dict.fromkeys(f"{sum(result['counts'].values()):,}" for result in sweep.results if "counts" in result)
    failed = f" {len(sweep.failed)} jobs failed and are not shown." if sweep.failed else ""
    notices = "".join(
        f" {notice}" for notice in dict.fromkeys(result.get("notice") for result in sweep.results) if notice
    )
    minor = {name for result in sweep.results for name in result["minor"]}
    return {
        "title": f"What synthetic images are worth on {named('data')}",
        "lead": f"Classifiers on real and added images, scored on real test images.{failed}{notices}",
        "known": {
            "sweep": ", ".join(folder.name for folder in sweep.sources or [sweep.folder]),
            "rows": len(sweep.jobs),
            "seeds": ", ".join(seeds),
            "base": named("base"),
            "split": named("split"),
            "training images": ", ".join(sizes),
            "minor classes": ", ".join(name for name in sweep.classes if name in minor) or "none",
        },
    }


def _latex(sweep: Sweep) -> str:
    """Two tables: F1 with intervals, and the paper's form."""
    with_intervals = rows.scores_table(
        sweep.rows,
        "F1 (and accuracy) in %, mean and standard deviation over classifier seeds, below it the 95 % interval over "
        "test images and seeds; * minor classes; arrows: significant, for classes after Holm's correction.",
    )
    papers = rows.papers_table(
        sweep.rows,
        "Precision, recall and F1 of each class in %, means over classifier seeds, as in the paper's Table 3.",
    )
    headings = [Cell(""), *(Cell(title, span=len(rows.SHARES)) for title in sweep.classes.values())]
    headings += [Cell("")] * len(MEANS)
    return "\n".join(["% Needs package booktabs.", latex.tabular(with_intervals), latex.tabular(papers, headings)])
