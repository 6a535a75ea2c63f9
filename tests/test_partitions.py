"""Prototypes: clusters, counts, how mixed they are."""

from pathlib import Path

import numpy as np
import pytest

from sarsynth.diffusion.partitions import Partition, apportion, class_groups, prototypes, whole
from sarsynth.errors import UserError

CLASSES = ["cargo", "tanker"]
LABELS = np.repeat([0, 1], 30)


def blobs(centres: np.ndarray) -> np.ndarray:
    """Features around the given centres, (N, 2)."""
    return centres + np.random.default_rng(0).normal(scale=0.1, size=centres.shape)


def test_separated_blobs_are_found() -> None:
    partition = prototypes(blobs(np.stack([LABELS * 10.0, LABELS * 0.0], axis=1)), LABELS, CLASSES, k=2)
    assert partition.nmi == pytest.approx(1)
    assert sorted(partition.counts.tolist()) == [[0, 30], [30, 0]]
    assert len(set(partition.assignments[:30])) == 1


def test_clusters_that_ignore_the_class_have_no_information() -> None:
    side = np.tile([0, 1], 30)
    partition = prototypes(blobs(np.stack([side * 10.0, side * 0.0], axis=1)), LABELS, CLASSES, k=2)
    assert partition.nmi == pytest.approx(0, abs=1e-9)
    assert (partition.counts == 15).all()


def test_counts_follow_assignments_and_seed() -> None:
    features = np.random.default_rng(1).normal(size=(60, 8))
    first, second = (prototypes(features, LABELS, CLASSES, k=5, seed=3) for _ in range(2))
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
    partition = prototypes(np.random.default_rng(1).normal(size=(60, 8)), LABELS, ["größe", "tanker"], k=3)
    partition.save(tmp_path / "partition.json")
    loaded = Partition.load(tmp_path / "partition.json")
    assert (loaded.classes, loaded.names, loaded.nmi) == (partition.classes, partition.names, partition.nmi)
    np.testing.assert_array_equal(loaded.counts, partition.counts)
    np.testing.assert_array_equal(loaded.assignments, partition.assignments)


@pytest.mark.parametrize("k", [0, 4])
def test_more_clusters_than_images(k: int) -> None:
    with pytest.raises(UserError, match=rf"prototypes\.k={k}: must be between 1 and the number of training images, 3"):
        prototypes(np.eye(3), np.array([0, 1, 1]), CLASSES, k=k)
