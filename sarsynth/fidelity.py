"""How close synthetic images are to real ones, class by class, in the study's own feature space.

Features come from a frozen extractor, by design the SAR classifier and not ImageNet's Inception; figures compare within
a study but not with those of another extractor. FID is biased upwards, the more so the fewer the images per
feature, so every figure comes with its numbers of images.
"""

import warnings
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

KID_SUBSETS = 100
KID_SUBSET_SIZE = 100  # at most; never more than the smaller set has


class ClassFidelity(TypedDict):
    """Distances of one class; None where there are too few images to tell. Lower is closer."""

    fid: float | None
    kid: float | None
    n_real: int
    n_synthetic: int


class _Features(nn.Identity):
    """Stands where torchmetrics expects an image network: our images are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def fid(real: Tensor, synthetic: Tensor) -> float:
    """Fréchet distance of two sets of features, in float64.

    |m_r - m_s|² + tr(C_r + C_s - 2 (C_r C_s)^½) with means m and unbiased covariances C.

    Args:
        real: Shape (N, F), N >= 2.
        synthetic: Shape (M, F), M >= 2.

    Returns:
        At least 0, in units of squared features.
    """
    metric = FrechetInceptionDistance(feature=_Features(real.shape[1]))
    # The distance does not depend on the origin; centring keeps torchmetrics' sums of squares from cancelling.
    origin = real.double().mean(dim=0)
    _update(metric, real.double() - origin, synthetic.double() - origin)
    # The matrix root of nearly singular covariances can leave the result slightly below zero.
    return max(0.0, metric.compute().item())


def kid(real: Tensor, synthetic: Tensor, seed: int = 0) -> float:
    """Kernel distance (squared MMD, cubic kernel, unbiased), a mean over random subsets.

    Its expectation does not depend on the number of images, so unlike `fid` it can be compared between classes.

    Args:
        real: Shape (N, F), N >= 2.
        synthetic: Shape (M, F), M >= 2.
        seed: Of the subsets.

    Returns:
        About 0 for equal distributions; slightly negative values occur.
    """
    subset_size = min(KID_SUBSET_SIZE, len(real), len(synthetic))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*save all extracted features in buffer"
        )  # that is as many as we hold
        metric = KernelInceptionDistance(_Features(real.shape[1]), subsets=KID_SUBSETS, subset_size=subset_size)
    _update(metric, real.double(), synthetic.double())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return metric.compute()[0].item()


def fidelity(
    real: Tensor, real_labels: Tensor, synthetic: Tensor, synthetic_labels: Tensor, classes: Sequence[str]
) -> dict[str, ClassFidelity]:
    """Measure every class that has synthetic images.

    Args:
        real: Features of real images, (N, F).
        real_labels: Their labels, (N,).
        synthetic: Features of synthetic images, (M, F).
        synthetic_labels: The classes they were made for, (M,).
        classes: Names of the labels 0, 1, …

    Returns:
        Class name -> figures, in the order of `classes`.
    """
    result: dict[str, ClassFidelity] = {}
    for label, name in enumerate(classes):
        ours, theirs = real[real_labels == label], synthetic[synthetic_labels == label]
        if len(theirs):
            enough = min(len(ours), len(theirs)) >= 2
            result[name] = {
                "fid": fid(ours, theirs) if enough else None,
                "kid": kid(ours, theirs) if enough else None,
                "n_real": len(ours),
                "n_synthetic": len(theirs),
            }
    return result


def _update(metric: Metric, real: Tensor, synthetic: Tensor) -> None:
    metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(synthetic, real=False)
