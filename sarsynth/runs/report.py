"""The report of a sweep, from what its jobs stored and nothing else: report.html, plots, results.csv, results.tex.

Each section is a function of the sweep; a section whose data are not there says so in one line. Torch-free.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from scipy import stats

from sarsynth import pages, plots
from sarsynth.console import console
from sarsynth.errors import UserError
from sarsynth.pages import Cell, Command, Gallery, Note, Picture, Piece, Plot, Section, Table
from sarsynth.partitions import Partition
from sarsynth.plots import Estimate
from sarsynth.runs import cells
from sarsynth.runs.cells import Cell as Job
from sarsynth.runs.cells import reading
from sarsynth.runs.comparison import SIGNIFICANCE, Row, columns, read_or_compare, settling
from sarsynth.runs.results import REASONS, RESULT, leaks
from sarsynth.runs.tables import cheaper, percent
from sarsynth.scales import prototype_weights
from sarsynth.settings import Settings
from sarsynth.store import CARD

REPORT, PLOTS = "report.html", "plots"
STORE = Path("logs/store")  # where it lies unless somebody says otherwise: conf/paths/default.yaml
ROWS = 12  # whose pictures a page carries
SHOWN = 6  # images of a class in a strip
TILE = 128  # px: larger images are made smaller in strips
STRIP = 900  # px of the longer side of a picture that a job left
FEW = 10  # rows below which a rank correlation has no interval
POINTS = 200  # images of a set in the map of features, as many of each class
REPLICATES = 2000  # of a bootstrap over rows
LEVEL = 0.95
MEANS = {"minor_f1": "minor*", "macro_f1": "macro", "accuracy": "accuracy"}
FIGURES = {"precision": "precision", "recall": "recall", "f1": "F1", "support": "test images"}  # of a class
RELEASE = "fid.preprocess=release: unnormalised input as the release's; compares with nothing else"
DISTANCES = ("fid", "kid")
OVERLAPS = ("precision", "recall", "density", "coverage")
MODELS = ("gamma", "k", "lognormal")  # of clutter
EVEN = 1e5  # shape of a K distribution that no sample tells from a gamma distribution


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep as it lies on disk; or a single run, which is a sweep of one job.

    Attributes:
        folder: Of the sweep.
        store: Of the artifacts that its results rest on.
        jobs: Those with a result, in their order.
        failed: Those with an error.
    """

    folder: Path
    store: Path
    jobs: list[Job]
    failed: list[Job]

    @classmethod
    def read(cls, folder: Path, store: Path) -> "Sweep":
        """Read the results of a folder.

        Raises:
            UserError: It is no folder of results, or holds one that this version cannot read.
        """
        if not folder.is_dir():
            raise UserError(f"report={folder} is not a folder; give one of logs/sweeps/evaluate or logs/runs/evaluate")
        found = cells.cells(folder)
        scored = [job for job in found if job.result and "classifier" in job.result]
        outdated = [job for job in found if job.error and (job.folder / RESULT).exists()]
        if not scored and outdated:
            raise UserError(str(outdated[0].error))
        if not scored:
            raise UserError(f"report={folder} holds no {RESULT} of evaluate.py; give the folder of its sweep")
        return cls(folder, store, scored, [job for job in found if job.error])

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """What each job found."""
        return [job.result for job in self.jobs if job.result]

    @cached_property
    def rows(self) -> list[str]:
        """Short names of the jobs, each its own."""
        names = [job.heading for job in self.jobs]
        return [
            name if names.count(name) == 1 else f"{name} #{job.folder.name}"
            for name, job in zip(names, self.jobs, strict=True)
        ]

    @cached_property
    def classes(self) -> list[str]:
        """Classes of all jobs."""
        return list(dict.fromkeys(name for result in self.results for name in result["classes"]))

    @cached_property
    def minor(self) -> set[str]:
        """Classes that are minor in some job."""
        return {name for result in self.results for name in result["minor"]}

    @cached_property
    def titles(self) -> dict[str, str]:
        """Headings of all that is scored, by name."""
        return {name: self.title(name) for name in self.classes} | MEANS

    def title(self, class_name: str) -> str:
        """The name of a class, with a star if it is minor."""
        return f"{class_name}*" if class_name in self.minor else class_name

    @cached_property
    def significance(self) -> dict[str, Any]:
        """Intervals and gains: as the sweep left them, if it was these rows, else from the predictions in the store."""
        rows = [
            Row(job.folder.name, job.overrides, result) for job, result in zip(self.jobs, self.results, strict=True)
        ]
        return read_or_compare(rows, self.store, self.folder / SIGNIFICANCE)

    @cached_property
    def compared(self) -> list[dict[str, Any]]:
        """The entry of each job in it."""
        by_job = {row["job"]: row for row in self.significance["rows"]}
        return [by_job[job.folder.name] for job in self.jobs]

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return {card.parent.name.rpartition("-")[2]: card.parent for card in self.store.glob(f"*/[!.]*/{CARD}")}

    @cached_property
    def _cards(self) -> dict[str, dict[str, Any]]:
        return {}

    def artifact(self, fingerprint: str | None) -> Path | None:
        """The folder of an artifact; None if the store lacks it."""
        return self._folders.get(fingerprint or "")

    def card(self, fingerprint: str) -> dict[str, Any] | None:
        """The card of an artifact; None if the store lacks it."""
        folder = self.artifact(fingerprint)
        if folder is not None and fingerprint not in self._cards:
            self._cards[fingerprint] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return self._cards.get(fingerprint)

    def lineage(self, fingerprints: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The cards of artifacts and of all that they were made from."""
        found: dict[str, dict[str, Any]] = {}
        waiting = list(fingerprints)
        while waiting:
            fingerprint = waiting.pop()
            card = self.card(fingerprint)
            if card and fingerprint not in found:
                found[fingerprint] = card
                waiting += card["inputs"].values()
        return found

    @property
    def absent(self) -> Note:
        """Why something cannot be shown that is only in the store."""
        return Note(f"Not in the store at {self.store}; name the sweep's own with paths.store=… to see it.")


# --- Figures ----------------------------------------------------------------------------------------------------------


def estimate(figure: Mapping[str, Any] | None, interval: Mapping[str, float] | None) -> Estimate | None:
    """A figure over seeds, in percent, with its interval over test images and seeds."""
    if figure is None or figure["mean"] is None:
        return None
    low, high = (100 * interval["low"], 100 * interval["high"]) if interval else (None, None)
    return Estimate(100 * figure["mean"], low, high, [100 * value for value in figure["values"] if value is not None])


def gain_of(compared: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The gain over the baseline in F1 of a class, or in one of the means; None where nothing is compared."""
    gains = compared["gains"] or {}
    return gains.get(name) if name in MEANS else gains.get("per_class", {}).get(name)


def mark(gain: Mapping[str, Any] | None) -> str:
    """An arrow for a significant gain or loss."""
    if gain is None or not gain["significant"]:
        return ""
    return "▲" if gain["delta"] > 0 else "▼"


def f1(result: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """F1 of a class, or one of the means, over the seeds."""
    scores = result["classifier"]
    return scores.get(name) if name in MEANS else _scored(result, name).get("f1")


def _scored(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """All figures of a class; none if the row has no such class."""
    return result["classifier"]["per_class"].get(name) or {}


def distance(result: Mapping[str, Any], measure: str, class_name: str | None = None) -> float | None:
    """FID or KID of a class, or of all of them together; None without, or of fewer images than features for FID."""
    fidelity = result["fidelity"]
    figures = (fidelity["pooled"] if class_name is None else fidelity["per_class"].get(class_name)) or {}
    unreliable = measure == "fid" and not figures.get("fid_reliable")
    return None if unreliable else figures.get(measure)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float] | None:
    """Spearman's rho of finite pairs with a 95 % interval, by a bootstrap over pairs.

    Args:
        x: Shape (N,).
        y: Shape (N,).

    Returns:
        rho and its interval; NaN for the interval of fewer than `FEW` pairs. None if there are fewer than three, or if
        one of the two never changes.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rho = float(stats.spearmanr(x, y).statistic)
    if len(x) < FEW:
        return rho, float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(len(x), size=(REPLICATES, len(x)))
    ranks = [stats.rankdata(values[drawn], axis=1) for values in (x, y)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in ranks]
    norm = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    rhos = (centred[0] * centred[1]).sum(axis=1)[norm > 0] / norm[norm > 0]
    low, high = np.quantile(rhos, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return rho, float(low), float(high)


# --- Sections ---------------------------------------------------------------------------------------------------------


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
        line += _distance_cells(result)
        table.append(line)
    headings = [*(sweep.title(name) for name in sweep.classes), *MEANS.values(), "FID", "KID"]
    caption = "F1 in %, mean over classifier seeds; small: ± sd and the 95 % interval; * minor classes; ▲ ▼ significant"
    told = [f"! {one}" for one in dict.fromkeys(one for result in sweep.results for one in leaks(result))]
    told += [f"! FID and KID with {RELEASE}"] * any(map(_release, sweep.results))
    cheap = cheaper(list(zip(sweep.rows, sweep.results, strict=True)))
    told += [cheap] if cheap else []
    failed = [f"Not shown: {job.name}. {job.error}" for job in sweep.failed]
    return Section(
        "results",
        "Results",
        about,
        [*map(Note, [*told, *failed]), Table(caption, ["method", *headings], table)],
    )


def _release(result: Mapping[str, Any]) -> bool:
    return result["fidelity"]["pooled"] is not None and result["fidelity"]["preprocess"] == "release"


def _distance_cells(result: Mapping[str, Any]) -> list[Cell | str]:
    """FID and KID of all classes together; why there is no FID."""
    fidelity, fid, kid = result["fidelity"], distance(result, "fid"), distance(result, "kid")
    if fidelity["pooled"] is None:
        return ["", ""]
    sign, meaning = ("!", RELEASE) if _release(result) else ("", "")
    few = Cell(f"n < {fidelity['width']}", "", mark=sign or "?", meaning=meaning or "fewer images than features")
    return [
        few if fid is None else Cell(f"{fid:.2f}", fid, mark=sign, meaning=meaning),
        "" if kid is None else Cell(f"{kid:.4f}", kid, mark=sign, meaning=meaning),
    ]


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
            found = [_scored(result, name).get(figure) for name in sweep.classes]
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
        pieces += [Note(f"{RELEASE}.")] * any(_release(sweep.results[index]) for index in made)
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
        [row, *(_figure(found["measures"][name]["distance"][key]) for name in measures)] for row, found, key in lines
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
        _figure(None if medians[0] is None else float(np.exp(medians[0]))),
        _figure(medians[1]),
        Cell("∞", shape) if shape is not None and shape >= EVEN else _figure(shape),
        *(_figure((models.get(model) or {}).get("ks")) for model in MODELS),
    ]


def _figure(value: float | None) -> Cell | str:
    return "" if value is None else Cell(f"{value:.3g}", value)


def memorisation(sweep: Sweep) -> Section:
    """Whether synthetic images are copies, and how varied they are; what a filter dropped."""
    about = (
        "Nearest real training image of each synthetic one. A near-copy is nearer than all but a few real images are "
        "to each other. Diversity is the mean distance of two images of a class in features."
    )
    table: list[list[Cell | str]] = []
    diverse: list[list[Cell | str]] = []
    joined: list[list[Cell | str]] = []
    dropped: list[list[Cell | str]] = []
    notes: list[Piece] = []
    pairs: list[Piece] = []
    for row, result in zip(sweep.rows, sweep.results, strict=True):
        if found := result["memorisation"]:
            for space, figures in found["spaces"].items():
                values = [figures[key] for key in ("near_copies", "synthetic", "real")]
                cells = [Cell(f"{100 * values[0]:.1f} %", values[0]), *(_figure(value) for value in values[1:])]
                table.append([Cell(row, detail=space), *cells])
            diverse.append([row, *(_diversity(found["per_class"].get(name)) for name in sweep.classes)])
            kept = result["filter"]["per_class"]
            joined.append([Cell(row, detail=result["filter"]["name"]), *(_joined(kept.get(n)) for n in sweep.classes)])
            pairs += _pairs(sweep, row, result)
            if result["filter"]["name"] != "none":
                dropped += _before_and_after(row, result)
                notes += _reasons(sweep, row, result)
    if not table:
        return Section("memorisation", "Copies and diversity", about, [Note("No row has synthetic images.")])
    columns = ["method", "near-copies", "median distance", "of real images"]
    by_class = ["method", *map(sweep.title, sweep.classes)]
    return Section(
        "memorisation",
        "Copies and diversity",
        about,
        [
            Table("Distance to the nearest real image", columns, table),
            Table("Diversity of synthetic images, and of real ones", by_class, diverse),
            Table("Images that joined the real ones, by filter", by_class, joined),
            *([Table("All images of a set, and those that its filter keeps", _FILTERED, dropped)] if dropped else []),
            *notes,
            *_some(pairs),
        ],
    )


_FILTERED = ("method", "images", "KID", "FID", "near-copies by features", "by pixels")


def _before_and_after(row: str, result: Mapping[str, Any]) -> list[list[Cell | str]]:
    """What a filter does to the numbers: a line for all images, if the result has it, and one for those kept."""
    before, counts = result["filter"].get("before"), result["filter"]["per_class"].values()
    lines: list[list[Cell | str]] = []
    for found, title, key in ((before, "all", "made"), (result, f"kept by {result['filter']['name']}", "kept")):
        if found:
            number = sum(one[key] for one in counts)
            fid, kid = _distance_cells(found)
            spaces = found["memorisation"]["spaces"]
            near = [(spaces.get(space) or {}).get("near_copies") for space in ("features", "pixels")]
            shares = ["" if one is None else Cell(f"{100 * one:.1f} %", one) for one in near]
            lines.append([Cell(row, detail=title), Cell(f"{number:,}", number), kid, fid, *shares])
    return lines


def _reasons(sweep: Sweep, row: str, result: Mapping[str, Any]) -> list[Piece]:
    verdicts = sweep.artifact(result["inputs"].get("filter"))
    told = [
        sweep.absent if verdicts is None else Note(f"{row}: why an image was dropped stands in {verdicts}/{REASONS}.")
    ]
    before = Note(f"{row}: its result is older and has no numbers of all images; run the sweep again.")
    return [*told, *([] if result["filter"].get("before") else [before])]


def _diversity(figures: Mapping[str, Any] | None) -> Cell | str:
    if figures is None:
        return ""
    own, real = (figures["diversity"][side] for side in ("synthetic", "real"))
    return "" if own is None else Cell(f"{own:.3g}", own, "" if real is None else f"real {real:.3g}")


def _joined(counts: Mapping[str, int] | None) -> Cell | str:
    if counts is None:
        return ""
    detail = f"of {counts['planned']} planned\n{counts['kept']} of {counts['made']} kept"
    return Cell(str(counts["joined"]), counts["joined"], detail)


def _some(pieces: Sequence[Piece]) -> list[Piece]:
    """The first pieces with pictures of a row each; a page holds no more than it can carry."""
    more = [Note(f"Of the first {ROWS} rows; those of the others lie in their folders.")] * (len(pieces) > ROWS)
    return [*pieces[:ROWS], *more]


def _pairs(sweep: Sweep, row: str, result: Mapping[str, Any]) -> list[Piece]:
    """The nearest pairs of a row: synthetic on the left, real on the right of each."""
    folder, train = sweep.artifact(result["inputs"].get("synthetic")), _train(sweep, result)
    if folder is None or train is None:
        return [sweep.absent]
    groups: dict[str, list[np.ndarray]] = {}
    try:
        with _tensors(train / "images.safetensors") as stored:
            images = stored.get_slice("images")
            for pair in result["memorisation"]["pairs"]:
                real, file = images[pair["real_row"]], folder / pair["synthetic"]
                with reading(file, folder), Image.open(file) as picture:
                    made = np.asarray(picture.resize(real.shape[:0:-1])).reshape(*real.shape[1:], -1).transpose(2, 0, 1)
                groups.setdefault(f"{pair['class']}, by {pair['space']}", []).extend([made, real])
    except UserError as error:
        return [Note(f"No nearest pairs of {row}: {error}.")]
    shown = [Picture(contact_strip(np.stack(both), f"{name}: {row}"), name) for name, both in groups.items()]
    return [Gallery(f"{row}: nearest pairs, synthetic and real", shown, folded=True)]


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


def _too_few(results: Iterable[Mapping[str, Any]]) -> str:
    """Say why sets have no FID."""
    widths = sorted({result["fidelity"]["width"] for result in results if result["fidelity"]["width"]})
    return f"it needs as many images as features, {' or '.join(f'{width:,}' for width in widths)}, of both kinds"


def _column(chosen: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    found = [f1(result, name) for result in chosen]
    return np.array([100 * _or_nan(figure["mean"] if figure else None) for figure in found])


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _correlation(found: tuple[float, float, float]) -> Cell:
    rho, low, high = found
    return Cell(f"{rho:+.2f}", rho, "" if np.isnan(low) else f"[{low:+.2f}, {high:+.2f}]")


def prototypes(sweep: Sweep) -> Section:
    """Class x cluster counts and the weights that follow."""
    about = (
        "K-means on features of the SAR training images (prototypes.features). When a class is made, the adapters of "
        "the clusters are mixed by its bias scores: its share of each cluster, normalised. With a mutual information "
        "of 1 the clusters are the classes, and nothing is shared."
    )
    pieces: list[Piece] = []
    seen: set[str] = set()
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        cards = sweep.lineage(result["inputs"].values())
        for fingerprint in [one for one, card in cards.items() if card["kind"] == "partition" and one not in seen]:
            seen.add(fingerprint)
            folder = sweep.artifact(fingerprint)
            assert folder is not None  # it has a card
            partition = Partition.load(folder / "partition.json")
            counts = np.asarray(partition.counts)
            short = [f"cluster {index}" for index in range(partition.k)]
            figure = plots.clusters(counts, prototype_weights(counts), partition.classes, short)
            caption = f"{name}: normalised mutual information of clusters and classes {partition.nmi:.2f}"
            alt = f"Images of each class in each of {partition.k} clusters, and weights"
            pieces.append(Plot(f"clusters_{fingerprint}", figure, alt, caption))
    return Section("prototypes", "Prototypes", about, pieces or [Note("No row here divides its images by prototypes.")])


def learning(sweep: Sweep) -> Section:
    """Learning curves of what these jobs trained themselves."""
    about = (
        "Faint: as logged; strong: averaged over a tenth of a run. What a row found in the store it has no curve of."
    )
    panels: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, job in zip(sweep.rows, sweep.jobs, strict=True):
        for file in sorted(job.folder.glob("lightning_logs/*/metrics.csv")):
            for column, curve in cells.curves(file).items():
                stage, _, metric = column.partition("/")
                if metric and not metric.startswith("lr"):
                    title = f"{'classifiers' if re.fullmatch(r'seed_.*', stage) else stage}: {metric.replace('_', ' ')}"
                    panels.setdefault(title, {}).setdefault(name, []).append(curve)
    if not panels:
        return Section("learning", "Learning curves", about, [Note("Nothing logged here: curves need logger=csv.")])
    return Section(
        "learning",
        "Learning curves",
        about,
        [Plot("learning", plots.curves(panels, sweep.rows), "Losses over training steps, by stage and method")],
    )


def feature_map(sweep: Sweep) -> Section:
    """Real and synthetic features in two dimensions."""
    about = (
        "t-SNE of the classifier's features: crosses are synthetic images, dots the real training images of the same "
        "class; large classes are thinned. Neighbourhoods mean something, distances and sizes of clusters do not."
    )
    real: tuple[np.ndarray, np.ndarray] | None = None
    sets: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes: list[Piece] = []
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        try:
            if (stored := _features(sweep, result)) is not None:
                real, sets[name] = stored
        except UserError as error:
            notes.append(Note(f"Without {name}: {error}."))
    if real is None:
        nothing = Note("No row has stored features of synthetic images.")
        return Section("features", "Features", about, notes or [nothing])
    from sklearn.manifold import TSNE  # a second to import, and only here

    blocks = [real[0], *(features for features, _ in sets.values())]
    places = TSNE(init="pca", random_state=0, perplexity=min(30, (sum(map(len, blocks)) - 1) / 3)).fit_transform(
        np.concatenate(blocks).astype(np.float64)
    )
    split = np.split(places, np.cumsum([len(block) for block in blocks])[:-1])
    placed = {name: (points, labels) for points, (name, (_, labels)) in zip(split[1:], sets.items(), strict=True)}
    figure = plots.embedding(split[0], real[1], placed, sweep.results[0]["classes"])
    return Section(
        "features",
        "Features",
        about,
        [*notes, Plot("features", figure, "Map of real and synthetic features, a panel a method")],
    )


@contextmanager
def _tensors(file: Path) -> Iterator[Any]:
    """Open a file of tensors that is right inside an artifact."""
    with reading(file, file.parent), safe_open(file, framework="numpy") as tensors:
        yield tensors


def _features(sweep: Sweep, result: Mapping[str, Any]) -> Any:
    card = sweep.card(result["inputs"].get("fidelity", ""))
    folders = [sweep.artifact(card["inputs"].get(side)) for side in ("real", "synthetic")] if card else []
    sides = []
    for folder in folders:
        if folder is None:
            return None
        file = folder / "features.safetensors"
        with _tensors(file) as tensors:
            features, labels = tensors.get_tensor("features"), tensors.get_tensor("labels")
            if bad := int((~np.isfinite(features)).any(axis=1).sum()):
                raise ValueError(f"features of {bad} of {len(features)} images are not finite")
        few = _evenly(labels, POINTS // len(result["classes"]))
        sides.append((features[few], labels[few]))
    return sides or None


def _evenly(labels: np.ndarray, most: int) -> np.ndarray:
    """Choose up to `most` images of each class, evenly spread, so that a small one is seen as well; rows, int (M,)."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate(
        [rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)] for rows in members]
    )


