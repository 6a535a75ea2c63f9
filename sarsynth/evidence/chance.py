"""How far a score would move by chance: other test images, other seeds. Torch-free.

The variance of a score, or of a gain, is split into what is due to the test images alone, to seeds alone (those of the
generator, of sampling and of classifiers, see `sarsynth.evidence.design`), and to seeds and an image together, such as
an image that one seed gets right and another does not. Drawing images and seeds at once would count the last part three
times (Owen 2007, doi:10.1214/07-AOAS122): images are drawn again, and what seeds alone add follows from how figures
differ between them, less the part that is due to the images at hand. Degrees of freedom follow from these parts
(Satterthwaite 1946, doi:10.2307/3002019).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import special

from sarsynth.evidence.design import CLASSIFIER, FACTORS, Design, Factors, components, freedom
from sarsynth.evidence.moderation import moderated
from sarsynth.evidence.predictions import Predictions, calibration_errors, figures, precision_areas
from sarsynth.evidence.results import alike_in

LEVEL = 0.05  # a gain is called significant below this p, and intervals hold 1 - LEVEL
POWER = 0.8  # the chance to find a gain that is there
PAIRED = -1  # the arm of what two methods share
LEAST_DEVIATIONS, MOST_DEVIATIONS, HALVINGS = 0.1, 1e3, 16  # quantiles are found between these by halving
POINTS = 32  # at which the variance of generators is averaged over


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one method: for each classifier, and for each bootstrap replicate of the test images.

    Figures are those that `sarsynth.evidence.results.figure_names` names, NaN for one that does not exist: the minor
    mean without minor classes, what rests on shares where these are unknown.
    """

    design: Design  # the seeds of the classifiers
    grid: np.ndarray  # shape (generators, samples, classifiers, figures)
    resampled: np.ndarray  # shape (replicates, generators, samples, classifiers, figures)
    classes: Sequence[str]
    smallest: int  # test images of the smallest class

    @classmethod
    def of(cls, predictions: Predictions, minor: Sequence[str], weights: np.ndarray) -> Self:
        """Score predictions on every replicate of the images, (replicates, images), and on the images themselves."""
        every = np.concatenate([np.ones((1, len(predictions.labels)), dtype=np.float32), weights])
        scores = np.concatenate([_of_labels(predictions, minor, every), _of_shares(predictions, every)], axis=-1)
        shape = (*predictions.seeds.shape, scores.shape[-1])
        grid, resampled = scores[0].reshape(shape), scores[1:].reshape(-1, *shape)
        return cls(predictions.seeds, grid, resampled, predictions.classes, predictions.smallest)

    @property
    def mean(self) -> np.ndarray:
        """The mean over all classifiers, (figures,)."""
        return self.grid.mean(axis=(0, 1, 2))

    @cached_property
    def drawn(self) -> np.ndarray:
        """The same on each replicate of the images, (replicates, figures)."""
        return self.resampled.mean(axis=(1, 2, 3))

    @cached_property
    def by_seeds(self) -> dict[Factors, tuple[np.ndarray, np.ndarray]]:
        """What seeds add to the variance of the mean: by factors, alone and together with an image."""
        return _split(self.grid, self.resampled)


