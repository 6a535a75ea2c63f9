"""Sections on how near synthetic images come to real ones, and what that says of the gain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from sarsynth.evidence.results import MEANS
from sarsynth.report import plots, rows
from sarsynth.report.pieces import COUNT, SHORT, Cell, Note, Piece, Table, decimals
from sarsynth.report.plots import Plot
from sarsynth.report.rows import RELEASE, Row
from sarsynth.report.sweep import MOST_ROWS, Sweep

DISTANCES = ("fid", "kid")
OVERLAPS = ("precision", "recall", "density", "coverage")
MODELS = ("gamma", "k", "lognormal")  # of clutter
EVEN = 1e5  # shape of a K distribution that no sample tells from a gamma distribution
FEW = 10  # rows below which a rank correlation has no interval
REPLICATES = 2000  # of a bootstrap over rows
LEVEL = 0.95  # of its interval


def fidelity(sweep: Sweep) -> list[Piece]:
    """Distance of synthetic from real training images, less is closer.

    FID grows as images get fewer, so compare it within a class, not between classes; KID has no such bias.
    """
    with_sets = [row for row in sweep.uncompared if row.result["fidelity"]["per_class"]]
    if not with_sets:
        return [Note("No row has synthetic images.")]
    names = [row.name for row in with_sets[:MOST_ROWS]]
    pieces: list[Piece] = []
    for measure in DISTANCES:
        columns = {title: f"{measure}_{name}" for name, title in sweep.classes.items()} | {"all": measure}
        panels = {title: [row[column] for row in with_sets[:MOST_ROWS]] for title, column in columns.items()}
        panels = {title: cells for title, cells in panels.items() if any(cell.value is not None for cell in cells)}
        if panels:
            figures = plots.both(plots.estimates, panels, names, measure.upper(), every=sweep.names, bars=True)
            pieces.append(Plot(measure, alt=f"{measure.upper()} of each class and method", **figures))
    if len(with_sets) > MOST_ROWS:
        pieces.append(Note(f"Figures are of the first {MOST_ROWS} rows; tables and results.csv have all."))
    by_class = [[Cell(row.name), *(_class_distances(row, name) for name in sweep.classes)] for row in with_sets]
    caption = "KID of each class; small: FID, and how many real and synthetic images"
    pieces.append(Table(caption, ["method", *sweep.classes.values()], by_class))
    if any(row[key].value is None for row in with_sets for key in ("fid", *(f"fid_{name}" for name in sweep.classes))):
        reason = f"Where no FID is shown, there are too few images: {_too_few(with_sets)}. KID stands for it there."
        pieces.append(Note(reason))
    caption = (
        "All classes together. Precision, density: whether synthetic images are like real ones; recall, coverage: "
        "whether they show all that real ones do"
    )
    overlaps = [[Cell(row.name), *_overlaps(row.result["fidelity"]["pooled"] or {})] for row in with_sets]
    pieces.append(Table(caption, ["method", *OVERLAPS, "real", "synthetic"], overlaps))
    pieces += [Note(f"{RELEASE}.")] * any(row["kid"].meaning == RELEASE for row in with_sets)
    return pieces


def _class_distances(row: Row, name: str) -> Cell:
    """KID of a class, below it FID and numbers of images."""
    kid, fid, *sizes = (row[f"{key}_{name}"] for key in ("kid", "fid", "n_real", "n_synthetic"))
    if not kid.text:
        return Cell()
    shown = fid.text if fid.value is None else f"FID {fid.text}"
    detail = f"{shown}\n{' / '.join(size.text for size in sizes)}"
    return replace(kid, interval=None, mark="", meaning="", detail=detail)


def _overlaps(pooled: Mapping[str, Any]) -> list[Cell]:
    intervals = pooled.get("intervals", {})
    sizes = [Cell(pooled.get(key, 0), COUNT) for key in ("n_real", "n_synthetic")]
    return [*(Cell(pooled.get(name), decimals(2), interval=intervals.get(name)) for name in OVERLAPS), *sizes]


def _too_few(with_sets: Iterable[Row]) -> str:
    """Say why sets have no FID."""
    widths = sorted({width for row in with_sets if (width := row.result["fidelity"]["width"])})
    return f"it needs as many images as features, {' or '.join(f'{width:,}' for width in widths)}, of both kinds"


def realism(sweep: Sweep) -> list[Piece]:
    """Distances from real training images, less is closer.

    Floors: two halves of the real images from each other, and real images from themselves after a way through the
    base's autoencoder, whose marks every synthetic image bears. A set may lie nearer all the same, where other faults
    make up for them.
    """
    with_sets = [(row.name, row.result["realism"]) for row in sweep.uncompared if row.result["realism"]]
    if not with_sets:
        return [Note("No row has synthetic images.")]
    first = with_sets[0][1]
    measures = first["measures"]
    sets = [(name, figures, "synthetic") for name, figures in with_sets]
    floors = [("real halves", first, "halves"), ("real, autoencoder", first, "autoencoder")]
    table = [
        [Cell(name), *(Cell(figures["measures"][measure]["distance"][key], SHORT) for measure in measures)]
        for name, figures, key in [*sets, *floors]
    ]
    units = "; ".join(f"{name}: {measure['unit']}" for name, measure in measures.items())
    pieces: list[Piece] = [Note(first["note"]), Table(f"Distances. {units}", ["images", *measures], table)]
    sizes = first.get("n", {})
    older = (
        "The images through the autoencoder are fewer than the real ones here, in other class shares, so their "
        "distance is too large: an older result; run the sweep again."
    )
    pieces += [Note(older)] * (sizes.get("real") != sizes.get("autoencoder"))
    references = [(key, first, key) for key in ("real", "autoencoder")]
    fits = [[Cell(name), *_clutter(figures, key)] for name, figures, key in [*sets, *references]]
    caption = (
        "Clutter. Medians of the equivalent number of looks and of the target-to-clutter ratio of an image; of models "
        "fitted to all clutter of a set, the shape of K (the larger, the more even) and Kolmogorov-Smirnov distances"
    )
    headings = ["looks", "target to clutter, dB", "shape of K", *(f"KS, {model}" for model in MODELS)]
    pieces.append(Table(caption, ["images", *headings], fits))
    if probe := first["shortcut"]:
        low, high = (100 * end for end in probe["interval"])
        shortcut = (
            f"Clutter alone: {100 * probe['masked_accuracy']:.1f} % [{low:.1f}, {high:.1f}], with targets "
            f"{100 * probe['accuracy']:.1f} %, chance {100 * probe['chance']:.1f} %: {probe['meaning']}."
        )
        pieces.append(Note(shortcut))
    return pieces


def _clutter(figures: Mapping[str, Any], key: str) -> list[Cell]:
    """Medians of a set's images, and what was fitted to its clutter; empty where a result does not have it."""
    measures = (figures["measures"].get(name) or {} for name in ("looks", "contrast"))
    looks, contrast = ((measure.get("median") or {}).get(key) for measure in measures)
    models = figures["fits"][key] or {}
    return [
        Cell(None if looks is None else float(np.exp(looks)), SHORT),
        Cell(contrast, SHORT),
        Cell((models.get("k") or {}).get("shape"), lambda shape: "∞" if shape >= EVEN else SHORT(shape)),
        *(Cell((models.get(model) or {}).get("ks"), SHORT) for model in MODELS),
    ]


