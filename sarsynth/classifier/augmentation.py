"""Random views of training images, such as a radar might have taken."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Random views of a training image that leave its class alone.

    SAR geometry is not symmetric: layover and shadow point along range, and a flip must leave that direction as it is.
    The data set knows which flip does (`data.flip`).
    """

    flip: Literal["none", "horizontal", "vertical", "both"] = "none"  # left-right, upside down; half of the images
    shift: int = 0  # by up to this many whole px in each direction; the image is mirrored at its borders
    crop_scale: tuple[float, float] | None = None  # share of the area that is cut out and enlarged, e.g. (0.08, 1)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width : height of what is cut out
    # The intensity, the square of a grey value, is multiplied by speckle of this many looks (as Ding et al. do,
    # doi:10.1109/LGRS.2015.2513754), of mean 1 and variance 1 / looks, equal in all channels. None adds none.
    looks: int | None = None


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Draw one random view of every image.

    Cut-out, shift and flip are one affine map, sampled once (bilinear). Flips and shifts alone only move pixels. The
    cut-out is never larger than the image, so the view is only ever enlarged and cannot alias.

    Args:
        images: Any dtype, shape (B, C, H, W).
        augmentation: Which views.
        generator: On the CPU, whatever the images' device, so that views do not depend on it.

    Returns:
        float32, same shape and range.
    """
    batch, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, generator=generator)

    scale = torch.ones(2, batch)  # width and height of the cut-out, as shares of the image's
    centre = torch.zeros(2, batch)  # x and y, where the image spans [-1, 1]
    if augmentation.crop_scale is not None:
        area = uniform(*augmentation.crop_scale)
        ratio = uniform(*(math.log(bound) for bound in augmentation.crop_ratio)).exp()
        scale = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()]).clamp(max=1)
        centre = (1 - scale) * torch.stack([uniform(-1, 1), uniform(-1, 1)])
    if augmentation.shift:
        pixels = torch.randint(-augmentation.shift, augmentation.shift + 1, (2, batch), generator=generator)
        centre = centre + 2 * pixels / torch.tensor([[width], [height]])
    flips = {"none": (0.0, 0.0), "horizontal": (0.5, 0.0), "vertical": (0.0, 0.5), "both": (0.5, 0.5)}
    chance = torch.tensor(flips[augmentation.flip]).view(2, 1)
    scale = torch.where(torch.rand(2, batch, generator=generator) < chance, -scale, scale)

    maps = torch.zeros(batch, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1] = scale
    maps[:, :, 2] = centre.T
    grid = functional.affine_grid(maps.to(images.device, non_blocking=True), list(images.shape), align_corners=False)
    views = functional.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    if augmentation.looks is None:
        return views
    # Speckle of one look is exponential (Goodman, ISBN 978-1510631489).
    looks = (torch.empty(batch, 1, height, width).exponential_(generator=generator) for _ in range(augmentation.looks))
    speckle = (sum(looks, torch.zeros(())) / augmentation.looks).sqrt()
    return (views * speckle.to(images.device, non_blocking=True)).clamp(max=255)
