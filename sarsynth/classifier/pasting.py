"""Copy-paste: a target cut out of one SAR chip and put onto the clutter of another. Torch-free.

The idea is that of Dwibedi et al., Cut, Paste and Learn, doi:10.1109/ICCV.2017.146; here nothing but pixels is known.
Grey values are taken for amplitudes. All lengths are shares of a chip's shorter side.
"""

import cv2
import numpy as np
from scipy import ndimage

BLUR = 1 / 64  # deviation of the Gaussian that calms speckle before the threshold
THRESHOLD = 3.0  # robust deviations above the median, where a target begins
BRIDGE = 4 / 64  # gaps up to about twice this are closed: decks are darker than their edges
MARGIN = 2 / 64  # that a mask is wider than what is bright, for its sidelobes
SEAM = 3 / 64  # over which a target fades into clutter
LARGEST = 0.5  # share of the chip; what is larger is no target
SHIFTS = 8  # a side: how finely clutter is looked for that can fill the place of a target


def target_mask(image: np.ndarray) -> np.ndarray | None:
    """Say which pixels of a chip are its target.

    Bright is where the blurred chip lies more than three deviations (1.4826 x the median absolute one) above its
    median. Gaps between bright pixels are closed (morphological closing with a disk) and holes filled; of the connected
    parts the one with most brightness above the median is the target, and the mask is a little wider than it.

    Args:
        image: uint8 or floating, shape (C, H, W).

    Returns:
        bool, shape (H, W); None if nothing is bright, or half of the chip is.
    """
    grey = image.mean(axis=0)
    side = min(grey.shape)
    above = ndimage.gaussian_filter(grey, BLUR * side)
    above -= np.median(above)
    bright = above > THRESHOLD * 1.4826 * np.median(np.abs(above))
    radius = max(1, round(BRIDGE * side))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(bool)
    framed = np.pad(bright, radius)  # closing must not take the border for bright or dark
    whole = ndimage.binary_fill_holes(ndimage.binary_closing(framed, disk)[radius:-radius, radius:-radius])
    parts, count = ndimage.label(whole)
    if not count:
        return None
    largest = 1 + np.argmax(ndimage.sum_labels(above, parts, np.arange(1, count + 1)))
    mask = ndimage.binary_dilation(parts == largest, iterations=max(1, round(MARGIN * side)))
    return mask if mask.mean() <= LARGEST else None


def clutter(image: np.ndarray) -> np.ndarray | None:
    """Take the target out of a chip: clutter from elsewhere in it, mirrored at its borders, fills the place.

    Args:
        image: uint8 or floating, 0..255, shape (C, H, W).

    Returns:
        Floating, same shape and range; None if the target cannot be told, is black all round, or leaves too little.
    """
    mask = target_mask(image)
    if mask is None:
        return None
    level = clutter_level(image, mask)
    weight = _fading(mask)
    height, width = mask.shape
    tiled = np.pad(image, ((0, 0), (0, 2 * height), (0, 2 * width)), mode="symmetric")
    taken = np.pad(mask, ((0, 2 * height), (0, 2 * width)), mode="symmetric")
    starts = [
        (top, left)
        for top in range(0, 2 * height, max(1, height // SHIFTS))
        for left in range(0, 2 * width, max(1, width // SHIFTS))
    ]
    for top, left in starts:
        window = np.s_[top : top + height, left : left + width]
        if level.all() and not (taken[window] & (weight > 0)).any():
            return blend(tiled[:, *window], image, weight, level)
    return None


def paste(image: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Put the target of a chip onto other clutter, which is made as bright as its own.

    So what is in the mask stays what it is, also relative to the clutter. Around it the two fade into each other.

    Args:
        image: uint8 or floating, 0..255, shape (C, H, W).
        mask: Its target, bool, shape (H, W).
        background: Clutter without a target, floating, same shape and range.

    Returns:
        Same shape, type and range.
    """
    level = clutter_level(image, mask)
    under = background * (level / background.mean(axis=(1, 2), keepdims=True))
    mixed = np.clip(blend(image, under, _fading(mask), level), 0, 255)
    return (np.round(mixed) if image.dtype == np.uint8 else mixed).astype(image.dtype)


def clutter_level(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of each channel outside the target, shape (C, 1, 1)."""
    return image[:, ~mask].mean(axis=1)[:, None, None]


def blend(over: np.ndarray, under: np.ndarray, weight: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Mix two clutters of one level so that the mixture is as rough as they are, where a mean would be smoother.

    Heitz and Neyret, By-Example Noise using a Histogram-Preserving Blending Operator, doi:10.1145/3233304: independent
    deviations from the level are weighed with weights whose squares sum to one.

    Args:
        over: Shape (C, H, W).
        under: Same shape.
        weight: Of `over`, in [0, 1], shape (H, W).
        level: Mean of both, shape (C, 1, 1).
    """
    mixed = weight * (over - level) + (1 - weight) * (under - level)
    return level + mixed / np.hypot(weight, 1 - weight)


def _fading(mask: np.ndarray) -> np.ndarray:
    """1 in a mask, falling to 0 over the width of the seam around it."""
    return np.clip(1 - ndimage.distance_transform_edt(~mask) / (SEAM * min(mask.shape) + 1), 0, 1)
