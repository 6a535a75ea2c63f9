"""Keywords from what is marked in an image and measured on it, in the paper's four aspects (section 4.1). Torch-free.

They are relations between objects, visibility, heading, and attributes of the object's parts; size is an attribute too.
Nothing is said of what is not known: images without marked objects have no relations, heading or size, and objects
in upright boxes no heading. A turned box does not tell bow from stern, so a heading is one of two opposite ones; as is
usual, the top of an image is taken for north.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from colorsys import rgb_to_hsv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from sarsynth.data.chips import LISTED
from sarsynth.data.records import Box, ImageRecord, Instance

HEADINGS = ("east or west", "north-east or south-west", "north or south", "north-west or south-east")
NUMBERS = ("no", "single", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SIZES = ("small size", "medium size", "large size")
PATCH = 1 / 40  # of the image's side: 15 px of 600, as where the dark channel comes from
# Up to which hue (degrees) a colour has which name; those beyond are red again.
HUES = ((15, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (260, "blue"), (345, "purple"), (360, "red"))
FEWEST = 4  # pixels that a colour is measured on

Look = Callable[[ImageRecord], tuple[np.ndarray, Box]]


@dataclass(frozen=True)
class Rules:
    """What keywords say, and from where on.

    Attributes:
        aspects: Which, in their order: `relation`, `visibility`, `heading`, `size`, `parts`.
        noun: What the objects are, e.g. ship.
        places: Names of objects that others lie at, and what is said then, e.g. {harbor: in a harbour}.
        beside: Gap to the nearest other object, as a share of an object's length, up to which it lies beside it.
        many: Objects from which on nobody counts, 2 to 11.
        elongation: Length to width from which on a turned box has a heading.
        size: `class` for terciles of the length in px among the class's images, `image` for thirds of the image's side.
        haze: Mean dark channel, 0 to 1, from which on there may be fog.
        contrast: RMS contrast up to which fog it is.
        dark: Mean luminance, 0 to 1, up to which an image is dark.
        bright: Mean luminance from which on it is bright.
        parts: Words that tell an attribute of a part in an image's own text.
    """

    aspects: tuple[str, ...]
    noun: str
    places: Mapping[str, str]
    beside: float
    many: int
    elongation: float
    size: str
    haze: float
    contrast: float
    dark: float
    bright: float
    parts: tuple[str, ...]


def keywords(records: Sequence[ImageRecord], look: Look, rules: Rules) -> Iterator[tuple[str, ...]]:
    """Yield the keywords of each image, reading several at a time.

    Args:
        records: The training images of a set; the sizes of a class are relative to its others.
        look: Reads an image: uint8 (H, W, C), and what is seen of it, px.
        rules: What to say.
    """
    limits = terciles(records)

    def describe(record: ImageRecord) -> tuple[str, ...]:
        once = cache(lambda: look(record))  # only if some aspect needs pixels, and once
        found = [word for aspect in rules.aspects for word in ASPECTS[aspect](record, once, rules, limits)]
        return tuple(dict.fromkeys(found))

    with ThreadPoolExecutor() as pool:
        yield from pool.map(describe, records)


# --- From annotations -------------------------------------------------------------------------------------------------


def relation(own: Instance, shown: Sequence[Instance], rules: Rules) -> Iterator[str]:
    """Say how many objects there are, whether the own one lies beside another, and in what place.

    Args:
        own: The object that an image is of.
        shown: All objects in it.
        rules: What to say.
    """
    objects = [one for one in shown if one.name not in rules.places]
    count = len(objects)
    around = [rules.places.get(one.name or "") for one in shown if one is not own]
    places = [place for place in dict.fromkeys(around) if place]
    if count >= min(rules.many, LISTED):
        yield f"many {rules.noun}s"
    elif count:
        yield f"{NUMBERS[count]} {rules.noun}" + "s" * (count > 1)
    others = [one for one in objects if one is not own]
    if own in objects and any(gap(own, other) <= rules.beside * length(own) for other in others):
        yield f"beside another {rules.noun}"
    if own in objects and not others and not places:
        yield "alone"
    yield from places


def heading(one: Instance, elongation: float) -> str | None:
    """Name the two opposite headings that a turned box allows; None for one that is upright or too square."""
    if not one.corners:
        return None
    (_, _), (width, height), angle = cv2.minAreaRect(np.array(one.corners, dtype=np.float32))
    if max(width, height) < elongation * min(width, height):
        return None
    along = -(angle + 90 * (height > width)) % 180  # degrees from the rows, counter-clockwise as seen
    return HEADINGS[round(along / 45) % 4]


def length(one: Instance) -> float:
    """Give an object's length in px: the longer side of its box, which in an upright one is too short by the turn."""
    if one.corners:
        return max(cv2.minAreaRect(np.array(one.corners, dtype=np.float32))[1])
    x0, y0, x1, y1 = one.box
    return max(x1 - x0, y1 - y0)


