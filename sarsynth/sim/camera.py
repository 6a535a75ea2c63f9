"""Draw a ship as a camera sees it: orthographic, any heading, any elevation, painter's algorithm."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from sarsynth.sim.ships import HULL_COLOURS, Beam, Box, Dome, Ship

# Pictures are drawn this many times larger and averaged down: cheap anti-aliasing for sub-pixel masts.
SUPERSAMPLING = 3


@dataclass(frozen=True)
class Camera:
    """Where the camera stands; its pixels are supersampled."""

    heading: float  # of the bow, radians; 0 points right in the picture, pi/2 away from the camera
    elevation: float  # of the view over the horizon, radians; pi/2 looks straight down
    scale: float  # px per metre
    centre: tuple[float, float]  # of the ship's waterline: column and row, px

    def project(self, points: np.ndarray) -> np.ndarray:
        """Map ship coordinates of shape (..., 3), metres, to pixels of shape (..., 2)."""
        cos, sin, flat, steep = self._turned
        along, across = points[..., 0], points[..., 1]
        pixels = np.empty((*points.shape[:-1], 2))
        pixels[..., 0] = self.centre[0] + (along * cos - across * sin) * self.scale
        pixels[..., 1] = self.centre[1] - (points[..., 2] * flat + (along * sin + across * cos) * steep) * self.scale
        return pixels

    @cached_property
    def _turned(self) -> tuple[np.float64, ...]:
        """Cosine and sine of the heading, and of the elevation."""
        return np.cos(self.heading), np.sin(self.heading), np.cos(self.elevation), np.sin(self.elevation)

    def nearness(self, points: np.ndarray) -> np.ndarray:
        """Distance towards the camera of ship coordinates of shape (..., 3); larger is nearer."""
        away = points[..., 0] * np.sin(self.heading) + points[..., 1] * np.cos(self.heading)
        return points[..., 2] * np.sin(self.elevation) - away * np.cos(self.elevation)


def fill(canvas: np.ndarray, points: np.ndarray, colour: tuple[float, ...]) -> None:
    """Fill a polygon (P, 2) in px, its edges smoothed, in place."""
    cv2.fillPoly(canvas, [fixed_point(points)], colour, lineType=cv2.LINE_AA, shift=4)


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Round px to integers with four fractional bits, as OpenCV draws with `shift=4`."""
    return np.round(points * 16).astype(np.int32)


def _shade(colour: tuple[int, int, int], amount: float) -> tuple[float, ...]:
    return tuple(np.clip(np.array(colour, float) * amount, 0, 255).tolist())


def _faces(box: Box) -> list[tuple[np.ndarray, float]]:
    """The walls and the roof of a box: corners (4, 3), counter-clockwise from outside, and how light each is."""
    walls = zip(box.ring, box.ring[1:] + box.ring[:1], (0.78, 0.62, 0.7, 0.58), strict=True)
    faces = [
        (np.array([(*a, box.z0), (*b, box.z0), (*b, box.z1), (*a, box.z1)]), lightness) for a, b, lightness in walls
    ]
    return [*faces, (np.array([(*corner, box.z1) for corner in box.ring]), 1.0)]


def _towards_camera(face: np.ndarray) -> bool:
    """Whether a face, its corners in px, is seen from outside."""
    (x0, y0), (x1, y1), (x2, y2) = face[:3].tolist()
    # Corners run counter-clockwise seen from outside; picture rows grow downwards, which turns the sign.
    return (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0) < 0


def draw_ship(canvas: np.ndarray, ship: Ship, camera: Camera, light: float = 1.0) -> None:
    """Paint a ship on a picture of shape (H, W, 3), RGB in [0, 255], float32, in place."""
    waterline, deck = ship.outline(0.0), ship.outline(ship.deck)
    colour = HULL_COLOURS[ship.hull_colour]
    fill(canvas, camera.project(waterline), _shade(colour, 0.5 * light))
    following = np.roll(np.arange(len(deck)), -1)
    for i in np.argsort(camera.nearness((waterline + waterline[following]) / 2)):
        j = following[i]
        wall = np.array([waterline[i], waterline[j], deck[j], deck[i]])
        if _towards_camera(seen := camera.project(wall)):
            along = abs(wall[1, 0] - wall[0, 0]) / (np.linalg.norm(wall[1] - wall[0]) + 1e-9)
            fill(canvas, seen, _shade(colour, light * (0.66 + 0.2 * along)))
    fill(canvas, camera.project(deck), _shade(ship.deck_colour, light))

    parts: list[Box | Dome | Beam] = [*ship.boxes, *ship.domes, *ship.beams]
    for part in sorted(parts, key=lambda part: float(camera.nearness(part.middle))):
        if isinstance(part, Box):
            for face, brightness in _faces(part):
                if _towards_camera(seen := camera.project(face)):
                    fill(canvas, seen, _shade(part.colour, light * brightness))
        elif isinstance(part, Dome):
            _draw_dome(canvas, part, camera, light)
        else:
            start, end = fixed_point(camera.project(np.array([part.start, part.end]))).tolist()
            width = max(1, round(part.width * camera.scale))
            cv2.line(canvas, start, end, _shade(part.colour, 0.9 * light), width, cv2.LINE_AA, 4)


def _draw_dome(canvas: np.ndarray, dome: Dome, camera: Camera, light: float) -> None:
    """Draw smaller and lighter discs that move to the upper left: a lit sphere."""
    for share, brightness in ((1.0, 0.72), (0.72, 0.9), (0.4, 1.08)):
        middle = camera.project(np.array([dome.x, dome.y, dome.z + dome.r * 0.25 * (1 - share)]))
        middle = middle + (share - 1) * dome.r * camera.scale * 0.3
        radius = max(1, int(dome.r * share * camera.scale * 16))
        colour = _shade(dome.colour, brightness * light)
        cv2.circle(canvas, fixed_point(middle).tolist(), radius, colour, -1, cv2.LINE_AA, 4)


def finish(canvas: np.ndarray, size: int) -> np.ndarray:
    """Average a supersampled float picture down to uint8 of shape (size, size, 3)."""
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return np.clip(np.round(small), 0, 255).astype(np.uint8)


def smooth_noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Return noise, (size, size), of mean 0 and standard deviation about 1, varying over `cells` (rows, columns)."""
    coarse = rng.standard_normal(cells).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
