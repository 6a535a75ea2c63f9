"""The sections of a health report: what the images of one set are, before anything is trained on them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from sarsynth.data.curated import Pair
from sarsynth.data.health import Scan, edges
from sarsynth.data.records import ImageRecord, Split, class_counts
from sarsynth.report import html, pictures, plots
from sarsynth.report.pieces import COUNT, Cell, Gallery, Note, Picture, Piece, Section, Table
from sarsynth.report.plots import Plot

HEALTH = "health.json"
SHEET = 24  # images of a class on its contact sheet
COLUMNS = 12  # of it
PAIRS = 24  # near-duplicates that are shown, and rows of a table of names
CAPTIONS = 3  # of a class
SIZE_BINS = 24


@dataclass(frozen=True, eq=False)
class Health:
    """What there is to say about one set."""

    slot: str  # its key in the settings
    name: str  # of the data set
    classes: Sequence[str]  # names of the labels
    good: Mapping[Split, list[ImageRecord]]  # images that are used, of each split
    scan: Scan  # what every image was found to be
    pairs: Sequence[Pair]  # near-duplicates
    copy: float  # agreement from which on two images are one recording
    max_bad: float  # share of bad images that a run lets pass
    summary: Mapping[str, Mapping[str, Any]]  # what `data.health.by_class` says
    # how often each caption stands with the training images, by class; the commonest first
    captions: Mapping[str, Mapping[str, int]]
    template: Any  # of the captions
    # by class, training images (H, W, C) and their contours (H, W); or why there are none
    outlines: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]] | str

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Good images by split and class."""
        return {split: class_counts(records, self.classes) for split, records in self.good.items() if records}

    @property
    def crossing(self) -> list[Pair]:
        """Near-duplicates in two splits: given ones, since none of ours parts a group."""
        return [pair for pair in self.pairs if pair.crosses]

    def rows(self, label: int) -> list[int]:
        """Where the good images of a class stand in the scan."""
        return [self.scan.rows[r.path] for records in self.good.values() for r in records if r.label == label]

    def plain(self) -> dict[str, Any]:
        """All of it for health.json."""
        groups = Counter(record.group for records in self.good.values() for record in records if record.group)
        return {
            "name": self.name,
            "counts": self.counts,
            "classes": {
                name: {key: value for key, value in facts.items() if key != "histograms"}
                | {
                    "histograms": {
                        dtype: {"edges": edges(dtype).tolist(), "pixels": counts.tolist()}
                        for dtype, counts in facts["histograms"].items()
                    }
                }
                for name, facts in self.summary.items()
            },
            "groups": {"count": len(groups), "largest": max(groups.values(), default=0)},
            "bad": self.scan.bad,
            "near_duplicates": [
                {
                    "images": [pair.one.path, pair.other.path],
                    "splits": [pair.one.split, pair.other.split],
                    "classes": [self.classes[pair.one.label], self.classes[pair.other.label]],
                    "agreement": pair.agreement,
                }
                for pair in self.pairs
            ],
            "near_duplicates_across_splits": len(self.crossing),
            "captions": self.captions,
        }


def page(healths: Sequence[Health], title: str) -> str:
    """Lay several sets out on one page."""
    known = {"images": f"{sum(len(health.scan.paths) for health in healths):,}"}
    for health in healths:
        known[f"bad in {health.slot}"] = f"{len(health.scan.bad):,}"
        known[f"near-duplicates across splits in {health.slot}"] = f"{len(health.crossing):,}"
    lead = "What the images of a study are, before anything is trained on them."
    parts = [section for health in healths for section in sections(health)]
    return html.render("report.html", title=title, lead=lead, known=known, parts=parts)


