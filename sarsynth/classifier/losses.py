"""The classifier's loss: cross-entropy, in which rare classes or hard images may weigh more than others."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Loss:
    """How much an image weighs."""

    beta: float = 0.0  # from 0, where every class weighs the same, to 1, where it weighs by the inverse of its images
    gamma: float = 0.0  # at least 0; the larger, the less an easy image weighs. 0 is plain cross-entropy


def class_weights(counts: Tensor, beta: float) -> Tensor:
    """Weigh each class by the inverse of its effective number of images, (1 - beta^n) / (1 - beta).

    Cui et al., Class-Balanced Loss Based on Effective Number of Samples, doi:10.1109/CVPR.2019.00949, Eq. 4. They
    scale the weights to a sum of C; here their mean over the images is 1, so that the loss, and with it what a
    learning rate means, keeps its size. At beta = 1 this is scikit-learn's `class_weight="balanced"`, N / (C n).

    Args:
        counts: Training images of each class, (C,), one at least.
        beta: In [0, 1].

    Returns:
        float32, (C,); 0 for a class without images.
    """
    counts = counts.double()
    effective = counts if beta == 1 else (1 - beta**counts) / (1 - beta)
    weights = torch.where(counts > 0, 1 / effective, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def focal_losses(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Cross-entropy times (1 - p)^gamma, p being the probability given to the true class.

    Lin et al., Focal Loss for Dense Object Detection, doi:10.1109/ICCV.2017.324, Eq. 4, with softmax.

    Args:
        logits: Shape (B, C).
        labels: Shape (B,).
        gamma: At least 0; at 0 this is cross-entropy.

    Returns:
        Shape (B,).
    """
    losses = functional.cross_entropy(logits, labels, reduction="none")
    error = -torch.expm1(-losses)  # 1 - p without cancellation
    return error.clamp_min(torch.finfo(losses.dtype).tiny) ** gamma * losses  # a power below 1 has no slope at 0