def samples(sweep: Sweep) -> Section:
    """Images of each class and method, real ones first."""
    about = "The first images of each set, not chosen by anybody. Equal places start from equal noise."
    strips: dict[str, dict[str, np.ndarray]] = {name: {} for name in sweep.classes}
    seen: set[str] = set()
    wrong: dict[str, None] = {}
    for result in sweep.results:
        try:
            for class_name, images in _real_images(sweep, result).items():
                strips[class_name].setdefault("real", images)
        except UserError as error:
            wrong[f"Without real images: {error}."] = None
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        made = result["inputs"].get("synthetic")
        folder = sweep.artifact(made)
        if folder is not None and made not in seen:
            seen.add(made)
            try:
                for a_class in cells.read_set(folder, SHOWN):
                    strips[a_class.name][name] = np.stack(a_class.images)
            except UserError as error:
                wrong[f"Without {name}: {error}."] = None
    pieces: list[Piece] = [*map(Note, wrong)]
    pieces += [
        Gallery(
            sweep.title(class_name),
            [Picture(contact_strip(images, f"{class_name}: {name}"), name) for name, images in by_name.items()],
        )
        for class_name, by_name in strips.items()
        if by_name
    ]
    return Section("samples", "Images", about, pieces or [sweep.absent])


def _real_images(sweep: Sweep, result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The first real training images of each class, from the cache that a classifier was trained on."""
    if (train := _train(sweep, result)) is not None:
        with _tensors(train / "images.safetensors") as file:
            labels, images = file.get_tensor("labels"), file.get_slice("images")
            return {
                name: np.stack([images[int(index)] for index in np.flatnonzero(labels == label)[:SHOWN]])
                for label, name in enumerate(result["classes"])
                if (labels == label).any()
            }
    return {}


def _train(sweep: Sweep, result: Mapping[str, Any]) -> Path | None:
    """The real training images of a row, as its classifiers saw them."""
    for seed in result["seeds"]:
        card = sweep.card(result["inputs"].get(f"seed_{seed}", ""))
        if card and (folder := sweep.artifact(card["inputs"].get("train"))):
            return folder
    return None


def contact_strip(images: np.ndarray, alt: str) -> pages.Markup:
    """Put images, uint8 (N, 1 or 3, H, W), side by side."""
    joined = np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1)
    picture = Image.fromarray(joined[..., 0] if joined.shape[2] == 1 else joined)
    return pages.image(picture, alt, largest=TILE * len(images))


def strips(sweep: Sweep) -> Section:
    """What the scale of the adapters does."""
    about = "One noise a row, the scale of the whole stack of adapters from none to full."
    pieces = [
        gallery
        for name, job in zip(sweep.rows, sweep.jobs, strict=True)
        if (gallery := _left(job.folder, "strip_*.png", name, "scales of "))
    ]
    return Section("strips", "Scale strips", about, _some(pieces) or [Note("No row here has adapters.")])


def _left(folder: Path, pattern: str, name: str, what: str) -> Gallery | None:
    """Pictures that a job left in its folder."""
    found = []
    for file in sorted(folder.glob(pattern)):
        subject = file.stem.partition("_")[2] or file.stem
        with Image.open(file) as picture:
            found.append(Picture(pages.image(picture, f"{what}{name}, {subject}", largest=STRIP), subject))
    return Gallery(name, found, folded=True) if found else None


def settings(sweep: Sweep) -> Section:
    """Settings that are not the same in every row."""
    flat = [_flat(job.folder / ".hydra/config.yaml") for job in sweep.jobs]
    known = dict.fromkeys(key for one in flat for key in one if key != "method.name")  # the rows have that name
    keys = [key for key in known if len({str(one.get(key)) for one in flat}) > 1]
    about = "Every setting that is not the same in all rows, whatever it follows from."
    if not keys:
        return Section("settings", "Settings that differ", about, [Note("All rows have the same settings.")])
    table = [
        [name, *("" if one.get(key) is None else str(one[key]) for key in keys)]
        for name, one in zip(sweep.rows, flat, strict=True)
    ]
    caption = f"{len(keys)} of {len(flat[0])} settings differ"
    return Section("settings", "Settings that differ", about, [Table(caption, ["method", *keys], table, numeric=False)])


def _flat(file: Path) -> dict[str, Any]:
    """The settings of a job by dotted key; none if it left no record."""
    if not file.is_file():
        return {}

    def walk(section: Mapping[str, Any], above: str) -> Iterable[tuple[str, Any]]:
        for key, value in section.items():
            if isinstance(value, Mapping) and value:
                yield from walk(value, f"{above}{key}.")
            else:
                yield f"{above}{key}", value

    return dict(walk(OmegaConf.to_container(OmegaConf.load(file), resolve=True), ""))  # type: ignore[arg-type]


def costs(sweep: Sweep) -> Section:
    """What each row took, and all of them together."""
    about = (
        "Time of everything that a row rests on, by the cards of the store, as if it had been made for this row alone; "
        "rows share parts, so the last line is less than their sum. Peak memory is that of the accelerator where one "
        "was used, else of the process."
    )
    lines: list[list[Cell | str]] = []
    everything: dict[str, dict[str, Any]] = {}
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        cards = sweep.lineage(result["inputs"].values())
        everything |= cards
        training = result.get("training") or {}
        counts = [training.get("trainable_parameters"), training.get("samples_seen")]
        lines.append([name, *_cost(cards), *("" if not count else Cell(f"{count:,}", count) for count in counts)])
    if not everything:
        return Section("cost", "Cost", about, [sweep.absent])
    if len(lines) > 1:
        lines.append(["all rows, shared parts once", *_cost(everything), "", ""])
    kinds = ["training", "images", "classifiers"]
    columns = ["method", "in all", *kinds, "peak memory", "device", "trained parameters", "training samples"]
    return Section("cost", "Cost", about, [Table("Cost of each row", columns, lines)])


KINDS = {"images": {"synthetic"}, "classifiers": {"evaluation", "classifier"}}


def _cost(cards: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    def seconds(kinds: Iterable[str] | None = None, *, without: Iterable[str] = ()) -> float:
        return sum(
            card["seconds"]
            for card in cards.values()
            if (kinds is None or card["kind"] in kinds) and card["kind"] not in without
        )

    named = KINDS["images"] | KINDS["classifiers"]
    parts = [seconds(), seconds(without=named), seconds(KINDS["images"]), seconds(KINDS["classifiers"])]
    peak = max((card["peak_memory_bytes"] for card in cards.values()), default=0)
    devices = sorted({card["device"] for card in cards.values()})
    return [
        *(Cell(duration(part), part) for part in parts),
        Cell(f"{peak / 2**30:.2f} GiB", peak),
        Cell(", ".join(devices)),
    ]


def duration(seconds: float) -> str:
    """Say how long something took, in two units at most."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


def commands(sweep: Sweep) -> Section:
    """What a person types to make each row again, and this report."""
    about = "Each line makes one row; what the store holds already is not made again."
    lines: list[Piece] = [Command(name, remake(job)) for name, job in zip(sweep.rows, sweep.jobs, strict=True)]
    asked = [f"report={sweep.folder}", *([] if sweep.store == STORE else [f"paths.store={sweep.store}"])]
    lines.append(Command("this report", f"python evaluate.py {shlex.join(asked)}"))
    return Section("commands", "Make it again", about, lines)


def remake(job: Job) -> str:
    """The command line of one job on its own; an experiment or sweep would else ask for all of theirs."""
    said = [f"{key}={value}" for key, value in job.told.items()]
    many = [key for key in job.told if key in ("experiment", "sweep")]
    return f"python evaluate.py {shlex.join([*said, *(['hydra.mode=RUN'] if many else [])])}".strip()


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


# --- Files ------------------------------------------------------------------------------------------------------------


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
        {"method": result["method"], "overrides": job.overrides} | cells.row(result) | columns(compared)
        for job, result, compared in zip(sweep.jobs, sweep.results, sweep.compared, strict=True)
    ]
    cells.write_csv(rows, files[1])
    pages.write(latex(sweep), files[2])
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


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


