"""The health report of a study's image sets: `python train.py stage=data` writes report.html and health.json."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sarsynth.data.health import by_class, edges
from sarsynth.data.records import SPLITS, ImageRecord, Split, class_counts
from sarsynth.errors import UserError
from sarsynth.files import write_text
from sarsynth.report import html, pictures, plots
from sarsynth.report.html import REPORT
from sarsynth.report.pieces import COUNT, Cell, Gallery, Note, Picture, Piece, Section, Table
from sarsynth.report.plots import Plot
from sarsynth.stages import image_sets
from sarsynth.stages.describe import captions_of, keywords_of
from sarsynth.stages.find_contours import outlined
from sarsynth.stages.image_sets import Pair
from sarsynth.store.artifacts import Artifact

if TYPE_CHECKING:
    from sarsynth.stages.study import Role, Study

HEALTH = "health.json"
ROLES: tuple["Role", ...] = ("sar", "ors")
SHEET = 24  # images of a class on its contact sheet
COLUMNS = 12  # of it
OUTLINED = 4  # images of a class whose contours are shown
PAIRS = 24  # near-duplicates that are shown, and rows of a table of names
CAPTIONS = 3  # of a class
SIZE_BINS = 24


@dataclass(frozen=True, eq=False)
class Health:
    """What there is to say about one set.

    Attributes:
        study: Whose it is.
        role: Which set.
        good: Images that are used, of each split.
        pairs: Near-duplicates.
        summary: What `by_class` says.
    """

    study: "Study"
    role: "Role"
    good: Mapping[Split, list[ImageRecord]]
    pairs: list[Pair]
    summary: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, study: "Study", role: "Role") -> "Health":
        """Look at a set, without stopping at bad images: the report is there to show them."""
        source = study.sources[role]
        good = {split: source.records(split) for split in SPLITS}
        everything = [record for records in good.values() for record in records]
        return cls(
            study,
            role,
            good,
            image_sets.pairs(study, role),
            by_class(everything, source.classes, study.scans[role]),
        )

    @property
    def classes(self) -> list[str]:
        """Names of the labels."""
        return self.study.sources[self.role].classes

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Good images by split and class."""
        return {split: class_counts(records, self.classes) for split, records in self.good.items() if records}

    @property
    def captions(self) -> dict[str, dict[str, int]]:
        """How often each caption stands with the training images, by class; the commonest first."""
        named = {name: Counter[str]() for name in self.classes}
        records = self.good["train"]
        texts = captions_of(self.study, self.role, records, keywords_of(self.study, self.role, records))
        for record, text in zip(records, texts, strict=True):
            named[self.classes[record.label]][text] += 1
        return {name: dict(counted.most_common()) for name, counted in named.items()}

    def plain(self) -> dict[str, Any]:
        """All of it for health.json."""
        groups = Counter(record.group for records in self.good.values() for record in records if record.group)
        return {
            "name": self.study.images_of(self.role).name,
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
            "bad": self.study.scans[self.role].bad,
            "near_duplicates": [
                {
                    "images": [pair.one.path, pair.other.path],
                    "splits": [pair.one.split, pair.other.split],
                    "classes": [self.classes[pair.one.label], self.classes[pair.other.label]],
                    "agreement": pair.agreement,
                }
                for pair in self.pairs
            ],
            "near_duplicates_across_splits": len(image_sets.across(self.pairs)),
            "captions": self.captions,
        }


def artifacts(study: "Study") -> list[Artifact]:
    """The artifacts that the report reads."""
    near = [image_sets.paired(study, role) for role in ROLES]
    keywords = [keywords_of(study, role, study.sources[role].records("train")) for role in ROLES]
    return [*near, *(found for found in keywords if found)]


