"""How near synthetic images come to real ones, and what that says of the gain."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sarsynth.report import plots
from sarsynth.report.pages import Cell, Note, Piece, Plot, Section, Table
from sarsynth.report.plots import Estimate
from sarsynth.report.sweep import FEW, MEANS, RELEASE, Sweep, distance, f1, figure_cell, is_release, rank_correlation

DISTANCES = ("fid", "kid")
OVERLAPS = ("precision", "recall", "density", "coverage")
MODELS = ("gamma", "k", "lognormal")  # of clutter
EVEN = 1e5  # shape of a K distribution that no sample tells from a gamma distribution


def fidelity(sweep: Sweep) -> Section:
    """FID and KID of each class and method."""
    about = (
        "Distance of synthetic from real training images, less is closer. FID grows as images get fewer, so compare it "
        "within a class, not between classes; KID has no such bias."
    )
    made = [index for index, result in enumerate(sweep.results) if result["fidelity"]["per_class"]]
    pieces: list[Piece] = []
    for measure in DISTANCES:
        panels = {
            sweep.title(name): [_distance_estimate(sweep.results[index], measure, name) for index in made]
            for name in sweep.classes
        }
        pooled = [_distance_estimate(sweep.results[index], measure) for index in made]
        panels = {title: values for title, values in (panels | {"all": pooled}).items() if any(values)}
        if panels:
            figure = plots.estimates(
                panels, [sweep.rows[index] for index in made], measure.upper(), every=sweep.rows, bars=True
            )
            pieces.append(Plot(measure, figure, f"{measure.upper()} of each class and method"))
    if made:
        by_class = [
            [sweep.rows[index], *(_class_distances(sweep.results[index]["fidelity"], name) for name in sweep.classes)]
            for index in made
        ]
        caption = "KID of each class; small: FID, and how many real and synthetic images"
        pieces.append(Table(caption, ["method", *map(sweep.title, sweep.classes)], by_class))
        results = [sweep.results[index] for index in made]
        if any(distance(result, "fid", name) is None for result in results for name in [None, *sweep.classes]):
            reason = f"Where no FID is shown, there are too few images: {_too_few(results)}. KID stands for it there."
            pieces.append(Note(reason))
        table = [[sweep.rows[index], *_overlap_cells(sweep.results[index]["fidelity"])] for index in made]
        caption = (
            "All classes together. Precision, density: whether synthetic images are like real ones; recall, coverage: "
            "whether they show all that real ones do"
        )
        pieces.append(Table(caption, ["method", *OVERLAPS, "real", "synthetic"], table))
        pieces += [Note(f"{RELEASE}.")] * any(is_release(sweep.results[index]) for index in made)
    return Section("fidelity", "Fidelity", about, pieces or [Note("No row has synthetic images.")])


def _class_distances(fidelity: Mapping[str, Any], name: str) -> Cell | str:
    figures = fidelity["per_class"].get(name)
    if figures is None:
        return ""
    fid = f"FID {figures['fid']:.2f}" if figures["fid_reliable"] else f"n < {fidelity['width']}"
    kid = "too few" if figures["kid"] is None else f"{figures['kid']:.4f}"
    detail = f"{fid}\n{figures['n_real']:,} / {figures['n_synthetic']:,}"
    return Cell(kid, "" if figures["kid"] is None else figures["kid"], detail)


def _distance_estimate(result: Mapping[str, Any], measure: str, class_name: str | None = None) -> Estimate | None:
    value, fidelity = distance(result, measure, class_name), result["fidelity"]
    if value is None:
        return None
    figures = fidelity["pooled"] if class_name is None else fidelity["per_class"][class_name]
    low, high = figures["intervals"].get(measure, (None, None))
    return Estimate(value, low, high)


def _overlap_cells(fidelity: Mapping[str, Any]) -> list[Cell | str]:
    pooled = fidelity["pooled"] or {}
    found: list[Cell | str] = []
    for name in OVERLAPS:
        value, interval = pooled.get(name), pooled.get("intervals", {}).get(name)
        detail = f"[{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        found.append("" if value is None else Cell(f"{value:.2f}", value, detail))
    sizes = [pooled.get("n_real", 0), pooled.get("n_synthetic", 0)]
    return [*found, *(Cell(f"{size:,}", size) for size in sizes)]


def _too_few(results: Iterable[Mapping[str, Any]]) -> str:
    """Say why sets have no FID."""
    widths = sorted({result["fidelity"]["width"] for result in results if result["fidelity"]["width"]})
    return f"it needs as many images as features, {' or '.join(f'{width:,}' for width in widths)}, of both kinds"


def realism(sweep: Sweep) -> Section:
    """How far synthetic images are from real ones as radar images, beside two floors."""
    about = (
        "Distances from real training images, less is closer. Floors: two halves of the real images from each other, "
        "and real images from themselves after a way through the base's autoencoder, whose marks every synthetic image "
        "bears. A set may lie nearer all the same, where other faults make up for them."
    )
    both = zip(sweep.rows, sweep.results, strict=True)
    known = [(row, result["realism"]) for row, result in both if result["realism"]]
    if not known:
        return Section("realism", "Radar realism", about, [Note("No row has synthetic images.")])
    measures = known[0][1]["measures"]
    lines = [(row, found, "synthetic") for row, found in known]
    lines += [("real halves", known[0][1], "halves"), ("real, autoencoder", known[0][1], "autoencoder")]
    table = [
        [row, *(figure_cell(found["measures"][name]["distance"][key]) for name in measures)]
        for row, found, key in lines
    ]
    sizes = known[0][1].get("n", {})
    older = Note(
        "The images through the autoencoder are fewer than the real ones here, in other class shares, so their "
        "distance is too large: an older result; run the sweep again."
    )
    units = "; ".join(f"{name}: {one['unit']}" for name, one in measures.items())
    pieces: list[Piece] = [Note(known[0][1]["note"]), Table(f"Distances. {units}", ["images", *measures], table)]
    pieces += [older] * (sizes.get("real") != sizes.get("autoencoder"))
    fits = [
        [row, *_clutter_cells(found, key)]
        for row, found, key in [(row, found, "synthetic") for row, found in known]
        + [(key, known[0][1], key) for key in ("real", "autoencoder")]
    ]
    caption = (
        "Clutter. Medians of the equivalent number of looks and of the target-to-clutter ratio of an image; of models "
        "fitted to all clutter of a set, the shape of K (the larger, the more even) and Kolmogorov-Smirnov distances"
    )
    headings = ["looks", "target to clutter, dB", "shape of K", *(f"KS, {model}" for model in MODELS)]
    pieces.append(Table(caption, ["images", *headings], fits))
    if probe := known[0][1]["shortcut"]:
        low, high = (100 * end for end in probe["interval"])
        pieces.append(
            Note(
                f"Clutter alone: {100 * probe['masked_accuracy']:.1f} % [{low:.1f}, {high:.1f}], with targets "
                f"{100 * probe['accuracy']:.1f} %, chance {100 * probe['chance']:.1f} %: {probe['meaning']}."
            )
        )
    return Section("realism", "Radar realism", about, pieces)


def _clutter_cells(found: Mapping[str, Any], key: str) -> list[Cell | str]:
    """Medians of a set's images, and what was fitted to its clutter; empty where a result does not have it."""
    medians = [((found["measures"].get(name) or {}).get("median") or {}).get(key) for name in ("looks", "contrast")]
    models = found["fits"][key] or {}
    shape = (models.get("k") or {}).get("shape")
    return [
        figure_cell(None if medians[0] is None else float(np.exp(medians[0]))),
        figure_cell(medians[1]),
        Cell("∞", shape) if shape is not None and shape >= EVEN else figure_cell(shape),
        *(figure_cell((models.get(model) or {}).get("ks")) for model in MODELS),
    ]


