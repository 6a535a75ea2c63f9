"""The regular view: a colour photograph of a ship, taken obliquely from near the ground."""

import numpy as np

from sarsynth.sim.camera import SUPERSAMPLING, Camera, draw_ship, finish, smooth_noise
from sarsynth.sim.ships import Ship

SKIES = {
    "clear": ((168, 202, 232), (92, 148, 206)),
    "cloudy": ((206, 210, 214), (166, 174, 184)),
    "sunset": ((240, 196, 144), (196, 150, 148)),
}
SEAS = ((34, 72, 108), (38, 92, 104), (58, 84, 98), (24, 56, 92))


def draw_regular(ship: Ship, size: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Draw one photograph, uint8 of shape (size, size, 3), and its caption."""
    side = size * SUPERSAMPLING
    elevation = float(rng.uniform(0.14, 0.62))
    # Low views show the ship from its side; from higher up, any heading is recognisable.
    spread = 0.6 if elevation < 0.32 else np.pi / 2
    heading = float(rng.uniform(-spread, spread)) + (np.pi if rng.random() < 0.5 else 0.0)
    light_name = str(rng.choice(list(SKIES), p=(0.6, 0.25, 0.15)))
    light = {"clear": 1.0, "cloudy": 0.86, "sunset": 0.92}[light_name]

    centre = (side * rng.uniform(0.46, 0.54), side * rng.uniform(0.52, 0.64))
    # Where the camera looks down steeply the horizon leaves the picture.
    horizon = centre[1] - side * (0.08 + 1.25 * (elevation - 0.14) + rng.uniform(0, 0.06))
    canvas = _sky_and_sea(side, horizon, light_name, light, rng)

    length = 0.50 + 0.15 * np.log(ship.length / 20)
    scale = side * float(np.clip(length * rng.uniform(0.94, 1.1), 0.45, 0.95)) / ship.length
    draw_ship(canvas, ship, Camera(heading, elevation, scale, centre), light)

    tint = np.array((1.0, 0.92, 0.82) if light_name == "sunset" else (1.0, 1.0, 1.0), np.float32)
    picture = finish(canvas * tint, size)
    words = [f"a photo of a {ship.class_name} ship"]
    if rng.random() < 0.5:
        details = [f"{ship.hull_colour} hull", *ship.parts, f"{light_name} sky", _view(heading, elevation)]
        words += [str(word) for word in rng.permutation(details)[: rng.integers(1, len(details) + 1)]]
    if rng.random() < 0.12:
        grey = picture.mean(axis=2, keepdims=True)
        grey = np.clip(grey + rng.normal(0, rng.uniform(2, 14), grey.shape), 0, 255)
        picture = grey.astype(np.uint8).repeat(3, axis=2)
        words.append("black and white")
    return picture, ", ".join(words)


def _view(heading: float, elevation: float) -> str:
    if elevation > 0.45:
        return "high view"
    return "side view" if abs(np.sin(heading)) < 0.4 else "three-quarter view"


def _sky_and_sea(side: int, horizon: float, light_name: str, light: float, rng: np.random.Generator) -> np.ndarray:
    rows = np.arange(side, dtype=np.float32)[:, None, None]
    low, high = (np.array(colour, np.float32) for colour in SKIES[light_name])
    sky = low + (high - low) * np.clip((horizon - rows) / (0.5 * side), 0, 1)
    sky = np.broadcast_to(sky, (side, side, 3)) + 7 * smooth_noise(rng, side, (4, 4))[..., None]
    sea_colour = np.array(SEAS[rng.integers(len(SEAS))], np.float32) * light
    depth = np.clip((rows - horizon) / side, 0, 1)
    waves = smooth_noise(rng, side, (28, 10)) * 7 + smooth_noise(rng, side, (10, 4)) * 5
    sea = sea_colour * (1.18 - 0.4 * depth) + (waves * float(rng.uniform(0.4, 1.3)))[..., None]
    return np.where(rows < horizon, sky, sea).astype(np.float32)
