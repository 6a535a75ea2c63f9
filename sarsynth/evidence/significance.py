"""Is a gain real? Intervals, tests and power for scores of classifiers on one test set. Torch-free.

A figure of a method (F1 of a class, minor mean, macro, accuracy) is its mean over classifiers of several seeds; a gain
is that of one method less that of another on the same test images. Both change by chance with the images and with the
seeds, so both are drawn again (bootstrap): images within each class, the same ones for both methods; seeds for each
method apart. How the two are kept from being counted twice: `sarsynth.evidence.chance`. Intervals and tests are
Student's t; the coverage that they reach is in docs/evaluation.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from sarsynth.evidence.chance import LEVEL, Scores, Variance, image_weights, ratio, seed_variances
from sarsynth.evidence.predictions import Predictions
from sarsynth.evidence.results import MEANS

MOST_TIMES = 1000  # the seeds or images: what takes more settles nothing


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that holds its true value with a chance of 1 - `LEVEL`; each in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """How far a figure of a method lies above that of the baseline; each in [-1, 1]."""

    delta: float  # the gain
    low: float  # its interval begins here
    high: float  # and ends here
    p: float  # chance of a gain at least this far from zero if the true one is zero, by Student's t
    # for a class, the same after Holm's correction over the classes and with fewer degrees of freedom, since few seeds
    # may agree by chance; p itself for a mean
    p_holm: float
    significant: bool  # whether p_holm is below `LEVEL`, of two seeds or more: one does not show how much seeds differ
    # the smallest gain that this test set and these seeds make significant with a chance of `POWER`, for a class by
    # Bonferroni's correction, the worst case of Holm's; of one seed what its images alone would. None where nothing
    # varied, as between classifiers that never name a class
    detectable: float | None
    # how many seeds of each method would, were the gain this large; None if up to `MOST_TIMES` times as many would not,
    # if it is significant already, or of one seed
    seeds: int | None
    images: float | None  # how many times the test images would, in tenths; None likewise


@dataclass(frozen=True)
class McNemar:
    """Whether classifiers are right on equally many test images (McNemar's test, mid-p; doi:10.1186/1471-2288-13-91).

    It speaks of these classifiers, not of others of the same method with other seeds; the interval of accuracy does.
    """

    # over several pairs of classifiers, twice the median of p in one direction, which holds however the pairs depend on
    # each other (Rüger 1978; Vovk and Wang 2020, doi:10.1093/biomet/asaa027), in the better of both
    p: float
    only_method: list[int]  # images that only the method's classifier gets right, for each pair
    only_baseline: list[int]  # images that only the baseline's gets right


@dataclass(frozen=True)
class Comparison:
    """A method against the baseline."""

    per_class: dict[str, Gain]  # gain in F1 of each class
    minor_f1: Gain | None  # gain in its mean over the minor classes; None if no class is minor
    macro_f1: Gain  # gain in its mean over all classes
    accuracy: Gain  # gain in accuracy
    mcnemar: McNemar | None  # of accuracy; None where images are not paired


def compare(
    method: Predictions, baseline: Predictions, minor: Sequence[str], *, replicates: int, seed: int
) -> Comparison:
    """Compare a method with the baseline, by some hundreds of bootstrap replicates at least.

    Raises:
        UserError: They are not the same test images.
    """
    rng = np.random.default_rng(seed)
    paired = method.paired(baseline)
    weights = image_weights(method.labels, replicates, rng)
    scores = Scores.of(method, minor, weights)
    base = Scores.of(baseline, minor, weights if paired else image_weights(baseline.labels, replicates, rng))
    of_seeds = seed_variances(scores, base)
    drawn = scores.replicates(of_seeds[0], rng) - base.replicates(of_seeds[1], rng)
    variance = Variance.of(drawn, [scores, base], of_seeds, min(method.support))
    *by_class, minor_f1, macro_f1, accuracy = _gains(scores.mean - base.mean, drawn, variance, len(method.classes))
    return Comparison(
        dict(zip(method.classes, by_class, strict=True)),
        minor_f1 if minor else None,
        macro_f1,
        accuracy,
        mcnemar(method, baseline) if paired else None,
    )


def _gains(delta: np.ndarray, drawn: np.ndarray, variance: Variance, classes: int) -> list[Gain]:
    """Test each gain, (figures,), by its replicates, (replicates, figures); the first are those of so many classes."""
    freedom = variance.freedom()
    low, high = _interval(delta, drawn, freedom, limit=1)
    # Student's t, since so many replicates do not tell the far tails that Holm's correction asks about.
    size = ratio(np.abs(delta), drawn.std(axis=0))
    p = np.where(delta == 0, 1.0, 2 * stats.t.sf(size, freedom))
    # In those tails it also counts that few seeds may agree by chance where more would not.
    cautious = np.where(delta == 0, 1.0, 2 * stats.t.sf(size, variance.freedom(cautious=True)))
    p_holm = np.concatenate([holm(cautious[:classes]), p[classes:]])
    several_seeds = min(variance.seeds) > 1
    significant = (p_holm < LEVEL) & several_seeds
    detectable = variance.detectable(classes)

    def settles(scaled: Variance) -> np.ndarray:
        return scaled.detectable(classes) <= np.abs(delta)

    is_open = ~significant & several_seeds & (delta != 0)
    seeds = is_open * _least(lambda seeds: settles(variance.scaled(seeds=seeds)), max(variance.seeds), len(delta))
    tenths = is_open * _least(lambda tenths: settles(variance.scaled(images=tenths / 10)), 10, len(delta))
    tests = zip(*(column.tolist() for column in (delta, low, high, p, p_holm, significant)), strict=True)
    needs = zip(*(column.tolist() for column in (np.maximum(0, detectable), seeds, tenths / 10)), strict=True)
    return [Gain(*test, *(need or None for need in some)) for test, some in zip(tests, needs, strict=True)]


def estimate(predictions: Predictions, minor: Sequence[str], *, replicates: int, seed: int) -> dict[str, Estimate]:
    """Give each figure of one method its interval: F1 by class name, then those of `MEANS` that exist."""
    rng = np.random.default_rng(seed)
    scores = Scores.of(predictions, minor, image_weights(predictions.labels, replicates, rng))
    of_seeds = seed_variances(scores)
    drawn = scores.replicates(of_seeds[0], rng)
    variance = Variance.of(drawn, [scores], of_seeds, min(predictions.support))
    low, high = _interval(scores.mean, drawn, variance.freedom())
    names = [*predictions.classes, *MEANS]
    return {
        name: Estimate(float(value), max(0.0, float(lowest)), min(1.0, float(highest)))
        for name, value, lowest, highest in zip(names, scores.mean, low, high, strict=True)
        if not np.isnan(value)
    }


def mcnemar(method: Predictions, baseline: Predictions) -> McNemar:
    """Test whether two methods are right on equally many images, a pair of classifiers after the other."""
    right, base_right = (arm.predicted == arm.labels for arm in (method, baseline))
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


def _least(enough: Callable[[np.ndarray], np.ndarray], above: int, figures: int) -> np.ndarray:
    """Find the least whole number in (`above`, `above` * `MOST_TIMES`] that is enough for each figure; 0 if none is.

    `enough` says whether a number for each figure, (figures,), is enough; so is every larger one. `above` is not.
    """
    low, high = np.full(figures, above), np.full(figures, above * MOST_TIMES)
    reached = enough(high)
    while (high - low > 1).any():
        middle = (low + high) // 2
        fits = enough(middle)
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    return np.where(reached, high, 0)


def _interval(value: np.ndarray, drawn: np.ndarray, freedom: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Ends of each figure's interval, (2, figures): replicates, stretched about the value from normal to Student's."""
    upper = 1 - LEVEL / 2
    spread = value + (drawn - value) * stats.t.ppf(upper, freedom) / stats.norm.ppf(upper)
    return np.quantile(np.clip(spread, -limit, limit), [LEVEL / 2, upper], axis=0)