def decoupling(sweep: Sweep) -> Section:
    """Whether FID or KID says which row's classifier is better."""
    about = (
        "Does a closer set of images make a better classifier? Each point is a row. A useful cheap measure has a rank "
        "correlation near -1 (less distance, more F1); near 0 it says nothing about the gain."
    )
    with_sets = [index for index, result in enumerate(sweep.results) if distance(result, "kid") is not None]
    if len(with_sets) < 3:
        few = Note(f"Needs three rows with synthetic images; there are {len(with_sets)}.")
        return Section("decoupling", "Fidelity against F1", about, [few])
    chosen = [sweep.results[index] for index in with_sets]
    names = [sweep.rows[index] for index in with_sets]
    scored = {title: _column(chosen, name) for name, title in MEANS.items() if name != "accuracy"}
    scored |= {sweep.title(name): _column(chosen, name) for name in sweep.classes}
    drawn = [measure for measure in DISTANCES if sum(distance(result, measure) is not None for result in chosen) >= 3]
    panels, axes, table = {}, [], []
    for title, y in scored.items():
        cells: list[Cell | str] = [title]
        own = next((name for name in sweep.classes if sweep.title(name) == title), None)
        for measure in DISTANCES:
            x = np.array([_or_nan(distance(result, measure, own)) for result in chosen])
            found = rank_correlation(x, y)
            cells.append("" if found is None else _correlation(found))
            if own is None and measure in drawn:
                rho = "" if found is None else f"\nrank correlation {found[0]:+.2f}"
                panels[f"{measure.upper()} and {title}{rho}"] = x, y
                axes.append(f"{measure.upper()}, all classes")
        table.append(cells)
    notes = [] if "fid" in drawn else [Note(f"No plot of FID, which fewer than three rows have: {_too_few(chosen)}.")]
    notes += [Note(f"{len(chosen)} rows: an interval needs {FEW}, and a correlation of fewer is an anecdote.")] * (
        len(chosen) < FEW
    )
    caption = "Spearman's rank correlation of F1 with the distance of the same class, or of all of them"
    return Section(
        "decoupling",
        "Fidelity against F1",
        about,
        [
            Plot(
                "fidelity_f1",
                plots.scatter(panels, names, axes, "F1 in %", sweep.rows),
                "Distances against F1, a point a row",
            ),
            Table(caption, ["F1 of", *(f"with {measure.upper()}" for measure in DISTANCES)], table),
            *notes,
        ],
    )


def _column(chosen: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    found = [f1(result, name) for result in chosen]
    return np.array([100 * _or_nan(figure["mean"] if figure else None) for figure in found])


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _correlation(found: tuple[float, float, float]) -> Cell:
    rho, low, high = found
    return Cell(f"{rho:+.2f}", rho, "" if np.isnan(low) else f"[{low:+.2f}, {high:+.2f}]")
