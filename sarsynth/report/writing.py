"""The report of a sweep, from what its jobs stored and nothing else: report.html, plots, results.csv, results.tex.

A section is a function of the sweep that gives the pieces it shows, and a row of `SECTIONS`; one whose data are missing
says so in a line. Torch-free.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sarsynth.console import console
from sarsynth.evidence.chance import LEVEL, POWER
from sarsynth.files import write_text
from sarsynth.report import csv, html, latex, rows
from sarsynth.report.classifiers import confusions, f1_by_class, gains, scores
from sarsynth.report.distances import decoupling, fidelity, realism
from sarsynth.report.html import REPORT
from sarsynth.report.images import feature_map, memorisation, samples, strips
from sarsynth.report.pieces import Cell, Gallery, Piece, Section
from sarsynth.report.plots import Plot
from sarsynth.report.provenance import commands, costs, learning, prototypes, settings
from sarsynth.report.sweep import Sweep

RESULTS, TABLES, PLOTS = "results.csv", "results.tex", "plots"

# Of each: address within the page, heading, how to read it, and the function that makes its pieces.
SECTIONS: tuple[tuple[str, str, str, Callable[[Sweep], list[Piece]]], ...] = (
    (
        "results",
        "Results",
        "F1 on the real test set. The interval tells how far other test images and other seeds would move a figure. "
        "FID and KID compare synthetic with real training images in the features of the study's own classifier, all "
        "classes together: less is closer. There is no FID of fewer images than features.",
        scores,
    ),
    ("f1", "F1 by class", "", f1_by_class),
    (
        "gains",
        "Gains",
        "Points of F1 (and of accuracy) over the baseline on the same test images. ▲ ▼: significant, for classes after "
        "Holm's correction; it takes two seeds or more to call anything that. Small: the "
        f"{100 * (1 - LEVEL):.0f} % interval over images and seeds, the smallest gain that this test set and "
        f"these seeds show with a chance of {100 * POWER:.0f} %, and how many seeds, or times the test "
        "images, would show an open one, were it the truth.",
        gains,
    ),
    (
        "samples",
        "Images",
        "The first images of each set, not chosen by anybody. Equal places start from equal noise.",
        samples,
    ),
    (
        "confusion",
        "Confusion",
        "Of all images of a class (a line), how many percent are called what; over all seeds.",
        confusions,
    ),
    (
        "fidelity",
        "Fidelity",
        "Distance of synthetic from real training images, less is closer. FID grows as images get fewer, so compare it "
        "within a class, not between classes; KID has no such bias.",
        fidelity,
    ),
    (
        "realism",
        "Radar realism",
        "Distances from real training images, less is closer. Floors: two halves of the real images from each other, "
        "and real images from themselves after a way through the base's autoencoder, whose marks every synthetic image "
        "bears. A set may lie nearer all the same, where other faults make up for them.",
        realism,
    ),
    (
        "memorisation",
        "Copies and diversity",
        "Nearest real training image of each synthetic one. A near-copy is nearer than all but a few real images are "
        "to each other. Diversity is the mean distance of two images of a class in features.",
        memorisation,
    ),
    (
        "decoupling",
        "Fidelity against F1",
        "Does a closer set of images make a better classifier? Each point is a row. A useful cheap measure has a rank "
        "correlation near -1 (less distance, more F1); near 0 it says nothing about the gain.",
        decoupling,
    ),
    (
        "features",
        "Features",
        "t-SNE of the classifier's features: crosses are synthetic images, dots the real training images of the same "
        "class; large classes are thinned. Neighbourhoods mean something, distances and sizes of clusters do not.",
        feature_map,
    ),
    (
        "strips",
        "Scale strips",
        "One noise a row, the scale of the whole stack of adapters from none to full.",
        strips,
    ),
    (
        "prototypes",
        "Prototypes",
        "K-means on features of the SAR training images (prototypes.features). When a class is made, the adapters of "
        "the clusters are mixed by its bias scores: its share of each cluster, normalised. With a mutual information "
        "of 1 the clusters are the classes, and nothing is shared.",
        prototypes,
    ),
    (
        "learning",
        "Learning curves",
        "Faint: as logged; strong: averaged over a tenth of a run. What a row found in the store it has no curve of.",
        learning,
    ),
    (
        "settings",
        "Settings that differ",
        "Every setting that is not the same in all rows, whatever it follows from.",
        settings,
    ),
    (
        "cost",
        "Cost",
        "Time of everything that a row rests on, by the cards of the store, as if it had been made for this row alone; "
        "rows share parts, so the last line is less than their sum. Peak memory is that of the accelerator where one "
        "was used, else of the process.",
        costs,
    ),
    (
        "commands",
        "Make it again",
        "Each line makes one row; what the store holds already is not made again.",
        commands,
    ),
)


def write(folder: Path, store: Path) -> list[Path]:
    """Write the report of a sweep, its plots and its tables beside its jobs.

    Args:
        folder: Of the sweep, or of a single run.
        store: Of the artifacts.

    Returns:
        report.html, results.csv and results.tex.

    Raises:
        UserError: The folder holds no results, or one that this version cannot read.
    """
    sweep = Sweep.read(folder, store)
    parts = [Section(anchor, heading, about, pieces(sweep)) for anchor, heading, about, pieces in SECTIONS]
    (folder / PLOTS).mkdir(exist_ok=True)
    for stale in [*(folder / PLOTS).glob("*.png"), *(folder / PLOTS).glob("*.svg")]:
        stale.unlink()
    for plot in _plots(piece for part in parts for piece in part.pieces):
        plot.save(folder / PLOTS)
    table = [{"method": row.result["method"], "overrides": row.overrides} | row.values for row in sweep.rows]
    contents = {
        REPORT: html.render("report.html", **_head(sweep), parts=parts),
        RESULTS: csv.text(table),
        TABLES: _latex(sweep),
    }
    for name, content in contents.items():
        write_text(folder / name, content)
    return [folder / name for name in contents]


def run(folder: Path, store: Path) -> None:
    """Write the report of a sweep again, from what is stored, and name its files."""
    for file in write(folder, store):
        console.print(f"  {file}")


def _plots(pieces: Iterable[Piece]) -> Iterable[Plot]:
    for piece in pieces:
        if isinstance(piece, Gallery):
            yield from _plots(piece.pictures)
        elif isinstance(piece, Plot):
            yield piece


def _head(sweep: Sweep) -> dict[str, Any]:
    def named(key: str) -> str:
        return ", ".join(dict.fromkeys(str(result[key]) for result in sweep.results))

    seeds = sorted({len(result["seeds"]) for result in sweep.results})
    sizes = dict.fromkeys(f"{sum(result['counts'].values()):,}" for result in sweep.results if "counts" in result)
    failed = f" {len(sweep.failed)} jobs failed and are not shown." if sweep.failed else ""
    minor = {name for result in sweep.results for name in result["minor"]}
    return {
        "title": f"What synthetic images are worth on {named('data')}",
        "lead": f"Classifiers on real and added images, scored on real test images.{failed}",
        "known": {
            "sweep": sweep.folder.name,
            "rows": len(sweep.jobs),
            "classifier seeds": ", ".join(map(str, seeds)),
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
    over = [Cell(""), *(Cell(title, span=len(rows.SHARES)) for title in sweep.classes.values())]
    over += [Cell("")] * len(rows.MEANS)
    return "\n".join(["% Needs package booktabs.", latex.tabular(with_intervals), latex.tabular(papers, over)])