def write(study: "Study", folder: Path) -> list[Path]:
    """Write the report of the SAR set and the ORS set into the folder of the run."""
    looks = {study.slot(role): Health.of(study, role) for role in ROLES}
    content = {slot: look.plain() for slot, look in looks.items()}
    text = json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    write_text(folder / HEALTH, text + "\n")
    known = {"images": f"{sum(len(study.scans[role].paths) for role in ROLES):,}"} | {
        f"{what} in {slot}": f"{count:,}"
        for slot, look in looks.items()
        for what, count in (
            ("bad", len(content[slot]["bad"])),
            ("near-duplicates across splits", content[slot]["near_duplicates_across_splits"]),
        )
    }
    page = html.render(
        "report.html",
        title=f"Health of data={study.settings.data.name} and ors={study.settings.ors.name}",
        lead="What the images of a study are, before anything is trained on them.",
        known=known,
        parts=[section for look in looks.values() for section in sections(look)],
    )
    write_text(folder / REPORT, page.encode("utf-8", "backslashreplace").decode())
    for look in looks.values():
        study.say_counts(look.role, look.counts, "train")
    return [folder / REPORT, folder / HEALTH]


def sections(look: Health) -> list[Section]:
    """Lay one set out."""
    slot = look.study.slot(look.role)
    return [
        Section(f"{slot}-{anchor}", f"{slot}: {heading}", about, pieces)
        for anchor, heading, about, pieces in (
            ("images", "images and values", "Bad images are left out of all figures.", figures(look)),
            ("bad", "bad images", "They are left out, never repaired or deleted.", bad(look)),
            (
                "duplicates",
                "near-duplicates",
                "Two images whose perceptual hashes and fine structure agree. Splits that we draw never part them; "
                "those that the data set gives may, and then scores on its test images flatter.",
                duplicates(look),
            ),
            ("sheets", "contact sheets", "Small pictures, evenly spread over the images of a class.", sheets(look)),
            ("contours", "contours", "Training images and their edges, as contours=real gives them.", outlines(look)),
            ("captions", "captions", "What the denoiser is told of the training images.", spoken(look)),
        )
    ]


def figures(look: Health) -> list[Piece]:
    """Counts, sizes, saturation and values of each class."""
    pieces: list[Piece] = [
        Table(
            "Images by split and class",
            ["split", *look.classes, "total"],
            [
                [split, *(f"{n:,}" for n in counts.values()), f"{sum(counts.values()):,}"]
                for split, counts in look.counts.items()
            ],
        )
    ]
    rows: list[list[Cell | str]] = []
    for name, facts in look.summary.items():
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
    pieces.append(Table(caption, columns, rows))
    for dtype in sorted({dtype for facts in look.summary.values() for dtype in facts["histograms"]}):
        kept = {name: facts["histograms"].get(dtype) for name, facts in look.summary.items()}
        counted = {name: counts for name, counts in kept.items() if counts is not None}
        used = np.flatnonzero(np.sum(list(counted.values()), axis=0))
        low, high = (0, len(edges(dtype)) - 1) if dtype == "uint8" else (used[0], used[-1] + 1)
        panels = {name: (edges(dtype)[low : high + 1], counts[low:high]) for name, counts in counted.items()}
        figure = plots.histograms(panels, "value", doubling=dtype != "uint8")
        pieces.append(Plot(f"{dtype}-values", figure, "Histograms of pixel values by class", f"Pixels of type {dtype}"))
    scan = look.study.scans[look.role]
    sides = {
        name: np.sqrt(
            np.prod(
                scan.sizes[[scan.rows[r.path] for rs in look.good.values() for r in rs if r.label == label]], axis=1
            )
        )
        for label, name in enumerate(look.classes)
    }
    everything = np.concatenate(list(sides.values()))
    if len(everything):
        limits = np.linspace(np.floor(everything.min()), np.floor(everything.max()) + 1, SIZE_BINS + 1)
        panels = {name: (limits, np.histogram(values, limits)[0]) for name, values in sides.items()}
        figure = plots.histograms(panels, "root of the area, px")
        pieces.append(Plot("sizes", figure, "Histograms of image sizes by class", "Sizes of the images"))
    return pieces


def _common(sizes: Counter[str], number: float) -> str:
    """Name the commonest of a number of sizes."""
    common = ", ".join(f"{size} ({count:,})" for size, count in sizes.most_common(2))
    return common + (f" and {number - 2} more" if number > 2 else "")


def bad(look: Health) -> list[Piece]:
    """Name every bad image and say why it is bad."""
    found = look.study.scans[look.role].bad
    if not found:
        return [Note("There are none.")]
    limit, total = look.study.images_of(look.role).max_bad, len(look.study.scans[look.role].paths)
    caption = f"{len(found):,} of {total:,} images; a run stops at more than {100 * limit:g} %"
    return [Table(caption, ["image", "reason"], [[path, reason] for path, reason in found.items()], numeric=False)]


