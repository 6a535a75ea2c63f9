"""What pages and tables are made of; how they look is up to those who render them. Torch-free."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from markupsafe import Markup

WARNING = "!"  # the mark of what compares with nothing else
Form = Callable[[float], str]  # how a number is written

SHORT: Form = "{:.3g}".format
COUNT: Form = "{:,.0f}".format


def decimals(count: int) -> Form:
    """Write numbers with so many decimals."""
    return f"{{:.{count}f}}".format


def percent(share: float) -> str:
    """Write a share in percent, without the sign."""
    return f"{100 * share:.1f}"


def percent_sign(share: float) -> str:
    """Write a share in percent, with the sign."""
    return f"{100 * share:.1f} %"


def points(gain: float) -> str:
    """Write the difference of two shares in points of a percent."""
    return f"{100 * gain:+.1f}"


def duration(seconds: float) -> str:
    """Write a time in two units at most."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


@dataclass(frozen=True)
class Cell:
    """What a table holds in one place: a text, or a number and how it is written."""

    value: float | str | None = None  # by which its column is sorted; None, which comes last, if there is none
    form: Form = str  # writes the value, its standard deviation and its interval
    std: float | None = None  # standard deviation of the value
    interval: tuple[float, float] | None = None  # of the value: its lower and upper end
    samples: Sequence[float] = ()  # the measurements of which the value is the mean
    mark: str = ""  # a sign behind the value
    meaning: str = ""  # what the mark says, or why there is no value
    missing: str = ""  # what stands in place of a value
    detail: str = ""  # a smaller line below, left out where there is little room
    span: int = 1  # number of columns that it covers

    @property
    def text(self) -> str:
        """The value as it is written, or what stands in its place."""
        if self.value is None:
            return self.missing
        return self.value if isinstance(self.value, str) else self.form(self.value)

    @property
    def spread(self) -> str:
        """The standard deviation as it is written."""
        return "" if self.std is None else self.form(self.std)

    @property
    def ends(self) -> Sequence[str]:
        """The two ends of the interval as they are written; none without one."""
        return [self.form(end) for end in self.interval or ()]

    @property
    def line(self) -> str:
        """The value with its standard deviation."""
        return f"{self.text}±{self.spread}" if self.spread else self.text


class Piece:
    """Something that a page shows."""

    kind: ClassVar[str]  # name of the macro of `templates/pieces.html` that shows it


@dataclass(frozen=True)
class Table(Piece):
    """A table; the first column names the rows."""

    kind: ClassVar = "table"
    caption: str  # what it shows
    columns: Sequence[str]  # headings
    rows: Sequence[Sequence[Cell | str]]  # as many cells each; a text is a cell of its own
    numeric: bool = True  # whether columns after the first are figures, which stand to the right
    folded: bool = False  # whether it is folded away until somebody looks
    notes: Sequence[str] = ()  # lines that belong to it

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, all of cells."""
        return [[Cell(cell) if isinstance(cell, str) else cell for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Picture(Piece):
    """A picture of a page, which can be enlarged."""

    kind: ClassVar = "picture"
    content: Markup  # made by `sarsynth.report.html.image`
    caption: str = ""  # text below it


@dataclass(frozen=True)
class Gallery(Piece):
    """Pictures beside each other under a heading; folded away until somebody looks, if there are many."""

    kind: ClassVar = "gallery"
    heading: str  # above them
    pictures: Sequence[Piece]  # pictures and plots
    folded: bool = False  # whether they are folded away
    rows: bool = False  # whether each has a row of its own, with its caption before it


@dataclass(frozen=True)
class Forest(Piece):
    """Differences as labelled intervals, one below the other: a dot, a line for its interval, the figures beside it.

    All stand over one axis, which holds zero. It is text and boxes, so that it is as wide as the page lets it be.
    """

    kind: ClassVar = "forest"
    caption: str  # what it shows
    unit: str  # of the axis
    groups: Mapping[str, Sequence[tuple[str, Cell]]]  # by heading, the names of its rows and their differences
    scale: float = 1.0  # of values: 100 for percent
    folded: bool = False  # whether it is folded away until somebody looks

    @cached_property
    def ticks(self) -> list[float]:
        """Round numbers, four to nine of them, from one end of the axis to the other."""
        cells = [cell for rows in self.groups.values() for _, cell in rows if isinstance(cell.value, int | float)]
        ends = [self.scale * end for cell in cells for end in (float(cell.value or 0), *(cell.interval or ()))]
        low, high = min([0.0, *ends]), max([0.0, *ends])
        if low == high:
            high = 1.0
        power = 10.0 ** math.floor(math.log10((high - low) / 4))
        step = next(power * one for one in (1, 2, 5, 10) if (high - low) / (power * one) <= 6)
        return [step * place for place in range(math.floor(low / step), math.ceil(high / step) + 1)]

    def place(self, value: float) -> float:
        """Where a value stands on the axis: 0 to 100."""
        first, last = self.ticks[0], self.ticks[-1]
        return round(100 * (self.scale * value - first) / (last - first), 2)


@dataclass(frozen=True)
class Note(Piece):
    """One sentence that sets something right: why a part is missing, how a figure must not be read."""

    kind: ClassVar = "note"
    text: str


@dataclass(frozen=True)
class Command(Piece):
    """A command line, with what it makes."""

    kind: ClassVar = "command"
    makes: str
    line: str


@dataclass(frozen=True)
class Verdict(Piece):
    """What a page comes to, in a line; why, a line each; and what to do next."""

    kind: ClassVar = "verdict"
    line: str
    good: bool  # whether nothing has to be mended
    reasons: Sequence[str] = ()
    then: Sequence[Command] = ()


@dataclass(frozen=True)
class Section:
    """A part of a page that its contents list."""

    anchor: str  # its address within the page
    heading: str  # its title
    about: str  # a sentence or two on how to read it
    pieces: Sequence[Piece]  # what it holds