def decoupling(sweep: Sweep) -> list[Piece]:
    """Does a closer set of images make a better classifier? Each point is a row.

    A useful cheap measure has a rank correlation near -1 (less distance, more F1); near 0 it says nothing about the
    gain.
    """
    with_sets = [row for row in sweep.uncompared if row["kid"].value is not None]
    if len(with_sets) < 3:
        return [Note(f"Needs three rows with synthetic images; there are {len(with_sets)}.")]
    titles = {column: title for column, title in rows.scored(sweep.uncompared).items() if column != "accuracy"}
    means = {column: title for column, title in titles.items() if column in MEANS}
    plotted = [measure for measure in DISTANCES if np.isfinite(_column(with_sets, measure)).sum() >= 3]
    panels = {}
    for column, title in means.items():
        for measure in plotted:
            x, y = _column(with_sets, measure), 100 * _column(with_sets, column)
            correlation = rank_correlation(x, y)
            rho = "" if correlation is None else f"\nrank correlation {correlation[0]:+.2f}"
            panels[f"{measure.upper()} and {title}{rho}"] = x, y
    axes = [f"{measure.upper()}, all classes" for _ in means for measure in plotted]
    table = [
        [Cell(title), *(_correlation(with_sets, measure, column) for measure in DISTANCES)]
        for column, title in (means | titles).items()
    ]
    notes = [f"No plot of FID, which fewer than three rows have: {_too_few(with_sets)}."] * ("fid" not in plotted)
    few = f"{len(with_sets)} rows: an interval needs {FEW}, and a correlation of fewer is an anecdote."
    notes += [few] * (len(with_sets) < FEW)
    figures = plots.both(plots.scatter, panels, [row.name for row in with_sets], axes, "F1 in %", sweep.names)
    caption = "Spearman's rank correlation of F1 with the distance of the same class, or of all of them"
    return [
        Plot("fidelity_f1", alt="Distances against F1, a point a row", **figures),
        Table(caption, ["F1 of", *(f"with {measure.upper()}" for measure in DISTANCES)], table),
        *map(Note, notes),
    ]


def _column(with_sets: Sequence[Row], column: str) -> np.ndarray:
    """The values of a column, NaN where a row has none."""
    return np.array([row[column].value for row in with_sets], dtype=float)


def _correlation(with_sets: Sequence[Row], measure: str, score: str) -> Cell:
    """Rank correlation of F1 with a distance: that of the same class, or of all of them for a mean."""
    distance = measure if score in MEANS else f"{measure}_{score.removeprefix('f1_')}"
    correlation = rank_correlation(_column(with_sets, distance), 100 * _column(with_sets, score))
    if correlation is None:
        return Cell()
    rho, *ends = correlation
    return Cell(rho, "{:+.2f}".format, interval=None if np.isnan(ends[0]) else (ends[0], ends[1]))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float] | None:
    """Spearman's rho of finite pairs, (N,) each, with a 95 % interval by a bootstrap over pairs.

    The ends of the interval are NaN for fewer than `FEW` pairs. None if there are fewer than three, or if one of the
    two never changes.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rho = float(stats.spearmanr(x, y).statistic)
    if len(x) < FEW:
        return rho, float("nan"), float("nan")
    replicates = np.random.default_rng(0).integers(len(x), size=(REPLICATES, len(x)))
    ranks = [stats.rankdata(values[replicates], axis=1) for values in (x, y)]
    centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    norm = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    rhos = (centred[0] * centred[1]).sum(axis=1)[norm > 0] / norm[norm > 0]
    low, high = np.quantile(rhos, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return rho, float(low), float(high)
