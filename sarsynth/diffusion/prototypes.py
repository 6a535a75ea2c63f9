"""Prototypes of the SAR training set: which image belongs to which, and how strongly each acts for a class.

A partition divides the images into K parts: `whole`, `class_groups`, or `cluster`, which is K-means; an adapter trains
on each part. An image of class i is made with base + w1 · ors + w2 · sum_j w_ij · prototype_j (the paper's Eq. 4). The
mixing weights w_ij are non-negative and sum to 1 over the K adapters; they follow from the class x part counts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from sarsynth.errors import UserError

RESTARTS = 10  # of K-means, as in the paper's release; the best of them is kept

Mixing = Literal["own", "uniform", "bias"]


@dataclass(frozen=True, eq=False)
class Partition:
    """A division of the training images into K parts."""

    classes: tuple[str, ...]  # class names, in the order of the rows of `counts`
    names: tuple[str, ...]  # names of the adapters that train on the parts, in the order of the columns of `counts`
    # part of each training image, int (N,), values 0..K-1, in the order of the training records
    assignments: np.ndarray
    counts: np.ndarray  # images of each class in each part, int (number of classes, K)
    # normalised mutual information of parts and labels: 0 if parts say nothing about the class, 1 if the parts *are*
    # the classes, in which case `plora` equals `clora`
    nmi: float

    @property
    def k(self) -> int:
        """Number of parts, empty ones included."""
        return self.counts.shape[1]

    @classmethod
    def of(cls, assignments: np.ndarray, labels: np.ndarray, classes: Sequence[str], names: Sequence[str]) -> Self:
        """Count a given division of images into named parts; `assignments` and `labels` are int (N,)."""
        from sklearn.metrics import normalized_mutual_info_score  # seconds of imports, which a report has no use for

        counts = np.zeros((len(classes), len(names)), dtype=np.int64)
        np.add.at(counts, (labels, assignments), 1)
        nmi = float(normalized_mutual_info_score(labels, assignments))
        return cls(tuple(classes), tuple(names), np.asarray(assignments, dtype=np.int64), counts, nmi)

    def save(self, file: Path) -> None:
        """Write everything as one JSON file."""
        content = {
            "classes": list(self.classes),
            "names": list(self.names),
            "nmi": self.nmi,
            "counts": dict(zip(self.classes, self.counts.tolist(), strict=True)),
            "assignments": self.assignments.tolist(),
        }
        file.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""
        content = json.loads(file.read_text(encoding="utf-8"))
        counts = np.array([content["counts"][name] for name in content["classes"]], dtype=np.int64)
        assignments = np.array(content["assignments"], dtype=np.int64)
        return cls(tuple(content["classes"]), tuple(content["names"]), assignments, counts, content["nmi"])


def check_k(k: int, images: int) -> None:
    """Refuse more clusters than images.

    Raises:
        UserError: There are fewer images than clusters.
    """
    if not 1 <= k <= images:
        raise UserError(f"prototypes.k={k}: must be between 1 and the number of training images, {images}")


def whole(labels: np.ndarray, classes: Sequence[str]) -> Partition:
    """Put all images into one part."""
    return Partition.of(np.zeros(len(labels), dtype=np.int64), labels, classes, ["sar"])


def supposed(labels: np.ndarray, classes: Sequence[str], k: int) -> Partition:
    """Stand in for prototypes that are not found yet: K parts of equal size, for a plan to count with."""
    return Partition.of(np.arange(len(labels)) % k, labels, classes, _names(k))


def _names(k: int) -> list[str]:
    return [f"prototype_{part}" for part in range(k)]


def class_groups(labels: np.ndarray, classes: Sequence[str], minor: Sequence[str]) -> Partition:
    """Give each minor class a part of its own, and the other classes together the last one.

    Raises:
        UserError: No class is minor.
    """
    if not minor:
        raise UserError("data.minor: no class is minor, so there are no class groups; name some, or choose a method")
    rest = len(minor)
    groups = np.array([minor.index(name) if name in minor else rest for name in classes])
    names = [*(f"sar_{name}" for name in minor), "sar_rest"]
    return Partition.of(groups[labels], labels, classes, names[: int(groups.max()) + 1])


def apportion(total: int, weights: np.ndarray) -> np.ndarray:
    """Share a whole number out in proportion to weights, at least 1 each, by the largest remainder.

    Args:
        total: What is shared, at least as many as there are weights.
        weights: Positive, shape (K,).

    Returns:
        Int (K,), with the sum `total`.
    """
    exact = 1 + (total - len(weights)) * weights / weights.sum()
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[: total - shares.sum()]] += 1
    return shares


def cluster(features: np.ndarray, labels: np.ndarray, classes: Sequence[str], k: int, seed: int = 0) -> Partition:
    """Cluster images by K-means on their features; labels are only counted.

    Args:
        features: Shape (N, F), used as they are: no scaling, no projection.
        labels: Int (N,).
        classes: Names of the labels 0, 1, …
        k: Number of clusters.
        seed: Of the initial centres.

    Raises:
        UserError: There are fewer images than clusters.
    """
    from sklearn.cluster import KMeans  # as above

    check_k(k, len(features))
    means = KMeans(n_clusters=k, n_init=RESTARTS, random_state=seed)
    return Partition.of(means.fit_predict(features), labels, classes, _names(k))


# --- Mixing weights (Eq. 4) -------------------------------------------------------------------------------------------


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
    """Weigh parts by bias scores: w_i = b_i / |b_i|_1, the weights of `plora`.

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