def gap(one: Instance, other: Instance) -> float:
    """Give the distance in px between two boxes, 0 if they overlap."""
    first, second = outline(one), outline(other)
    area, _ = cv2.intersectConvexConvex(first, second)
    if area > 0:
        return 0.0
    # Convex outlines that are apart come nearest at a corner of one of them.
    pairs = ((first, second), (second, first))
    return min(
        max(0.0, -cv2.pointPolygonTest(around, (float(x), float(y)), measureDist=True))
        for corners, around in pairs
        for x, y in corners
    )


def outline(one: Instance) -> np.ndarray:
    """Give the corners of an object's box, float32 (4, 2)."""
    x0, y0, x1, y1 = one.box
    return np.array(one.corners or ((x0, y0), (x1, y0), (x1, y1), (x0, y1)), dtype=np.float32)


def visible(instances: Iterable[Instance], frame: Box) -> list[Instance]:
    """List the objects of which something lies in a frame."""
    left, top, right, bottom = frame
    return [o for o in instances if o.box[0] < right and o.box[2] > left and o.box[1] < bottom and o.box[3] > top]


def terciles(records: Iterable[ImageRecord]) -> dict[int, tuple[float, float]]:
    """Give, for each label, the lengths (px) that part its images into small, medium-sized and large objects."""
    lengths = defaultdict(list)
    for record in records:
        if record.instances:
            lengths[record.label].append(length(record.instances[0]))
    return {label: tuple(np.quantile(found, (1 / 3, 2 / 3)).tolist()) for label, found in lengths.items()}


def size(value: float, limits: tuple[float, float]) -> str:
    """Name a size between two limits; what equals one is of medium size."""
    return SIZES[1 + (value > limits[1]) - (value < limits[0])]


# --- From pixels ------------------------------------------------------------------------------------------------------


