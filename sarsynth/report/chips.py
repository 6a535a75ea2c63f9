"""Chips as a page shows them: large, each pixel a square, and dark ones brightened alike. Torch-free."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

from sarsynth.report import html

TILE = 160  # px: larger images are made smaller
WHITE = 99.9  # percentile of grey levels that is shown as white at least
MIDDLE = 0.25  # share of white that images are on average, below which they are dark
LEAST_GAMMA = 0.5  # so that clutter does not drown the target


@dataclass(frozen=True)
class Tone:
    """How grey levels become those of a screen; the same for all that stand beside each other."""

    white: float = 255.0  # grey level that is shown as white
    gamma: float = 1.0  # power of what is below, as a share of white

    @property
    def said(self) -> str:
        """What was done, for readers; nothing if nothing was."""
        if self == Tone():
            return ""
        white = f"grey level {self.white:.0f} of 255 is white" if self.white < 255 else ""
        curve = f"gamma {self.gamma:.2g}" if self.gamma < 1 else ""
        return f"brightened for the screen, all rows alike: {', '.join(filter(None, [white, curve]))}"

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Brighten an image, uint8 of any shape."""
        levels = 255 * np.clip(np.arange(256) / self.white, 0, 1) ** self.gamma
        return np.rint(levels).astype(np.uint8)[image]


def tone_of(images: Iterable[np.ndarray]) -> Tone:
    """Find out how to show images, uint8 of any shape, together: as they are, unless they are dark."""
    counts = np.zeros(256, dtype=np.int64)
    for image in images:
        counts += np.bincount(image.ravel(), minlength=256)
    if not counts[1:].any():  # nothing, or black
        return Tone()
    mean = float(counts @ np.arange(256)) / counts.sum()
    if mean >= MIDDLE * 255:
        return Tone()
    white = max(1.0, float(np.searchsorted(counts.cumsum(), WHITE / 100 * counts.sum())))
    share = mean / white
    gamma = math.log(MIDDLE) / math.log(share) if share < MIDDLE else 1.0
    return Tone(white, max(LEAST_GAMMA, gamma))


def chips(images: Sequence[np.ndarray], alt: str, tone: Tone = Tone()) -> Markup:
    """Show images, uint8 (1 or 3, H, W), beside each other, as many in a line as there is room for.

    `alt` is read to those who do not see them, with the place of each.
    """
    shown = Markup("").join(
        html.image(_picture(tone.apply(image)), f"{alt}, {place} of {len(images)}", largest=TILE * 2)
        for place, image in enumerate(images, start=1)
    )
    return Markup('<span class="chips" style="--count: {}">{}</span>').format(len(images), shown)


def _picture(image: np.ndarray) -> Image.Image:
    pixels = image.transpose(1, 2, 0)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
