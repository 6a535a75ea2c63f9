"""Variances of several alike figures, each measured from few, borrow strength from each other. Torch-free.

Two or three generators tell little of how far generators differ in the F1 of one class; all classes together tell more.
Variances are taken as drawn from one scaled inverse chi-squared distribution, whose scale and degrees of freedom follow
from how the measured ones differ (Smyth 2004, doi:10.2202/1544-6115.1027, section 6.2: limma's moderated variances).
Where they differ by no more than chance, all are taken as the same; where they differ by far, each stands for itself.
"""

import numpy as np
from scipy import optimize, special

MOST_DEGREES = 1e6  # more are as good as infinitely many


def moderated(measured: np.ndarray, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moderate variances (n,) of so many degrees of freedom (n,); those of 0 are taken as not measured.

    Returns:
        Variances and their degrees of freedom, each (n,). These are no more than all that was measured has together.
    """
    known = measured > 0
    if known.sum() < 2:
        return measured, degrees
    half = degrees[known] / 2
    logs = np.log(measured[known]) - special.digamma(half) + np.log(half)
    beyond_chance = logs.var(ddof=1) - special.polygamma(1, half).mean()
    prior = min(MOST_DEGREES, 2 * _inverse_trigamma(beyond_chance)) if beyond_chance > 0 else MOST_DEGREES
    scale = np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    variances = (prior * scale + degrees * measured) / (prior + degrees)
    return variances, np.minimum(prior + degrees, degrees[known].sum())


def _inverse_trigamma(value: float) -> float:
    """Where the trigamma function, which falls from infinity to 0, has this value."""
    return float(optimize.brentq(lambda at: special.polygamma(1, at) - value, 1e-8, MOST_DEGREES))
