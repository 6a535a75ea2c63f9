"""Pages: nothing from outside, everything escaped, figures in the page's colours, files whole or not there."""

import base64
import io
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from sarsynth.files import write_text
from sarsynth.report import html
from sarsynth.report.pieces import Cell, Picture, Table
from sarsynth.report.plots import Plot


@pytest.fixture
def figure():
    made, axes = plt.subplots(figsize=(4, 3), facecolor=html.PAPER)
    axes.plot([0, 1], [0, 1], color="#0b6e75", label="a & b")
    axes.set_title("<title>", color=html.INK)
    axes.legend()
    yield made
    plt.close(made)


def macro(name: str, *args) -> str:
    return getattr(html._environment().get_template("pieces.html").module, name)(*args)


def test_torch_is_not_needed():
    code = "import sys, sarsynth.report.html; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_page_is_given_is_escaped_and_what_it_lacks_is_an_error():
    drawn = macro("table", Table("<b>", ["<i>", "x"], [[Cell("<script>", mark="<", meaning='"'), "a & b"]]))
    assert "<b>" not in drawn and "<i>" not in drawn and "<script>" not in drawn
    assert "&lt;script&gt;" in drawn and "a &amp; b" in drawn and 'title="&#34;"' in drawn
    assert 'alt="&#34;&gt;&lt;script&gt;"' in html.image(Image.new("L", (4, 4)), '"><script>')
    with pytest.raises(UndefinedError):
        html._environment().from_string("{{ nobody }}").render()


def test_an_empty_page_has_landmarks_and_asks_for_nothing():
    page = html.render("base.html")
    for part in ('<main id="main"', "<nav aria-label=", "<header>", 'href="#main"', 'lang="en"', "<dialog"):
        assert part in page
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']+|url\(|@import|https?://(?!www\.w3\.org)""", page)


def test_small_pictures_keep_every_pixel_and_large_ones_are_made_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    shown = html.image(Image.fromarray(noise), "noise")
    raw = re.search(r"data:image/webp;base64,([^\"]+)", shown)[1]
    with Image.open(io.BytesIO(base64.b64decode(raw))) as back:
        assert np.array_equal(np.asarray(back.convert("L")), noise)
    assert 'width="60" height="40"' in shown and "pixels" in shown
    large = html.image(Image.new("RGB", (4000, 2000)), "sea", largest=1000)
    assert 'width="1000" height="500"' in large and "pixels" not in large


def test_a_figure_is_text_in_the_pages_colours(figure):
    shown = Plot("rise", figure, 'rise "of" a').content
    assert isinstance(shown, Markup)
    assert 'role="img" aria-label="rise &#34;of&#34; a"' in shown
    assert "&lt;title&gt;" in shown and "a &amp; b" in shown, "text stays text"
    assert "var(--ink)" in shown and "var(--card)" in shown and html.INK not in shown
    assert "var(--font)" in shown and "DejaVu" not in shown
    assert "<metadata" not in shown and "<?xml" not in shown and "<!DOCTYPE" not in shown
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', shown))
    assert referred <= set(re.findall(r' id="([^"]+)"', shown)), "what it refers to is there, under the same name"
    assert Plot("rise", figure, 'rise "of" a').content == shown, "the same figure, the same file"
    other = set(re.findall(r' id="([^"]+)"', Plot("rise", figure, "another").content))
    assert not other & set(re.findall(r' id="([^"]+)"', shown)), "two figures of a page share no name"


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path):
    file = tmp_path / "page.html"
    write_text(file, "one")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "two\ud800")
    assert file.read_text() == "one"


def test_a_picture_has_its_caption():
    drawn = macro("picture", Picture(html.image(Image.new("L", (4, 4)), "black"), "a < b"))
    assert drawn.count("<figcaption>a &lt; b</figcaption>") == 1 and 'alt="black"' in drawn