def _of_labels(predictions: Predictions, minor: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """Figures that rest on counts of labels: (replicates, classifiers, classes + 4)."""
    runs, checkpoints, images = predictions.predicted.shape
    classes = len(predictions.classes)
    labels = predictions.predicted.reshape(-1, images)
    named = (labels[..., None] == np.arange(classes)).astype(np.float32)  # (runs * checkpoints, images, classes)
    right = named * (labels == predictions.labels)[..., None]
    columns = np.concatenate([right, named], axis=-1).transpose(1, 0, 2).reshape(images, -1)
    counts = (weights @ columns).reshape(len(weights), runs, checkpoints, 2, classes).astype(np.float64)
    minor_labels = [list(predictions.classes).index(name) for name in minor if name in predictions.classes]
    return figures(counts[..., 0, :], counts[..., 1, :], predictions.support, minor_labels).mean(axis=2)


def _of_shares(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Areas under precision-recall curves, their mean, calibration error: (replicates, classifiers, classes + 2)."""
    runs, classes = len(predictions.predicted), len(predictions.classes)
    if predictions.shares is None:
        return np.full((len(weights), runs, classes + 2), np.nan)
    found = np.empty((len(weights), runs, classes + 2))
    # A replicate has as many images as the test set, and short integers are summed twice as fast.
    counted = weights.astype(np.int16 if len(predictions.labels) < 2**15 else weights.dtype)
    for run, (shares, predicted) in enumerate(zip(predictions.shares, predictions.predicted, strict=True)):
        if len(shares) != len(predicted):  # checkpoints that vote have one label
            shares = shares.mean(axis=0, keepdims=True)
        areas = np.mean([precision_areas(of_one, predictions.labels, counted) for of_one in shares], axis=0)
        errors = [
            calibration_errors(of_one, labels, predictions.labels, weights)
            for of_one, labels in zip(shares, predicted, strict=True)
        ]
        found[:, run] = np.column_stack([areas, areas.mean(axis=1), np.mean(errors, axis=0)])
    return found


@dataclass(frozen=True, eq=False)
class Part:
    """What some factors together, and no fewer of them, add to the variance of figures."""

    factors: Factors  # which
    arm: int  # of which method, or `PAIRED`
    alone: np.ndarray  # whatever the test images, (figures,)
    joint: np.ndarray  # together with an image, (figures,)


@dataclass(frozen=True, eq=False)
class Variance:
    """The variance of a score, or of a gain, by cause; of each figure, (figures,)."""

    of_images: np.ndarray  # due to the test images alone; an estimate, which may by chance be below 0
    parts: Sequence[Part]  # due to seeds
    counts: Mapping[int, Mapping[str, Any]]  # seeds of each arm, by factor, numbers or (figures,)
    images: Any  # test images of the smallest class, a number or (figures,)
    alike: Sequence[slice] = ()  # figures of one kind, each of a class, in which generators differ about as much

    @classmethod
    def of(cls, *methods: Scores) -> Self:
        """Split the variance of a method's figures, or of its gains over another's on the same or on other images."""
        drawn = methods[0].drawn - (methods[1].drawn if len(methods) > 1 else 0.0)
        counts: dict[int, Mapping[str, Any]] = {arm: scores.design.counts for arm, scores in enumerate(methods)}
        found = {(chosen, arm): part for arm, scores in enumerate(methods) for chosen, part in scores.by_seeds.items()}
        if len(methods) > 1 and methods[0].design.shares_images_with(methods[1].design):
            found = _paired(methods, found)
            counts[PAIRED] = {name: max(counts[0][name], counts[1][name]) for name in FACTORS}
        nothing = np.zeros(drawn.shape[1])
        alone = _positive([alone for alone, _ in found.values()], nothing)
        joint = _positive([joint for _, joint in found.values()], nothing)
        parts = [Part(*key, *parts) for key, parts in zip(found, zip(alone, joint, strict=True), strict=True)]
        smallest = min(scores.smallest for scores in methods)
        of_images = drawn.var(axis=0) - sum(joint, nothing)
        return cls(of_images, parts, counts, smallest, alike_in(methods[0].classes))

    @property
    def of_seeds(self) -> np.ndarray:
        """Due to seeds alone, all together."""
        return sum((part.alone for part in self.parts), np.zeros_like(self.of_images))

    @property
    def together(self) -> np.ndarray:
        """Due to seeds and an image together."""
        return sum((part.joint for part in self.parts), np.zeros_like(self.of_images))

    @property
    def total(self) -> np.ndarray:
        """All causes together."""
        return np.maximum(0.0, self.of_images + self.of_seeds + self.together)

    def due_to(self, factor: str) -> np.ndarray | None:
        """Due to the seeds of one factor alone; with what comes before it, its part is that of the later one.

        None where it has one seed, which tells nothing.
        """
        later = FACTORS[FACTORS.index(factor) + 1 :]
        own = [part for part in self.parts if factor in part.factors and not part.factors.intersection(later)]
        return sum((part.alone for part in own), np.zeros_like(self.of_images)) if own else None

    def chance(self, size: np.ndarray, *, cautious: bool | np.ndarray = False) -> np.ndarray:
        """The chance that a figure lies at least so many standard deviations from its mean, on either side: p.

        What differs between two or three generators may by chance look small, and all would then seem to be due to the
        images. So their variance is not taken as it was measured: those of all classes are moderated
        (`sarsynth.evidence.moderation`), and then averaged over, with the prior 1 / variance, from the part that is
        known of it, that of the images and classifiers (Box and Tiao, Bayesian Inference in Statistical Analysis, 1973,
        chapter 5). Where they differ by far, this is Student's t of their own degrees of
        freedom; where nothing is made by seeds, Student's t of the rest.

        Args:
            size: (figures,), at least 0.
            cautious: Count the variance between classifier seeds as uncertain even where none of it seems due to them
                alone: few seeds may agree by chance where more would not.
        """
        return self._beyond(cautious=cautious)(size)

    def quantile(self, upper: Any, *, cautious: bool | np.ndarray = False) -> np.ndarray:
        """How many standard deviations a figure exceeds with the chance 1 - `upper`, from 0.5 up; (figures,)."""
        level = np.broadcast_to(2 * (1 - np.asarray(upper)), self.of_images.shape)
        beyond = self._beyond(cautious=cautious)
        low, high = np.full(level.shape, LEAST_DEVIATIONS), np.full(level.shape, MOST_DEVIATIONS)
        for _ in range(HALVINGS):
            middle = np.sqrt(low * high)
            too_low = beyond(middle) > level
            low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
        return high

    def _beyond(self, *, cautious: bool | np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """What `chance` gives, as a function of the size."""
        nothing, own = np.zeros_like(self.of_images), {CLASSIFIER}
        made = [part for part in self.parts if part.factors != own]
        others = [part for part in self.parts if part.factors == own]
        measured = np.minimum(sum((part.alone + part.joint for part in made), nothing), self.total)
        rest = self.total - measured
        of_rest = self._freedom(others, rest, cautious=cautious)
        if not made:
            return lambda size: 2 * special.stdtr(of_rest, -size)
        known = sum((part.joint for part in made), nothing)
        known = known + sum((part.alone for part in made if CLASSIFIER in part.factors), nothing)
        degrees = self._freedom([part for part in made if CLASSIFIER not in part.factors], measured, cautious=True)
        variances, degrees = self._moderated(measured, degrees)
        # Its quantiles: degrees * measured / variance has a chi-squared distribution, cut off at `known`.
        most = special.chdtr(degrees, ratio(degrees * variances, known, otherwise=np.inf))
        middles = (np.arange(POINTS) + 0.5)[:, None] / POINTS
        drawn = degrees * variances / special.chdtri(degrees, 1 - middles * most)  # (POINTS, figures)
        total = drawn + rest
        freedom = np.maximum(of_rest, of_rest * ratio(total, np.broadcast_to(rest, total.shape), otherwise=1e6) ** 2)
        shrunk = np.sqrt(ratio(np.broadcast_to(self.total, total.shape), total, otherwise=0.0))

        def beyond(size: np.ndarray) -> np.ndarray:
            reached = np.multiply(size, shrunk, out=np.zeros_like(shrunk), where=shrunk > 0)
            return np.mean(2 * special.stdtr(freedom, -reached), axis=0)

        return beyond

    def _moderated(self, measured: np.ndarray, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let the variances of figures alike borrow strength from each other."""
        variances, degrees = measured.copy(), degrees.copy()
        for chosen in self.alike:
            variances[chosen], degrees[chosen] = moderated(measured[chosen], degrees[chosen])
        return variances, degrees

    def _freedom(self, parts: Sequence[Part], total: np.ndarray, *, cautious: bool | np.ndarray) -> np.ndarray:
        """Degrees of freedom of some parts, and of the images that the rest of `total` is due to (Satterthwaite)."""
        doubt, fewest, own = np.zeros_like(total), np.full_like(total, np.inf), np.zeros_like(total)
        for part in parts:
            # What is measured is a mean square: with all that larger sets of factors add to it.
            larger = [
                other for other in self.parts if other.factors >= part.factors and part.arm in (other.arm, PAIRED)
            ]
            alone, joint = (sum(getattr(other, name) for other in larger) for name in ("alone", "joint"))
            degrees = freedom(part.factors, self.counts[part.arm])
            doubt += np.where((alone > 0) | cautious, alone + joint, 0.0) ** 2 / degrees
            fewest = np.minimum(fewest, degrees)
            own += part.alone
        doubt += np.maximum(0.0, total - own) ** 2 / (self.images - 1)
        fewest = np.where(np.isfinite(fewest), fewest, self.images - 1)
        return np.maximum(ratio(total**2, doubt, otherwise=self.images - 1), fewest)

    def detectable(self, classes: np.ndarray) -> np.ndarray:
        """The gain that is significant with a chance of `POWER`; `classes` says how many figures one is corrected for.

        A figure by itself has 1 there, that of a class has the number of classes.
        """
        upper = 1 - LEVEL / classes / 2
        spread = [self.quantile(share, cautious=classes > 1) for share in (upper, POWER)]
        return (spread[0] + spread[1]) * np.sqrt(self.total)

    def scaled(self, factor: str | None = None, seeds: Any = None, images: np.ndarray | float = 1.0) -> "Variance":
        """The same with so many seeds of one factor, (figures,), wherever it has several, and so many times the images.

        What has one seed of it, or none, is left as it is.
        """
        active = {(part.arm, name) for part in self.parts for name in part.factors}
        counts = {
            arm: {name: seeds if name == factor and (arm, name) in active else now for name, now in of_arm.items()}
            for arm, of_arm in self.counts.items()
        }

        def share(part: Part) -> Any:
            here = factor in part.factors
            return self.counts[part.arm][factor] / counts[part.arm][factor] if factor and here else 1.0

        parts = [
            replace(part, alone=part.alone * share(part), joint=part.joint * share(part) / images)
            for part in self.parts
        ]
        return Variance(np.maximum(0.0, self.of_images) / images, parts, counts, self.images * images, self.alike)


def _split(grid: np.ndarray, resampled: np.ndarray) -> dict[Factors, tuple[np.ndarray, np.ndarray]]:
    together = {key: part.mean(axis=0) for key, part in components(resampled - resampled.mean(axis=0)).items()}
    return {key: (part - together[key], together[key]) for key, part in components(grid).items()}


Found = dict[tuple[Factors, int], tuple[np.ndarray, np.ndarray]]


def _paired(methods: Sequence[Scores], apart: Found) -> Found:
    """Let two methods share generator and sample seeds: what these do to the difference is one part and not two.

    Classifier seeds are drawn for each method apart: that a classifier begins with the same weights makes its luck no
    more alike once it learns from other images.
    """
    one, other = (
        (scores.grid.mean(axis=2, keepdims=True), scores.resampled.mean(axis=3, keepdims=True)) for scores in methods
    )
    shared = {(key, PAIRED): parts for key, parts in _split(one[0] - other[0], one[1] - other[1]).items()}
    own = {key: parts for key, parts in apart.items() if CLASSIFIER in key[0]}
    for key, _ in list(shared):
        for (factors, _), parts in own.items():
            if factors == key | {CLASSIFIER}:  # it is in the difference of means over classifiers too
                alone, joint = shared[key, PAIRED]
                shared[key, PAIRED] = alone - parts[0], joint - parts[1]
    return shared | own


def _positive(parts: Sequence[np.ndarray], nothing: np.ndarray) -> list[np.ndarray]:
    """Take what is below 0 for one part off the others, so that their sum stays as it is where it is above 0."""
    total = np.maximum(0.0, sum(parts, nothing))
    above = [np.maximum(0.0, part) for part in parts]
    share = ratio(total, sum(above, nothing), otherwise=0.0)
    return [part * share for part in above]


def image_weights(labels: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how often each image is in each replicate, float32 (replicates, images); each class keeps its size.

    The weights of an image lie beside each other in memory: what is summed are images.
    """
    weights = np.zeros((replicates, len(labels)), dtype=np.float32, order="F")
    for label in np.unique(labels):
        (rows,) = np.nonzero(labels == label)
        places = rng.integers(len(rows), size=(replicates, len(rows))) + len(rows) * np.arange(replicates)[:, None]
        weights[:, rows] = np.bincount(places.ravel(), minlength=replicates * len(rows)).reshape(replicates, -1)
    return weights


def ratio(above: np.ndarray, below: np.ndarray, otherwise: float = np.inf) -> np.ndarray:
    """Divide where the divisor is positive."""
    below = np.broadcast_to(below, above.shape)
    return np.divide(above, below, out=np.full_like(above, otherwise, dtype=float), where=below > 0)
