"""Is a gain real? Intervals, tests and power for scores of classifiers on one test set. Torch-free.

A figure of a method (F1 of a class, minor mean, macro, accuracy and more) is its mean over classifiers of all its
generator, sample and classifier seeds; a gain is that of one method less that of another on the same test images. Both
change by chance with the images and with the seeds: images are drawn again (bootstrap) within each class, the same ones
for both methods; seeds add what follows from how figures differ between them, generator and sample seeds paired where
both methods have them, classifier seeds for each method apart. How nothing is counted twice stands in
`sarsynth.evidence.chance`.
Intervals and tests are Student's t; the coverage that they reach is in docs/evaluation.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import stats

from sarsynth.evidence.chance import LEVEL, Scores, Variance, image_weights, ratio
from sarsynth.evidence.design import CLASSIFIER, FACTORS
from sarsynth.evidence.predictions import Predictions
from sarsynth.evidence.results import AREA, figure_names

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
    # whether p_holm is below `LEVEL`, of two classifier seeds or more, and of two generator seeds or more where both
    # methods have a generator: one does not show how much seeds differ
    significant: bool
    # the smallest gain that this test set and these seeds make significant with a chance of `POWER`, for a class by
    # Bonferroni's correction, the worst case of Holm's; of one seed what its images alone would. None where nothing
    # varied, as between classifiers that never name a class
    detectable: float | None
    # how many classifier seeds of each method would, were the gain this large; None if up to `MOST_TIMES` times as many
    # would not, if it is significant already, or of one seed
    seeds: int | None
    images: float | None  # how many times the test images would, in tenths; None likewise
    generator_seeds: int | None = None  # how many generator seeds would; None likewise
    sample_seeds: int | None = None  # how many sample seeds would; None likewise


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
    """A method against the baseline; a figure that does not exist is None."""

    per_class: dict[str, Gain]  # gain in F1 of each class
    minor_f1: Gain | None  # gain in its mean over the minor classes; None if no class is minor
    macro_f1: Gain  # gain in its mean over all classes
    accuracy: Gain  # gain in accuracy
    mcnemar: McNemar | None  # of accuracy; None where images are not paired
    balanced_accuracy: Gain  # gain in mean recall
    pr_auc_per_class: dict[str, Gain] | None  # gain in area under the precision-recall curve of each class
    pr_auc: Gain | None  # gain in its mean over all classes
    ece: Gain | None  # gain in calibration error, where less is better


def score(predictions: Predictions, minor: Sequence[str], *, replicates: int, seed: int) -> Scores:
    """Score a method on some hundreds of bootstrap replicates of its test images, the same ones for the same seed."""
    return Scores.of(predictions, minor, _weights(tuple(predictions.labels.tolist()), replicates, seed))


@lru_cache(maxsize=2)  # rows of a sweep have the same test images, or a baseline has its own
def _weights(labels: tuple[int, ...], replicates: int, seed: int) -> np.ndarray:
    return image_weights(np.array(labels), replicates, np.random.default_rng(seed))


def compare(
    method: Predictions, baseline: Predictions, minor: Sequence[str], *, replicates: int, seed: int
) -> Comparison:
    """Compare a method with the baseline, by some hundreds of bootstrap replicates at least.

    Raises:
        UserError: They are not the same test images.
    """
    paired = method.paired(baseline)
    scores = score(method, minor, replicates=replicates, seed=seed)
    base = score(baseline, minor, replicates=replicates, seed=seed if paired else seed + 1)
    return compared(scores, base, bool(minor), mcnemar(method, baseline) if paired else None, seed=seed)


def compared(scores: Scores, base: Scores, has_minor: bool, mcnemar: McNemar | None, *, seed: int) -> Comparison:
    """Compare the scores of a method with those of the baseline on replicates of the same images."""
    names = figure_names(scores.classes)
    variance, delta = Variance.of(scores, base), scores.mean - base.mean
    gains = _gains(delta, scores.drawn - base.drawn, variance, _tellable(scores, base), names, seed)
    known = {name: gain for name, gain, value in zip(names, gains, delta, strict=True) if not np.isnan(value)}

    def of_classes(figure: str) -> dict[str, Gain]:
        return {name: gain for (named, name), gain in known.items() if named == figure and name is not None}

    return Comparison(
        per_class=of_classes("f1"),
        minor_f1=known.get(("minor_f1", None)) if has_minor else None,
        macro_f1=known["macro_f1", None],
        accuracy=known["accuracy", None],
        mcnemar=mcnemar,
        balanced_accuracy=known["balanced_accuracy", None],
        pr_auc_per_class=of_classes(AREA) or None,
        pr_auc=known.get((AREA, None)),
        ece=known.get(("ece", None)),
    )


def _tellable(scores: Scores, base: Scores) -> bool:
    """Whether there are seeds enough to call a difference significant."""
    one, other = scores.design, base.design
    generators = [len(seeds) for seeds in (one.generators, other.generators)]
    return min(one.counts[CLASSIFIER], other.counts[CLASSIFIER]) > 1 and (not all(generators) or min(generators) > 1)


def one_generator(scores: Scores, base: Scores) -> bool:
    """Whether one of the two has a generator of one seed alone."""
    return any(len(design.generators) == 1 for design in (scores.design, base.design))


def _gains(
    delta: np.ndarray,
    drawn: np.ndarray,
    variance: Variance,
    tellable: bool,
    names: Sequence[tuple[str, str | None]],
    seed: int,
) -> list[Gain]:
    """Test each gain, (figures,), by its replicates, (replicates, figures), and its variance."""
    of_class = np.array([name is not None for _, name in names])
    low, high = _interval(delta, drawn, variance, seed, limit=(-1.0, 1.0))
    # Student's t, since replicates do not tell the far tails that Holm's correction asks about.
    size = ratio(np.abs(delta), np.sqrt(variance.total))
    p = np.where(delta == 0, 1.0, variance.chance(size))
    # In those tails it also counts that few seeds may agree by chance where more would not.
    p_holm = np.where(delta == 0, 1.0, variance.chance(size, cautious=True))
    for figure in ("f1", AREA):
        places = [place for place, (named, name) in enumerate(names) if named == figure and name is not None]
        p_holm[places] = holm(p_holm[places])
    p_holm = np.where(of_class, p_holm, p)
    significant = (p_holm < LEVEL) & tellable
    corrected = np.where(of_class, sum(named == "f1" for named, _ in names), 1)
    detectable = variance.detectable(corrected)
    is_open = ~significant & tellable & (delta != 0)
    needs = _needs(np.abs(delta), variance, is_open, corrected)
    tests = zip(*(column.tolist() for column in (delta, low, high, p, p_holm, significant)), strict=True)
    wanted = zip(
        *(column.tolist() for column in (np.maximum(0, detectable), needs[CLASSIFIER], needs["images"])),
        *(needs[factor].tolist() for factor in FACTORS[:-1]),
        strict=True,
    )
    return [Gain(*test, *(need or None for need in some)) for test, some in zip(tests, wanted, strict=True)]


def _needs(size: np.ndarray, variance: Variance, is_open: np.ndarray, corrected: np.ndarray) -> dict[str, np.ndarray]:
    """How many seeds of each factor, or `images` times as many test images, settle each open gain; 0 if none do."""
    known = np.where(np.isnan(size), 0.0, size)

    def settles(scaled: Variance) -> np.ndarray:
        return scaled.detectable(corrected) <= known

    needs: dict[str, np.ndarray] = {}
    for factor in FACTORS:
        most = int(max(counts[factor] for counts in variance.counts.values()))
        if most == 1:
            needs[factor] = np.zeros(len(size), dtype=int)
            continue

        def enough(seeds: np.ndarray, factor: str = factor) -> np.ndarray:
            return settles(variance.scaled(factor, seeds))

        needs[factor] = is_open * _least(enough, most, len(size))
    tenths = is_open * _least(lambda tenths: settles(variance.scaled(images=tenths / 10)), 10, len(size))
    return needs | {"images": tenths / 10}


def estimate(predictions: Predictions, minor: Sequence[str], *, replicates: int, seed: int) -> dict[str, Estimate]:
    """Give each figure of one method its interval: F1 by class name, then those over several classes that exist."""
    estimated = estimates(score(predictions, minor, replicates=replicates, seed=seed), seed=seed)
    return {name or figure: one for (figure, name), one in estimated.items() if figure == "f1" or name is None}


def estimates(scores: Scores, *, seed: int) -> dict[tuple[str, str | None], Estimate]:
    """Give each figure of one method that exists its interval; by figure and class."""
    low, high = _interval(scores.mean, scores.drawn, Variance.of(scores), seed, limit=(0.0, 1.0))
    return {
        name: Estimate(float(value), float(lowest), float(highest))
        for name, value, lowest, highest in zip(figure_names(scores.classes), scores.mean, low, high, strict=True)
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


def _interval(
    value: np.ndarray, drawn: np.ndarray, variance: Variance, seed: int, limit: tuple[float, float]
) -> np.ndarray:
    """Ends of each figure's interval, (2, figures).

    Replicates of the images about their mean, to which seeds add normal deviates of their variance: two or three seeds
    have no other shape to draw from. All is stretched from normal to Student's.
    """
    upper, rng = 1 - LEVEL / 2, np.random.default_rng([seed, 1])
    deviates = drawn - drawn.mean(axis=0) + np.sqrt(variance.of_seeds) * rng.standard_normal(drawn.shape)
    spread = value + deviates * variance.quantile(upper) / stats.norm.ppf(upper)
    return np.quantile(np.clip(spread, *limit), [LEVEL / 2, upper], axis=0)
