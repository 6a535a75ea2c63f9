"""How strongly each adapter of the stack acts when a class is generated. Torch-free.

A stack is base + w1 · ors + w2 · sum_j w_ij · prototype_j (the paper's Eq. 4). The mixing weights w of class i over its
K adapters are non-negative and sum to 1; they follow from the class x part counts of a partition.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

LOWEST, HIGHEST = 0.5, 2.0  # bounds of w1 + w2, exclusive: outside them the paper's images fall apart

Mixing = Literal["own", "uniform", "bias"]


def bias_scores(counts: np.ndarray) -> np.ndarray:
    """Compute each class's share of each part: b_ij = N(c_i, p_j) / sum_i N(c_i, p_j).

    Args:
        counts: Images of class i in part j, shape (number of classes, K).

    Returns:
        float64, same shape, in [0, 1]; columns sum to 1. An empty part gives 0.
    """
    counts = np.asarray(counts, dtype=np.float64)
    totals = counts.sum(axis=0, keepdims=True)
    return np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)


def prototype_weights(counts: np.ndarray) -> np.ndarray:
    """Weigh parts by bias scores: w_i = b_i / |b_i|_1, the paper's weights of `plora`.

    Args:
        counts: Images of class i in part j, shape (number of classes, K).

    Returns:
        float64, same shape; rows sum to 1.

    Raises:
        ValueError: A class has no image in any part.
    """
    scores = bias_scores(counts)
    norms = scores.sum(axis=1, keepdims=True)
    if not norms.all():
        raise ValueError(f"classes without images in any part: {np.flatnonzero(norms == 0).tolist()}")
    return scores / norms


def uniform(counts: np.ndarray) -> np.ndarray:
    """Weigh all K parts alike, whatever the class: 1 / K; shape as `counts`."""
    return np.full(np.shape(counts), 1 / np.shape(counts)[1])


def own(counts: np.ndarray) -> np.ndarray:
    """Give all weight to the part that holds most of a class, its own if parts are class groups; shape as `counts`."""
    return np.eye(np.shape(counts)[1])[np.argmax(counts, axis=1)]


MIXINGS: dict[Mixing, Callable[[np.ndarray], np.ndarray]] = {"own": own, "uniform": uniform, "bias": prototype_weights}


def scale_warning(w1: float, w2: float) -> str | None:
    """Say what is wrong with w1 (ORS adapter) and w2 (SAR adapters), or None: their sum must lie in (0.5, 2)."""
    if LOWEST < w1 + w2 < HIGHEST:
        return None
    return (
        f"generate.scales=[{w1:g}, {w2:g}]: w1 + w2 = {w1 + w2:g} lies outside ({LOWEST:g}, {HIGHEST:g}); "
        "images may lose the SAR look or fall apart"
    )
