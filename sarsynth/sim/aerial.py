"""The ORS view: optical remote sensing, a colour image from above with wake, shadow, sea state and visibility."""

from dataclasses import dataclass

import cv2
import numpy as np

from sarsynth.sim.camera import SUPERSAMPLING, Camera, draw_ship, finish, smooth_noise
from sarsynth.sim.ships import Ship

SEAS = ((20, 52, 78), (26, 70, 84), (44, 70, 80), (14, 38, 66))
COMPASS = ("east", "northeast", "north", "northwest", "west", "southwest", "south", "southeast")


@dataclass(frozen=True, eq=False)
class Scene:
    """What one aerial image shows, before it is painted: all random decisions are in it."""

    ship: Ship
    size: int  # side of the picture in px
    camera: Camera  # in supersampled px
    sea: tuple[int, int, int]  # colour, RGB
    waves: np.ndarray  # grey levels added to the sea, shape (side, side), supersampled
    rough: bool  # whether the sea is
    wake: "Wake | None"
    sun: float  # direction of the shadow, radians
    fog: float  # share of the light that it takes

    @classmethod
    def drawn(cls, ship: Ship, size: int, rng: np.random.Generator) -> "Scene":
        """Draw heading, sea, wake and visibility."""
        side = size * SUPERSAMPLING
        heading = float(rng.uniform(0, 2 * np.pi))
        centre = (side * rng.uniform(0.45, 0.55), side * rng.uniform(0.45, 0.55))
        scale = side * pixel_length(ship, rng) / ship.length
        rough = float(rng.uniform(0, 1))
        waves = smooth_noise(rng, side, (24, 24)) * (2 + 7 * rough) + smooth_noise(rng, side, (6, 6)) * 4
        sea = SEAS[rng.integers(len(SEAS))]
        camera = Camera(heading, np.pi / 2 - float(rng.uniform(0, 0.12)), scale, centre)
        wake = Wake.drawn(ship, side, rng) if rng.random() < 0.45 else None
        sun = float(rng.uniform(0, 2 * np.pi))
        fog = float(rng.uniform(0.25, 0.5)) if rng.random() < 0.12 else 0.0
        return cls(ship, size, camera, sea, waves, rough=rough > 0.5, wake=wake, sun=sun, fog=fog)

    @property
    def text(self) -> str:
        """Keywords of the paper's aspects: attributes of parts, visibility, sea, sailing direction.

        There is one ship, so no word is about others. Few and short words, those that the base knows from photographs
        first: its text encoder sees 40 tokens.
        """
        words = [f"ORS {self.ship.class_name} ship", f"{self.ship.hull_colour} hull", *self.ship.parts]
        words += [word for word, shown in (("fog", self.fog), ("wake", self.wake), ("rough", self.rough)) if shown]
        words.append(COMPASS[round(self.camera.heading / (np.pi / 4)) % 8])
        return ", ".join(words)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box (x0, y0, x1, y1) around the hull in px, which may reach beyond the picture."""
        hull = self.camera.project(self.ship.outline(self.ship.deck)) / SUPERSAMPLING
        (x0, y0), (x1, y1) = hull.min(axis=0).tolist(), hull.max(axis=0).tolist()
        return x0, y0, x1, y1

    def paint(self) -> np.ndarray:
        """Paint it: uint8, shape (size, size, 3)."""
        canvas = (np.array(self.sea) + self.waves[..., None]).astype(np.float32)
        if self.wake:
            _draw_wake(canvas, self.ship, self.camera, self.wake)
        _draw_shadow(canvas, self.ship, self.camera, self.sun)
        draw_ship(canvas, self.ship, self.camera)
        return finish(canvas * (1 - self.fog) + 205 * self.fog, self.size)


@dataclass(frozen=True, eq=False)
class Wake:
    """Foam behind a ship."""

    reach: float  # length in metres
    spread: float  # width at its end in metres
    strength: float  # share of white in it
    ripples: np.ndarray  # varies it, shape (side, side), supersampled

    @classmethod
    def drawn(cls, ship: Ship, side: int, rng: np.random.Generator) -> "Wake":
        """Draw one for a ship in a picture of `side` supersampled px."""
        reach, spread = ship.length * rng.uniform(0.5, 1.3), ship.beam * rng.uniform(1.2, 2.2)
        return cls(reach, spread, 0.28 + 0.2 * rng.random(), smooth_noise(rng, side, (40, 40)))


def pixel_length(ship: Ship, rng: np.random.Generator) -> float:
    """Length of the ship as a share of the picture: grows with its logarithm, so that size is only a partial cue."""
    return float(np.clip((0.42 + 0.13 * np.log(ship.length / 20)) * rng.uniform(0.88, 1.12), 0.35, 0.9))


def _draw_wake(canvas: np.ndarray, ship: Ship, camera: Camera, wake: Wake) -> None:
    stern, half = ship.x(0.04), ship.beam * 0.35
    end, spread = stern - wake.reach, wake.spread / 2
    fan = [(stern, half), (stern, -half), (end, -spread), (end, spread)]
    sharp = np.zeros(canvas.shape[:2], np.float32)
    points = camera.project(np.array([(x, y, 0.0) for x, y in fan]))
    cv2.fillPoly(sharp, [np.round(points).astype(np.int32)], 1.0)
    soft = cv2.GaussianBlur(sharp, (0, 0), canvas.shape[0] / 90)
    foam = soft * wake.strength * np.clip(1 + 0.5 * wake.ripples, 0, 2)
    canvas += foam[..., None] * (225 - canvas)


def _draw_shadow(canvas: np.ndarray, ship: Ship, camera: Camera, sun: float) -> None:
    shift = ship.length * 0.035 * camera.scale * np.array((np.cos(sun), np.sin(sun)))
    points = camera.project(ship.outline(0.0)) + shift
    layer = np.zeros(canvas.shape[:2], np.float32)
    cv2.fillPoly(layer, [np.round(points).astype(np.int32)], 0.45)
    canvas *= 1 - layer[..., None]
