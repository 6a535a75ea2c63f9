"""The sections of a health report: what the images of one set are, before anything is trained on them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from sarsynth.data.curated import Pair
from sarsynth.data.entries import Seen
from sarsynth.data.framing import SLIGHT, Framing, Shape, inside, shapes
from sarsynth.data.health import THUMB, Scan, edges
from sarsynth.data.records import ImageRecord, Split, class_counts
from sarsynth.report import html, pictures, plots
from sarsynth.report.chips import tone_of
from sarsynth.report.pieces import COUNT, Cell, Command, Gallery, Note, Picture, Piece, Section, Table, Verdict
from sarsynth.report.plots import Plot

HEALTH = "health.json"
NEXT_STEP = (  # of who has one picture under two labels in a slot
    "find out which label is right, list the images of the other one in a file, a line each, and say {}.leave_out=FILE"
)
SHEET = 24  # images of a class on its contact sheet
COLUMNS = 12  # of it
PAIRS = 24  # near-duplicates that are shown, and rows of a table of names
CAPTIONS = 3  # of a class
SIZE_BINS = 24
DARK = 70  # of 255: how much light falls on what is cut off


@dataclass(frozen=True, eq=False)
class Health:
    """What there is to say about one set."""

    slot: str  # its key in the settings
    name: str  # of the data set
    classes: Sequence[str]  # names of the labels
    good: Mapping[Split, list[ImageRecord]]  # images that are used, of each split
    seen: Seen  # files that are not read, and how others were taken
    files: int  # that are used
    scan: Scan  # what every image was found to be
    framing: Framing  # what is seen of images that are not square
    pairs: Sequence[Pair]  # near-duplicates
    leaking: Sequence[tuple[str, str]]  # training images that are held out: their names, and which one each is
    remedy: str | None  # the command that leaves these out
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

    @property
    def contradictions(self) -> list[Pair]:
        """One recording under two labels."""
        return [p for p in self.pairs if p.one.label != p.other.label and p.agreement >= self.copy]

    @property
    def shapes(self) -> list[tuple[str, Shape]]:
        """Sizes and scales of good images, by name."""
        return shapes([r for records in self.good.values() for r in records], self.scan.rows, self.scan.sizes)

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
                name: {**facts, "histograms": _plain(facts["histograms"])} for name, facts in self.summary.items()
            },
            "files": {
                "seen": self.files + len({file for files in self.seen.passed_over.values() for file in files}),
                "used": self.files,
                "passed_over": self.seen.passed_over,
                "remarks": self.seen.remarks,
            },
            "framing": asdict(self.framing) | {"warnings": list(self.framing.warnings(self.shapes))},
            "pixels": {note: len(paths) for note, paths in self.scan.noted.items()},
            "groups": {"count": len(groups), "largest": max(groups.values(), default=0)},
            "bad": self.scan.bad,
            "held_out": [{"image": name, "is": other} for name, other in self.leaking],
            "two_labels": [[pair.one.path, pair.other.path] for pair in self.contradictions],
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


def _plain(histograms: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {dtype: {"edges": edges(dtype).tolist(), "pixels": pixels.tolist()} for dtype, pixels in histograms.items()}


def page(healths: Sequence[Health], title: str, said: Verdict) -> str:
    """Lay several sets out on one page, below what they come to."""
    known = {"images": f"{sum(len(health.scan.paths) for health in healths):,}"}
    for health in healths:
        known[f"bad in {health.slot}"] = f"{len(health.scan.bad):,}"
        if health.contradictions:
            known[f"one picture, two labels in {health.slot}"] = f"{len(health.contradictions):,}"
        known[f"near-duplicates across splits in {health.slot}"] = f"{len(health.crossing):,}"
    lead = "What the images of a study are, before anything is trained on them."
    parts = [section for health in healths for section in sections(health)]
    return html.render("report.html", title=title, lead=lead, known=known, parts=parts, verdict=said)


def sections(health: Health) -> list[Section]:
    """Lay one set out."""
    copies = (
        "Two images whose perceptual hashes and fine structure agree. Splits that we draw never part them; "
        "those that the data set gives may, and then scores on its test images flatter."
    )
    images = [*_contradictions(health), _counts(health), *_files(health)]
    images += [_values(health), *_histograms(health), *_sizes(health)]
    parts: list[tuple[str, str, str, list[Piece]]] = [
        ("images", "images and values", "Bad images are left out of all figures.", images),
        ("shapes", "images that are not square", "Dark is what nothing that learns will see of them.", _shapes(health)),
        ("bad", "bad images", "They are left out, never repaired or deleted.", _bad(health)),
        ("duplicates", "near-duplicates", copies, _duplicates(health)),
        ("sheets", "contact sheets", "Small pictures, evenly spread over the images of a class.", _sheets(health)),
        ("contours", "contours", "Training images and their edges, as contours=real gives them.", _outlines(health)),
        ("captions", "captions", "What the denoiser is told of the training images.", _captions(health)),
    ]
    slot = health.slot
    return [Section(f"{slot}-{anchor}", f"{slot}: {name}", about, pieces) for anchor, name, about, pieces in parts]


def _counts(health: Health) -> Piece:
    counts = {split: [*by_class.values(), sum(by_class.values())] for split, by_class in health.counts.items()}
    rows = [[split, *(f"{count:,}" for count in of_split)] for split, of_split in counts.items()]
    return Table("Images by split and class", ["split", *health.classes, "total"], rows)


def _contradictions(health: Health) -> list[Piece]:
    """Name the pictures that have two labels, and what to do about it."""
    if not health.contradictions:
        return []
    rows = [_duplicate(pair, health.classes) for pair in health.contradictions[:PAIRS]]
    caption = f"Same picture, two labels: {len(health.contradictions):,}; {NEXT_STEP.format(health.slot)}"
    return [Table(caption, ["one", "the other", "is", "is", "agreement"], rows, numeric=False)]


def _files(health: Health) -> list[Piece]:
    """Say which files were passed over, how others were taken, and what was done to pixels; nothing of all the rest."""
    passed, noted = health.seen.passed_over, health.scan.noted
    rows = [[f"passed over: {reason}", f"{len(files):,}", files[0]] for reason, files in passed.items()]
    rows += [[f"read: {note}", f"{len(paths):,}", paths[0]] for note, paths in noted.items()]
    caption = f"{health.files:,} files are used; all others are in {HEALTH}"
    table = [Table(caption, ["what", "of", "e.g."], rows, numeric=False)] if rows else []
    return [*table, *(Note(f"{remark}.") for remark in health.seen.remarks)]


def _values(health: Health) -> Piece:
    """Sizes, saturation and types of pixels of each class."""
    rows: list[list[Cell | str]] = []
    for name, facts in health.summary.items():
        sizes = Counter(facts["sizes"])
        saturated = Cell(facts["saturated"], lambda share: f"{100 * share:.2f} %")
        size = Cell(len(sizes), partial(_common, sizes))
        rows.append([name, f"{facts['images']:,}", size, saturated, ", ".join(facts["histograms"])])
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
        by_class = {name: facts["histograms"] for name, facts in health.summary.items()}
        counted = {name: histograms[dtype] for name, histograms in by_class.items() if dtype in histograms}
        used = np.flatnonzero(np.sum(list(counted.values()), axis=0))
        low, high = (0, len(edges(dtype)) - 1) if dtype == "uint8" else (used[0], used[-1] + 1)
        panels = {name: (edges(dtype)[low : high + 1], counts[low:high]) for name, counts in counted.items()}
        figures = plots.both(plots.histograms, panels, "value", doubling=dtype != "uint8")
        alt, caption = "Histograms of pixel values by class", f"Pixels of type {dtype}"
        pieces.append(Plot(f"{dtype}-values", alt=alt, caption=caption, **figures))
    return pieces


def _sizes(health: Health) -> list[Piece]:
    """Histograms of image sizes; none without images."""
    sizes = {name: health.scan.sizes[health.rows(label)] for label, name in enumerate(health.classes)}
    sides = {name: np.sqrt(np.prod(size, axis=1)) for name, size in sizes.items()}
    all_sides = np.concatenate(list(sides.values()))
    if not len(all_sides):
        return []
    limits = np.linspace(np.floor(all_sides.min()), np.floor(all_sides.max()) + 1, SIZE_BINS + 1)
    panels = {name: (limits, np.histogram(values, limits)[0]) for name, values in sides.items()}
    figures = plots.both(plots.histograms, panels, "root of the area, px")
    return [Plot("sizes", alt="Histograms of image sizes by class", caption="Sizes of the images", **figures)]


def _shapes(health: Health) -> list[Piece]:
    """Say what images lose by becoming squares, and show those that lose most."""
    framing, cuts = health.framing, []
    for name, shape in sorted(health.shapes, key=lambda named: -framing.cut(named[1]))[:PAIRS]:
        if (share := framing.cut(shape)) > SLIGHT:
            scale = 2 * THUMB / max(shape[:2])
            size = max(1, round(shape.width * scale)), max(1, round(shape.height * scale))
            whole = Image.fromarray(health.scan.thumbs[health.scan.rows[name]]).resize(size)
            x0, y0, x1, y1 = (round(edge * scale) for edge in inside(framing.frame(shape), shape))
            lit = Image.new("L", size, DARK)
            lit.paste(255, (x0, y0, x1, y1))
            caption = f"{name}: {shape.height} x {shape.width} px, {share:.0%} of its length cut off"
            cuts.append(Picture(html.image(ImageChops.multiply(whole, lit), name), caption))
    notes: list[Piece] = [Note(f"{line}.") for line in framing.warnings(health.shapes)]
    if framing.extent:
        notes.append(Note(f"All show {framing.extent:g} m along each side, since the scale of all is known."))
    if not notes:
        return [Note("There are none that lose anything.")]
    return [*notes, Gallery("Those that lose most", cuts)] if cuts else notes


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
    summary = (
        f"{len(health.pairs):,} pairs, {len(health.crossing):,} of them across splits; {copies:,} of these agree "
        f"at {health.copy} or more and are one recording, and nothing may learn from them (data.leak)."
    )
    pieces: list[Piece] = [Note(summary)]
    if health.remedy:
        makes = f"without the {len(health.leaking):,} training images that are held out"
        pieces.append(Command(makes, health.remedy))
    of_two_classes = [pair for pair in health.pairs if pair.one.label != pair.other.label]
    for caption, pairs in (("Across splits", health.crossing), ("Of two classes", of_two_classes)):
        if pairs:
            shown = f"{caption}: the first {PAIRS} of {len(pairs):,}" if len(pairs) > PAIRS else caption
            rows = [_duplicate(pair, health.classes) for pair in pairs[:PAIRS]]
            columns = ["one", "the other", "is", "is", "agreement"]
            pieces.append(Table(f"{shown}; all are in {HEALTH}", columns, rows, numeric=False))
    scan, pair_pictures = health.scan, []
    for pair in health.crossing[:PAIRS]:
        thumbs = np.hstack([scan.thumbs[scan.rows[record.path]] for record in (pair.one, pair.other)])
        caption = f"{pair.one.path} ({pair.one.split}) | {pair.other.path} ({pair.other.split})"
        pair_pictures.append(Picture(html.image(Image.fromarray(thumbs), pair.one.path), caption))
    return [*pieces, Gallery("Pairs across splits", pair_pictures)] if pair_pictures else pieces


def _duplicate(pair: Pair, classes: Sequence[str]) -> list[str]:
    records = pair.one, pair.other
    where = [f"{record.split}, {classes[record.label]}" for record in records]
    return [*(record.path for record in records), *where, f"{pair.agreement:.3f}"]


def _sheets(health: Health) -> list[Piece]:
    """Show images of each class."""
    sheets = []
    for label, name in enumerate(health.classes):
        rows = health.rows(label)
        tiles = [health.scan.thumbs[rows[place]][None] for place in pictures.evenly(len(rows), SHEET)]
        if tiles:
            tone = tone_of(tiles)
            tiles = [tone.apply(tile) for tile in tiles]
            lines = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
            sheet = pictures.compose([("", lines)], [""] * len(lines), f"{name}: {len(rows):,} images")
            caption = ", ".join(filter(None, [f"{len(tiles)} of {len(rows):,} of {name}", tone.said]))
            sheets.append(Picture(html.image(sheet, f"Images of {name}"), caption))
    return [Gallery("By class", sheets)] if sheets else [Note("There are no images.")]


def _outlines(health: Health) -> list[Piece]:
    """Show a few images of each class above their contours."""
    if isinstance(health.outlines, str):
        return [Note(health.outlines)]
    sheets = []
    for name, outlined in health.outlines.items():
        lines = [[image.transpose(2, 0, 1) for image, _ in outlined], [contour[None] for _, contour in outlined]]
        sheet = pictures.compose([("", lines)], ["image", "contour"], name)
        sheets.append(Picture(html.image(sheet, f"Images and contours of {name}"), name))
    return [Gallery("By class", sheets)] if sheets else [Note("There are no training images.")]


def _captions(health: Health) -> list[Piece]:
    """List the commonest captions of each class."""
    rows: list[list[Cell | str]] = [
        [name, text, Cell(count, COUNT), f"{len(counted):,}"]
        for name, counted in health.captions.items()
        for text, count in list(counted.items())[:CAPTIONS]
    ]
    caption = f"Made by the template `{health.template}`; up to {CAPTIONS} captions of each class"
    return [Table(caption, ["class", "caption", "images", "different captions"], rows, numeric=False)]
