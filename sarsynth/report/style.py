"""How every plot looks: colours, markers, sizes, panels and legends.

Text is in the colours that a page replaces by its own; what carries meaning has a colour readable on both light and
dark, and where it can a place or a shape besides.
"""

import math
from collections.abc import Callable, Mapping
from functools import wraps
from itertools import islice
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from sarsynth.report.html import INK, MUTED, PAPER, RULE

COLOURS = ("#1a8f96", "#d0693a", "#7b6fd0", "#5c9a3d", "#c2457d", "#a88a2c", "#4b8fd6", "#8f7466", "#6b8792", "#b0522f")
RIGHT, WRONG = COLOURS[0], COLOURS[1]
MARKERS = "osD^vP*Xhd"
ACROSS = 5  # panels in a row at most
WIDTH = 11.6  # inches of a figure: as wide as a page's column
DPI = 160  # of a PNG
MOST_NAMES = 12  # in a legend: more leave no room for the figure, and colours come again
NARROW = 3.6  # inches of a figure for a phone, panels one below the other
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), PAPER),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), RULE),
    "axes.facecolor": "none",
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.titlecolor", "text.color"), INK),
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1,  # nothing is above an axis that a title would have to be moved for, so nothing need be measured
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "grid.linewidth": 0.7,
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 9),
    "font.size": 9.5,
    "text.parse_math": False,  # a class may be called `$x_1^$`
    **dict.fromkeys(("figure.constrained_layout.w_pad", "figure.constrained_layout.h_pad"), 0.06),
}
Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw in the style of the house, down to ticks, which matplotlib makes when it first draws."""

    @wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with rc_context(STYLE):
            figure = draw(*args, **kwargs)
            for place in figure.axes:  # else where ticks stand would follow from other settings when it is written
                place.tick_params(labelsize=STYLE["xtick.labelsize"])
            _lay_out(figure)
        return figure

    return drawn


def _lay_out(figure: Figure) -> None:
    """Find the place of everything, and draw nothing; what is laid out stays, however often it is written."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")


def look_of(index: int) -> tuple[str, str]:
    """Colour and marker of a row, or colour of a class, by its place."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def lay_out_panels(
    count: int, height: float, narrow: bool, across: int = ACROSS, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Lay `count` panels of a height in inches out in rows that are as even as can be, or below each other."""
    down = count if narrow else math.ceil(count / across)
    across = math.ceil(count / down)
    width = NARROW if narrow else WIDTH * across / max(2, across)
    figure = Figure(figsize=(width, down * height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, **options).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Name colours and shapes under a figure, as many side by side as it has room for; of very many the first."""
    named = dict(islice(handles.items(), MOST_NAMES))
    room = int(10 * figure.get_figwidth() / (5 + max(map(len, named))))  # about ten letters an inch
    columns = max(1, min(room, len(named)))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns)


def write_plain_numbers(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis out: its powers would be set as mathematics, which names are not."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")
