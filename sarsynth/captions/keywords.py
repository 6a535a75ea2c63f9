"""Keywords from what is marked in an image and measured on it, in the paper's four aspects (section 4.1). Torch-free.

They are relations between objects, visibility, heading, and attributes of the object's parts; size is an attribute too.
What is not known gets no keyword: images without marked objects have no relations, heading or size, and objects in
upright boxes no heading. A rotated box does not tell bow from stern, so a heading is one of two opposite ones; as is
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
PATCH = 1 / 40  # of the image's side: 15 px of 600, as in the paper of the dark channel
# Up to which hue (degrees) a colour has which name.
HUES = ((15, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (260, "blue"), (345, "purple"), (360, "red"))
FEWEST = 4  # pixels that a colour is measured on

Look = Callable[[ImageRecord], tuple[np.ndarray, Box]]


@dataclass(frozen=True)
class Rules:
    """Which keywords there are, and their thresholds."""

    aspects: tuple[str, ...]  # in their order: `relation`, `visibility`, `heading`, `size`, `parts`
    noun: str  # what the objects are, e.g. ship
    places: Mapping[str, str]  # names of objects that others lie at, and their keywords, e.g. {harbor: in a harbour}
    beside: float  # largest gap between objects that lie beside each other, as a share of an object's length
    many: int  # number of objects, 2 to 11, that is `many` and no longer counted
    elongation: float  # least length to width at which a rotated box has a heading
    size: str  # `class`: terciles of the length in px among the class's images; `image`: thirds of the image's side
    haze: float  # least mean dark channel, 0 to 1, of fog
    contrast: float  # largest RMS contrast of fog
    dark: float  # largest mean luminance, 0 to 1, of a dark image
    bright: float  # least mean luminance of a bright image
    parts: tuple[str, ...]  # words by which a phrase in an image's own text is known to describe a part


def keywords(records: Sequence[ImageRecord], look: Look, rules: Rules) -> Iterator[tuple[str, ...]]:
    """Yield the keywords of each image, reading several at a time.

    Args:
        records: The training images of a set; the sizes of a class are relative to its others.
        look: Reads an image: uint8 (H, W, C), and the box that training shows of it, px.
        rules: Which keywords, and their thresholds.
    """
    limits = terciles(records)

    def describe(record: ImageRecord) -> tuple[str, ...]:
        seen = cache(lambda: look(record))  # read only if some aspect needs pixels, and once
        words = [word for aspect in rules.aspects for word in ASPECTS[aspect](record, seen, rules, limits)]
        return tuple(dict.fromkeys(words))

    with ThreadPoolExecutor() as pool:
        yield from pool.map(describe, records)


# --- From annotations -------------------------------------------------------------------------------------------------


def relation(own: Instance, shown: Sequence[Instance], rules: Rules) -> Iterator[str]:
    """Say how many objects there are, whether the image's own one lies beside another, and in what place.

    Args:
        own: The object that an image is of.
        shown: All objects in it.
        rules: Which keywords, and their thresholds.
    """
    objects = [instance for instance in shown if instance.name not in rules.places]
    count = len(objects)
    around = [rules.places.get(instance.name or "") for instance in shown if instance is not own]
    places = [place for place in dict.fromkeys(around) if place]
    if count >= min(rules.many, LISTED):
        yield f"many {rules.noun}s"
    elif count:
        yield f"{NUMBERS[count]} {rules.noun}" + "s" * (count > 1)
    others = [instance for instance in objects if instance is not own]
    if own in objects and any(gap(own, other) <= rules.beside * length(own) for other in others):
        yield f"beside another {rules.noun}"
    if own in objects and not others and not places:
        yield "alone"
    yield from places


def heading(instance: Instance, elongation: float) -> str | None:
    """Name the two opposite headings that a rotated box allows; None for one that is upright or too square."""
    if not instance.corners:
        return None
    (_, _), (width, height), angle = cv2.minAreaRect(np.array(instance.corners, dtype=np.float32))
    if max(width, height) < elongation * min(width, height):
        return None
    along = -(angle + 90 * (height > width)) % 180  # degrees from the rows, counter-clockwise as seen
    return HEADINGS[round(along / 45) % 4]


def length(instance: Instance) -> float:
    """Give an object's length in px: the longer side of its box; an upright box of a slanting object is too short."""
    if instance.corners:
        return max(cv2.minAreaRect(np.array(instance.corners, dtype=np.float32))[1])
    x0, y0, x1, y1 = instance.box
    return max(x1 - x0, y1 - y0)


