"""What is target and what is clutter in a SAR chip, and the statistics of that clutter. Torch-free.

A grey value is taken for an amplitude, its square for an intensity. Chips of eight bits, resized and stretched for
display, keep no calibrated intensity, so figures compare chips with chips and are not those of the sensor.

There are two rules for targets. `target_masks` marks whatever is bright in the middle of a chip, so that what remains
is clutter alone; it serves measurements. `cutout_mask` marks one connected target without gaps; it serves cutting out.
"""

from collections.abc import Callable

import cv2
import numpy as np
from scipy import ndimage, stats
from scipy.special import gammainc

STD_OF_MAD = 1.4826  # standard deviation of normal values over their median absolute deviation

# Of `target_masks`.
FRAME = 0.125  # its width, of the image's side; nothing that is bright in it alone is a target
EDGE_OF_TARGET = 4.0  # robust standard deviations above the clutter's median
GROWN = 2  # px by which a mask is grown, for the target's sidelobes

# Of `cutout_mask`; lengths are shares of the chip's shorter side.
BLUR = 1 / 64  # standard deviation of the Gaussian that smooths speckle before the threshold
THRESHOLD = 3.0  # robust standard deviations above the median, where a target begins
BRIDGE = 4 / 64  # gaps up to about twice this are closed: decks are darker than their edges
MARGIN = 2 / 64  # by which a mask is wider than what is bright, for the target's sidelobes
LARGEST = 0.5  # share of the chip; what is larger is no target

BLOCKS = 8  # along a side, in which clutter is taken to be homogeneous
TRIMMED = 0.1  # of the blocks, at each end of their means: wakes, other ships, land
QUADRATURE = 64  # points over the texture of K-distributed clutter


# --- Targets ----------------------------------------------------------------------------------------------------------


def target_masks(images: np.ndarray) -> np.ndarray:
    """Mark all that is target in each image, by one rule for real and synthetic images alike, without boxes.

    Most of the frame of an image, an eighth of its side wide, is clutter. Bright is where the image, smoothed over
    about 3 px, lies more than four deviations (1.48 x the median absolute one) above the frame's median. What is bright
    inside the frame is target, with all that is bright and touches it; the mask is grown by 2 px, and may be empty.
    Images are uint8 or floating (N, C, H, W), masks bool (N, H, W).
    """
    grey = images.mean(axis=1)
    smooth = ndimage.gaussian_filter(grey, (0, 1, 1))
    height, width = grey.shape[1:]
    top, left = round(FRAME * height), round(FRAME * width)
    inside = np.zeros((height, width), bool)
    inside[top : height - top, left : width - left] = True
    frame = smooth[:, ~inside]
    median = np.median(frame, axis=1)
    std = STD_OF_MAD * np.median(np.abs(frame - median[:, None]), axis=1)
    bright = smooth > (median + EDGE_OF_TARGET * np.maximum(std, 1))[:, None, None]
    target = ndimage.binary_propagation(bright & inside, np.ones((1, 3, 3), bool), mask=bright)
    return ndimage.binary_dilation(target, np.ones((1, 2 * GROWN + 1, 2 * GROWN + 1), bool))


def cutout_mask(image: np.ndarray) -> np.ndarray | None:
    """Mark the one target of a chip, in one piece and without gaps.

    Bright is where the blurred chip lies more than three deviations (1.4826 x the median absolute one) above its
    median. Gaps between bright pixels are closed (morphological closing with a disk) and holes filled; of the connected
    parts the one with most brightness above the median is the target, and the mask is a little wider than it. The image
    is uint8 or floating (C, H, W), the mask bool (H, W), or None if nothing is bright, or half of the chip is.
    """
    grey = image.mean(axis=0)
    side = min(grey.shape)
    above = ndimage.gaussian_filter(grey, BLUR * side)
    above -= np.median(above)
    bright = above > THRESHOLD * STD_OF_MAD * np.median(np.abs(above))
    radius = max(1, round(BRIDGE * side))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(bool)
    framed = np.pad(bright, radius)  # closing must not take the border for bright or dark
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(framed, disk)[radius:-radius, radius:-radius])
    parts, count = ndimage.label(closed)
    if not count:
        return None
    brightest = 1 + np.argmax(ndimage.sum_labels(above, parts, np.arange(1, count + 1)))
    mask = ndimage.binary_dilation(parts == brightest, iterations=max(1, round(MARGIN * side)))
    return mask if mask.mean() <= LARGEST else None


