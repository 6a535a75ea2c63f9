"""Prototypes: clusters, counts, how mixed they are; mixing weights against the published counts of FUSRS."""

from pathlib import Path

import numpy as np
import pytest

from sarsynth.diffusion.prototypes import (
    MIXINGS,
    Partition,
    apportion,
    bias_scores,
    class_groups,
    cluster,
    own,
    prototype_weights,
    uniform,
    whole,
)
from sarsynth.errors import UserError

CLASSES = ["cargo", "tanker"]
LABELS = np.repeat([0, 1], 30)


def blobs(centres: np.ndarray) -> np.ndarray:
    """Features around the given centres, (N, 2)."""
    return centres + np.random.default_rng(0).normal(scale=0.1, size=centres.shape)


def test_separated_blobs_are_found() -> None:
    partition = cluster(blobs(np.stack([LABELS * 10.0, LABELS * 0.0], axis=1)), LABELS, CLASSES, k=2)
    assert partition.nmi == pytest.approx(1)
    assert sorted(partition.counts.tolist()) == [[0, 30], [30, 0]]
    assert len(set(partition.assignments[:30])) == 1


def test_clusters_that_ignore_the_class_have_no_information() -> None:
    side = np.tile([0, 1], 30)
    partition = cluster(blobs(np.stack([side * 10.0, side * 0.0], axis=1)), LABELS, CLASSES, k=2)
    assert partition.nmi == pytest.approx(0, abs=1e-9)
    assert (partition.counts == 15).all()


def test_counts_follow_assignments_and_seed() -> None:
    features = np.random.default_rng(1).normal(size=(60, 8))
    first, second = (cluster(features, LABELS, CLASSES, k=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.assignments, second.assignments)
    assert first.k == 5
    for label in range(2):
        for part in range(5):
            assert first.counts[label, part] == ((label == LABELS) & (first.assignments == part)).sum()


def test_whole_is_one_part() -> None:
    partition = whole(LABELS, CLASSES)
    assert partition.counts.tolist() == [[30], [30]]
    assert partition.nmi == 0
    assert partition.names == ("sar",)


def test_class_groups_are_each_minor_class_and_the_rest() -> None:
    labels = np.array([0, 0, 1, 2, 2, 3, 0])
    partition = class_groups(labels, ["cargo", "tanker", "other", "dredger"], ["tanker", "dredger"])
    assert partition.names == ("sar_tanker", "sar_dredger", "sar_rest")
    assert partition.assignments.tolist() == [2, 2, 0, 2, 2, 1, 2]
    assert partition.counts.tolist() == [[0, 0, 3], [1, 0, 0], [0, 0, 2], [0, 1, 0]]
    everything = class_groups(np.array([0, 1]), CLASSES, CLASSES)
    assert everything.names == ("sar_cargo", "sar_tanker"), "no adapter for a rest that is empty"
    with pytest.raises(UserError, match=r"data\.minor: no class is minor"):
        class_groups(labels, ["cargo", "tanker", "other", "dredger"], [])


def test_shares_are_whole_and_add_up() -> None:
    for total, weights in [(600, [389, 171, 81, 32]), (16, [1, 1, 1]), (4, [1000, 1, 1, 1]), (7, [3.0])]:
        shares = apportion(total, np.array(weights))
        assert shares.sum() == total
        assert shares.min() >= 1
        exact = 1 + (total - len(weights)) * np.array(weights) / np.sum(weights)
        assert np.abs(shares - exact).max() < 1
    assert apportion(16, np.ones(4)).tolist() == [4, 4, 4, 4]


def test_save_and_load(tmp_path: Path) -> None:
    partition = cluster(np.random.default_rng(1).normal(size=(60, 8)), LABELS, ["größe", "tanker"], k=3)
    partition.save(tmp_path / "partition.json")
    loaded = Partition.load(tmp_path / "partition.json")
    assert (loaded.classes, loaded.names, loaded.nmi) == (partition.classes, partition.names, partition.nmi)
    np.testing.assert_array_equal(loaded.counts, partition.counts)
    np.testing.assert_array_equal(loaded.assignments, partition.assignments)


@pytest.mark.parametrize("k", [0, 4])
def test_more_clusters_than_images(k: int) -> None:
    with pytest.raises(UserError, match=rf"prototypes\.k={k}: must be between 1 and the number of training images, 3"):
        cluster(np.eye(3), np.array([0, 1, 1]), CLASSES, k=k)


# --- Mixing weights ---------------------------------------------------------------------------------------------------

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