def haze(pixels: np.ndarray) -> float:
    """Measure how far a veil of light lies over an image, 0 to 1: the mean of its dark channel.

    That is the least of the three colours in a patch around each pixel (He et al., doi:10.1109/TPAMI.2010.168): in
    clear air something in the patch is dark in some colour.

    Args:
        pixels: uint8, shape (H, W, 3).
    """
    patch = 2 * round(PATCH * min(pixels.shape[:2]) / 2) + 1
    return float(cv2.erode(pixels.min(axis=2), np.ones((patch, patch), np.uint8)).mean() / 255)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Weigh the colours as ITU-R BT.601 does: uint8 (H, W, 3) to float32 (H, W) in [0, 1]."""
    return (pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)) / 255


def contrast(pixels: np.ndarray) -> float:
    """Measure RMS contrast, the deviation of the luminance (Peli, doi:10.1364/JOSAA.7.002032), 0 to 0.5."""
    return float(luminance(pixels).std())


def visibility(pixels: np.ndarray, rules: Rules) -> Iterator[str]:
    """Say whether the air is clear, and whether it is dark or bright; uint8, shape (H, W, 3)."""
    yield "fog" if haze(pixels) >= rules.haze and contrast(pixels) <= rules.contrast else "clear"
    mean = float(luminance(pixels).mean())
    if mean <= rules.dark:
        yield "dark"
    elif mean >= rules.bright:
        yield "bright"


def colours(pixels: np.ndarray, one: Instance) -> Iterator[str]:
    """Say which colours deck and hull have: the median of the inner half of the box, and that of its rim.

    Around an object in an upright box lies water, so there it is the deck alone.

    Args:
        pixels: uint8, shape (H, W, 3).
        one: The object.
    """
    regions = {"deck": (0.5, 0.0)} | ({"hull": (0.95, 0.75)} if one.corners else {})
    for part, (outer, inner) in regions.items():
        inside = pixels[_mask(pixels, one, outer) & ~_mask(pixels, one, inner)]
        if len(inside) >= FEWEST:
            red, green, blue = np.median(inside, axis=0).tolist()
            yield f"{colour(red, green, blue)} {part}"


def colour(red: float, green: float, blue: float) -> str:
    """Name a colour, each part 0 to 255, by its hue; greys and browns by saturation and value."""
    hue, saturation, value = rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.2:
        return "black"
    if saturation < 0.25:
        return "white" if value > 0.8 else "grey"
    name = next(name for limit, name in HUES if 360 * hue <= limit)
    return "brown" if name == "orange" and value < 0.65 else name


def _mask(pixels: np.ndarray, one: Instance, share: float) -> np.ndarray:
    """Mark the inside of an object's box, its sides shortened to a share: bool, shape (H, W)."""
    filled = np.zeros(pixels.shape[:2], np.uint8)
    if share:
        corners = outline(one)
        middle = corners.mean(axis=0)
        # A pixel's centre lies half a pixel behind its border, and OpenCV counts from centres.
        shrunk = np.round(middle + share * (corners - middle) - 0.5).astype(np.int32)
        cv2.fillConvexPoly(filled, shrunk, 1)
    return filled.astype(bool)


# --- Aspects ----------------------------------------------------------------------------------------------------------

Seen = Callable[[], tuple[np.ndarray, Box]]
Limits = Mapping[int, tuple[float, float]]


def _relation(record: ImageRecord, seen: Seen, rules: Rules, limits: Limits) -> Iterable[str]:
    if not record.instances:
        return ()
    return relation(record.instances[0], visible(record.instances, seen()[1]), rules)


def _visibility(record: ImageRecord, seen: Seen, rules: Rules, limits: Limits) -> Iterable[str]:
    pixels = _within(*seen())
    return visibility(pixels, rules) if pixels.shape[2] == 3 else ()  # radar sees neither fog nor night


def _heading(record: ImageRecord, seen: Seen, rules: Rules, limits: Limits) -> Iterable[str]:
    found = heading(record.instances[0], rules.elongation) if record.instances else None
    return (f"heading {found}",) if found else ()


def _size(record: ImageRecord, seen: Seen, rules: Rules, limits: Limits) -> Iterable[str]:
    if not record.instances:
        return ()
    if rules.size == "class":
        return (size(length(record.instances[0]), limits[record.label]),)
    left, _, right, _ = seen()[1]
    return (size(length(record.instances[0]) / (right - left), (1 / 3, 2 / 3)),)


def _parts(record: ImageRecord, seen: Seen, rules: Rules, limits: Limits) -> Iterable[str]:
    told = set(rules.parts)
    phrases = [phrase.strip() for phrase in (record.text or "").split(",")]
    if named := [phrase for phrase in phrases if told & set(re.findall(r"\w+", phrase.lower()))]:
        return named
    pixels = seen()[0]
    own = next(iter(record.instances), None)
    coloured = own is not None and own.name not in rules.places and pixels.shape[2] == 3
    return colours(pixels, own) if own is not None and coloured else ()


def _within(pixels: np.ndarray, frame: Box) -> np.ndarray:
    x0, y0, x1, y1 = (int(edge) for edge in frame)
    return np.ascontiguousarray(pixels[y0:y1, x0:x1])


ASPECTS: Mapping[str, Callable[[ImageRecord, Seen, Rules, Limits], Iterable[str]]] = {
    "relation": _relation,
    "visibility": _visibility,
    "heading": _heading,
    "size": _size,
    "parts": _parts,
}
