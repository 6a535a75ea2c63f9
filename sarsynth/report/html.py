"""Pages for a browser: one HTML file each that needs nothing else, neither network nor a folder beside it.

A page is a template of the folder `templates` that extends `base.html`, filled with plain values and with the pieces of
`sarsynth.report.pieces`. Whatever is not `Markup` is escaped; a name that a template uses and the context lacks is an
error. Torch-free.
"""

import base64
import io
import re
import zlib
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

REPORT = "report.html"  # the file of a page
# Colours of a figure in place of which a page puts its own, so that it is readable on light and on dark.
INK, MUTED, RULE, PAPER = "#1d232b", "#66707c", "#d8dde3", "#ffffff"
_THEMED = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--card"}
LOSSLESS_UP_TO = 65536  # pixels: small pictures of chips stay what they are, larger ones are compressed
QUALITY, EFFORT = 82, 2  # of WebP; an effort of 4 makes strips a twentieth smaller in twice the time


def image(picture: Image.Image, alt: str, *, largest: int | None = None) -> Markup:
    """Show a picture as WebP: small ones without loss, each pixel of them a square when enlarged.

    `alt` is read to those who do not see it; a longer side of more than `largest` px is made smaller.
    """
    if largest is not None and max(picture.size) > largest:
        picture = picture.copy()
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    width, height = picture.size
    small = width * height <= LOSSLESS_UP_TO
    buffer = io.BytesIO()
    picture.save(buffer, format="webp", lossless=small, quality=QUALITY, method=EFFORT)
    kind = Markup(' class="pixels"' if small else "")
    content = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Markup('<img{} src="{}" width="{}" height="{}" alt="{}">').format(kind, content, width, height, alt)


def inline_svg(svg: str, alt: str, kind: str = "") -> Markup:
    """Put an SVG file of matplotlib inside a page, in the page's font; `alt` is read to those who do not see it.

    `kind` is its class of the page's style: `wide` and `narrow` are for pages that are so.

    Its INK, MUTED, RULE and PAPER become the page's colours; others should be readable on light and dark.
    """
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    # Several figures share a page, and matplotlib gives each the same names.
    prefix = f"f{zlib.crc32((alt + body).encode()):08x}-"
    body = re.sub(r'( id="|href="#|url\(#)', lambda match: match[1] + prefix, body)
    for colour, name in _THEMED.items():
        body = body.replace(colour, f"var({name})")
    body = re.sub(r"font-family: [^;\"]+", "font-family: var(--font)", body)
    opening = re.compile(r'<svg [^>]*?viewBox="([\d. ]+)"[^>]*>')
    box = opening.match(body)[1]  # type: ignore[index]
    width = round(float(box.split()[2]) * 4 / 3)
    named = Markup(' class="{}"').format(kind) if kind else ""
    head = Markup('<svg{} role="img" aria-label="{}" viewBox="{}" style="max-width: {}px; --width: {}px" {}>').format(
        named,
        alt,
        box,
        width,
        width,
        Markup('xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'),
    )
    return head + Markup(opening.sub("", body, count=1))


@cache
def _environment() -> Environment:
    loader = PackageLoader("sarsynth.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **context: Any) -> str:
    """Fill in a template of `sarsynth/report/templates`.

    Raises:
        jinja2.UndefinedError: The template uses a name that the context lacks.
    """
    return _environment().get_template(template).render(context)
