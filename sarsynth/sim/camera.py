"""Draw a ship as a camera sees it: orthographic, any heading, any elevation, painter's algorithm."""

from dataclasses import dataclass

import cv2
import numpy as np

from sarsynth.sim.ships import HULL_COLOURS, Beam, Box, Dome, Ship

# Pictures are drawn this many times larger and averaged down: cheap anti-aliasing for sub-pixel masts.
SUPERSAMPLING = 3


@dataclass(frozen=True)
class Camera:
    """Where the camera stands.

    Attributes:
        heading: Direction of the bow, radians; 0 points right in the picture, pi/2 away from the camera.
        elevation: Angle of the view over the horizon, radians; pi/2 looks straight down.
        scale: Pixels per metre (in the supersampled picture).
        centre: Where the ship's waterline centre lies, supersampled pixels (column, row).
    """

    heading: float
    elevation: float
    scale: float
    centre: tuple[float, float]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Map ship coordinates of shape (..., 3), metres, to pixels of shape (..., 2)."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        right = points[..., 0] * cos - points[..., 1] * sin
        away = points[..., 0] * sin + points[..., 1] * cos
        up = points[..., 2] * np.cos(self.elevation) + away * np.sin(self.elevation)
        return np.stack([self.centre[0] + right * self.scale, self.centre[1] - up * self.scale], axis=-1)

    def nearness(self, points: np.ndarray) -> np.ndarray:
        """Distance towards the camera of ship coordinates of shape (..., 3); larger is nearer."""
        away = points[..., 0] * np.sin(self.heading) + points[..., 1] * np.cos(self.heading)
        return points[..., 2] * np.sin(self.elevation) - away * np.cos(self.elevation)


def _fill(canvas: np.ndarray, points: np.ndarray, colour: np.ndarray | tuple[float, ...]) -> None:
    # Four fractional bits keep sub-pixel positions.
    fixed = np.round(points * 16).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], tuple(float(c) for c in colour), lineType=cv2.LINE_AA, shift=4)


def _shade(colour: tuple[int, int, int], amount: float) -> np.ndarray:
    return np.clip(np.array(colour, float) * amount, 0, 255)


def _faces(box: Box) -> list[tuple[np.ndarray, float]]:
    """The walls and the roof of a box: corners (4, 3), counter-clockwise from outside, and how light each is."""
    ring = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
    walls = zip(ring, ring[1:] + ring[:1], (0.78, 0.62, 0.7, 0.58), strict=True)
    faces = [
        (np.array([(*a, box.z0), (*b, box.z0), (*b, box.z1), (*a, box.z1)]), lightness) for a, b, lightness in walls
    ]
    return [*faces, (np.array([(*corner, box.z1) for corner in ring]), 1.0)]


def _towards_camera(face: np.ndarray, camera: Camera) -> bool:
    pixels = camera.project(face)
    a, b = pixels[1] - pixels[0], pixels[2] - pixels[0]
    # Corners run counter-clockwise seen from outside; picture rows grow downwards, which turns the sign.
    return a[0] * b[1] - a[1] * b[0] < 0


def draw_ship(canvas: np.ndarray, ship: Ship, camera: Camera, light: float = 1.0) -> None:
    """Paint a ship on a picture of shape (H, W, 3), RGB in [0, 255], float32, in place."""
    outline = ship.outline()
    waterline, deck = (np.column_stack([outline, np.full(len(outline), height)]) for height in (0.0, ship.deck))
    colour = HULL_COLOURS[ship.hull_colour]
    _fill(canvas, camera.project(waterline), _shade(colour, 0.5 * light))
    following = np.roll(np.arange(len(outline)), -1)
    for i in np.argsort(camera.nearness((waterline + waterline[following]) / 2)):
        j = following[i]
        wall = np.array([waterline[i], waterline[j], deck[j], deck[i]])
        if _towards_camera(wall, camera):
            along = abs(wall[1, 0] - wall[0, 0]) / (np.linalg.norm(wall[1] - wall[0]) + 1e-9)
            _fill(canvas, camera.project(wall), _shade(colour, light * (0.66 + 0.2 * along)))
    _fill(canvas, camera.project(deck), _shade(ship.deck_colour, light))

    things: list[tuple[float, Box | Dome | Beam]] = []
    for box in ship.boxes:
        middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, (box.z0 + box.z1) / 2])
        things.append((float(camera.nearness(middle)), box))
    for dome in ship.domes:
        things.append((float(camera.nearness(np.array([dome.x, dome.y, dome.z]))), dome))
    for beam in ship.beams:
        things.append((float(camera.nearness((np.array(beam.start) + np.array(beam.end)) / 2)), beam))
    for _, thing in sorted(things, key=lambda pair: pair[0]):
        if isinstance(thing, Box):
            for face, brightness in _faces(thing):
                if _towards_camera(face, camera):
                    _fill(canvas, camera.project(face), _shade(thing.colour, light * brightness))
        elif isinstance(thing, Dome):
            _draw_dome(canvas, thing, camera, light)
        else:
            ends = camera.project(np.array([thing.start, thing.end]))
            width = max(1, round(thing.width * camera.scale))
            a, b = (tuple(int(v) for v in np.round(end * 16)) for end in ends)
            cv2.line(canvas, a, b, tuple(float(c) for c in _shade(thing.colour, 0.9 * light)), width, cv2.LINE_AA, 4)


def _draw_dome(canvas: np.ndarray, dome: Dome, camera: Camera, light: float) -> None:
    for share, brightness in ((1.0, 0.72), (0.72, 0.9), (0.4, 1.08)):
        # Smaller, lighter discs that move to the upper left: a lit sphere.
        middle = camera.project(np.array([dome.x, dome.y, dome.z + dome.r * 0.25 * (1 - share)]))
        middle = middle + (share - 1) * dome.r * camera.scale * 0.3
        centre = tuple(int(v) for v in np.round(middle * 16))
        radius = max(1, int(dome.r * share * camera.scale * 16))
        cv2.circle(
            canvas, centre, radius, tuple(float(c) for c in _shade(dome.colour, brightness * light)), -1, cv2.LINE_AA, 4
        )


def finish(canvas: np.ndarray, size: int) -> np.ndarray:
    """Average a supersampled float picture down to uint8 of shape (size, size, 3)."""
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return np.clip(np.round(small), 0, 255).astype(np.uint8)


def smooth_noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Return noise of shape (size, size), zero mean, about unit deviation, that varies over `cells` (rows, columns)."""
    coarse = rng.standard_normal(cells).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
