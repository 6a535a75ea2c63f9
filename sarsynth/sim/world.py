"""From (seed, index, class, domain) to a picture and its caption: what others call of the world."""

import zlib
from typing import NamedTuple

import cv2
import numpy as np

from sarsynth.sim.aerial import Scene
from sarsynth.sim.camera import SUPERSAMPLING, fill, finish, fixed_point, smooth_noise
from sarsynth.sim.radar import Radar, draw_radar, focus, point_spread, speckle, stretch
from sarsynth.sim.regular import draw_regular
from sarsynth.sim.ships import BUILDERS, Ship

CLASSES = tuple(BUILDERS)
DOMAINS = ("regular", "ors", "sar")


class Picture(NamedTuple):
    """One picture of the world."""

    pixels: np.ndarray  # uint8, shape (H, W, C)
    text: str | None  # its caption; None in the domain `sar`
    box: tuple[float, float, float, float] | None = None  # of the ship: x0, y0, x1, y1 in px; in the domain `ors`


def _generator(*key: int | str) -> np.random.Generator:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.default_rng(words)


def ship(seed: int, index: int, class_name: str) -> Ship:
    """Build the ship that all three domains show for this key."""
    return BUILDERS[class_name](_generator(seed, index, class_name))


def render(seed: int, index: int, class_name: str, domain: str, size: int = 64, radar: Radar | None = None) -> Picture:
    """Draw one picture of the world: three channels in `regular` and `ors`, one in `sar`, by the sensor `radar`.

    `seed` says which world, `index` which ship of its class, both >= 0; `size` is the side in px.
    """
    if domain == "ors":
        aerial = scene(seed, index, class_name, size)
        return Picture(aerial.paint(), aerial.text, aerial.box)
    rng = _generator(seed, index, class_name, domain)
    subject = ship(seed, index, class_name)
    if domain == "sar":
        return Picture(draw_radar(subject, size, rng, radar or Radar()), None)
    return Picture(*draw_regular(subject, size, rng))


def scene(seed: int, index: int, class_name: str, size: int = 64) -> Scene:
    """Decide what a picture of the domain `ors` shows, its caption and box included, without painting it."""
    return Scene.drawn(ship(seed, index, class_name), size, _generator(seed, index, class_name, "ors"))


def generic_picture(seed: int, index: int, size: int = 64, speckled: bool = True) -> Picture:
    """Draw shapes on a texture, in three channels: they teach an autoencoder edges, grey and grain, but no ships.

    With `speckled`, every second picture becomes grey, speckled and sprinkled with bright points.
    """
    rng = _generator(seed, index, "generic")
    side = size * SUPERSAMPLING
    cells = int(2 ** rng.uniform(1, 5))
    canvas = rng.uniform(10, 220, 3) + smooth_noise(rng, side, (cells, cells))[..., None] * rng.uniform(3, 40, 3)
    canvas = np.ascontiguousarray(canvas, dtype=np.float32)
    for _ in range(int(rng.integers(2, 9))):
        middle, radius = rng.uniform(0, side, 2), rng.uniform(0.03, 0.3) * side
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
        corners = middle + radius * np.column_stack([np.cos(angles), np.sin(angles)])
        colour = tuple(rng.uniform(0, 255, 3).tolist())
        if rng.random() < 0.55:
            fill(canvas, corners, colour)
        else:
            closed, width = bool(rng.random() < 0.5), int(rng.integers(2, 7))
            cv2.polylines(canvas, [fixed_point(corners)], closed, colour, width, cv2.LINE_AA, 4)
    picture = finish(canvas, size)
    return Picture(_as_radar(picture, rng) if speckled and index % 2 else picture, "a picture of shapes")


def _as_radar(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn a picture (H, H, 3) into a grey one with speckle and bright points, as a radar of random looks has them."""
    size = len(picture)
    mean = (picture.mean(axis=2) / 255) ** 2 * rng.uniform(0.05, 1) + 0.01
    bright = rng.random((size, size)) < rng.uniform(0, 0.06)
    # Points bunch together, as they do on anything built.
    bunch = smooth_noise(rng, size, (6, 6)) > 0.3
    mean = mean + bright * bunch * rng.exponential(rng.uniform(1, 8), (size, size))
    spectrum = point_spread(size, rng.uniform(0.22, 0.45), rng.uniform(0.3, 1))
    looks = int(rng.integers(1, 5))
    field = np.sqrt(speckle(mean, 1, rng)) * np.exp(2j * np.pi * rng.random((size, size)))
    amplitude = focus(field, spectrum)
    amplitude = np.sqrt((amplitude**2 + (looks - 1) * speckle(mean, looks, rng)) / looks)
    return stretch(amplitude, rng.uniform(0.6, 1))[..., None].repeat(3, axis=2)
