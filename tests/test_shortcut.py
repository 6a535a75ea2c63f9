"""The clutter shortcut: what a classifier recognises by clutter alone is found, and a true one is not accused."""

import numpy as np
from test_clutter import amplitude, speckled

from sarsynth.evidence.shortcut import hide_targets, shortcut


def test_a_planted_shortcut_is_found_and_a_true_classifier_is_not_accused() -> None:
    """Two classes: one has bright clutter, and targets lie along or across."""
    rng, labels = np.random.default_rng(0), np.arange(60) % 2
    images = []
    for label in labels:
        mean = np.full((64, 64), 900.0 if label else 400.0)
        mean[(slice(28, 36), slice(16, 48)) if label else (slice(16, 48), slice(28, 36))] = 30_000
        images.append(amplitude(speckled(mean, 4, int(rng.integers(2**31)))))
    images = np.stack(images)
    masked = hide_targets(images)

    def by_clutter(pixels: np.ndarray) -> np.ndarray:
        return (pixels[:, 0, :8].mean(axis=(1, 2)) > 24).astype(int)

    def by_target(pixels: np.ndarray) -> np.ndarray:
        row, column = pixels[:, 0, 28:36].mean(axis=(1, 2)), pixels[:, 0, :, 28:36].mean(axis=(1, 2))
        return (row > column).astype(int)

    assert masked is not None and masked.max() < 150, "no target is left"
    np.testing.assert_array_equal(masked[:, :, :8], images[:, :, :8])
    cheat = shortcut(labels, by_clutter(images), by_clutter(masked), ["a", "b"])
    honest = shortcut(labels, by_target(images), by_target(masked), ["a", "b"])
    assert (cheat["accuracy"], cheat["masked_accuracy"], cheat["chance"], cheat["n"]) == (1, 1, 0.5, 60)
    assert honest["accuracy"] == 1
    low, high = honest["interval"]
    assert low < 0.5 < high and low < honest["masked_accuracy"] < high


def test_accuracies_of_the_probe_are_means_over_the_classes_that_occur() -> None:
    labels = np.array([0] * 8 + [2] * 2)
    found = shortcut(labels, np.zeros(10, int), np.array([0] * 8 + [2, 0]), ["a", "b", "c"])
    assert (found["accuracy"], found["masked_accuracy"], found["chance"]) == (0.5, 0.75, 0.5)


def test_targets_everywhere_leave_nothing_to_probe() -> None:
    images = np.full((4, 1, 32, 32), 10, np.uint8)
    for index, image in enumerate(images):
        image[0, 16 * (index // 2) :, 16 * (index % 2) :][:16, :16] = 200
    assert hide_targets(images) is None
    assert hide_targets(images[:2]) is not None
