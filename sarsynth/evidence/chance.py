"""How far a score would move by chance: other test images, other seeds. Torch-free.

The variance of a score, or of a gain, is split into what is due to the test images alone, to the seeds alone, and to a
seed and an image together, such as an image that one seed gets right and another does not. Drawing images and seeds at
once would count the last part three times (Owen 2007, doi:10.1214/07-AOAS122), so it is estimated apart and seeds are
drawn for their own part alone. Degrees of freedom follow from these parts (Satterthwaite 1946, doi:10.2307/3002019).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import stats

from sarsynth.evidence.predictions import Predictions, figures

LEVEL = 0.05  # a gain is called significant below this p, and intervals hold 1 - LEVEL
POWER = 0.8  # the chance to find a gain that is there


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one method: for each seed, and for each bootstrap replicate of the test images."""

    # shape (seeds, figures), NaN for a figure that does not exist: the minor mean without minor classes
    by_seed: np.ndarray
    resampled: np.ndarray  # shape (replicates, seeds, figures)

    @classmethod
    def of(cls, predictions: Predictions, minor: Sequence[str], weights: np.ndarray) -> Self:
        """Score predictions on every replicate of the images, (replicates, images), and on the images themselves."""
        seeds, checkpoints, images = predictions.predicted.shape
        classes = len(predictions.classes)
        labels = predictions.predicted.reshape(-1, images)
        named = np.eye(classes, dtype=np.float32)[labels]  # (seeds * checkpoints, images, classes)
        right = named * (labels == predictions.labels)[..., None]
        columns = np.concatenate([right, named], axis=-1).transpose(1, 0, 2).reshape(images, -1)
        every = np.concatenate([np.ones((1, images), dtype=np.float32), weights])
        counts = (every @ columns).reshape(len(every), seeds, checkpoints, 2, classes).astype(np.float64)
        minor_labels = [list(predictions.classes).index(name) for name in minor]
        scores = figures(counts[..., 0, :], counts[..., 1, :], predictions.support, minor_labels).mean(axis=2)
        return cls(scores[0], scores[1:])

    @property
    def mean(self) -> np.ndarray:
        """The mean over seeds, (figures,)."""
        return self.by_seed.mean(axis=0)

    @property
    def joint(self) -> np.ndarray:
        """Variance of the mean due to seed and image together, from how seeds differ within each replicate."""
        seeds = len(self.by_seed)
        if seeds == 1:
            return np.zeros(self.by_seed.shape[1])
        differences = self.resampled - self.resampled.mean(axis=1, keepdims=True)
        return differences.var(axis=0).sum(axis=0) / (seeds * (seeds - 1))

    @property
    def seeds_alone(self) -> np.ndarray:
        """Variance of the mean due to the seeds alone: an estimate, which may by chance be below 0."""
        seeds = len(self.by_seed)
        if seeds == 1:
            return np.zeros(self.by_seed.shape[1])
        return self.by_seed.var(axis=0, ddof=1) / seeds - self.joint

    def replicates(self, of_seeds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the seeds of each replicate too, so that they add the variance `of_seeds`: (replicates, figures)."""
        count, seeds, _ = self.resampled.shape
        if seeds == 1:
            return self.resampled[:, 0]
        # Drawn in full, seeds would add (of_seeds + 2 joint) (seeds - 1) / seeds; they are to add of_seeds.
        share = np.sqrt(ratio(of_seeds, (of_seeds + 2 * self.joint) * (seeds - 1) / seeds, otherwise=0.0))
        times = rng.multinomial(seeds, [1 / seeds] * seeds, size=count)
        return self.resampled.mean(axis=1) + share * np.einsum("rs,rsf->rf", times - 1, self.resampled) / seeds


@dataclass(frozen=True, eq=False)
class Variance:
    """The variance of a score, or of a gain, by cause; of each figure, (figures,)."""

    of_images: np.ndarray  # due to the test images alone; an estimate, which may by chance be below 0
    of_seeds: list[np.ndarray]  # due to the seeds alone, for each method
    joint: list[np.ndarray]  # due to a seed and an image together, for each method
    seeds: list[Any]  # number of seeds of each method, numbers or (figures,)
    images: Any  # number of test images of the smallest class, a number or (figures,)

    @classmethod
    def of(cls, drawn: np.ndarray, methods: Sequence[Scores], of_seeds: Sequence[np.ndarray], images: int) -> Self:
        """Split the variance of replicates, (replicates, figures)."""
        joint = [scores.joint for scores in methods]
        alone = drawn.var(axis=0) - sum(of_seeds) - sum(joint)
        return cls(alone, list(of_seeds), joint, [len(scores.by_seed) for scores in methods], images)

    @property
    def total(self) -> np.ndarray:
        """All causes together."""
        return np.maximum(0.0, self.of_images + sum(self.of_seeds) + sum(self.joint))

    def freedom(self, *, cautious: bool = False) -> np.ndarray:
        """Degrees of freedom of the total: each method's seeds bring a part, the images the rest.

        Args:
            cautious: Count the variance between seeds as uncertain even where none of it seems due to them alone: few
                seeds may agree by chance where more would not.
        """
        rest, doubt = self.total, np.zeros_like(self.of_images)
        for own, joint, seeds in zip(self.of_seeds, self.joint, self.seeds, strict=True):
            rest = rest - own
            # What is measured is the variance between seeds, from which the joint part was subtracted.
            measured = np.where((own > 0) | cautious, own + joint, 0.0)
            doubt += measured**2 / np.maximum(1, np.asarray(seeds) - 1)  # 0 for one seed: nothing is known
        doubt += np.maximum(0.0, rest) ** 2 / (self.images - 1)
        fewest = np.min(np.broadcast_arrays(*self.seeds), axis=0) - 1
        fewest = np.where(fewest > 0, fewest, self.images - 1)
        return np.maximum(ratio(self.total**2, doubt, otherwise=self.images - 1), fewest)

    def detectable(self, classes: int) -> np.ndarray:
        """The gain that is significant with a chance of `POWER`; the first figures are those of so many classes."""
        is_class = np.arange(len(self.of_images)) < classes
        freedom = np.where(is_class, self.freedom(cautious=True), self.freedom())
        level = np.where(is_class, LEVEL / classes, LEVEL)
        return (stats.t.ppf(1 - level / 2, freedom) + stats.t.ppf(POWER, freedom)) * np.sqrt(self.total)

    def scaled(self, seeds: np.ndarray | None = None, images: np.ndarray | float = 1.0) -> "Variance":
        """The same with so many seeds of each method, (figures,), and so many times the images."""
        counts = self.seeds if seeds is None else [seeds] * len(self.seeds)
        shares = [before / now for before, now in zip(self.seeds, counts, strict=True)]
        of_seeds = [own * share for own, share in zip(self.of_seeds, shares, strict=True)]
        joint = [part * share / images for part, share in zip(self.joint, shares, strict=True)]
        return Variance(np.maximum(0.0, self.of_images) / images, of_seeds, joint, counts, self.images * images)


def image_weights(labels: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how often each image is in each replicate, float32 (replicates, images); each class keeps its size."""
    weights = np.zeros((replicates, len(labels)), dtype=np.float32)
    for label in np.unique(labels):
        (rows,) = np.nonzero(labels == label)
        places = rng.integers(len(rows), size=(replicates, len(rows))) + len(rows) * np.arange(replicates)[:, None]
        weights[:, rows] = np.bincount(places.ravel(), minlength=replicates * len(rows)).reshape(replicates, -1)
    return weights


def seed_variances(*methods: Scores) -> list[np.ndarray]:
    """Variance of each method's mean due to its seeds alone; what is below 0 for one is taken off the other."""
    positive = [np.maximum(0.0, scores.seeds_alone) for scores in methods]
    total = np.maximum(0.0, sum(scores.seeds_alone for scores in methods))
    return [own * ratio(total, sum(positive, np.zeros_like(own)), otherwise=0.0) for own in positive]


def ratio(above: np.ndarray, below: np.ndarray, otherwise: float = np.inf) -> np.ndarray:
    """Divide where the divisor is positive."""
    below = np.broadcast_to(below, above.shape)
    return np.divide(above, below, out=np.full_like(above, otherwise, dtype=float), where=below > 0)
