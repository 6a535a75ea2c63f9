"""Mixing weights against the published class x cluster counts of FUSRS."""

import numpy as np
import pytest

from sarsynth.diffusion.scales import MIXINGS, bias_scores, own, prototype_weights, scale_warning, uniform

# cargo, dredger, fishing, other, tanker x four clusters, parsed from the cluster lists of the authors' release;
# scores and weights computed from them by hand with the paper's formula.
COUNTS = np.array([[1513, 153, 417, 1299], [171, 2, 8, 91], [354, 149, 45, 368], [876, 128, 76, 843], [239, 4, 23, 89]])
BIAS_SCORES = np.array(
    [
        [0.47986, 0.350917, 0.732865, 0.4829],
        [0.054234, 0.004587, 0.01406, 0.033829],
        [0.112274, 0.341743, 0.079086, 0.136803],
        [0.277831, 0.293578, 0.133568, 0.313383],
        [0.075801, 0.009174, 0.040422, 0.033086],
    ]
)
WEIGHTS = np.array(
    [
        [0.234474, 0.171468, 0.358099, 0.235959],
        [0.508238, 0.042987, 0.131757, 0.317018],
        [0.167597, 0.510136, 0.118056, 0.204212],
        [0.272822, 0.288285, 0.13116, 0.307733],
        [0.478292, 0.057889, 0.255055, 0.208764],
    ]
)
# The same for sixteen clusters; two of them hold no dredger, one no fishing boat.
COUNTS_16 = np.array(
    [
        [162, 415, 52, 583, 264, 307, 6, 196, 34, 47, 169, 445, 2, 224, 475, 1],
        [7, 17, 3, 82, 20, 29, 0, 1, 1, 0, 10, 75, 0, 13, 14, 0],
        [18, 45, 23, 64, 30, 70, 19, 95, 122, 39, 74, 44, 0, 209, 62, 2],
        [15, 89, 11, 246, 86, 68, 14, 130, 396, 44, 68, 139, 13, 423, 174, 7],
        [26, 24, 0, 171, 23, 27, 0, 3, 1, 3, 2, 44, 0, 9, 22, 0],
    ]
)
DREDGER_16 = [0.069934, 0.065633, 0.076782, 0.162988, 0.1077, 0.131852, 0, 0.00536]
DREDGER_16 += [0.004112, 0, 0.070522, 0.2287, 0, 0.033727, 0.042691, 0]


def test_known_answer() -> None:
    np.testing.assert_allclose(bias_scores(COUNTS), BIAS_SCORES, atol=1e-6)
    np.testing.assert_allclose(prototype_weights(COUNTS), WEIGHTS, atol=1e-6)
    np.testing.assert_allclose(prototype_weights(COUNTS_16)[1], DREDGER_16, atol=1e-6)


@pytest.mark.parametrize("mixing", MIXINGS.values(), ids=MIXINGS.keys())
@pytest.mark.parametrize("counts", [COUNTS, COUNTS_16, COUNTS[:, :1]], ids=["4", "16", "1"])
def test_weights_of_a_class_sum_to_one(mixing, counts: np.ndarray) -> None:
    weights = mixing(counts)
    assert weights.shape == counts.shape
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_empty_cluster_counts_for_nothing() -> None:
    counts = np.insert(COUNTS, 2, 0, axis=1)
    assert (bias_scores(counts)[:, 2] == 0).all()
    np.testing.assert_allclose(np.delete(prototype_weights(counts), 2, axis=1), prototype_weights(COUNTS))


def test_class_without_images_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\[1\]"):
        prototype_weights(np.array([[3, 4], [0, 0]]))


def test_own_group_and_uniform() -> None:
    groups = np.array([[0, 9, 0], [0, 0, 4], [7, 0, 0], [5, 0, 0]])
    assert own(groups).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert uniform(groups).tolist() == [[1 / 3] * 3] * 4


def test_bias_scores_of_class_groups_are_the_groups_own() -> None:
    groups = np.diag([400, 80, 3])
    np.testing.assert_array_equal(prototype_weights(groups), own(groups))


@pytest.mark.parametrize(("w1", "w2", "warns"), [(1, 0.9, False), (0.3, 0.3, False), (1, 1, True), (0.25, 0.25, True)])
def test_scale_warning(w1: float, w2: float, warns: bool) -> None:
    warning = scale_warning(w1, w2)
    assert (warning is not None) == warns
    assert warning is None or f"generate.scales=[{w1:g}, {w2:g}]" in warning
