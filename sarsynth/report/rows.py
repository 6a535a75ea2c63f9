"""The results of a sweep, once, as rows of cells; the tables that are made of them. Torch-free.

A row has a cell for every column of results.csv, by the column's name. Each table picks some of them; a module for each
of HTML (a template), terminal, CSV and LaTeX renders tables and knows nothing of results.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from sarsynth.evidence.comparison import ONE_GENERATOR, settling, shown
from sarsynth.evidence.results import FIGURES, MEANS, dropped, leaks
from sarsynth.report.pieces import COUNT, SHORT, WARNING, Cell, Table, decimals, percent, points

TITLES = {name: name for name in ("precision", "recall", "accuracy")}
TITLES |= {"f1": "F1", "support": "test images", "minor_f1": "minor*", "macro_f1": "macro"}
SHARES = tuple(figure for figure in FIGURES if figure != "support")
RELEASE = "fid.preprocess=release: unnormalised input as the release's; compares with nothing else"
OF_GAIN = {"low": points, "high": points, "p_holm": SHORT, "detectable": percent, "seeds": COUNT, "images": SHORT}


@dataclass(frozen=True, eq=False)
class Row:
    """A job of a sweep as tables show it."""

    name: str  # short, and its own among the rows
    result: Mapping[str, Any]  # the content of result.json
    overrides: str = ""  # what sets the job apart besides its method, as on the command line
    entry: Mapping[str, Any] = field(default_factory=dict)  # its entry in significance.json; empty if there is none yet
    baseline: str = ""  # name of the row that it is compared with

    def __getitem__(self, column: str) -> Cell:
        return self.cells.get(column) or Cell()

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """By column of results.csv, in their order."""
        result = self.result
        about = {key: Cell(result[key]) for key in ("method", "base", "data", "split")}
        about |= {f"{kind}_seeds": Cell(count or None, COUNT) for kind, count in seeds_of(result).items()}
        about["seeds"] = about.pop("classifier_seeds")
        about |= {key: Cell(result["protocol"].get(key)) for key in ("topk", "thresholds")}
        about["leaks"] = Cell("; ".join(leaks(result)))
        return about | self._scores() | distances(result["fidelity"], result["classes"]) | self._gains()

    @property
    def tested(self) -> dict[str, Cell]:
        """Those of them that are of test images: scores and gains."""
        return self._scores() | self._gains()

    @property
    def values(self) -> dict[str, Any]:
        """The bare values of all cells."""
        return {column: cell.value for column, cell in self.cells.items()}

    @property
    def is_synthetic(self) -> bool:
        """Whether its classifiers learnt from synthetic images."""
        return bool(self.result["fidelity"]["per_class"])

    @property
    def heading(self) -> Cell:
        """The cell that begins its line in a table."""
        wrong = leaks(self.result)
        seeds = shown(seeds_of(self.result))
        if self["thresholds"].value:
            seeds = f"{seeds}, thresholds of {self['thresholds'].text} images"
        return Cell(self.name, detail=seeds, mark=WARNING * bool(wrong), meaning="; ".join(wrong))

    @property
    def distances(self) -> list[Cell]:
        """FID and KID of all classes together."""
        return [replace(self[key], interval=None) for key in ("fid", "kid")]

    @property
    def _gains_by_column(self) -> dict[str, Mapping[str, Any]]:
        """The gains over the baseline, by the column of the score."""
        gains = self.entry.get("gains") or {}
        by_column = {f"f1_{name}": gain for name, gain in gains.get("per_class", {}).items()}
        return by_column | {name: gains[name] for name in MEANS if gains.get(name)}

    def _scores(self) -> dict[str, Cell]:
        """Mean and standard deviation over the seeds of everything that is scored."""
        scores = self.result["classifier"]
        per_class = scores["per_class"]
        figures = {f"f1_{name}": by_class["f1"] for name, by_class in per_class.items()}
        figures |= {name: scores[name] for name in ("macro_f1", "minor_f1", "accuracy")}
        for name, by_class in per_class.items():
            figures |= {f"{key}_{name}": by_class[key] for key in ("precision", "recall") if key in by_class}
        cells: dict[str, Cell] = {}
        for column, figure in figures.items():
            cells |= {column: self._score(column, figure), f"{column}_std": Cell(figure["std"], percent)}
        sizes = {name: by_class["support"]["mean"] for name, by_class in per_class.items() if "support" in by_class}
        return cells | {f"support_{name}": Cell(size, COUNT) for name, size in sizes.items()}

    def _score(self, column: str, figure: Mapping[str, Any]) -> Cell:
        if figure["mean"] is None:
            return Cell()
        estimate = (self.entry.get("scores") or {}).get(column.removeprefix("f1_"))
        interval = (estimate["low"], estimate["high"]) if estimate else None
        samples = [value for value in figure["values"] if value is not None]
        cell = Cell(figure["mean"], percent, figure["std"], interval, samples)
        if gain := self._gains_by_column.get(column):
            return replace(cell, mark=arrow(gain), meaning=f"p = {gain['p_holm']:.2g} against {self.baseline}")
        return cell

    def _gains(self) -> dict[str, Cell]:
        """Gains over the baseline; none without one."""
        cells: dict[str, Cell] = {}
        for column, gain in self._gains_by_column.items():
            cells[f"gain_{column}"] = gain_cell(gain)
            cells |= {f"gain_{key}_{column}": Cell(gain[key], form) for key, form in OF_GAIN.items()}
        if cells and (mcnemar := self.entry["gains"]["mcnemar"]):
            cells["mcnemar_p"] = Cell(mcnemar["p"], decimals(3))
        return cells


def seeds_of(result: Mapping[str, Any]) -> dict[str, int]:
    """How many seeds of each kind a result is of, 0 where its method has none."""
    keys = {"generator": "generator_seeds", "sample": "sample_seeds", "classifier": "seeds"}
    return {kind: len(result.get(key, ())) for kind, key in keys.items()}


def of_one_generator(rows: Iterable[Row]) -> list[str]:
    """Say, in a line, which rows speak of one set of adapters."""
    names = [row.name for row in rows if seeds_of(row.result)["generator"] == 1]
    return [f"{', '.join(names)}: {ONE_GENERATOR}"] * bool(names)


def gain_cell(gain: Mapping[str, Any]) -> Cell:
    """A gain of significance.json with its interval and, if it is open, what would settle it."""
    details = [] if gain["detectable"] is None else [f"≥ {percent(gain['detectable'])}"]  # None: nothing varied
    details += [" or\n".join(ways)] if (ways := settling(gain, "x images")) else []
    interval, meaning = (gain["low"], gain["high"]), f"p = {gain['p_holm']:.2g}"
    return Cell(gain["delta"], points, None, interval, (), arrow(gain), meaning, detail="\n".join(details))


def arrow(gain: Mapping[str, Any]) -> str:
    """Mark a significant gain or loss."""
    return ("▲" if gain["delta"] > 0 else "▼") if gain["significant"] else ""


def distances(fidelity: Mapping[str, Any], classes: Iterable[str] = ()) -> dict[str, Cell]:
    """FID and KID of each class and of all of them together (no suffix), and of how many images.

    Of fewer images than features there is no FID; without synthetic images there is nothing.
    """
    cells = {"features": Cell(fidelity["width"], COUNT), "fid_preprocess": Cell(fidelity["preprocess"])}
    for name in classes:
        cells |= _distances(fidelity, fidelity["per_class"].get(name), f"_{name}")
    return cells | _distances(fidelity, fidelity["pooled"], "")


def _distances(fidelity: Mapping[str, Any], figures: Mapping[str, Any] | None, suffix: str) -> dict[str, Cell]:
    columns = [f"{key}{suffix}" for key in ("kid", "fid", "n_real", "n_synthetic")]
    if figures is None:
        return dict.fromkeys(columns, Cell())
    mark, meaning = (WARNING, RELEASE) if fidelity["preprocess"] == "release" else ("", "")
    low_high, too_few = figures.get("intervals", {}).get, "fewer images than features"
    kid = Cell(figures["kid"], decimals(4), None, low_high("kid"), (), mark, meaning, "too few")
    value = figures["fid"] if figures["fid_reliable"] else None
    fid = Cell(value, decimals(2), None, low_high("fid"), (), mark, meaning or too_few, f"n < {fidelity['width']}")
    sizes = [Cell(figures.get(key), COUNT) for key in ("n_real", "n_synthetic")]
    return dict(zip(columns, [kid, fid, *sizes], strict=True))


def classes(rows: Iterable[Row]) -> dict[str, str]:
    """Headings of the classes of all rows, by name; minor classes have a star."""
    every = dict.fromkeys(name for row in rows for name in row.result["classes"])
    minor = {name for row in rows for name in row.result["minor"]}
    return {name: f"{name}*" if name in minor else name for name in every}


def scored(rows: Iterable[Row]) -> dict[str, str]:
    """Headings of what is compared, by column: F1 of each class, then `MEANS`."""
    by_class = {f"f1_{name}": title for name, title in classes(rows).items()}
    return by_class | {name: TITLES[name] for name in MEANS}


def scores_table(rows: Sequence[Row], caption: str, without: Sequence[str] = ()) -> Table:
    """The results as in the paper: F1 of each class, of the minor classes and of all, accuracy, FID and KID."""
    titles = {column: title for column, title in scored(rows).items() if column not in without}
    lines = [[row.heading, *(row[column] for column in titles), *row.distances] for row in rows]
    notes = [f"{WARNING} {leak}" for leak in dict.fromkeys(leak for row in rows for leak in leaks(row.result))]
    notes += dict.fromkeys(f"{left} (data.leak=drop)" for row in rows for left in dropped(row.result))
    notes += [f"{WARNING} FID and KID with {RELEASE}"] * any(row["kid"].meaning == RELEASE for row in rows)
    notes += of_one_generator(rows)
    several = [row.name for row in rows if max(seeds_of(row.result)[kind] for kind in ("generator", "sample")) > 1]
    notes += [f"{', '.join(several)}: FID and KID of the first generator and sample seed"] * bool(several)
    return Table(caption, ["method", *titles.values(), "FID", "KID"], lines, notes=notes)


def gains_table(rows: Sequence[Row], caption: str, notes: Sequence[str] = ()) -> Table | None:
    """How far each row lies above its baseline; None if no row has one."""
    titles = scored(rows)
    columns = [*(f"gain_{column}" for column in titles), "mcnemar_p"]
    lines = [
        [replace(row.heading, detail=f"over {row.baseline}"), *(row[column] for column in columns)]
        for row in rows
        if row.baseline
    ]
    return Table(caption, ["method", *titles.values(), "p"], lines, notes=notes) if lines else None


def classes_table(rows: Sequence[Row], caption: str) -> Table:
    """All figures of each class, a line each."""
    titles, lines = classes(rows), []
    for row, figure in product(rows, FIGURES):
        cells = [replace(row[f"{figure}_{name}"], interval=None, mark="") for name in titles]
        lines.append([Cell(row.name), Cell(TITLES[figure]), *cells])
    return Table(caption, ["method", "figure", *titles.values()], lines, folded=True)


def papers_table(rows: Sequence[Row], caption: str) -> Table:
    """Precision, recall and F1 of each class, and the means: the form of the paper's Table 3, without deviations."""
    names = list(classes(rows))
    columns = [*(f"{figure}_{name}" for name in names for figure in SHARES), *MEANS]
    lines = [[replace(row.heading, detail=""), *(Cell(row[key].value, percent) for key in columns)] for row in rows]
    cells = {column: cell for row in reversed(rows) for column, cell in row.cells.items()}
    sizes = [replace(cells.get(f"support_{name}", Cell()), span=len(SHARES)) for name in names]
    heads = [*(figure[0].upper() for _ in names for figure in SHARES), *(TITLES[name] for name in MEANS)]
    return Table(caption, ["method", *heads], [*lines, [Cell("test images"), *sizes, *(Cell() for _ in MEANS)]])


def cheaper(rows: Iterable[Row]) -> str | None:
    """Say so if a row without a generator does at least as well as the best one with: on minor classes, else on all.

    None if synthesis is ahead, or rows of one of the two kinds are missing.
    """
    rows = list(rows)
    minor = all(row["minor_f1"].value is not None for row in rows)
    column = "minor_f1" if minor else "macro_f1"
    by_kind: dict[bool, list[tuple[float, str, str]]] = {True: [], False: []}
    for row in rows:
        score = row[column]
        by_kind[row.is_synthetic].append((float(score.value or 0), row.name, score.line))
    if not all(by_kind.values()):
        return None
    (synthetic, best, of_best), (plain, cheap, of_cheap) = max(by_kind[True]), max(by_kind[False])
    if synthetic > plain:
        return None
    figure = "minor-class F1" if minor else "macro F1"
    return (
        f"no generator is needed here: {figure} of {cheap} is {of_cheap}, of the best synthetic set, {best}, {of_best}"
    )
