"""Plots of a report: arrays in, a matplotlib figure out, readable on light and dark once `Plot` puts it on a page.

Torch-free, and without pyplot's global state.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from sarsynth.files import write_text
from sarsynth.report.html import INK, MUTED, inline_svg
from sarsynth.report.pieces import Cell, Piece
from sarsynth.report.style import (
    ACROSS,
    DPI,
    RIGHT,
    WRONG,
    add_legend,
    lay_out_panels,
    look_of,
    styled,
    write_plain_numbers,
)

TICKS = 5  # steps of a panel's values at most, so that long numbers have room


@dataclass(frozen=True, eq=False)
class Plot(Piece):
    """A figure of a page, which can be enlarged, and can be kept as files."""

    kind: ClassVar = "picture"
    name: str  # of its files
    figure: Figure  # as the functions here make them
    alt: str  # what it shows, for those who do not see it
    caption: str = ""  # text below it
    narrow: Figure | None = None  # the same for a page that is no wider than a phone, if it has many panels

    @cached_property
    def svg(self) -> str:
        """The figure as a file of its own, text as text; the same figure gives the same file."""
        return _svg(self.figure)

    @cached_property
    def content(self) -> Markup:
        """The figure as a page shows it, of two the one that fits."""
        if self.narrow is None:
            return inline_svg(self.svg, self.alt)
        return inline_svg(self.svg, self.alt, "wide") + inline_svg(_svg(self.narrow), self.alt, "narrow")

    def save(self, folder: Path) -> None:
        """Write it as PNG and as SVG, on white."""
        self.figure.set_dpi(DPI)
        # `savefig` would draw it twice. More compression makes files a seventh smaller, and takes longer.
        FigureCanvasAgg(self.figure).print_png(folder / f"{self.name}.png", pil_kwargs={"compress_level": 2})
        write_text(folder / f"{self.name}.svg", self.svg)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sarsynth"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def both(draw: Callable[..., Figure], *args: Any, **options: Any) -> dict[str, Any]:
    """Draw for a wide page and for a phone: what `Plot` wants to know of figures with many panels."""
    return {"figure": draw(*args, **options), "narrow": draw(*args, **options, narrow=True)}


@styled
def estimates(
    panels: Mapping[str, Sequence[Cell]],
    rows: Sequence[str],
    label: str,
    *,
    scale: float = 1,
    every: Sequence[str] = (),
    bars: bool = False,
    zero: bool = False,
    narrow: bool = False,
) -> Figure:
    """Draw a panel for each quantity, in it a line for each row: dots with whiskers and single points, or bars.

    Args:
        panels: The cells of each quantity, one a row; one without a value has an empty line.
        rows: Names of the rows.
        label: What the horizontal axes show.
        scale: Of values: 100 for percent.
        every: Names of all rows of the page, which decide the colours; none if these are all.
        bars: From zero, for quantities of which zero is the best.
        zero: Draw a line there, for differences.
        narrow: Lay the panels out for a phone.
    """
    figure, axes = lay_out_panels(len(panels), 0.75 + 0.27 * len(rows), narrow, sharey=True, sharex=not bars)
    looks = [look_of(list(every or rows).index(name)) for name in rows]
    for place, (title, cells) in zip(axes, panels.items(), strict=True):
        _draw_cells(place, cells, looks, scale, bars)
        place.set_title(title)
        place.grid(visible=False, axis="y")
        place.locator_params(axis="x", nbins=TICKS)
        place.margins(x=0.08)
        if bars:
            place.set_xlim(left=0)
        if zero:
            place.axvline(0, color=MUTED, linewidth=1)
        place.tick_params(labelbottom=True)
    figure.supxlabel(label, color=MUTED, fontsize=9)
    _name_lines(axes, rows)
    return figure


def _draw_cells(place: Axes, cells: Sequence[Cell], looks: Sequence[tuple[str, str]], scale: float, bars: bool) -> None:
    """Draw cells in a panel, each at its line; one without a value leaves it empty."""
    known = [
        (row, scale * cell.value, cell, look)
        for row, (cell, look) in enumerate(zip(cells, looks, strict=True))
        if isinstance(cell.value, int | float)
    ]
    if bars and known:
        rows, values, _, own = zip(*known, strict=True)
        place.barh(rows, values, height=0.62, color=[colour for colour, _ in own])
    for row, value, cell, (colour, marker) in known:
        if not bars:
            samples = [scale * sample for sample in cell.samples]
            place.plot(samples, [row] * len(samples), "|", color=colour, alpha=0.6, markersize=9)
            place.plot(value, row, marker, color=colour, markersize=6)
        if cell.interval:  # a line, which takes matplotlib a fraction of the time of `hlines`
            ends = [scale * end for end in cell.interval]
            place.plot(ends, [row, row], color=INK if bars else colour, linewidth=1.6)


def _name_lines(axes: Sequence[Axes], rows: Sequence[str]) -> None:
    """Name the lines of panels that share their vertical axis, which is drawn in the first column alone."""
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    for place in axes:
        spec = place.get_subplotspec()
        place.yaxis.set_visible(spec is not None and spec.is_first_col())


@styled
def grouped_bars(
    panels: Mapping[str, Mapping[str, Sequence[Cell]]], rows: Sequence[str], label: str, *, scale: float = 1
) -> Figure:
    """Draw a panel for each quantity, in it for each row a bar a kind, from zero, in the colour of the kind.

    `panels` hold for each quantity and kind its cells, one a row; in place of one without a value there is no bar.
    """
    kinds = list(next(iter(panels.values())))
    figure, axes = lay_out_panels(len(panels), 0.75 + (0.12 + 0.09 * len(kinds)) * len(rows), False, sharey=True)
    thick = 0.8 / len(kinds)
    for place, (title, by_kind) in zip(axes, panels.items(), strict=True):
        for index, cells in enumerate(by_kind.values()):
            known = [(row, cell.value) for row, cell in enumerate(cells) if isinstance(cell.value, int | float)]
            ups = [row - 0.4 + (index + 0.5) * thick for row, _ in known]
            place.barh(ups, [scale * value for _, value in known], height=0.85 * thick, color=look_of(index)[0])
        place.set_title(title)
        place.grid(visible=False, axis="y")
        place.locator_params(axis="x", nbins=TICKS)
        place.margins(x=0.08)
        place.set(xlabel=label)
        place.set_xlim(left=0)
    _name_lines(axes, rows)
    add_legend(figure, {kind: Rectangle((0, 0), 1, 1, color=look_of(index)[0]) for index, kind in enumerate(kinds)})
    return figure


@styled
def confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix: the share of each true class in percent, right ones and wrong ones in two colours.

    `counts` are images of true class i called class j, shape (number of classes, the same); may be sums over seeds.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    texts = np.vectorize(lambda share, count: f"{100 * share:.0f}" if count else "", otypes="O")(shares, counts)
    colours = np.where(np.eye(len(classes), dtype=bool), RIGHT, WRONG).astype(object)
    figure = _matrix(shares, texts, colours, classes, classes, size=0.46)
    figure.axes[0].set(title=title, xlabel="is called", ylabel="true class")
    return figure


@styled
def clusters(counts: np.ndarray, weights: np.ndarray, classes: Sequence[str], names: Sequence[str]) -> Figure:
    """Draw the class x cluster counts, shaded by the mixing weights, which stand under them.

    `counts` are images of class i in cluster j, shape (number of classes, K); `weights` those of the clusters for each
    class, same shape, rows sum to 1; `names` are those of the clusters.
    """
    texts = np.vectorize(lambda count, weight: f"{count}\n{weight:.2f}", otypes="O")(counts, weights)
    figure = _matrix(weights, texts, np.full(counts.shape, RIGHT, object), classes, names, size=0.66)
    figure.axes[0].set_xlabel("count, and weight when the class is made")
    return figure


def _matrix(
    shades: np.ndarray, texts: np.ndarray, colours: np.ndarray, rows: Sequence[str], columns: Sequence[str], size: float
) -> Figure:
    """Draw a table of squares, each as opaque as its shade in [0, 1] says, with text."""
    left, below = (0.09 * max(map(len, names)) for names in (rows, columns))  # inches for the names
    figsize = (len(columns) * size + left + 0.5, len(rows) * size + below + 0.7)
    figure = Figure(figsize=figsize, layout="constrained")
    place = figure.subplots()
    squares = [Rectangle((column - 0.48, row - 0.48), 0.96, 0.96) for row, column in np.ndindex(shades.shape)]
    faces = [to_rgba(colour, 0.06 + 0.56 * shade) for colour, shade in zip(colours.flat, shades.flat, strict=True)]
    place.add_collection(PatchCollection(squares, facecolors=faces))
    inside: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}  # of its square, so none needs room
    for (row, column), text in np.ndenumerate(texts):
        place.text(column, row, text, fontsize=9, linespacing=1.4, **inside)
    place.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), aspect="equal")
    place.grid(visible=False)
    place.spines[:].set_visible(False)
    place.set_xticks(range(len(columns)), columns)
    place.set_yticks(range(len(rows)), rows)
    if max(map(len, columns)) * 0.085 > size:
        place.tick_params("x", rotation=40)
    return figure


@styled
def curves(
    panels: Mapping[str, Mapping[str, Sequence[np.ndarray]]], rows: Sequence[str], *, narrow: bool = False
) -> Figure:
    """Draw learning curves: a panel for each quantity, in it lines in the colour of each row that trained it.

    `panels` hold for each quantity and row its curves, float (N, 2) each: step and value. All `rows` of the page decide
    the colours.
    """
    figure, axes = lay_out_panels(len(panels), 2.2, narrow, across=4)
    handles = {}
    for place, (title, by_row) in zip(axes, panels.items(), strict=True):
        for name, lines in by_row.items():
            colour, _ = look_of(rows.index(name))
            for line in lines:
                place.plot(*line.T, color=colour, alpha=0.25, linewidth=0.8)
                handles[name] = place.plot(line[:, 0], smoothed(line[:, 1]), color=colour, linewidth=1.5)[0]
        values = np.concatenate([line[:, 1] for lines in by_row.values() for line in lines])
        if (values > 0).all() and values.max() > 20 * values.min():
            place.set_yscale("log")
            write_plain_numbers(place.yaxis)
        place.set(title=title, xlabel="step")
    add_legend(figure, {name: handles[name] for name in rows if name in handles})
    return figure


@styled
def responses(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    rows: Sequence[str],
    label: str,
    *,
    arrows: Mapping[str, tuple[float, float, float]] | None = None,
    doubling: bool = False,
    narrow: bool = False,
) -> Figure:
    """Draw how F1 follows a number, which `label` names: a panel for each quantity, a line with a band for each row.

    `panels` hold for each quantity and row float (N, 4): the number, F1 in %, both ends of its interval; all `rows`
    decide the colours. `arrows` are in the first panel, by row: from which number, at which height, to which number.
    `doubling` makes the axis of numbers logarithmic.
    """
    figure, axes = lay_out_panels(len(panels), 2.8, narrow, across=4)
    handles = {}
    for place, (title, by_row) in zip(axes, panels.items(), strict=True):
        for name, line in by_row.items():
            colour, marker = look_of(rows.index(name))
            place.fill_between(line[:, 0], line[:, 2], line[:, 3], color=colour, alpha=0.16, linewidth=0)
            handles[name] = place.plot(*line[:, :2].T, marker, color=colour, linestyle="-", linewidth=1.5)[0]
        place.set(title=title, xlabel=label, ylabel="F1, %")
        if doubling:
            place.set_xscale("log", base=2)
            write_plain_numbers(place.xaxis)
        place.set_xticks(sorted({number for line in by_row.values() for number in line[:, 0]}))
    for name, (start, height, end) in (arrows or {}).items():
        look = {
            "arrowstyle": "-|>",
            "color": look_of(rows.index(name))[0],
            "linewidth": 1.6,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes[0].annotate("", (end, height), (start, height), arrowprops=look)
    add_legend(figure, handles)
    return figure


def smoothed(values: np.ndarray) -> np.ndarray:
    """Average each value with its neighbours, a twentieth of them on each side, fewer near the ends; shape (N,)."""
    reach = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(0, places - reach), np.minimum(len(values), places + reach + 1)
    return (sums[high] - sums[low]) / (high - low)


@styled
def scatter(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rows: Sequence[str],
    x: Sequence[str],
    y: str,
    every: Sequence[str],
    *,
    narrow: bool = False,
) -> Figure:
    """Draw pairs of figures, a point for each row, by its name.

    `panels` hold two arrays (number of rows,) by heading, not finite where a row has none; `x` says what the horizontal
    axis of each shows, `y` what all vertical ones do; `every` row of the page decides the colours.
    """
    figure, axes = lay_out_panels(len(panels), 2.8, narrow, across=4)
    handles = {}
    for place, label, (title, (across, up)) in zip(axes, x, panels.items(), strict=True):
        for name, *point in zip(rows, across, up, strict=True):
            if np.isfinite(point).all():
                colour, marker = look_of(every.index(name))
                handles[name] = place.plot(*point, marker, color=colour, markersize=7, linestyle="")[0]
        place.set(title=title, xlabel=label, ylabel=y)
        place.margins(0.1)
    add_legend(figure, handles)
    return figure


@styled
def embedding(
    real: np.ndarray,
    real_labels: np.ndarray,
    synthetic: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str],
    *,
    narrow: bool = False,
) -> Figure:
    """Draw features in two dimensions, a panel for each synthetic set over the same real images.

    Places are float (N, 2), `real_labels` their classes, (N,); of each synthetic set there are both.
    """
    figure, axes = lay_out_panels(len(synthetic), 3.2, narrow, across=4, sharex=True, sharey=True)
    for place, (title, (points, labels)) in zip(axes, synthetic.items(), strict=True):
        for label in range(len(classes)):
            colour, _ = look_of(label)
            place.plot(*real[real_labels == label].T, "o", color=colour, alpha=0.3, markersize=3, markeredgewidth=0)
            place.plot(*points[labels == label].T, "x", color=colour, markersize=4, markeredgewidth=1)
        place.set(title=title, xticks=[], yticks=[])
    dot = partial(Line2D, [], [], linestyle="")
    handles = {name: dot(marker="o", color=look_of(label)[0], markersize=5) for label, name in enumerate(classes)}
    handles["real"] = dot(marker="o", color=MUTED, markersize=4)
    add_legend(figure, handles | {"synthetic": dot(marker="x", color=MUTED, markersize=4.5)})
    return figure


@styled
def histograms(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], label: str, *, doubling: bool = False, narrow: bool = False
) -> Figure:
    """Draw a panel for each class: which share of its pixels or images has which values.

    `panels` hold limits of the bins (K + 1,) and counts (K,); `doubling` makes axes logarithmic, to the base of 2.
    """
    figure, axes = lay_out_panels(len(panels), 1.9, narrow, sharex=True, sharey=True)
    for index, (place, (title, (limits, counts))) in enumerate(zip(axes, panels.items(), strict=True)):
        place.stairs(100 * counts / max(1, counts.sum()), limits, fill=True, color=look_of(index)[0])
        place.set_title(title)
        if doubling:
            place.set_xscale("log", base=2)
            write_plain_numbers(place.xaxis)
        across = 1 if narrow else math.ceil(len(panels) / math.ceil(len(panels) / ACROSS))
        if index % across == 0:
            place.set_ylabel("%")
        if index >= len(panels) - across:
            place.set_xlabel(label)
            place.tick_params(labelbottom=True)
    return figure
