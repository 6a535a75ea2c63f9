"""The SAR view: one amplitude channel, from above, with speckle, layover, sidelobes and sea clutter.

The sensor looks from the left (towards +column), so tall things are laid over towards column 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sarsynth.sim.aerial import pixel_length
from sarsynth.sim.camera import fill, smooth_noise
from sarsynth.sim.ships import Ship


@dataclass(frozen=True)
class Radar:
    """The sensor; every picture draws from its ranges."""

    looks: int = 2  # independent looks averaged in intensity: the equivalent number of looks of its speckle
    clutter: tuple[float, float] = (0.01, 0.05)  # mean intensity of the sea; a ship's deck is at about 0.14
    texture: tuple[float, float] = (2.0, 10.0)  # shape of the sea's gamma texture; smaller is spikier (K-distributed)
    echoes: float = 6.0  # mean intensity of one point scatterer
    dropout: tuple[float, float] = (0.1, 0.55)  # share of the point scatterers that are not seen at all


def speckle(intensity: np.ndarray, looks: int, rng: np.random.Generator) -> np.ndarray:
    """Multiply mean intensity, shape (H, W), by fully developed speckle of so many independent looks.

    The result's variance is intensity**2 / looks (Goodman, ISBN 978-1510631489).
    """
    return intensity * rng.gamma(looks, 1.0 / looks, intensity.shape)


def sea_clutter(shape: tuple[int, int], mean: float, texture: float, rng: np.random.Generator) -> np.ndarray:
    """Return the sea's local mean intensity: gamma texture of mean `mean` and shape parameter `texture`.

    Speckled with L looks it is K-distributed (Jakeman and Pusey, doi:10.1109/TAP.1976.1141451) with
    variance / mean**2 = (1 + 1 / texture) * (1 + 1 / L) - 1.
    """
    return rng.gamma(texture, mean / texture, shape)


def point_spread(side: int, bandwidth: float, pedestal: float) -> np.ndarray:
    """Return the two-dimensional spectrum of the processor's weighting, (side, side), of unit mean square.

    The bandwidth is its cut-off in cycles per pixel, at most 0.5; the pedestal the height of the raised cosine at the
    band's edge: 1 is unweighted (strong sidelobes), 0.08 is Hamming.
    """
    frequency = np.fft.fftfreq(side)
    inside = np.abs(frequency) <= bandwidth
    window = np.where(inside, pedestal + (1 - pedestal) * np.cos(np.pi * frequency / (2 * bandwidth)) ** 2, 0.0)
    spectrum = np.outer(window, window)
    return spectrum / np.sqrt(np.mean(spectrum**2))


def focus(field: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """Pass a complex field (H, W) through a processor of that spectrum; returns amplitude."""
    return np.abs(np.fft.ifft2(np.fft.fft2(field) * spectrum))


def stretch(amplitude: np.ndarray, gamma: float) -> np.ndarray:
    """Make grey levels, uint8, of amplitudes: the 99.5th percentile is white; `gamma` below 1 brightens the dark."""
    return np.round(255 * np.clip(amplitude / np.percentile(amplitude, 99.5), 0, 1) ** gamma).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class View:
    """How the sensor sees a ship."""

    scale: float  # px per metre
    centre: np.ndarray  # of the ship: column and row, px
    rotation: np.ndarray  # from the ship's axes to the picture's, shape (2, 2)
    layover: float  # metres towards the sensor per metre of height

    @classmethod
    def drawn(cls, ship: Ship, size: int, rng: np.random.Generator) -> "View":
        """Draw heading, scale, place and incidence."""
        heading = float(rng.uniform(0, 2 * np.pi))
        cos, sin = np.cos(heading), np.sin(heading)
        scale = size * pixel_length(ship, rng) / ship.length
        centre = np.array([size * rng.uniform(0.42, 0.58), size * rng.uniform(0.42, 0.58)])
        return cls(scale, centre, np.array([[cos, sin], [-sin, cos]]), 0.45 / np.tan(rng.uniform(0.5, 0.8)))

    def place(self, points: np.ndarray) -> np.ndarray:
        """Map ship coordinates (N, 3), metres, to pixels (N, 2), with layover towards the sensor."""
        pixels = points[:, :2] @ self.rotation * (1, -1) * self.scale + self.centre
        pixels[:, 0] -= points[:, 2] * self.scale * self.layover
        return pixels


def draw_radar(ship: Ship, size: int, rng: np.random.Generator, radar: Radar) -> np.ndarray:
    """Draw one SAR chip: amplitude, uint8 of shape (size, size, 1), its 99.5th percentile white."""
    view = View.drawn(ship, size, rng)
    sea = sea_clutter((size, size), rng.uniform(*radar.clutter), rng.uniform(*radar.texture), rng)
    swell = np.exp(0.35 * smooth_noise(rng, size, (5, 5)))
    hull = np.zeros((size, size), np.float32)
    fill(hull, view.place(ship.outline(ship.deck)), (1.0,))
    deck = rng.uniform(0.06, 0.2) * np.exp(0.3 * smooth_noise(rng, size, (6, 6)))
    mean = np.maximum(sea * swell * (1 - hull) + deck * hull, 1e-6)

    points, strengths = _scatterers(ship, view, rng, radar)
    pixels = view.place(points)
    inside = np.all((pixels >= 0) & (pixels < size - 1), axis=1)
    columns, rows = np.floor(pixels[inside]).astype(int).T
    spectrum = point_spread(size, rng.uniform(0.24, 0.3), rng.uniform(0.5, 0.9))
    intensity = np.zeros((size, size))
    for _ in range(radar.looks):
        white = rng.standard_normal((2, size, size))
        field = np.sqrt(mean / 2) * (white[0] + 1j * white[1])
        # Scatterers keep their place but not their phase from look to look.
        phase = np.exp(2j * np.pi * rng.random(len(strengths)))
        np.add.at(field, (rows, columns), np.sqrt(strengths[inside]) * phase[inside])
        intensity += focus(field, spectrum) ** 2 / radar.looks
    return stretch(np.sqrt(intensity), 0.8)[..., None]


def _scatterers(ship: Ship, view: View, rng: np.random.Generator, radar: Radar) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) in ship coordinates and their intensities (N,): edges and corners of hull and superstructure."""
    step = 0.8 / view.scale
    points: list[np.ndarray] = []
    echoes: list[np.ndarray] = []

    def add(where: np.ndarray, echo: float) -> None:
        points.append(where)
        echoes.append(np.full(len(where), echo))

    def line(start: Sequence[float], end: Sequence[float], echo: float) -> None:
        span = np.subtract(end, start)
        count = max(2, int(np.linalg.norm(span) / step))
        add(np.asarray(start) + span * rng.random((count, 1)), echo)

    outline = ship.outline(ship.deck)
    for a, b in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        normal = np.array([b[1] - a[1], a[0] - b[0]]) @ view.rotation
        # The wall that faces the sensor makes a double bounce with the water; the far wall is in shadow.
        facing = -normal[0] / (np.linalg.norm(normal) + 1e-9)
        line(a, b, 0.22 + 0.5 * max(facing, 0.0))
    for box in ship.boxes:
        for (ax, ay), (bx, by) in zip(box.ring, box.ring[1:] + box.ring[:1], strict=True):
            line((ax, ay, box.z1), (bx, by, box.z1), box.echo * 0.5)
    for dome in ship.domes:
        angles = rng.uniform(0, 2 * np.pi, 14)
        x, y = dome.x + dome.r * 0.8 * np.cos(angles), dome.y + dome.r * 0.8 * np.sin(angles)
        add(np.column_stack([x, y, np.full(14, dome.z + 0.6 * dome.r)]), dome.echo * 0.4)
        add(np.array([[dome.x, dome.y, dome.z + dome.r]]), dome.echo * 3.0)
    for beam in ship.beams:
        line(beam.start, beam.end, beam.echo * 0.8)
    where, strength = np.concatenate(points), np.concatenate(echoes)
    seen = rng.random(len(where)) > rng.uniform(*radar.dropout)
    return where[seen], radar.echoes * (strength * rng.exponential(1.0, len(strength)))[seen]