def latex(sweep: Sweep) -> str:
    """Lay the results out as two LaTeX tables (package booktabs): F1 with intervals, and the paper's form."""
    notes: dict[str, str] = {}
    names = []
    for name, result in zip(sweep.rows, sweep.results, strict=True):
        notes |= {r"\dagger": "; ".join(leaks(result))} if leaks(result) else {}
        notes |= {r"\ddagger": RELEASE} if _release(result) else {}
        names.append(_plain(name) + (r"$^{\dagger}$" if leaks(result) else ""))
    return "\n".join(
        [
            "% Needs package booktabs.",
            *_latex_f1(sweep, names, notes),
            "",
            *_latex_by_class(sweep, names, notes),
            "",
        ]
    )


def _plain(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex_f1(sweep: Sweep, names: Sequence[str], notes: Mapping[str, str]) -> list[str]:
    columns = [*sweep.classes, "minor_f1", "macro_f1", "accuracy"]
    arrows = {"▲": r"^{\uparrow}", "▼": r"^{\downarrow}", "": ""}
    lines = []
    for name, result, compared in zip(names, sweep.results, sweep.compared, strict=True):
        cells, intervals = [], []
        for column in columns:
            text, interval = percent(f1(result, column)), (compared["scores"] or {}).get(column)
            arrow = arrows[mark(gain_of(compared, column))]
            cells.append(text and "$" + text.replace("±", r" \pm ") + arrow + "$")
            span = f"[{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]" if interval and text else ""
            intervals.append(rf"{{\scriptsize ${span}$}}" if span else "")
        sign = r"^{\ddagger}" if _release(result) else ""
        distances = [cell.text if isinstance(cell, Cell) else cell for cell in _distance_cells(result)]
        cells += [f"${text}{sign}$" if text else "" for text in distances]
        lines += [" & ".join([name, *cells]) + r" \\", " & ".join(["", *intervals, "", ""]) + r" \\"]
    heads = [_plain(sweep.titles[column]) for column in columns]
    about = (
        "% F1 (and accuracy) in %, mean and standard deviation over classifier seeds, below it the 95 % interval over "
        "test images and seeds; * minor classes; arrows: significant, for classes after Holm's correction."
    )
    return [about, *_tabular(["method", *heads, "FID", "KID"], lines, notes)]


def _latex_by_class(sweep: Sweep, names: Sequence[str], notes: Mapping[str, str]) -> list[str]:
    shares = [figure for figure in FIGURES if figure != "support"]
    lines = []
    for name, result in zip(names, sweep.results, strict=True):
        found = [_scored(result, of).get(figure) for of in sweep.classes for figure in shares]
        cells = [percent(figure).partition("±")[0] for figure in [*found, *(f1(result, mean) for mean in MEANS)]]
        lines.append(" & ".join([name, *cells]) + r" \\")
    support = [
        next((one["support"]["mean"] for result in sweep.results if "support" in (one := _scored(result, name))), None)
        for name in sweep.classes
    ]
    span = len(shares)
    totals = [rf"\multicolumn{{{span}}}{{c}}{{{'' if size is None else f'{size:.0f}'}}}" for size in support]
    lines.append(" & ".join(["test images", *totals, *[""] * len(MEANS)]) + r" \\")
    classes = [rf"\multicolumn{{{span}}}{{c}}{{{_plain(sweep.title(name))}}}" for name in sweep.classes]
    above = " & ".join(["", *classes, *[""] * len(MEANS)]) + r" \\"
    heads = ["method", *[figure[0].upper() for figure in shares] * len(classes), *map(_plain, MEANS.values())]
    about = "% Precision, recall and F1 of each class in %, means over classifier seeds, as in the paper's Table 3."
    return [about, *_tabular(heads, lines, notes, above=[above])]


def _tabular(
    heads: Sequence[str], lines: Sequence[str], notes: Mapping[str, str], above: Sequence[str] = ()
) -> list[str]:
    """A table with footnotes, by their signs; the first column stands to the left."""
    feet = [
        rf"\multicolumn{{{len(heads)}}}{{l}}{{\footnotesize $^{{{sign}}}$ {_plain(text)}}} \\"
        for sign, text in notes.items()
    ]
    return [
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        *above,
        " & ".join(heads) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        *feet,
        r"\end{tabular}",
    ]


def run(chosen: Settings, folder: Path) -> None:
    """Rebuild the report of `report=PATH` from what is stored."""
    assert chosen.report is not None
    for file in write(Path(chosen.report), Path(chosen.paths.store)):
        console.print(f"  {file}")
