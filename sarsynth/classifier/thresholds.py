"""Thresholds on a classifier's shares, chosen on validation images: for classes that argmax seldom names.

A class that is rare in training, or made common there by synthetic images, is named too seldom or too often where the
test set has other shares. Its threshold is that of the best F1 of this class against all others on validation images;
an image is then of the class whose share exceeds its threshold by the largest factor, so that it still has one label.
"""

import numpy as np
import torch
from sklearn.metrics import precision_recall_curve
from torch import Tensor

NEUTRAL = 0.5  # of a class without validation images
SMALLEST = 1e-6  # a threshold is a divisor


def best_thresholds(logits: Tensor, labels: Tensor) -> Tensor:
    """Choose a threshold for each class.

    Args:
        logits: Of validation images, (N, classes).
        labels: Their classes, int64 (N,).

    Returns:
        Shares in (0, 1], float64 (classes,); 0.5 for a class without validation images.
    """
    shares, true = logits.double().softmax(dim=1).numpy(), labels.numpy()
    chosen = np.full(shares.shape[1], NEUTRAL)
    for label in np.unique(true):
        precision, recall, limits = precision_recall_curve(true == label, shares[:, label])
        f1 = 2 * precision * recall / np.maximum(precision + recall, SMALLEST)
        chosen[label] = max(SMALLEST, limits[f1[:-1].argmax()])
    return torch.from_numpy(chosen)


def decide(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Name the class of each image, int64 (N,), by logits (N, classes) and thresholds (classes,)."""
    return (logits.double().log_softmax(dim=1) - thresholds.log()).argmax(dim=1)
