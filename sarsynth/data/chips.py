"""Squares of an image's own pixels: chips around marked objects of a scene, or the centre of an image. Torch-free."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sarsynth.data.records import Instance
from sarsynth.errors import UserError

STEP = 64  # px; sides of chips that are fitted to their objects are multiples of it, as in FUSRS
FARTHEST = 1e6  # px: no scene is so large
LISTED = 32  # objects of a chip that its record lists at most; marinas have hundreds

Points = tuple[tuple[float, float], ...]  # (x, y) in px


@dataclass(frozen=True)
class Marked:
    """An object marked in a scene: its four corners (x, y) in px, in order around it."""

    class_name: str
    corners: Points
    truncated: bool = False
    difficult: bool = False

    @property
    def turned(self) -> bool:
        """Whether its box is turned and so says how the object lies; an upright one does not."""
        return len({x for x, _ in self.corners}) > 2 or len({y for _, y in self.corners}) > 2


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Give the corners of an upright box."""
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def quadrangle(numbers: Sequence[float]) -> Points:
    """Give the corners of a box x1, y1, … x4, y4."""
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def check_box(corners: Points, where: str) -> Points:
    """Return a box's corners; a `UserError`, which begins with `where`, if they are in no image."""
    if not all(abs(value) <= FARTHEST for corner in corners for value in corner):  # nor is what is no number
        numbers = " ".join(str(value)[:20] for corner in corners for value in corner)
        raise UserError(f"{where}: a box with the corners {numbers} lies in no image; mend or remove it")
    return corners


def has_area(corners: Points) -> bool:
    """Whether a box is more than a point or a line."""
    turned = corners[1:] + corners[:1]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(corners, turned, strict=True))) > 0


@dataclass(frozen=True)
class Window:
    """A square of a scene, turned about its centre."""

    x: float  # of the centre, px from the scene's left border
    y: float  # of the centre, px from its upper border
    side: int  # px
    angle: float = 0.0  # degrees from the scene's rows to the window's, clockwise as seen; 0 takes pixels as they are

    def locate(self, points: np.ndarray) -> np.ndarray:
        """Map points of the scene, px, shape (…, 2), to points of the window."""
        return (points - (self.x, self.y)) @ self._turn().T + self.side / 2

    def cut(self, scene: np.ndarray) -> np.ndarray:
        """Cut the window out of its scene, uint8, uint16 or float32 (H, W, C): same type, (side, side, C).

        The scene is mirrored outwards where it ends, and sampled bilinearly if the window is turned.
        """
        if not self.angle:
            return square(scene, round(self.x - self.side / 2), round(self.y - self.side / 2), self.side)
        # OpenCV, which takes at most 32767 px, gets the upright square around the turned one.
        reach = math.ceil(self.side * math.sqrt(2)) + 2
        left, top = math.floor(self.x - reach / 2), math.floor(self.y - reach / 2)
        around = square(scene, left, top, reach)
        # OpenCV counts from the centres of pixels, half a pixel behind their borders.
        shift = self.locate(np.array([left, top]) + 0.5) - 0.5
        matrix = np.column_stack([self._turn(), shift])
        turned = cv2.warpAffine(around, matrix, (self.side, self.side), flags=cv2.INTER_LINEAR)
        return turned.reshape(self.side, self.side, scene.shape[2])

    def _turn(self) -> np.ndarray:
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        return np.array([[cos, sin], [-sin, cos]])