# --- Speckle of clutter -----------------------------------------------------------------------------------------------


def clutter_blocks(intensity: np.ndarray, clutter: np.ndarray | None = None) -> np.ndarray:
    """Cut an image into blocks, an eighth of its sides each, and keep those whose clutter counts as homogeneous.

    Those are the blocks without a target and without the tenths of largest and least mean. (Oliver and Quegan,
    Understanding SAR Images, 2004, on measuring speckle.) `intensity` is >= 0, (H, W), `clutter` bool of the same
    shape, None for all of it; the blocks, of which there may be none, are float64 (blocks, H // 8, W // 8).
    """
    height, width = (side // BLOCKS for side in intensity.shape)

    def blocks(image: np.ndarray) -> np.ndarray:
        cut = image[: BLOCKS * height, : BLOCKS * width].reshape(BLOCKS, height, BLOCKS, width)
        return cut.transpose(0, 2, 1, 3).reshape(-1, height, width)

    values = blocks(intensity.astype(float))
    if clutter is not None:
        values = values[blocks(clutter).all(axis=(1, 2))]
    if not len(values):
        return values
    means = values.mean(axis=(1, 2))
    low, high = np.quantile(means, [TRIMMED, 1 - TRIMMED])
    return values[(low <= means) & (means <= high)]


def equivalent_looks(intensity: np.ndarray, clutter: np.ndarray | None = None) -> float:
    """Equivalent number of looks of an image's clutter: mean² / variance of intensity (Oliver and Quegan, 2004).

    Over `clutter_blocks`: the sum of their squared means over the sum of their variances, so that a slope across the
    image counts little. Arguments are as there; NaN if no block is clutter alone, or all are constant.
    """
    values = clutter_blocks(intensity, clutter)
    if not len(values) or values[0].size < 2:
        return np.nan
    total = values.var(axis=(1, 2), ddof=1).sum()
    return float((values.mean(axis=(1, 2)) ** 2).sum() / total) if total > 0 else np.nan


# --- Distributions of clutter -----------------------------------------------------------------------------------------


def fit_clutter_models(intensities: np.ndarray, looks: float) -> dict[str, dict[str, float]]:
    """Fit the usual models of clutter by moments, each with its Kolmogorov-Smirnov distance (`ks`) from the sample.

    * `gamma`: fully developed speckle over even clutter (Goodman); `looks` = 1 / normalised variance.
    * `k`: speckle of `looks` looks times a gamma texture of parameter `shape` (Jakeman and Pusey,
      doi:10.1109/TAP.1976.1141451): normalised variance = (1 + 1 / looks) (1 + 1 / shape) - 1; `gamma` has infinite
      shape.
    * `lognormal`: `mu` and `sigma` of the logarithm.

    The sample is >= 0, of mean about 1, shape (N,); `looks` are of its speckle alone, e.g. `equivalent_looks`.
    """
    values = np.maximum(np.asarray(intensities, float), 1e-6)  # black pixels have no logarithm
    values = values / values.mean()
    variance = float(values.var()) or 1e-12
    gamma_looks = 1 / variance
    texture = (1 + variance) / (1 + 1 / looks) - 1
    shape = min(1 / texture, 1e6) if texture > 0 else 1e6
    mu, sigma = float(np.log(values).mean()), float(np.log(values).std()) or 1e-6
    models: dict[str, tuple[dict[str, float], Callable[[np.ndarray], np.ndarray]]] = {
        "gamma": ({"looks": gamma_looks}, lambda x: gammainc(gamma_looks, gamma_looks * x)),
        "k": ({"looks": looks, "shape": shape}, lambda x: k_distribution(x, looks, shape)),
        "lognormal": ({"mu": mu, "sigma": sigma}, stats.lognorm(sigma, scale=np.exp(mu)).cdf),
    }
    return {
        name: {**parameters, "ks": float(stats.ks_1samp(values, cdf, method="asymp").statistic)}
        for name, (parameters, cdf) in models.items()
    }


def k_distribution(intensities: np.ndarray, looks: float, shape: float) -> np.ndarray:
    """Cumulative distribution of K-distributed intensity of mean 1: gamma distributions, averaged over the texture."""
    texture = stats.gamma.ppf((np.arange(QUADRATURE) + 0.5) / QUADRATURE, shape, scale=1 / shape)
    return gammainc(looks, looks * np.asarray(intensities)[..., None] / np.maximum(texture, 1e-12)).mean(axis=-1)
