"""Copy-paste: a target cut out of one SAR chip and put onto the clutter of another. Torch-free.

The idea is that of Dwibedi et al., Cut, Paste and Learn, doi:10.1109/ICCV.2017.146; here nothing but pixels is known.
Grey values are taken for amplitudes.
"""

import itertools

import numpy as np
from scipy import ndimage

from sarsynth.data.clutter import cutout_mask

SEAM = 3 / 64  # of the chip's shorter side, over which a target fades into clutter
SHIFTS = 8  # a side: how finely clutter is looked for that can fill the place of a target


def background(image: np.ndarray) -> np.ndarray | None:
    """Take the target out of a chip: clutter from elsewhere in it, mirrored at its borders, fills the place.

    Args:
        image: uint8 or floating, 0..255, shape (C, H, W).

    Returns:
        Floating, same shape and range; None if no target stands out, the clutter is black, or there is too little.
    """
    mask = cutout_mask(image)
    if mask is None:
        return None
    level = clutter_level(image, mask)
    if not level.all():
        return None
    weight = _fading(mask)
    height, width = mask.shape
    tiled = np.pad(image, ((0, 0), (0, 2 * height), (0, 2 * width)), mode="symmetric")
    tiled_mask = np.pad(mask, ((0, 2 * height), (0, 2 * width)), mode="symmetric")
    shifts = (range(0, 2 * side, max(1, side // SHIFTS)) for side in mask.shape)
    for top, left in itertools.product(*shifts):
        window = np.s_[top : top + height, left : left + width]
        if not (tiled_mask[window] & (weight > 0)).any():
            return blend(tiled[:, *window], image, weight, level)
    return None


def paste(image: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Put the target of a chip onto other clutter, which is made as bright as its own.

    Pixels in the mask stay as they are, also relative to the clutter. Around the mask the two fade into each other.

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
    """Mix two clutters of one level so that the mixture is as rough as they are; a weighted mean would be smoother.

    Heitz and Neyret, By-Example Noise using a Histogram-Preserving Blending Operator, doi:10.1145/3233304: independent
    differences from the level get weights whose squares sum to one.

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
