"""The ORS view: optical remote sensing, a colour image from above with wake, shadow, sea state and visibility."""

import cv2
import numpy as np

from sarsynth.sim.camera import SUPERSAMPLING, Camera, draw_ship, finish, smooth_noise
from sarsynth.sim.ships import Ship

SEAS = ((20, 52, 78), (26, 70, 84), (44, 70, 80), (14, 38, 66))
COMPASS = ("east", "northeast", "north", "northwest", "west", "southwest", "south", "southeast")


def draw_aerial(
    ship: Ship, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, str, tuple[float, float, float, float]]:
    """Draw one aerial image.

    Args:
        ship: What to draw.
        size: Side in pixels.
        rng: Source of heading, sea, wake and visibility.

    Returns:
        The picture, uint8 of shape (size, size, 3), keywords of the paper's aspects (attributes of parts, visibility,
        sea, sailing direction; there is one ship, so nothing is said of others), and the box (x0, y0, x1, y1) around
        the hull in px, which may reach beyond the picture.
    """
    side = size * SUPERSAMPLING
    heading = float(rng.uniform(0, 2 * np.pi))
    centre = (side * rng.uniform(0.45, 0.55), side * rng.uniform(0.45, 0.55))
    scale = side * pixel_length(ship, rng) / ship.length
    rough = float(rng.uniform(0, 1))
    waves = smooth_noise(rng, side, (24, 24)) * (2 + 7 * rough) + smooth_noise(rng, side, (6, 6)) * 4
    canvas = (np.array(SEAS[rng.integers(len(SEAS))]) + waves[..., None]).astype(np.float32)

    camera = Camera(heading, np.pi / 2 - float(rng.uniform(0, 0.12)), scale, centre)
    wake = rng.random() < 0.45
    if wake:
        _draw_wake(canvas, ship, camera, rng)
    _draw_shadow(canvas, ship, camera, rng)
    draw_ship(canvas, ship, camera)

    fog = float(rng.uniform(0.25, 0.5)) if rng.random() < 0.12 else 0.0
    picture = finish(canvas * (1 - fog) + 205 * fog, size)
    # Few and short words, those that the base has learned from photographs first: its text encoder sees 40 tokens.
    words = [f"ORS {ship.class_name} ship", f"{ship.hull_colour} hull", *ship.parts]
    words += [word for word, said in (("fog", fog), ("wake", wake), ("rough", rough > 0.5)) if said]
    words.append(COMPASS[round(heading / (np.pi / 4)) % 8])
    hull = camera.project(np.column_stack([ship.outline(), np.full(len(ship.outline()), ship.deck)])) / SUPERSAMPLING
    (x0, y0), (x1, y1) = hull.min(axis=0).tolist(), hull.max(axis=0).tolist()
    return picture, ", ".join(words), (x0, y0, x1, y1)


def pixel_length(ship: Ship, rng: np.random.Generator) -> float:
    """Length of the ship as a share of the picture: grows with its logarithm, so that size is only a partial cue."""
    return float(np.clip((0.42 + 0.13 * np.log(ship.length / 20)) * rng.uniform(0.88, 1.12), 0.35, 0.9))


def _draw_wake(canvas: np.ndarray, ship: Ship, camera: Camera, rng: np.random.Generator) -> None:
    reach, spread = ship.length * rng.uniform(0.5, 1.3), ship.beam * rng.uniform(1.2, 2.2)
    stern = ship.x(0.04)
    half = ship.beam * 0.35
    fan = [(stern, half), (stern, -half), (stern - reach, -spread / 2), (stern - reach, spread / 2)]
    sharp = np.zeros(canvas.shape[:2], np.float32)
    points = camera.project(np.array([(x, y, 0.0) for x, y in fan]))
    cv2.fillPoly(sharp, [np.round(points).astype(np.int32)], 1.0)
    soft = cv2.GaussianBlur(sharp, (0, 0), canvas.shape[0] / 90)
    foam = soft * (0.28 + 0.2 * rng.random()) * np.clip(1 + 0.5 * smooth_noise(rng, canvas.shape[0], (40, 40)), 0, 2)
    canvas += foam[..., None] * (225 - canvas)


def _draw_shadow(canvas: np.ndarray, ship: Ship, camera: Camera, rng: np.random.Generator) -> None:
    angle = float(rng.uniform(0, 2 * np.pi))
    shift = ship.length * 0.035 * camera.scale * np.array((np.cos(angle), np.sin(angle)))
    points = camera.project(np.array([(x, y, 0.0) for x, y in ship.outline()])) + shift
    layer = np.zeros(canvas.shape[:2], np.float32)
    cv2.fillPoly(layer, [np.round(points).astype(np.int32)], 0.45)
    canvas *= 1 - layer[..., None]
