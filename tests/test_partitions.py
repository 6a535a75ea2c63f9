"""Prototypes: clusters, counts, how mixed they are."""

from pathlib import Path

import numpy as np
import pytest

from sarsynth.errors import UserError
from sarsynth.partitions import Partition, prototypes, whole

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


def test_save_and_load(tmp_path: Path) -> None:
    partition = prototypes(np.random.default_rng(1).normal(size=(60, 8)), LABELS, ["größe", "tanker"], k=3)
    partition.save(tmp_path / "partition.json")
    loaded = Partition.load(tmp_path / "partition.json")
    assert (loaded.classes, loaded.nmi) == (partition.classes, partition.nmi)
    np.testing.assert_array_equal(loaded.counts, partition.counts)
    np.testing.assert_array_equal(loaded.assignments, partition.assignments)


@pytest.mark.parametrize("k", [0, 4])
def test_more_clusters_than_images(k: int) -> None:
    with pytest.raises(UserError, match=rf"prototypes\.k={k}: must be between 1 and the number of training images, 3"):
        prototypes(np.eye(3), np.array([0, 1, 1]), CLASSES, k=k)