def sections(health: Health) -> list[Section]:
    """Lay one set out."""
    return [
        Section(f"{health.slot}-{anchor}", f"{health.slot}: {heading}", about, pieces)
        for anchor, heading, about, pieces in (
            (
                "images",
                "images and values",
                "Bad images are left out of all figures.",
                [_counts(health), _values(health), *_histograms(health), *_sizes(health)],
            ),
            ("bad", "bad images", "They are left out, never repaired or deleted.", _bad(health)),
            (
                "duplicates",
                "near-duplicates",
                "Two images whose perceptual hashes and fine structure agree. Splits that we draw never part them; "
                "those that the data set gives may, and then scores on its test images flatter.",
                _duplicates(health),
            ),
            ("sheets", "contact sheets", "Small pictures, evenly spread over the images of a class.", _sheets(health)),
            (
                "contours",
                "contours",
                "Training images and their edges, as contours=real gives them.",
                _outlines(health),
            ),
            ("captions", "captions", "What the denoiser is told of the training images.", _captions(health)),
        )
    ]


def _counts(health: Health) -> Piece:
    return Table(
        "Images by split and class",
        ["split", *health.classes, "total"],
        [
            [split, *(f"{count:,}" for count in counts.values()), f"{sum(counts.values()):,}"]
            for split, counts in health.counts.items()
        ],
    )


def _values(health: Health) -> Piece:
    """Sizes, saturation and types of pixels of each class."""
    rows: list[list[Cell | str]] = []
    for name, facts in health.summary.items():
        sizes = Counter(facts["sizes"])
        rows.append(
            [
                name,
                f"{facts['images']:,}",
                Cell(len(sizes), partial(_common, sizes)),
                Cell(facts["saturated"], lambda share: f"{100 * share:.2f} %"),
                ", ".join(facts["histograms"]),
            ]
        )
    columns = ["class", "images", "sizes, height x width", "saturated pixels", "type of pixels"]
    caption = "What the images of each class are; saturated are 255 of 8 bits and 65,535 of 16, other types have no end"
    return Table(caption, columns, rows)


def _common(sizes: Counter[str], number: float) -> str:
    """Name the commonest of a number of sizes."""
    common = ", ".join(f"{size} ({count:,})" for size, count in sizes.most_common(2))
    return common + (f" and {number - 2} more" if number > 2 else "")


def _histograms(health: Health) -> list[Piece]:
    """Pixel values of each class, a plot a type of pixels."""
    pieces: list[Piece] = []
    for dtype in sorted({dtype for facts in health.summary.values() for dtype in facts["histograms"]}):
        by_class = {name: facts["histograms"].get(dtype) for name, facts in health.summary.items()}
        counted = {name: counts for name, counts in by_class.items() if counts is not None}
        used = np.flatnonzero(np.sum(list(counted.values()), axis=0))
        low, high = (0, len(edges(dtype)) - 1) if dtype == "uint8" else (used[0], used[-1] + 1)
        panels = {name: (edges(dtype)[low : high + 1], counts[low:high]) for name, counts in counted.items()}
        figure = plots.histograms(panels, "value", doubling=dtype != "uint8")
        pieces.append(Plot(f"{dtype}-values", figure, "Histograms of pixel values by class", f"Pixels of type {dtype}"))
    return pieces


def _sizes(health: Health) -> list[Piece]:
    """Histograms of image sizes; none without images."""
    sides = {
        name: np.sqrt(np.prod(health.scan.sizes[health.rows(label)], axis=1))
        for label, name in enumerate(health.classes)
    }
    everything = np.concatenate(list(sides.values()))
    if not len(everything):
        return []
    limits = np.linspace(np.floor(everything.min()), np.floor(everything.max()) + 1, SIZE_BINS + 1)
    panels = {name: (limits, np.histogram(values, limits)[0]) for name, values in sides.items()}
    figure = plots.histograms(panels, "root of the area, px")
    return [Plot("sizes", figure, "Histograms of image sizes by class", "Sizes of the images")]


