"""Is a gain real? Intervals, tests and power for scores of classifiers on one test set. Torch-free.

A figure of a method (F1 of a class, minor mean, macro, accuracy) is its mean over classifiers of several seeds; a gain
is that of one method less that of another on the same test images. Both change by chance with the images and with the
seeds, so both are drawn again (bootstrap): images within each class, the same ones for both methods; seeds for each
method apart.

Drawing images and seeds at once counts three times what is due to a seed and an image together, such as an image that
one seed gets right and another does not (Owen 2007, doi:10.1214/07-AOAS122). Here that part is told from the seeds'
own, and only the latter is drawn for seeds; deviations are then those of Student's t with as many degrees of freedom as
the parts of the variance leave (Satterthwaite 1946, doi:10.2307/3002019). What coverage that gives: docs/evaluation.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import stats

from sarsynth.errors import UserError

LEVEL = 0.05  # a gain is called significant below this p, and intervals hold 1 - LEVEL
POWER = 0.8  # the chance to find a gain that is there
MOST = 1000  # times the seeds or images: what takes more settles nothing
MEANS = ("minor_f1", "macro_f1", "accuracy")  # the figures beside F1 of each class


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the classifiers of one method said of the test images.

    Attributes:
        predicted: Labels, int (seeds, checkpoints, images); a seed's figure is the mean over its checkpoints.
        labels: True labels, int (images,).
        classes: Names of the labels 0, 1, …
        images: Names of the images, in their order; None where it is not known which is which, as in a published table.

    Raises:
        UserError: A class has fewer than two images, so chance cannot be told.
    """

    predicted: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    images: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, size in zip(self.classes, self.support, strict=True):
            if size < 2:
                images = f"{size or 'no'} image{'' if size == 1 else 's'}"
                raise UserError(
                    f"the test set has {images} of class {name}, and chance is told from two or more; add test images"
                )

    @property
    def support(self) -> np.ndarray:
        """Images of each class, int (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def paired(self, other: "Predictions") -> bool:
        """Whether it is known which image is which for both.

        Raises:
            UserError: They are not the same test images.
        """
        same = list(self.classes) == list(other.classes) and np.array_equal(self.support, other.support)
        if self.images is not None and other.images is not None:
            if list(self.images) != list(other.images) or not np.array_equal(self.labels, other.labels):
                raise UserError("the test images differ")
            return True
        if not same:
            raise UserError("the classes or their numbers of test images differ")
        return False


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that holds its true value with a chance of 1 - `LEVEL`; each in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """How far a figure of a method lies above that of the baseline; each in [-1, 1].

    Attributes:
        delta: The gain.
        low: Its interval begins here.
        high: And ends here.
        p: Chance of a gain at least this far from none, were there none; by Student's t, the interval by replicates.
        p_holm: The same after Holm's correction over the classes, and with fewer degrees of freedom, for seeds that may
            agree by chance; p itself for a figure that is no class's.
        significant: Whether p_holm is below `LEVEL`, of two seeds or more: one does not tell how far seeds part.
        detectable: The smallest gain that this test set and these seeds make significant with a chance of `POWER`, for
            a class by Bonferroni's correction, the worst case of Holm's; of one seed what its images alone would. None
            where nothing varied, as between classifiers that never name a class, so that chance cannot be told.
        seeds: How many seeds of each method would, were the gain this large; None if up to `MOST` times as many would
            not, if it is significant already, or of one seed.
        images: How many times the test images would, in tenths; None likewise.
    """

    delta: float
    low: float
    high: float
    p: float
    p_holm: float
    significant: bool
    detectable: float | None
    seeds: int | None
    images: float | None


@dataclass(frozen=True)
class McNemar:
    """Whether classifiers are right on equally many test images (McNemar's test, mid-p; doi:10.1186/1471-2288-13-91).

    It speaks of these classifiers, not of others of the same method with other seeds; the interval of accuracy does.

    Attributes:
        p: Over several pairs of classifiers, twice the median of p in one direction, which holds however the pairs
            depend on each other (Rüger 1978; Vovk and Wang 2020, doi:10.1093/biomet/asaa027), in the better of both.
        only_method: Images that only the method's classifier gets right, for each pair.
        only_baseline: Images that only the baseline's gets right.
    """

    p: float
    only_method: list[int]
    only_baseline: list[int]


@dataclass(frozen=True)
class Comparison:
    """A method against the baseline.

    Attributes:
        per_class: Gain in F1 of each class.
        minor_f1: Gain in its mean over the minor classes; None if no class is minor.
        macro_f1: Gain in its mean over all classes.
        accuracy: Gain in accuracy.
        mcnemar: Of accuracy; None where images are not paired.
    """

    per_class: dict[str, Gain]
    minor_f1: Gain | None
    macro_f1: Gain
    accuracy: Gain
    mcnemar: McNemar | None


@dataclass(frozen=True, eq=False)
class _Arm:
    """One method: each figure for each seed, and for each replicate of the images.

    Attributes:
        seen: Shape (seeds, figures), NaN for a figure that is not there: the minor mean without minor classes.
        drawn: Shape (replicates, seeds, figures).
    """

    seen: np.ndarray
    drawn: np.ndarray

    @property
    def value(self) -> np.ndarray:
        return self.seen.mean(axis=0)

    @property
    def mixed(self) -> np.ndarray:
        """Variance of the mean over seeds due to seed and image together, from how far seeds part in each replicate."""
        seeds = len(self.seen)
        if seeds == 1:
            return np.zeros(self.seen.shape[1])
        parted = self.drawn - self.drawn.mean(axis=1, keepdims=True)
        return parted.var(axis=0).sum(axis=0) / (seeds * (seeds - 1))

    @property
    def left(self) -> np.ndarray:
        """What is left of the variance between seeds: an estimate of what is due to them alone, by chance below 0."""
        seeds = len(self.seen)
        if seeds == 1:
            return np.zeros(self.seen.shape[1])
        return self.seen.var(axis=0, ddof=1) / seeds - self.mixed

    def replicates(self, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the seeds of each replicate too, which bring the variance `own`: (R, figures)."""
        count, seeds, _ = self.drawn.shape
        if seeds == 1:
            return self.drawn[:, 0]
        # Drawn in full, seeds would bring (own + 2 mixed) (seeds - 1) / seeds; own is what they are to bring.
        share = np.sqrt(_ratio(own, (own + 2 * self.mixed) * (seeds - 1) / seeds, otherwise=0.0))
        times = rng.multinomial(seeds, [1 / seeds] * seeds, size=count)
        return self.drawn.mean(axis=1) + share * np.einsum("rs,rsf->rf", times - 1, self.drawn) / seeds


@dataclass(frozen=True, eq=False)
class _Chance:
    """What brings about the variance of a figure, or of its gain: seeds, images, and both together.

    Attributes:
        alone: Variance due to the images alone, (figures,); an estimate, by chance below 0.
        owns: That due to the seeds alone, for each arm.
        mixed: That due to a seed and an image together, for each arm.
        seeds: Seeds of each arm, numbers or (figures,).
        images: Of the smallest class; a number or (figures,).
    """

    alone: np.ndarray
    owns: list[np.ndarray]
    mixed: list[np.ndarray]
    seeds: list[Any]
    images: Any

    @property
    def variance(self) -> np.ndarray:
        return np.maximum(0.0, self.alone + sum(self.owns) + sum(self.mixed))

    def freedom(self, *, wary: bool = False) -> np.ndarray:
        """Degrees of freedom of the variance, of which each arm's seeds bring a part, and the images the rest."""
        rest, doubt = self.variance, np.zeros_like(self.alone)
        for own, mixed, seeds in zip(self.owns, self.mixed, self.seeds, strict=True):
            rest = rest - own
            # What is known of the seeds' own part is the variance between seeds, from which the mixed part was taken.
            known = np.where((own > 0) | wary, own + mixed, 0.0)
            doubt += known**2 / np.maximum(1, np.asarray(seeds) - 1)  # of one seed 0: nothing is known
        doubt += np.maximum(0.0, rest) ** 2 / (self.images - 1)
        fewest = np.min(np.broadcast_arrays(*self.seeds), axis=0) - 1
        fewest = np.where(fewest > 0, fewest, self.images - 1)
        return np.maximum(_ratio(self.variance**2, doubt, otherwise=self.images - 1), fewest)

    def detectable(self, classes: int) -> np.ndarray:
        """The gain that is significant with a chance of `POWER`; the first figures are those of so many classes."""
        one = np.arange(len(self.alone)) < classes
        freedom = np.where(one, self.freedom(wary=True), self.freedom())
        level = np.where(one, LEVEL / classes, LEVEL)
        return (stats.t.ppf(1 - level / 2, freedom) + stats.t.ppf(POWER, freedom)) * np.sqrt(self.variance)

    def scaled(self, seeds: np.ndarray | None = None, images: np.ndarray | float = 1.0) -> "_Chance":
        """The same with so many seeds of each arm, (figures,), and so many times the images."""
        counts = self.seeds if seeds is None else [seeds] * len(self.seeds)
        fewer = [before / now for before, now in zip(self.seeds, counts, strict=True)]
        owns = [own * share for own, share in zip(self.owns, fewer, strict=True)]
        mixed = [part * share / images for part, share in zip(self.mixed, fewer, strict=True)]
        return _Chance(np.maximum(0.0, self.alone) / images, owns, mixed, counts, self.images * images)


def compare(
    method: Predictions, baseline: Predictions, minor: Sequence[str], *, replicates: int, seed: int
) -> Comparison:
    """Compare a method with the baseline.

    Args:
        method: What its classifiers said.
        baseline: What those of the baseline said of the same images.
        minor: Names of the minor classes.
        replicates: Bootstrap replicates, at least some hundreds.
        seed: Of what is drawn.

    Raises:
        UserError: They are not the same test images.
    """
    rng = np.random.default_rng(seed)
    paired = method.paired(baseline)
    weights = _image_weights(method.labels, replicates, rng)
    ours = _arm(method, minor, weights)
    theirs = _arm(baseline, minor, weights if paired else _image_weights(baseline.labels, replicates, rng))

    delta = ours.value - theirs.value
    owns = _of_seeds(ours, theirs)
    drawn = ours.replicates(owns[0], rng) - theirs.replicates(owns[1], rng)
    chance = _chance(drawn, [ours, theirs], owns, min(method.support))
    freedom = chance.freedom()
    spread = np.clip(_widened(delta, drawn, freedom), -1, 1)
    low, high = _interval(spread)
    # Student's t, since so many replicates do not tell the far tails that Holm's correction asks about.
    size = _ratio(np.abs(delta), drawn.std(axis=0))
    p = np.where(delta == 0, 1.0, 2 * stats.t.sf(size, freedom))
    # In those tails it also counts that few seeds may agree by chance where more would not.
    count = len(method.classes)
    p_holm = np.where(delta == 0, 1.0, 2 * stats.t.sf(size, chance.freedom(wary=True)))
    p_holm = np.concatenate([holm(p_holm[:count]), p[count:]])

    several = min(chance.seeds) > 1
    found = (p_holm < LEVEL) & several
    detectable = chance.detectable(count)
    fewest = max(chance.seeds)
    seeds = _least(lambda seeds: chance.scaled(seeds=seeds).detectable(count) <= np.abs(delta), fewest, len(delta))
    tenths = _least(lambda tenths: chance.scaled(images=tenths / 10).detectable(count) <= np.abs(delta), 10, len(delta))
    asked = ~found & several & (delta != 0)

    def gain(index: int) -> Gain:
        more_seeds, more_tenths = seeds[index] if asked[index] else 0, tenths[index] if asked[index] else 0
        return Gain(
            delta=float(delta[index]),
            low=float(low[index]),
            high=float(high[index]),
            p=float(p[index]),
            p_holm=float(p_holm[index]),
            significant=bool(found[index]),
            detectable=float(detectable[index]) if detectable[index] > 0 else None,
            seeds=int(more_seeds) or None,
            images=float(more_tenths / 10) or None,
        )

    return Comparison(
        {name: gain(index) for index, name in enumerate(method.classes)},
        gain(count) if minor else None,
        gain(count + 1),
        gain(count + 2),
        mcnemar(method, baseline) if paired else None,
    )


def estimate(predictions: Predictions, minor: Sequence[str], *, replicates: int, seed: int) -> dict[str, Estimate]:
    """Give each figure of one method its interval: F1 by class name, then `MEANS`, of which those that there are."""
    rng = np.random.default_rng(seed)
    arm = _arm(predictions, minor, _image_weights(predictions.labels, replicates, rng))
    owns = _of_seeds(arm)
    drawn = arm.replicates(owns[0], rng)
    spread = _widened(arm.value, drawn, _chance(drawn, [arm], owns, min(predictions.support)).freedom())
    low, high = _interval(spread)
    names = [*predictions.classes, *MEANS]
    return {
        name: Estimate(float(value), max(0.0, float(lowest)), min(1.0, float(highest)))
        for name, value, lowest, highest in zip(names, arm.value, low, high, strict=True)
        if not np.isnan(value)
    }


def mcnemar(method: Predictions, baseline: Predictions) -> McNemar:
    """Test whether two methods are right on equally many images, a pair of classifiers after the other."""
    right, base_right = (one.predicted == one.labels for one in (method, baseline))
    pairs = list(product(*(range(min(sizes)) for sizes in zip(right.shape[:2], base_right.shape[:2], strict=True))))
    only_method = [int((right[pair] & ~base_right[pair]).sum()) for pair in pairs]
    only_baseline = [int((~right[pair] & base_right[pair]).sum()) for pair in pairs]
    each_way = [
        np.median([mid_p(more, less) for more, less in zip(*ways, strict=True)])
        for ways in [(only_method, only_baseline), (only_baseline, only_method)]
    ]
    p = 2 * min(each_way) * (2 if len(pairs) > 1 else 1)
    return McNemar(min(1.0, float(p)), only_method, only_baseline)


def mid_p(more: int, less: int) -> float:
    """McNemar's mid-p in one direction: the chance of more than `more` of all, and half that of just as many."""
    total = more + less
    return float(stats.binom.sf(more, total, 0.5) + stats.binom.pmf(more, total, 0.5) / 2)


def holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values for their number (Holm 1979); the result is below a level where the step-down test rejects."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, steps)
    return corrected


def figures(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray, minor: Sequence[int]) -> np.ndarray:
    """Score counts: F1 of each class, then `MEANS`, the minor mean NaN where no class is minor.

    Args:
        hits: Images of each class that are recognised, (..., classes).
        predicted: Images that are taken for each class, (..., classes).
        support: Images of each class, (classes,), each > 0.
        minor: Labels of the minor classes.

    Returns:
        Shape (..., classes + 3).
    """
    f1 = 2 * hits / (predicted + support)
    minor_f1 = f1[..., list(minor)].mean(axis=-1) if len(minor) else np.full(f1.shape[:-1], np.nan)
    accuracy = hits.sum(axis=-1) / support.sum()
    return np.concatenate([f1, np.stack([minor_f1, f1.mean(axis=-1), accuracy], axis=-1)], axis=-1)


def _arm(predictions: Predictions, minor: Sequence[str], weights: np.ndarray) -> _Arm:
    """Count hits and predictions of each class under every row of weights, (R, images), and under equal ones."""
    seeds, checkpoints, images = predictions.predicted.shape
    classes = len(predictions.classes)
    said = np.eye(classes, dtype=np.float32)[predictions.predicted.reshape(-1, images)]  # (vectors, images, classes)
    right = said * (predictions.predicted.reshape(-1, images) == predictions.labels)[..., None]
    columns = np.concatenate([right, said], axis=-1).transpose(1, 0, 2).reshape(images, -1)
    every = np.concatenate([np.ones((1, images), dtype=np.float32), weights])
    counts = (every @ columns).reshape(len(every), seeds, checkpoints, 2, classes).astype(np.float64)
    labels = [list(predictions.classes).index(name) for name in minor]
    scored = figures(counts[..., 0, :], counts[..., 1, :], predictions.support, labels).mean(axis=2)
    return _Arm(scored[0], scored[1:])


def _image_weights(labels: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how often each image is in each replicate, float32 (replicates, images); each class keeps its size."""
    weights = np.zeros((replicates, len(labels)), dtype=np.float32)
    for label in np.unique(labels):
        (rows,) = np.nonzero(labels == label)
        places = rng.integers(len(rows), size=(replicates, len(rows))) + len(rows) * np.arange(replicates)[:, None]
        weights[:, rows] = np.bincount(places.ravel(), minlength=replicates * len(rows)).reshape(replicates, -1)
    return weights


def _of_seeds(*arms: _Arm) -> list[np.ndarray]:
    """Variance of each arm's mean that is due to its seeds alone; what is below 0 for one is taken off the other."""
    above = [np.maximum(0.0, arm.left) for arm in arms]
    together = np.maximum(0.0, sum(arm.left for arm in arms))
    return [own * _ratio(together, sum(above, np.zeros_like(own)), otherwise=0.0) for own in above]


def _chance(drawn: np.ndarray, arms: Sequence[_Arm], owns: Sequence[np.ndarray], images: int) -> _Chance:
    """Take the variance of replicates, (R, figures), apart; `images` are those of the smallest class."""
    mixed = [arm.mixed for arm in arms]
    return _Chance(
        drawn.var(axis=0) - sum(owns) - sum(mixed), list(owns), mixed, [len(arm.seen) for arm in arms], images
    )


def _least(enough: Callable[[np.ndarray], np.ndarray], above: int, figures: int) -> np.ndarray:
    """Find the least whole number from `above` + 1 to `above` * `MOST` that is enough for each figure; 0 if none is.

    Args:
        enough: Tells for a number each, (figures,), whether it is; what is more than enough is enough.
        above: What is not enough.
        figures: How many.
    """
    low, high = np.full(figures, above), np.full(figures, above * MOST)
    reached = enough(high)
    while (high - low > 1).any():
        middle = (low + high) // 2
        fits = enough(middle)
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    return np.where(reached, high, 0)


def _widened(value: np.ndarray, drawn: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Stretch replicates about the value so that a normal spread becomes Student's."""
    upper = 1 - LEVEL / 2
    return value + (drawn - value) * stats.t.ppf(upper, freedom) / stats.norm.ppf(upper)


def _interval(spread: np.ndarray) -> Any:
    return np.quantile(spread, [LEVEL / 2, 1 - LEVEL / 2], axis=0)


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float = np.inf) -> np.ndarray:
    """Divide where the divisor is positive."""
    below = np.broadcast_to(below, above.shape)
    return np.divide(above, below, out=np.full_like(above, otherwise, dtype=float), where=below > 0)