def gap(instance: Instance, other: Instance) -> float:
    """Give the distance in px between two boxes, 0 if they overlap."""
    first, second = outline(instance), outline(other)
    area, _ = cv2.intersectConvexConvex(first, second)
    if area > 0:
        return 0.0
    # Where convex outlines come nearest, there is a corner of at least one of them.
    pairs = ((first, second), (second, first))
    return min(
        max(0.0, -cv2.pointPolygonTest(around, (float(x), float(y)), measureDist=True))
        for corners, around in pairs
        for x, y in corners
    )


def outline(instance: Instance) -> np.ndarray:
    """Give the corners of an object's box, float32 (4, 2)."""
    x0, y0, x1, y1 = instance.box
    return np.array(instance.corners or ((x0, y0), (x1, y0), (x1, y1), (x0, y1)), dtype=np.float32)


def visible(instances: Iterable[Instance], frame: Box) -> list[Instance]:
    """List the objects that lie in a frame at least in part."""
    left, top, right, bottom = frame
    return [o for o in instances if o.box[0] < right and o.box[2] > left and o.box[1] < bottom and o.box[3] > top]


def terciles(records: Iterable[ImageRecord]) -> dict[int, tuple[float, float]]:
    """Give, for each label, the two lengths (px) between small, medium-sized and large objects."""
    lengths = defaultdict(list)
    for record in records:
        if record.instances:
            lengths[record.label].append(length(record.instances[0]))
    return {label: tuple(np.quantile(values, (1 / 3, 2 / 3)).tolist()) for label, values in lengths.items()}


def size(value: float, limits: tuple[float, float]) -> str:
    """Name a size by two limits; a value that equals one of them is of medium size."""
    return SIZES[1 + (value > limits[1]) - (value < limits[0])]


# --- From pixels ------------------------------------------------------------------------------------------------------


def haze(pixels: np.ndarray) -> float:
    """Measure the veil of light over an image, 0 to 1: the mean of its dark channel.

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
    """Measure RMS contrast, the standard deviation of the luminance (Peli, doi:10.1364/JOSAA.7.002032), 0 to 0.5."""
    return float(luminance(pixels).std())


def visibility(pixels: np.ndarray, rules: Rules) -> Iterator[str]:
    """Say whether the air is clear, and whether it is dark or bright; uint8, shape (H, W, 3)."""
    yield "fog" if haze(pixels) >= rules.haze and contrast(pixels) <= rules.contrast else "clear"
    mean = float(luminance(pixels).mean())
    if mean <= rules.dark:
        yield "dark"
    elif mean >= rules.bright:
        yield "bright"


def colours(pixels: np.ndarray, instance: Instance) -> Iterator[str]:
    """Say which colours deck and hull have: the median of the inner half of the box, and that of its rim.

    The rim of an upright box is water, so there it is the deck alone.

    Args:
        pixels: uint8, shape (H, W, 3).
        instance: The object.
    """
    regions = {"deck": (0.5, 0.0)} | ({"hull": (0.95, 0.75)} if instance.corners else {})
    for part, (outer, inner) in regions.items():
        inside = pixels[_mask(pixels, instance, outer) & ~_mask(pixels, instance, inner)]
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


def _mask(pixels: np.ndarray, instance: Instance, share: float) -> np.ndarray:
    """Mark the inside of an object's box, its sides shortened to a share: bool, shape (H, W)."""
    filled = np.zeros(pixels.shape[:2], np.uint8)
    if share:
        corners = outline(instance)
        centre = corners.mean(axis=0)
        # OpenCV counts from the centres of pixels, and boxes from their borders, half a pixel before.
        shrunk = np.round(centre + share * (corners - centre) - 0.5).astype(np.int32)
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
    name = heading(record.instances[0], rules.elongation) if record.instances else None
    return (f"heading {name}",) if name else ()


def _size(record: ImageRecord, seen: Seen, rules: Rules, limits: Limits) -> Iterable[str]:
    if not record.instances:
        return ()
    own = length(record.instances[0])
    if rules.size == "class":
        return (size(own, limits[record.label]),)
    left, _, right, _ = seen()[1]
    return (size(own / (right - left), (1 / 3, 2 / 3)),)


def _parts(record: ImageRecord, seen: Seen, rules: Rules, limits: Limits) -> Iterable[str]:
    words = set(rules.parts)
    phrases = [phrase.strip() for phrase in (record.text or "").split(",")]
    if of_parts := [phrase for phrase in phrases if words & set(re.findall(r"\w+", phrase.lower()))]:
        return of_parts
    pixels = seen()[0]
    if not record.instances or record.instances[0].name in rules.places or pixels.shape[2] != 3:
        return ()
    return colours(pixels, record.instances[0])


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
