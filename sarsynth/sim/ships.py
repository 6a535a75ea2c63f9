"""Parametric ships: what the three renderers share.

A ship lies along x (bow towards +x), y is athwart and z is up; all coordinates are metres, z = 0 is the waterline.
"""

from dataclasses import dataclass, field

import numpy as np

RGB = tuple[int, int, int]
Shares = tuple[float, float]  # of a length or a beam, from and to
Point = tuple[float, float, float]

HULL_COLOURS: dict[str, RGB] = {
    "red": (168, 48, 38),
    "black": (38, 40, 46),
    "blue": (38, 74, 148),
    "green": (40, 112, 74),
    "grey": (126, 132, 138),
    "white": (228, 228, 222),
    "orange": (222, 116, 38),
}
WHITE: RGB = (236, 236, 230)
STEEL: RGB = (120, 122, 126)
YELLOW: RGB = (232, 188, 52)
CONTAINERS = ((196, 62, 48), (52, 96, 168), (66, 140, 82), (226, 190, 74), (210, 122, 52), (200, 200, 196))


@dataclass(frozen=True)
class Box:
    """An upright box with corners (x0, y0, z0) and (x1, y1, z1)."""

    x0: float
    x1: float
    y0: float
    y1: float
    z0: float
    z1: float
    colour: RGB
    echo: float = 1.0  # how strongly it scatters radar, relative to a hull's edge

    @property
    def middle(self) -> np.ndarray:
        """Its centre, shape (3,)."""
        return np.array([(self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2, (self.z0 + self.z1) / 2])

    @property
    def ring(self) -> list[tuple[float, float]]:
        """Its corners (x, y) as seen from above, counter-clockwise."""
        return [(self.x0, self.y0), (self.x1, self.y0), (self.x1, self.y1), (self.x0, self.y1)]


@dataclass(frozen=True)
class Dome:
    """A half sphere of radius r on the point (x, y, z)."""

    x: float
    y: float
    z: float
    r: float
    colour: RGB
    echo: float = 2.0

    @property
    def middle(self) -> np.ndarray:
        """The point that it stands on, shape (3,)."""
        return np.array([self.x, self.y, self.z])


@dataclass(frozen=True)
class Beam:
    """A mast, boom, pipe or arm: a thin bar between two points."""

    start: Point
    end: Point
    width: float
    colour: RGB
    echo: float = 1.0

    @property
    def middle(self) -> np.ndarray:
        """Its centre, shape (3,)."""
        return (np.array(self.start) + np.array(self.end)) / 2


@dataclass
class Ship:
    """One ship: its hull and the parts that stand on the deck."""

    class_name: str
    length: float  # metres over all
    beam: float  # metres athwart
    deck: float  # height of the deck over the water, metres
    bow: float  # share of the length over which the bow narrows
    hull_colour: str
    deck_colour: RGB
    parts: list[str] = field(default_factory=list)  # words for what is on deck, for prompts
    boxes: list[Box] = field(default_factory=list)
    domes: list[Dome] = field(default_factory=list)
    beams: list[Beam] = field(default_factory=list)

    def x(self, share: float) -> float:
        """Position along the ship: 0 is the stern, 1 the bow, in metres from midships."""
        return (share - 0.5) * self.length

    def y(self, share: float) -> float:
        """Position athwart: -1 starboard edge, +1 port edge, in metres."""
        return share * self.beam / 2

    def outline(self, height: float) -> np.ndarray:
        """Return the deck's outline at a height in metres: a closed polygon, counter-clockwise, shape (P, 3)."""
        half, shoulder, taper = self.beam / 2, self.x(1 - self.bow), np.linspace(0, 1, 6)
        bow_x = shoulder + (self.x(1.0) - shoulder) * taper
        bow_y = half * np.sqrt(np.clip(1 - taper**1.8, 0, 1))
        starboard = [(self.x(0.0), -half * 0.82), (self.x(0.05), -half), *zip(bow_x, -bow_y, strict=True)]
        port = [(x, -y) for x, y in reversed(starboard[:-1])]
        return np.array([(x, y, height) for x, y in starboard + port])

    def box(
        self, along: Shares, athwart: Shares, height: float, colour: RGB, base: float | None = None, echo: float = 1.0
    ) -> None:
        """Add a box on the deck (or at height `base`, metres); positions are shares of length and half beam."""
        (x0, x1), (y0, y1), z0 = map(self.x, along), map(self.y, athwart), self.deck if base is None else base
        self.boxes.append(Box(x0, x1, y0, y1, z0, z0 + height, colour=colour, echo=echo))

    def bar(self, start: Point, end: Point, width: float, colour: RGB, echo: float = 1.0) -> None:
        """Add a beam between points (along, athwart, height): shares as in `box`, and metres over the deck."""
        first, last = ((self.x(along), self.y(athwart), self.deck + z) for along, athwart, z in (start, end))
        self.beams.append(Beam(first, last, width, colour, echo))


# --- Hulls ------------------------------------------------------------------------------------------------------------

# Ranges of length in metres, length / beam, height of the deck / length, and length of the bow / length.
HULLS = {
    "cargo": ((110, 300), (5.6, 7.2), (0.04, 0.055), (0.12, 0.18)),
    "tanker": ((110, 290), (5.0, 6.2), (0.03, 0.042), (0.1, 0.15)),
    "fishing": ((24, 62), (3.1, 4.0), (0.075, 0.1), (0.3, 0.38)),
    "dredger": ((70, 165), (4.2, 5.2), (0.045, 0.06), (0.14, 0.2)),
    "ferry": ((90, 190), (4.6, 6.0), (0.05, 0.065), (0.18, 0.24)),
    "tug": ((24, 45), (2.6, 3.2), (0.07, 0.09), (0.26, 0.34)),
    "supply": ((55, 95), (3.8, 4.6), (0.06, 0.075), (0.2, 0.26)),
}


def _hull(rng: np.random.Generator, kind: str, class_name: str) -> Ship:
    length, slimness, depth, bow = (rng.uniform(*limits) for limits in HULLS[kind])
    colour = str(rng.choice(list(HULL_COLOURS)))
    deck = ((136, 92, 74), (104, 116, 110), (150, 142, 128))[rng.integers(3)]
    return Ship(class_name, length, length / slimness, length * depth, bow, colour, deck)


# --- Classes ----------------------------------------------------------------------------------------------------------


def _house(ship: Ship, rng: np.random.Generator, at: float, depth: float, height: float) -> None:
    """A deckhouse with a bridge deck across the whole beam, a funnel behind it and a mast."""
    ship.box((at, at + depth), (-0.86, 0.86), height * 0.7, WHITE, echo=1.6)
    ship.box((at + depth * 0.35, at + depth * 0.95), (-0.98, 0.98), height * 0.3, WHITE, base=ship.deck + height * 0.7)
    funnel = HULL_COLOURS[rng.choice(["red", "blue", "black", "orange"])]
    ship.box((at - depth * 0.35, at - 0.002), (-0.3, 0.3), height * 0.85, funnel)
    middle = at + depth * 0.6
    ship.bar((middle, 0, height), (middle, 0, height * 1.45), ship.beam * 0.05, STEEL)


def _cargo(rng: np.random.Generator) -> Ship:
    ship = _hull(rng, "cargo", "cargo")
    length = ship.length
    _house(ship, rng, rng.uniform(0.08, 0.15), 0.07, length * rng.uniform(0.085, 0.11))
    first, last = 0.26, 0.9
    if rng.random() < 0.6:
        ship.parts.append("containers")
        bays = int(rng.integers(5, 9))
        width = (last - first) / bays
        for bay in range(bays):
            x0, rows = first + bay * width, int(rng.integers(3, 5))
            for row in range(rows):
                y0 = -0.9 + 1.8 * row / rows
                colour = CONTAINERS[rng.integers(len(CONTAINERS))]
                height = length * 0.017 * int(rng.integers(2, 5))
                ship.box((x0, x0 + width * 0.84), (y0, y0 + 1.7 / rows), height, colour, echo=1.3)
    else:
        ship.parts.append("hatches")
        hatches = int(rng.integers(4, 6))
        width = (last - first) / hatches
        for hatch in range(hatches):
            x0 = first + hatch * width
            ship.box((x0, x0 + width * 0.7), (-0.62, 0.62), length * 0.016, (122, 84, 60), echo=1.4)
            if hatch and hatch % 2 == 1:
                post = x0 - width * 0.15
                tip = (post + width * 0.8, rng.uniform(-0.5, 0.5), length * 0.08)
                ship.bar((post, 0, 0), (post, 0, length * 0.1), ship.beam * 0.09, YELLOW, 2.0)
                ship.bar((post, 0, length * 0.095), tip, ship.beam * 0.06, YELLOW)
    return ship


def _tanker(rng: np.random.Generator) -> Ship:
    ship = _hull(rng, "tanker", "tanker")
    length = ship.length
    ship.deck_colour = ((158, 62, 46), (74, 112, 84), (150, 96, 70))[rng.integers(3)]
    _house(ship, rng, rng.uniform(0.07, 0.11), 0.09, length * rng.uniform(0.085, 0.11))
    if rng.random() < 0.72:
        ship.parts.append("pipes")
        ship.box((0.26, 0.92), (-0.09, 0.09), length * 0.012, (214, 208, 190), echo=2.2)
        for manifold in np.linspace(0.48, 0.62, int(rng.integers(2, 4))):
            ship.box((manifold, manifold + 0.018), (-0.88, 0.88), length * 0.012, (206, 200, 186), echo=1.8)
        ship.bar((0.55, 0.1, 0), (0.55, 0.1, length * 0.07), ship.beam * 0.08, YELLOW, 2.0)
        ship.bar((0.55, 0.1, length * 0.068), (0.68, 0.1, length * 0.06), ship.beam * 0.06, YELLOW)
    else:
        ship.parts.append("gas domes")
        for middle in np.linspace(0.36, 0.82, int(rng.integers(3, 5))):
            ship.domes.append(Dome(ship.x(middle), 0.0, ship.deck, ship.beam * 0.42, (226, 196, 150)))
    return ship


def _fishing(rng: np.random.Generator) -> Ship:
    ship = _hull(rng, "fishing", "fishing")
    length = ship.length
    ship.parts += ["booms", "nets"]
    forward = rng.random() < 0.65
    at = rng.uniform(0.6, 0.68) if forward else rng.uniform(0.2, 0.28)
    ship.box((at, at + 0.17), (-0.66, 0.66), length * 0.12, WHITE, echo=1.6)
    ship.box((at + 0.04, at + 0.14), (-0.5, 0.5), length * 0.06, (92, 110, 128), base=ship.deck + length * 0.12)
    ship.bar((at + 0.02, 0, length * 0.12), (at + 0.02, 0, length * 0.36), length * 0.016, STEEL, 1.6)
    stern = 0.06
    for side in (-0.7, 0.7):
        ship.bar((stern, side, 0), (stern, side, length * 0.2), length * 0.02, YELLOW)
    ship.bar((stern, -0.7, length * 0.2), (stern, 0.7, length * 0.2), length * 0.024, YELLOW, 1.8)
    if rng.random() < 0.7:
        ship.parts.append("outriggers")
        for side in (-1, 1):
            ship.bar((0.5, side * 0.4, length * 0.08), (0.44, side * 2.5, length * 0.24), length * 0.018, STEEL, 1.5)
    net = at - 0.22 if forward else at + 0.36
    ship.box((net, net + 0.12), (-0.45, 0.45), length * 0.05, (52, 122, 116), echo=0.8)
    return ship


def _dredger(rng: np.random.Generator) -> Ship:
    ship = _hull(rng, "dredger", "dredger")
    length = ship.length
    ship.parts += ["hopper", "suction arm"]
    aft = rng.random() < 0.6
    house, pit = (rng.uniform(0.07, 0.12), (0.32, 0.84)) if aft else (rng.uniform(0.72, 0.76), (0.14, 0.64))
    _house(ship, rng, house, 0.1, length * rng.uniform(0.1, 0.13))
    rim, wall = length * 0.035, 0.1
    ship.box(pit, (-0.72, 0.72), 0.2, (62, 48, 36), echo=0.0)
    for y0 in (-0.82, 0.72):
        ship.box((pit[0] - 0.02, pit[1] + 0.02), (y0, y0 + wall), rim, YELLOW, echo=1.8)
    for x0 in np.linspace(pit[0] - 0.02, pit[1], int(rng.integers(4, 6))):
        ship.box((x0, x0 + 0.02), (-0.82, 0.82), rim, YELLOW, echo=1.8)
    side = 1 if rng.random() < 0.5 else -1
    for arm in (side,) if rng.random() < 0.6 else (-1, 1):
        ship.bar((pit[0], arm * 1.16, 1), (pit[1], arm * 1.16, 1), length * 0.022, (212, 92, 40), 1.6)
        for post in np.linspace(pit[0] + 0.02, pit[1] - 0.02, 3):
            ship.bar((post, arm * 0.9, 0), (post, arm * 1.2, length * 0.09), length * 0.02, YELLOW, 2.2)
    if rng.random() < 0.7:
        ship.parts.append("crane")
        middle = (pit[0] + pit[1]) / 2
        ship.bar((middle, 0.8, 0), (middle, 0.8, length * 0.13), length * 0.022, YELLOW, 1.8)
        ship.bar((middle, 0.8, length * 0.13), (middle + 0.16, 0.2, length * 0.16), length * 0.016, YELLOW)
    return ship


def _other(rng: np.random.Generator) -> Ship:
    kind = ("ferry", "tug", "supply")[rng.integers(3)]
    ship = _hull(rng, kind, "other")
    length, deck = ship.length, ship.deck
    red, orange = HULL_COLOURS["red"], HULL_COLOURS["orange"]
    if kind == "ferry":
        for level in range(3):
            start, end = 0.05 + 0.05 * level, 0.86 - 0.06 * level
            ship.box((start, end), (-0.92, 0.92), length * 0.035, WHITE, base=deck + level * length * 0.035)
        ship.box((0.2, 0.28), (-0.35, 0.35), length * 0.07, red, base=deck + length * 0.105, echo=1.5)
    elif kind == "tug":
        ship.box((0.44, 0.76), (-0.6, 0.6), length * 0.11, WHITE, echo=1.5)
        ship.box((0.52, 0.7), (-0.45, 0.45), length * 0.1, WHITE, base=deck + length * 0.11, echo=1.5)
        ship.box((0.32, 0.42), (-0.3, 0.3), length * 0.2, orange)
    else:
        ship.box((0.62, 0.86), (-0.9, 0.9), length * 0.1, WHITE, echo=1.5)
        ship.box((0.66, 0.8), (-0.75, 0.75), length * 0.08, orange, base=deck + length * 0.1)
        ship.bar((0.7, 0, length * 0.18), (0.7, 0, length * 0.3), length * 0.014, STEEL)
    ship.parts.append(kind)
    return ship


BUILDERS = {"cargo": _cargo, "other": _other, "fishing": _fishing, "tanker": _tanker, "dredger": _dredger}