def duplicates(look: Health) -> list[Piece]:
    """Show near-duplicates across splits, and name those that are of two classes."""
    crossing = image_sets.across(look.pairs)
    copies = sum(pair.agreement >= image_sets.COPY for pair in crossing)
    pieces: list[Piece] = [
        Note(
            f"{len(look.pairs):,} pairs, {len(crossing):,} of them across splits; {copies:,} of these agree at "
            f"{image_sets.COPY} or more and are one recording, and nothing may learn from them (data.allow_leak)."
        )
    ]
    torn = [pair for pair in look.pairs if pair.one.label != pair.other.label]
    for caption, several in (("Across splits", crossing), ("Of two classes", torn)):
        if not several:
            continue
        rows = [
            [
                pair.one.path,
                pair.other.path,
                *(f"{one.split}, {look.classes[one.label]}" for one in (pair.one, pair.other)),
                f"{pair.agreement:.3f}",
            ]
            for pair in several[:PAIRS]
        ]
        shown = f"{caption}: the first {PAIRS} of {len(several):,}" if len(several) > PAIRS else caption
        pieces.append(
            Table(f"{shown}; all are in {HEALTH}", ["one", "the other", "is", "is", "agreement"], rows, numeric=False)
        )
    scan = look.study.scans[look.role]
    shown_pairs = [
        Picture(
            _picture(np.hstack([scan.thumbs[scan.rows[one.path]] for one in (pair.one, pair.other)]), pair.one.path),
            f"{pair.one.path} ({pair.one.split}) | {pair.other.path} ({pair.other.split})",
        )
        for pair in crossing[:PAIRS]
    ]
    return [*pieces, Gallery("Pairs across splits", shown_pairs)] if shown_pairs else pieces


def sheets(look: Health) -> list[Piece]:
    """Show images of each class."""
    scan = look.study.scans[look.role]
    pieces = []
    for label, name in enumerate(look.classes):
        rows = [scan.rows[r.path] for records in look.good.values() for r in records if r.label == label]
        chosen = _spread(rows, SHEET)
        if chosen:
            tiles = [scan.thumbs[row][None] for row in chosen]
            lines = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
            sheet = pictures.compose([("", lines)], [""] * len(lines), f"{name}: {len(rows):,} images")
            pieces.append(Picture(html.image(sheet, f"Images of {name}"), f"{len(chosen)} of {len(rows):,} of {name}"))
    return [Gallery("By class", pieces)] if pieces else [Note("There are no images.")]


def outlines(look: Health) -> list[Piece]:
    """Show a few images of each class above their contours."""
    shown = []
    for label, name in enumerate(look.classes):
        chosen = _spread([record for record in look.good["train"] if record.label == label], OUTLINED)
        if chosen:
            try:
                drawn = [outlined(look.study, look.role, record) for record in chosen]
            except UserError as error:  # no grey levels yet, for want of a mapping or of images to fit it to
                return [Note(str(error))]
            lines = [[image.transpose(2, 0, 1) for image, *_ in drawn], [edge[None] for _, edge, _ in drawn]]
            sheet = pictures.compose([("", lines)], ["image", "contour"], name)
            shown.append(Picture(html.image(sheet, f"Images and contours of {name}"), name))
    return [Gallery("By class", shown)] if shown else [Note("There are no training images.")]


def spoken(look: Health) -> list[Piece]:
    """List the commonest captions of each class."""
    rows: list[list[Cell | str]] = [
        [name, text, Cell(count, COUNT), f"{len(counted):,}"]
        for name, counted in look.captions.items()
        for text, count in list(counted.items())[:CAPTIONS]
    ]
    template = look.study.images_of(look.role).prompt
    caption = f"Made by the template `{template}`; up to {CAPTIONS} captions of each class"
    return [Table(caption, ["class", "caption", "images", "different captions"], rows, numeric=False)]


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Choose up to `most`, evenly spread."""
    return [items[place] for place in pictures.evenly(len(items), most)]


def _picture(pixels: np.ndarray, alt: str) -> Any:
    return html.image(Image.fromarray(pixels), alt)
