"""Whether clutter gives classes away: what a classifier still recognises where targets are hidden. Torch-free."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sarsynth.data.clutter import target_masks

COMMON = 0.01  # share of the images; where more of them have their target, it is hidden in all
NORMAL_95 = 1.96


def hide_targets(images: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Put clutter where targets are, at the same place in all images, lest the shape of a mask tell the class.

    That place is where more than one image in a hundred has its target (`target_masks`). It is filled with pixels drawn
    from each image's own clutter, and so is what its target has outside of it: grey values stay, the target goes.

    Images are uint8, (N, C, H, W), as are those that are returned; None if targets leave no clutter in one of them.
    """
    targets = target_masks(images)
    common = targets.mean(axis=0) > COMMON
    masked = images.copy()
    for index, target in enumerate(targets):
        hidden = common | target
        if hidden.all():
            return None
        clutter = images[index][:, ~hidden]  # (C, pixels)
        rng = np.random.default_rng([seed, index])
        masked[index][:, hidden] = clutter[:, rng.integers(clutter.shape[1], size=int(hidden.sum()))]
    return masked


def shortcut(labels: np.ndarray, whole: np.ndarray, masked: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Say what a classifier still recognises without targets: above chance, it is the clutter that gives classes away.

    Args:
        labels: True ones of test images, (N,).
        whole: Predicted ones, (N,).
        masked: Predicted ones of the same images after `hide_targets`.
        classes: Names of the labels.

    Returns:
        `accuracy`, `masked_accuracy` and `chance`, all of them means over the classes that occur, whatever their sizes,
        and `interval`, 95 %, of the second.
    """
    present = [label for label in range(len(classes)) if (labels == label).any()]
    hits = [(masked == label)[labels == label] for label in present]
    error = np.sqrt(sum(np.var(hit) / len(hit) for hit in hits)) / len(present)
    masked_accuracy = float(np.mean([hit.mean() for hit in hits]))
    return {
        "accuracy": float(np.mean([(whole == label)[labels == label].mean() for label in present])),
        "masked_accuracy": masked_accuracy,
        "chance": 1 / len(present),
        "interval": [max(0.0, masked_accuracy - NORMAL_95 * error), min(1.0, masked_accuracy + NORMAL_95 * error)],
        "n": len(labels),
        "meaning": "accuracy of the study's classifier on test images whose targets are replaced by clutter; "
        "well above chance, clutter gives classes away, and gains may come from it",
    }
