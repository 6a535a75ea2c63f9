"""Pascal VOC's form of annotations, which DIOR and ShipRSImageNet use: XML files, and lists of names for splits."""

import math
from pathlib import Path
from xml.etree import ElementTree

from sarsynth.data.chips import Marked, Points, check_box, rectangle
from sarsynth.data.folders import check_file, lines, matches
from sarsynth.data.records import SPLITS, Split
from sarsynth.errors import UserError

TURNED = "robndbox"  # of centre, size and angle, as roLabelImg and HRSC2016-MS write it

# Tags of a turned box's corners, in order around it: DIOR-R's and ShipRSImageNet's.
QUADRANGLES = {
    "robndbox": [f"{{}}_{corner}" for corner in ("left_top", "right_top", "right_bottom", "left_bottom")],
    "polygon": ["{}1", "{}2", "{}3", "{}4"],
}


def read_xml(file: Path) -> ElementTree.Element:
    """Parse an XML file; a `UserError` if it is none."""
    try:
        return ElementTree.parse(check_file(file)).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no XML file ({error}); repair or remove it") from error


def word(element: ElementTree.Element, tag: str, file: Path) -> str:
    """Read the text below a tag, e.g. `bndbox/xmin`; a `UserError` if there is none."""
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"{file}: an object has no <{tag}>; mend the annotation")
    return text


def number(element: ElementTree.Element, tag: str, file: Path) -> float:
    """Read the number below a tag; a `UserError` if there is none."""
    text = word(element, tag, file)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{file}: expected a number in <{tag}>, found `{text}`") from None


def marked(element: ElementTree.Element, class_name: str, corners: Points) -> Marked:
    """Make an object with its flags `truncated` and `difficult`; a flag that is missing or empty is not set."""
    flags = ((element.findtext(tag) or "0").strip() not in ("0", "") for tag in ("truncated", "difficult"))
    return Marked(class_name, corners, *flags)


def corners(element: ElementTree.Element, file: Path) -> Points:
    """Read an object's turned box if it has one, else its upright one, px.

    Raises:
        UserError: It has neither, or one that is no box.
    """
    for tag, names in QUADRANGLES.items():
        if element.find(f"{tag}/{names[0].format('x')}") is not None:
            x, y = ([number(element, f"{tag}/{name.format(axis)}", file) for name in names] for axis in "xy")
            return check_box(tuple(zip(x, y, strict=True)), str(file))
    if element.find(f"{TURNED}/cx") is not None:
        return turned(element, file, *(f"{TURNED}/{tag}" for tag in ("cx", "cy", "w", "h", "angle")))
    x0, y0, x1, y1 = (number(element, f"bndbox/{tag}", file) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if x0 > x1 or y0 > y1:
        raise UserError(f"{file}: a box ends before it begins: {x0:g} {y0:g} {x1:g} {y1:g}; mend or remove it")
    return check_box(rectangle(x0, y0, x1, y1), str(file))


def turned(element: ElementTree.Element, file: Path, *tags: str) -> Points:
    """Read the corners of a box whose tags say centre x and y, width, height (px) and angle (radians, clockwise)."""
    x, y, width, height, angle = (number(element, tag, file) for tag in tags)
    if not math.isfinite(angle):
        raise UserError(f"{file}: a box turned by {angle}; mend or remove it")
    cos, sin = math.cos(angle) / 2, math.sin(angle) / 2
    around = (
        (x + i * width * cos - j * height * sin, y + i * width * sin + j * height * cos)
        for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    )
    return check_box(tuple(around), str(file))


def image_sets(place: Path, *folders: str) -> dict[str, Split]:
    """Read from `train.txt`, `val.txt` and `test.txt` which split images belong to, by lower-case stem.

    Patterns name the folders of such lists; where these contradict each other, the last one holds.
    """
    patterns = [(split, f"{folder}/{split}.txt") for folder in folders for split in SPLITS]
    lists = [(split, file) for split, pattern in patterns for file in matches(place, pattern)]
    return {Path(name).stem.lower(): split for split, file in lists for _, name in lines(file)}
