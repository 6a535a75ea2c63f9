"""Put back the speckle that an autoencoder smooths away, so that synthetic clutter is as rough as real clutter.

A classifier tells rough chips from smooth ones sooner than ships from ships; where synthetic images join only minor
classes, smooth comes to mean minor. Speckle multiplies, so what is missing is a factor, independent of the image, and
second moments of intensity say which: with C the covariance of clutter over its squared mean at some lag,

    1 + C_real = (1 + C_made) (1 + C_factor)

(the second moment of a product of independent fields; Oliver and Quegan, Understanding SAR Images, 2004). The factor is
gamma distributed, of mean 1 and 1 / C_factor(0) looks, its neighbours correlated as C_factor at lag 1 says; farther
pixels as in the image of a SAR processor that keeps a band of frequencies and weights none.

A grey value is taken for an amplitude, its square for an intensity. Torch-free: images are arrays.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from sarsynth.data.clutter import clutter_blocks, target_masks

FEWEST_LOOKS = 0.5  # of a factor: the roughest that squares of Gaussians make
MOST_LOOKS = 50.0  # a smoother one changes nothing that is seen
LARGEST_CORRELATION = 0.98  # of neighbours
BANDS = np.linspace(0, 1, 1001)  # cycles per pixel, among which that of a field is looked up


@dataclass(frozen=True)
class Moments:
    """Covariance of clutter intensity over its squared mean: medians over images."""

    variance: float  # at lag 0
    down: float  # from a pixel to the one below
    across: float  # from a pixel to the one beside it

    @property
    def looks(self) -> float:
        """Equivalent number of looks."""
        return 1 / self.variance


def moments(images: np.ndarray) -> Moments | None:
    """Measure clutter, with targets masked out, block by block (`clutter_blocks`).

    Images are uint8 or floating, 0..255, (N, C, H, W), H and W at least 16; channels are averaged. None if no image has
    clutter that varies.
    """
    covariances = []  # of each image, at the three lags
    for image in images:  # one at a time: floats of hundreds of large images would fill the memory
        (target,) = target_masks(image[None])
        blocks = clutter_blocks(image.mean(axis=0, dtype=np.float64) ** 2, ~target)
        means = blocks.mean(axis=(1, 2), keepdims=True)
        if not (level := (means**2).mean() if len(blocks) else 0.0):
            continue
        rest = blocks - means
        pairs = (rest, rest), (rest[:, 1:], rest[:, :-1]), (rest[:, :, 1:], rest[:, :, :-1])
        covariances.append([(pixels * shifted).mean() / level for pixels, shifted in pairs])
    medians = np.median(covariances, axis=0) if covariances else np.zeros(3)
    return Moments(*medians.tolist()) if medians[0] > 0 else None


@dataclass(frozen=True)
class Speckle:
    """A random factor on intensity: gamma distributed, of mean 1."""

    looks: float  # its variance is 1 / looks; multiples of a half
    down: float = 0.0  # correlation of a pixel with the one below, in [0, 1)
    across: float = 0.0  # with the one beside it

    @classmethod
    def missing(cls, real: Moments, synthetic: Moments) -> Self | None:
        """What takes `synthetic` images to the moments of `real` ones; None where they are as rough already."""

        def lacking(of_real: float, of_synthetic: float) -> float:
            return (1 + of_real) / (1 + of_synthetic) - 1

        variance = lacking(real.variance, synthetic.variance)
        if variance <= 1 / MOST_LOOKS:
            return None
        correlations = (
            min(max(lacking(of_real, of_synthetic) / variance, 0.0), LARGEST_CORRELATION)
            for of_real, of_synthetic in ((real.down, synthetic.down), (real.across, synthetic.across))
        )
        return cls(max(FEWEST_LOOKS, round(2 / variance) / 2), *correlations)

    def draw(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Draw the factor of one image, shape (H, W): the mean of 2 x looks squared Gaussian fields.

        The square of a Gaussian field of correlation r has correlation r². A field of the band |f| < b / 2 cycles per
        pixel has r = sinc(b d) over a lag of d px, below 0 from 1 / b on: so bright points stand apart from each other.
        """
        lags = [np.minimum(np.arange(side), side - np.arange(side)) for side in shape]  # on a torus
        bands = [np.interp(-np.sqrt(neighbours), -np.sinc(BANDS), BANDS) for neighbours in (self.down, self.across)]
        correlations = [np.sinc(band * lag) for band, lag in zip(bands, lags, strict=True)]
        power = np.maximum(np.fft.fft2(np.outer(*correlations)).real, 0)
        response = np.sqrt(power / power.mean())  # cut off at 0, its variance would be a little above 1
        white = np.fft.fft2(rng.standard_normal((round(2 * self.looks), *shape)))
        return (np.fft.ifft2(response * white).real ** 2).mean(axis=0)

    def on(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Multiply the intensity of an image, uint8 (C, H, W), equally in all channels; what exceeds 255 is clipped."""
        amplitude = image * np.sqrt(self.draw(image.shape[1:], rng))
        return np.clip(amplitude.round(), 0, 255).astype(np.uint8)
