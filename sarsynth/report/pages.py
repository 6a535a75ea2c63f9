"""Pages for a browser: one HTML file each that needs nothing else, neither network nor a folder beside it.

A page is a template of the folder `templates` that extends `base.html`, and a context of plain values and of the pieces
here: tables, pictures, plots. Whatever is not `Markup` is escaped; a name that a template uses and nobody gave is an
error. Torch-free.
"""

import base64
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of a figure that the page's own take the place of, so that it is readable on light and on dark.
INK, MUTED, RULE, PAPER = "#1d232b", "#66707c", "#d8dde3", "#ffffff"
_THEMED = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--card"}
LOSSLESS_UP_TO = 65536  # pixels: small pictures of chips stay what they are, larger ones are compressed
QUALITY = 82  # of WebP


@dataclass(frozen=True)
class Cell:
    """What a table holds in one place.

    Attributes:
        text: What is read.
        value: What the column is sorted by, if it is not the text; None, like an empty text, comes last.
        detail: A smaller second line.
        mark: A sign behind the text.
        meaning: What the sign says, for a pointer that rests on it and for a screen reader.
    """

    text: str
    value: float | str | None = None
    detail: str = ""
    mark: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each column; the first column names the rows.

    Attributes:
        caption: What it shows.
        columns: Headings.
        rows: As many cells each; a text is a cell of its own.
        numeric: Whether columns after the first are figures, which stand to the right.
        folded: Whether it is folded away until somebody looks.
    """

    kind: ClassVar = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    numeric: bool = True
    folded: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, all of cells."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Picture:
    """A picture of a page, which can be enlarged.

    Attributes:
        content: Made by `image`.
        caption: What stands under it.
    """

    kind: ClassVar = "picture"
    content: Markup
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Plot:
    """A matplotlib figure of a page, which can be enlarged, and can be kept as files.

    Attributes:
        name: Of its files.
        figure: As `sarsynth.report.plots` makes them.
        alt: What it shows, for those who do not see it.
        caption: What stands under it.
    """

    kind: ClassVar = "picture"
    name: str
    figure: "Figure"
    alt: str
    caption: str = ""

    @cached_property
    def svg(self) -> str:
        """The figure as a file of its own."""
        return save_svg(self.figure)

    @cached_property
    def content(self) -> Markup:
        """The figure as a page shows it."""
        return inline_svg(self.svg, self.alt)

    def save(self, folder: Path) -> None:
        """Write it as PNG and as SVG, on white."""
        self.figure.savefig(folder / f"{self.name}.png", dpi=160)
        write(self.svg, folder / f"{self.name}.svg")


@dataclass(frozen=True)
class Gallery:
    """Pictures beside each other under a heading; folded away until somebody looks, if there are many."""

    kind: ClassVar = "gallery"
    heading: str
    pictures: Sequence[Picture | Plot]
    folded: bool = False


@dataclass(frozen=True)
class Note:
    """One sentence that sets something right: why a part is missing, what a figure may not be read as."""

    kind: ClassVar = "note"
    text: str


@dataclass(frozen=True)
class Command:
    """A command line, with what it makes."""

    kind: ClassVar = "command"
    makes: str
    line: str


Piece = Table | Picture | Plot | Gallery | Note | Command


@dataclass(frozen=True)
class Section:
    """A part of a page that its contents list.

    Attributes:
        anchor: Its address within the page.
        heading: Its title.
        about: A sentence or two on how to read it.
        pieces: What it holds.
    """

    anchor: str
    heading: str
    about: str
    pieces: Sequence[Piece]


def data_uri(content: Path | bytes) -> str:
    """Put an image file (PNG, JPEG, WebP, GIF), or its bytes, into an address that holds all of it."""
    raw = content.read_bytes() if isinstance(content, Path) else content
    with Image.open(io.BytesIO(raw)) as picture:
        media_type = Image.MIME[str(picture.format)]
    return f"data:{media_type};base64,{base64.b64encode(raw).decode()}"


def image(picture: Image.Image, alt: str, *, largest: int | None = None) -> Markup:
    """Show a picture as WebP: small ones without loss, each pixel of them a square when enlarged.

    Args:
        picture: Any mode that WebP takes.
        alt: What it shows, for those who do not see it.
        largest: Pixels of its longer side on the page; larger ones are made smaller.
    """
    if largest is not None and max(picture.size) > largest:
        picture = picture.copy()
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    width, height = picture.size
    small = width * height <= LOSSLESS_UP_TO
    buffer = io.BytesIO()
    picture.save(buffer, format="webp", lossless=small, quality=QUALITY, method=4)
    kind = ' class="pixels"' if small else ""
    return Markup('<img{} src="{}" width="{}" height="{}" alt="{}">').format(
        Markup(kind), data_uri(buffer.getvalue()), width, height, alt
    )


def figure_svg(figure: "Figure", alt: str) -> Markup:
    """Show a matplotlib figure inside a page: see `inline_svg`."""
    return inline_svg(save_svg(figure), alt)


def inline_svg(drawn: str, alt: str) -> Markup:
    """Put what `save_svg` wrote inside a page, its text in the page's font, its paper and ink in the page's colours.

    Args:
        drawn: Whose INK, MUTED, RULE and PAPER become the page's colours; others should be readable on both.
        alt: What it shows, for those who do not see it.
    """
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    # Several figures share a page, and matplotlib gives each the same names.
    prefix = f"f{zlib.crc32((alt + body).encode()):08x}-"
    body = re.sub(r'( id="|href="#|url\(#)', lambda found: found[1] + prefix, body)
    for colour, name in _THEMED.items():
        body = body.replace(colour, f"var({name})")
    body = re.sub(r"font-family: [^;\"]+", "font-family: var(--font)", body)
    opening = re.compile(r'<svg [^>]*?viewBox="([\d. ]+)"[^>]*>')
    box = opening.match(body)[1]  # type: ignore[index]
    width = round(float(box.split()[2]) * 4 / 3)
    head = Markup('<svg role="img" aria-label="{}" viewBox="{}" style="max-width: {}px; --width: {}px" {}>').format(
        alt, box, width, width, Markup('xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"')
    )
    return head + Markup(opening.sub("", body, count=1))


def save_svg(figure: "Figure") -> str:
    """Write a figure as SVG, text as text; the same figure gives the same file."""
    from matplotlib import rc_context  # only who draws needs it

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sarsynth"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("sarsynth.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **context: Any) -> str:
    """Fill a template of `sarsynth/report/templates` in.

    Raises:
        jinja2.UndefinedError: The template uses a name that the context lacks.
    """
    return _environment().get_template(template).render(context)


def write(text: str, file: Path) -> None:
    """Write a text file whole or not at all."""
    staged = file.with_name(f".{file.name}.part")
    staged.write_text(text, encoding="utf-8")
    staged.replace(file)