def _bad(health: Health) -> list[Piece]:
    """Name every bad image and say why it is bad."""
    bad = health.scan.bad
    if not bad:
        return [Note("There are none.")]
    caption = f"{len(bad):,} of {len(health.scan.paths):,} images; a run stops at more than {100 * health.max_bad:g} %"
    return [Table(caption, ["image", "reason"], [[path, reason] for path, reason in bad.items()], numeric=False)]


def _duplicates(health: Health) -> list[Piece]:
    """Show near-duplicates across splits, and name those that are of two classes."""
    copies = sum(pair.agreement >= health.copy for pair in health.crossing)
    pieces: list[Piece] = [
        Note(
            f"{len(health.pairs):,} pairs, {len(health.crossing):,} of them across splits; {copies:,} of these agree "
            f"at {health.copy} or more and are one recording, and nothing may learn from them (data.allow_leak)."
        )
    ]
    torn = [pair for pair in health.pairs if pair.one.label != pair.other.label]
    for caption, several in (("Across splits", health.crossing), ("Of two classes", torn)):
        if several:
            shown = f"{caption}: the first {PAIRS} of {len(several):,}" if len(several) > PAIRS else caption
            rows = [
                [
                    pair.one.path,
                    pair.other.path,
                    *(f"{record.split}, {health.classes[record.label]}" for record in (pair.one, pair.other)),
                    f"{pair.agreement:.3f}",
                ]
                for pair in several[:PAIRS]
            ]
            columns = ["one", "the other", "is", "is", "agreement"]
            pieces.append(Table(f"{shown}; all are in {HEALTH}", columns, rows, numeric=False))
    scan = health.scan
    pictures_of_pairs = [
        Picture(
            _picture(np.hstack([scan.thumbs[scan.rows[r.path]] for r in (pair.one, pair.other)]), pair.one.path),
            f"{pair.one.path} ({pair.one.split}) | {pair.other.path} ({pair.other.split})",
        )
        for pair in health.crossing[:PAIRS]
    ]
    return [*pieces, Gallery("Pairs across splits", pictures_of_pairs)] if pictures_of_pairs else pieces


def _sheets(health: Health) -> list[Piece]:
    """Show images of each class."""
    sheets = []
    for label, name in enumerate(health.classes):
        rows = health.rows(label)
        chosen = [rows[place] for place in pictures.evenly(len(rows), SHEET)]
        if chosen:
            tiles = [health.scan.thumbs[row][None] for row in chosen]
            lines = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
            sheet = pictures.compose([("", lines)], [""] * len(lines), f"{name}: {len(rows):,} images")
            sheets.append(Picture(html.image(sheet, f"Images of {name}"), f"{len(chosen)} of {len(rows):,} of {name}"))
    return [Gallery("By class", sheets)] if sheets else [Note("There are no images.")]


def _outlines(health: Health) -> list[Piece]:
    """Show a few images of each class above their contours."""
    if isinstance(health.outlines, str):
        return [Note(health.outlines)]
    shown = []
    for name, outlined in health.outlines.items():
        lines = [[image.transpose(2, 0, 1) for image, _ in outlined], [contour[None] for _, contour in outlined]]
        sheet = pictures.compose([("", lines)], ["image", "contour"], name)
        shown.append(Picture(html.image(sheet, f"Images and contours of {name}"), name))
    return [Gallery("By class", shown)] if shown else [Note("There are no training images.")]


def _captions(health: Health) -> list[Piece]:
    """List the commonest captions of each class."""
    rows: list[list[Cell | str]] = [
        [name, text, Cell(count, COUNT), f"{len(counted):,}"]
        for name, counted in health.captions.items()
        for text, count in list(counted.items())[:CAPTIONS]
    ]
    caption = f"Made by the template `{health.template}`; up to {CAPTIONS} captions of each class"
    return [Table(caption, ["class", "caption", "images", "different captions"], rows, numeric=False)]


def _picture(pixels: np.ndarray, alt: str) -> Any:
    return html.image(Image.fromarray(pixels), alt)
