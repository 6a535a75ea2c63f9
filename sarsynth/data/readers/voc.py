"""Pascal VOC's form of annotations, which DIOR and ShipRSImageNet use: XML files, and lists of names for splits."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from sarsynth.data.chips import rectangle
from sarsynth.data.folders import lines, matches
from sarsynth.data.records import SPLITS, Split
from sarsynth.errors import UserError

Corners = tuple[tuple[float, float], ...]
# Tags of a turned box's corners, in order around it: DIOR-R's and ShipRSImageNet's.
QUADRANGLES = {
    "robndbox": [f"{{}}_{corner}" for corner in ("left_top", "right_top", "right_bottom", "left_bottom")],
    "polygon": ["{}1", "{}2", "{}3", "{}4"],
}


def read_xml(file: Path) -> ElementTree.Element:
    """Parse an XML file.

    Raises:
        UserError: It is none.
    """
    try:
        return ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no XML file ({error}); repair or remove it") from error


def objects(file: Path) -> Iterator[ElementTree.Element]:
    """Yield the objects of an annotation file."""
    yield from read_xml(file).iter("object")


def word(element: ElementTree.Element, tag: str, file: Path) -> str:
    """Read the text below a tag, e.g. `bndbox/xmin`.

    Raises:
        UserError: There is none.
    """
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"{file}: an object has no <{tag}>; mend the annotation")
    return text


def number(element: ElementTree.Element, tag: str, file: Path) -> float:
    """Read the number below a tag.

    Raises:
        UserError: There is none.
    """
    text = word(element, tag, file)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{file}: expected a number in <{tag}>, found `{text}`") from None


def flag(element: ElementTree.Element, tag: str) -> bool:
    """Whether a mark such as `difficult` is set; one that is missing or empty is not."""
    return (element.findtext(tag) or "0").strip() not in ("0", "")


def corners(element: ElementTree.Element, file: Path) -> Corners:
    """Read an object's turned box if it has one, else its upright one; px.

    Raises:
        UserError: It has neither.
    """
    for tag, names in QUADRANGLES.items():
        if element.find(tag) is not None:
            x, y = ([number(element, f"{tag}/{name.format(axis)}", file) for name in names] for axis in "xy")
            return tuple(zip(x, y, strict=True))
    x0, y0, x1, y1 = (number(element, f"bndbox/{tag}", file) for tag in ("xmin", "ymin", "xmax", "ymax"))
    return rectangle(x0, y0, x1, y1)


def image_sets(folder: Path) -> dict[str, Split]:
    """Read which split each image belongs to from `train.txt`, `val.txt` and `test.txt`, by its name without suffix."""
    return {
        Path(name).stem.lower(): split
        for split in SPLITS
        for file in matches(folder, f"{split}.txt")
        for _, name in lines(file)
    }
