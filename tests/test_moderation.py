"""Moderated variances: what several alike figures, each measured from few, tell each other."""

import numpy as np
import pytest
from scipy import stats

from sarsynth.evidence.chance import Part, Variance
from sarsynth.evidence.moderation import moderated
from sarsynth.evidence.results import AREA, alike_in, figure_names

DEGREES = 2.0


def drawn(rng: np.random.Generator, true: np.ndarray) -> np.ndarray:
    """Measure true variances with two degrees of freedom each."""
    return true * rng.chisquare(DEGREES, size=true.shape) / DEGREES


def test_the_prior_of_known_variances_is_found():
    """Variances that are scaled inverse chi-squared: each is weighed with the scale by the degrees of either."""
    rng, prior, scale = np.random.default_rng(0), 6.0, 3.0
    true = prior * scale / rng.chisquare(prior, size=10_000)
    measured = drawn(rng, true)
    variances, degrees = moderated(measured, np.full(10_000, DEGREES))
    np.testing.assert_allclose(degrees, prior + DEGREES, rtol=0.06)
    np.testing.assert_allclose(variances, (prior * scale + DEGREES * measured) / (prior + DEGREES), rtol=0.06)
    standardised = rng.normal(size=10_000) * np.sqrt(true / variances)
    assert np.mean(np.abs(standardised) > stats.t.ppf(0.975, degrees)) == pytest.approx(0.05, abs=0.006)


def test_what_differs_by_no_more_than_chance_is_pooled():
    variances, degrees = moderated(np.array([1.0, 1.2, 0.9, 1.1]), np.full(4, DEGREES))
    assert variances == pytest.approx(variances[0], rel=1e-3)
    assert degrees.tolist() == [8.0] * 4, "no more than all of them have together"


def test_what_differs_by_far_stands_for_itself():
    measured = 10.0 ** np.arange(-9, 10, 2)
    variances, degrees = moderated(measured, np.full(10, DEGREES))
    assert (degrees < DEGREES + 0.2).all() and variances[5:] == pytest.approx(measured[5:], rel=0.1)


def test_figures_alike_are_those_of_all_classes_of_one_kind():
    classes = ["cargo", "tanker"]
    names = figure_names(classes)
    assert [names[chosen] for chosen in alike_in(classes)] == [
        [(figure, name) for name in classes] for figure in ("f1", AREA)
    ]


@pytest.mark.parametrize("measured", [[0.0, 2.0, 0.0], [np.nan] * 3, [2.0]])
def test_less_than_two_measurements_stay_as_they_are(measured: list[float]):
    found, degrees = moderated(np.array(measured), np.full(len(measured), DEGREES))
    np.testing.assert_array_equal(found, measured)
    assert (degrees == DEGREES).all()


@pytest.mark.parametrize("luck", [0.1, 0.5, 1.0, 3.0])
def test_with_three_generators_a_class_is_called_by_chance_in_one_of_twenty(luck: float):
    """Five classes alike, of which generators move each by `luck` and the images by 1; no gain is there."""
    rng, sets, own = np.random.default_rng(1), 400, frozenset({"generator"})
    called = np.empty((sets, 5))
    for row in range(sets):
        parts = [Part(own, 0, drawn(rng, np.full(5, luck**2)), np.zeros(5))]
        counts = {0: {"generator": 3, "sample": 1, "classifier": 1}}
        variance = Variance(np.ones(5), parts, counts, 1000, [slice(0, 5)])
        gain = rng.normal(size=5) * np.sqrt(luck**2 + 1)
        called[row] = variance.chance(np.abs(gain) / np.sqrt(variance.total)) < 0.05
    assert 0.03 <= called.mean() <= 0.07
