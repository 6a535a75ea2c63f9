"""How many real images a method is worth: a learning curve without it, read backwards. Torch-free.

Rows without a generator at several numbers of real images of each minor class are a curve of the minor mean of F1. A
method that has n of them reaches what the curve reaches with m; it is worth the m - n that need not be taken, and its
factor is m / n. The curve is taken to rise with the logarithm of the number (isotonic regression, which averages
neighbours that fall; Barlow et al., Statistical Inference under Order Restrictions, 1972), with straight lines
between its points. Beyond its ends nothing is known: m is then the end, which the truth lies at or beyond.

The interval is that of the gains of `sarsynth.evidence.significance`, all of them at once: the method and every point
of the curve are scored on the same replicates of the test images, the method's seeds move its gains over all points
alike, those of a point its own gain alone, and each gain is stretched from normal to Student's; each replicate has its
own m. How often that holds the truth: `benchmarks/worth.py`, docs/evaluation.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import isotonic_regression

from sarsynth.evidence.chance import LEVEL, Scores, Variance
from sarsynth.evidence.results import figure_names

BASELINE = 1  # the arm of a gain that is no method's


@dataclass(frozen=True)
class Worth:
    """Real images of each minor class that a method has, and of how many its score is without it.

    Where an end of the curve is reached, the truth lies there or beyond.
    """

    images: int  # that it has
    reaches: float  # the number without it that scores as much
    low: float  # its interval begins here
    high: float  # and ends here
    first: int  # the fewest of the curve
    last: int  # the most of the curve


def worth(method: Scores, images: int, curve: Mapping[int, Scores], *, seed: int) -> Worth | None:
    """Read the worth of a method that has so many real images of each minor class off a curve without it.

    Args:
        method: Its scores.
        images: The real images of each minor class that it has.
        curve: Scores without it, by the number of images, on the same replicates of the same test images.
        seed: Of what is drawn for seeds.

    Returns:
        None of a curve of less than two points, or without a minor class.
    """
    place = figure_names(method.classes).index(("minor_f1", None))
    if len(curve) < 2 or np.isnan(method.mean[place]):
        return None
    counts, rng = sorted(curve), np.random.default_rng([seed, 2])
    of_method = rng.standard_normal(len(method.drawn))
    gains, drawn = np.empty(len(counts)), np.empty((len(method.drawn), len(counts)))
    for row, base in enumerate(curve[count] for count in counts):
        gains[row] = method.mean[place] - base.mean[place]
        variance, on_images = Variance.of(method, base), method.drawn[:, place] - base.drawn[:, place]
        own = sum(part.alone[place] for part in variance.parts if part.arm != BASELINE)
        other = sum(part.alone[place] for part in variance.parts if part.arm == BASELINE)
        by_seeds = np.sqrt(own) * of_method + np.sqrt(other) * rng.standard_normal(len(of_method))
        student = variance.quantile(1 - LEVEL / 2)[place] / stats.norm.ppf(1 - LEVEL / 2)
        drawn[:, row] = gains[row] + student * (on_images - on_images.mean() + by_seeds)
    low, high = np.quantile(crossings(drawn, counts), [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return Worth(images, float(crossings(gains[None], counts)[0]), low, high, counts[0], counts[-1])


def crossings(gains: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Find the number of images at which a method no longer gains over the curve, at its ends at the latest.

    Args:
        gains: Over each point of the curve, (replicates, points); they are made to fall.
        counts: Images at these points, rising, (points,).

    Returns:
        Shape (replicates,).
    """
    falling = np.stack([isotonic_regression(row, increasing=False).x for row in gains])
    logs, rows = np.log(counts), np.arange(len(gains))
    inside = (falling[:, 0] > 0) & (falling[:, -1] <= 0)
    after = np.where(inside, (falling <= 0).argmax(axis=1), 1)
    above, below = falling[rows, after - 1], falling[rows, after]
    share = np.divide(above, above - below, out=np.zeros(len(gains)), where=inside)
    found = np.exp(logs[after - 1] + share * (logs[after] - logs[after - 1]))
    return np.where(inside, found, np.where(falling[:, 0] > 0, counts[-1], counts[0]))
