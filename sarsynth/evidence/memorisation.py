"""Whether synthetic images are copies of real ones, and whether they differ among themselves.

The nearest real neighbour of each synthetic image is found in two spaces: the classifier's features, and pixels, where
mirror images and small shifts are tried too. Distances among the real images say what is near: a *near-copy* is nearer
to a real image than all but one in a hundred real images are to another. Images that follow the contours of real ones
resemble them by design, and shares above one in a hundred are to be expected; so the pairs are there to be looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sarsynth.data.choosing import evenly
from sarsynth.errors import UserError

SPACES = ("features", "pixels")
PERCENTILE = 0.01  # of the real images' own distances
MOST = 1000  # images of a set whose neighbours are found; a larger set is thinned evenly
SIDE = 64  # px to which images are brought before they are shifted
SHIFT = 3  # px of those, at most, in each direction
CELL = 4  # px a side that are averaged, so that speckle is: 16 x 16 values are compared
MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-1, -2))  # axes


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest real image of each of N images: its row, int64 (N,), and its distance, float32 (N,)."""

    rows: Tensor
    distances: Tensor


def nearest_features(queries: Tensor, real: Tensor, *, same: bool = False) -> Neighbours:
    """Find the nearest real image of each by the Euclidean distance of features, (N, F) and (M, F).

    With `same`, queries are the real images themselves, or some of them by `evenly`; none is its own neighbour.

    Raises:
        UserError: There are no real images to be near to.
    """
    return _nearest(torch.cdist(queries.float(), real.float()), len(real), same)


def nearest_pixels(queries: Tensor, real: Tensor, *, same: bool = False) -> Neighbours:
    """Find the nearest real image of each by pixels: the least distance over mirror images and small shifts.

    Images are averaged over channels, brought to 64 px a side, real ones mirrored in all four ways and shifted by up to
    3 px, then all are averaged over 4 x 4 px, centred and scaled to length one, so that brightness and contrast do not
    count. The distance lies in [0, 2]. Both are uint8, (N or M, C, H, W); `same` is as in `nearest_features`.
    """
    vectors, grey = _unit(functional.avg_pool2d(_grey(queries), CELL)), _grey(real)
    cosines = torch.full((len(queries), len(real)), -1.0)
    span = SIDE - CELL + 1  # from the first cell's beginning to the last one's
    for axes in MIRRORS:
        mirrored = functional.pad(grey.flip(axes) if axes else grey, [SHIFT] * 4, mode="circular")
        cells = functional.avg_pool2d(mirrored, CELL, stride=1)  # of every shift; each takes every fourth
        for down in range(2 * SHIFT + 1):
            for right in range(2 * SHIFT + 1):
                view = cells[..., down : down + span : CELL, right : right + span : CELL]
                cosines = torch.maximum(cosines, vectors @ _unit(view).T)
    return _nearest((2 - 2 * cosines).clamp(min=0).sqrt(), len(real), same)


def _nearest(distances: Tensor, real: int, same: bool) -> Neighbours:
    if real < 1 + same:
        raise UserError(f"nearest neighbours need {1 + same} real training images and more; there are {real}")
    if same:
        distances[torch.arange(len(distances)), evenly(real, len(distances))] = torch.inf
    nearest = distances.min(dim=1)
    return Neighbours(nearest.indices, nearest.values)


def _grey(images: Tensor) -> Tensor:
    return functional.adaptive_avg_pool2d(images.float().mean(dim=1, keepdim=True), SIDE)


def _unit(images: Tensor) -> Tensor:
    """Rows of length one and mean zero; zeros for a constant image, which is like nothing."""
    vectors = images.flatten(1)
    return functional.normalize(vectors - vectors.mean(dim=1, keepdim=True), eps=1e-3)


def threshold(real: Neighbours) -> float:
    """Give the distance below which an image is a near-copy, from the real images' distances to each other."""
    return torch.quantile(real.distances, PERCENTILE).item()


def diversity(features: Tensor) -> float | None:
    """Mean distance of all pairs of a class's features, (N, F); None for fewer than two."""
    return torch.pdist(features.float()).mean().item() if len(features) > 1 else None


def memorisation(
    synthetic: Mapping[str, Neighbours], real: Mapping[str, Neighbours], labels: Tensor, classes: Sequence[str]
) -> dict[str, Any]:
    """Say how many synthetic images are near-copies, and how far synthetic and real images lie from real ones.

    Args:
        synthetic: By space, the nearest real image of each synthetic one.
        real: By space, the nearest other real image of each.
        labels: The classes that the synthetic images were made for, (N,).
        classes: Names of the labels.

    Returns:
        * `n`: images looked at, `real` and `synthetic`;
        * `spaces`: by space, the `threshold`, the median distances `real` and `synthetic`, and `near_copies`, a share;
        * `per_class`: by class and space, the share of near-copies; `n`.
    """
    limits = {space: threshold(real[space]) for space in SPACES}
    near = {space: synthetic[space].distances < limits[space] for space in SPACES}
    spaces = {
        space: {
            "threshold": limits[space],
            "near_copies": near[space].float().mean().item(),
            "real": real[space].distances.median().item(),
            "synthetic": synthetic[space].distances.median().item(),
        }
        for space in SPACES
    }
    members = {name: labels == label for label, name in enumerate(classes) if (labels == label).any()}
    per_class = {
        name: {"n": int(rows.sum())} | {space: near[space][rows].float().mean().item() for space in SPACES}
        for name, rows in members.items()
    }
    return {"n": {"real": len(real["pixels"].rows), "synthetic": len(labels)}, "spaces": spaces, "per_class": per_class}