@dataclass(frozen=True)
class Cutting:
    """How chips are cut; raises a `UserError` if a value is out of range."""

    size: int | None  # side of every chip in px; None fits each to its object
    margin: float  # share of the object's longer side that a fitted chip leaves on each side of it
    rotate: bool  # turn each chip so that its object's longer side lies along the rows

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UserError(f"size={self.size}: use a side in pixels, or null to fit each chip to its object")
        if self.margin < 0:
            raise UserError(f"margin={self.margin:g}: use a share of the object's longer side, 0 or more")

    def window(self, corners: Points, width: int, height: int) -> Window:
        """Place a chip on an object in a scene of so many px.

        A chip that is not turned is shifted inwards where it would reach beyond the scene.
        """
        points = np.array(corners, dtype=np.float32)
        low, high = points.min(axis=0), points.max(axis=0)
        (x, y), sides, angle = (low + high) / 2, high - low, 0.0
        if self.rotate:
            (x, y), sides, angle = cv2.minAreaRect(points)
            angle += 90 * (sides[1] > sides[0])
            angle = round((angle + 90) % 180 - 90, 2)  # the smaller of the two turns that do it
            x, y = min(max(x, 0), width), min(max(y, 0), height)
        side = self.size or STEP * math.ceil(max(1, max(sides)) * (1 + 2 * self.margin) / STEP)
        if angle:
            return Window(round(float(x), 2), round(float(y), 2), side, angle)
        left, top = (
            min(max(0, round(float(centre) - side / 2)), length - side) if length >= side else (length - side) // 2
            for centre, length in ((x, width), (y, height))
        )
        return Window(left + side / 2, top + side / 2, side)


def instances(
    objects: Sequence[Marked], views: Iterable[tuple[int, Window | None]], width: int, height: int
) -> Iterator[tuple[Instance, ...]]:
    """List the objects that chips of one scene show, in px of each chip: its own one, then the nearest ones.

    A view says which of the scene's objects a chip is of, and where it lies; None for the whole scene. Objects that
    reach beyond the scene, `width` x `height` px, are truncated.
    """
    corners = np.array([marked.corners for marked in objects], dtype=float)
    beyond = (corners.min(axis=1) < 0).any(axis=1) | (corners.max(axis=1) > (width, height)).any(axis=1)
    for own, window in views:
        placed = window.locate(corners) if window else corners
        size = (window.side, window.side) if window else (width, height)
        boxes = np.concatenate([placed.min(axis=1), placed.max(axis=1)], axis=1)  # (objects, 4)
        shown = (boxes[:, :2] < size).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
        others = np.flatnonzero(shown & (np.arange(len(objects)) != own))
        centres = boxes[:, :2] + boxes[:, 2:]
        distances = np.linalg.norm(centres[others] - centres[own], axis=1)
        listed = [own, *others[np.argsort(distances, kind="stable")].tolist()][:LISTED]
        boxes, placed = boxes.round(2), placed.round(2)
        visible = []
        for i in listed:
            o, turned = objects[i], tuple(map(tuple, placed[i].tolist())) if objects[i].turned else ()
            truncated = bool(o.truncated or beyond[i])
            visible.append(Instance(tuple(boxes[i].tolist()), truncated, o.difficult, turned, o.class_name))
        yield tuple(visible)


# --- Upright squares --------------------------------------------------------------------------------------------------


def square(pixels: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """Cut an upright square out of an image (H, W, C), mirrored outwards where the image ends."""
    height, width = pixels.shape[:2]
    x0, y0 = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    x1, y1 = max(min(left + side, width), x0 + 1), max(min(top + side, height), y0 + 1)
    inside = pixels[y0:y1, x0:x1]
    if inside.shape[:2] == (side, side):
        return inside
    return np.pad(inside, ((y0 - top, top + side - y1), (x0 - left, left + side - x1), (0, 0)), mode="reflect")


def centre_crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """Cut the central square out of an image (H, W, C), mirrored outwards where the image ends."""
    height, width = pixels.shape[:2]
    return square(pixels, crop_offset(width, side), crop_offset(height, side), side)


def crop_offset(length: int, side: int) -> int:
    """Where a central cut of `side` px begins; negative where the image is shorter and is filled up.

    Where both differ by an odd number, the cut lies half a pixel towards the upper left.
    """
    return (length - side) // 2 if length >= side else -((side - length) // 2)
