"""The report of a sweep, from what its jobs stored and nothing else: report.html, plots, results.csv, results.tex.

Each section is a function of the sweep; a section whose data are not there says so in one line. Torch-free.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.evidence.comparison import columns
from sarsynth.report import jobs, latex, pages
from sarsynth.report.classifiers import confusions, f1_plot, gains, scores
from sarsynth.report.distances import decoupling, fidelity, realism
from sarsynth.report.images import feature_map, memorisation, samples, strips
from sarsynth.report.pages import Gallery, Piece, Plot, Section
from sarsynth.report.provenance import commands, costs, learning, prototypes, settings
from sarsynth.report.sweep import Sweep

REPORT, PLOTS = "report.html", "plots"

SECTIONS: tuple[Callable[[Sweep], Section], ...] = (
    scores,
    f1_plot,
    gains,
    samples,
    confusions,
    fidelity,
    realism,
    memorisation,
    decoupling,
    feature_map,
    strips,
    prototypes,
    learning,
    settings,
    costs,
    commands,
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
    parts = [section(sweep) for section in SECTIONS]
    (folder / PLOTS).mkdir(exist_ok=True)
    for stale in [*(folder / PLOTS).glob("*.png"), *(folder / PLOTS).glob("*.svg")]:
        stale.unlink()
    for plot in _plots(piece for part in parts for piece in part.pieces):
        plot.save(folder / PLOTS)
    files = [folder / REPORT, folder / "results.csv", folder / "results.tex"]
    rows = [
        {"method": result["method"], "overrides": job.overrides} | jobs.row(result) | columns(compared)
        for job, result, compared in zip(sweep.jobs, sweep.results, sweep.compared, strict=True)
    ]
    pages.write(jobs.as_csv(rows), files[1])
    pages.write(latex.tables(sweep), files[2])
    pages.write(pages.render("report.html", **_head(sweep), parts=parts), files[0])
    return files


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
    failed = f" {len(sweep.failed)} jobs failed and are not shown." if sweep.failed else ""
    return {
        "title": f"What synthetic images are worth on {named('data')}",
        "lead": f"Classifiers on real and added images, scored on real test images.{failed}",
        "known": {
            "sweep": sweep.folder.name,
            "rows": len(sweep.jobs),
            "classifier seeds": ", ".join(map(str, seeds)),
            "base": named("base"),
            "split": named("split"),
            "training images": ", ".join(
                dict.fromkeys(f"{sum(one['counts'].values()):,}" for one in sweep.results if "counts" in one)
            ),
            "minor classes": ", ".join(name for name in sweep.classes if name in sweep.minor) or "none",
        },
    }


def run(chosen: Settings, folder: Path) -> None:
    """Rebuild the report of `report=PATH` from what is stored."""
    assert chosen.report is not None
    for file in write(Path(chosen.report), Path(chosen.paths.store)):
        console.print(f"  {file}")
