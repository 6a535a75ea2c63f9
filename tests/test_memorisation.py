"""Memorisation: planted copies are found, fresh images are not accused, and figures follow by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sarsynth.data.choosing import evenly
from sarsynth.errors import UserError
from sarsynth.evidence.memorisation import (
    Neighbours,
    diversity,
    memorisation,
    nearest_features,
    nearest_pixels,
    threshold,
)
from sarsynth.sim import CLASSES, render


def chips(seed: int, count: int) -> Tensor:
    """Simulated SAR chips, uint8 (count, 1, 64, 64), classes in turn."""
    drawn = [render(seed, i, CLASSES[i % 5], "sar").pixels.transpose(2, 0, 1) for i in range(count)]
    return torch.from_numpy(np.stack(drawn))


@pytest.fixture(scope="module")
def real() -> Tensor:
    return chips(0, 100)


@pytest.fixture(scope="module")
def limit(real: Tensor) -> float:
    return threshold(nearest_pixels(real, real, same=True))


def noisy(images: Tensor) -> Tensor:
    noise = 20 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(
    "damage",
    [
        noisy,
        lambda images: images.flip(-1),
        lambda images: images.flip((-2, -1)),
        lambda images: images.roll((1, -3), (-2, -1)),
        lambda images: (0.6 * images + 30).to(torch.uint8),
        lambda images: noisy(images.flip(-2).roll((2, 1), (-2, -1))),
    ],
    ids=["noise", "mirror", "turn", "shift", "grey values", "all"],
)
def test_planted_copies_are_found(real: Tensor, limit: float, damage) -> None:
    """At least 95 %, at a threshold that one real image in a hundred falls below; each with what it is a copy of."""
    rows = torch.arange(0, 100, 2)
    found = nearest_pixels(damage(real[rows]), real)
    assert (found.distances < limit).float().mean() >= 0.95
    assert (found.rows == rows).float().mean() >= 0.95


def test_fresh_images_are_not_accused(real: Tensor, limit: float) -> None:
    """Of images from the same world about one in a hundred may seem a copy."""
    assert (nearest_pixels(chips(1, 60), real).distances < limit).float().mean() <= 0.05


def test_distances_ignore_brightness_and_know_opposites() -> None:
    image = torch.randint(0, 255, (1, 1, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert nearest_pixels(image // 2, image).distances.item() < 0.05
    flat = torch.full_like(image, 9)
    assert nearest_pixels(flat, image).distances.item() == pytest.approx(2**0.5), "a constant image is like nothing"
    assert nearest_pixels(image.repeat(1, 3, 1, 1), image).distances.item() == pytest.approx(0, abs=1e-3)


def test_a_real_image_is_not_its_own_neighbour() -> None:
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    found = nearest_features(features, features, same=True)
    assert found.rows.tolist() == [1, 0, 1, 2]
    assert found.distances.tolist() == [1, 1, 2, 4]
    some = evenly(4, 2)
    assert some.tolist() == [0, 3]
    assert nearest_features(features[some], features, same=True).rows.tolist() == [1, 2]
    assert nearest_features(features[1:3] + 0.1, features).rows.tolist() == [1, 2]


def test_one_real_image_cannot_calibrate() -> None:
    one = torch.zeros(1, 3)
    with pytest.raises(UserError, match="need 2 real training images and more; there are 1"):
        nearest_features(one, one, same=True)
    with pytest.raises(UserError, match="need 1 real training images"):
        nearest_features(one, one[:0])


def test_shares_follow_from_distances() -> None:
    real = Neighbours(torch.zeros(101, dtype=torch.long), torch.arange(101.0))  # the 1st percentile is 1
    made = Neighbours(torch.arange(4), torch.tensor([0.5, 1.5, 0.9, 50.0]))
    far = Neighbours(torch.arange(4), torch.full((4,), 70.0))
    figures = memorisation(
        {"pixels": made, "features": far},
        {"pixels": real, "features": real},
        torch.tensor([0, 0, 2, 2]),
        ["a", "b", "c"],
    )
    assert figures["n"] == {"real": 101, "synthetic": 4}
    pixels = figures["spaces"]["pixels"]
    assert pixels["threshold"] == pytest.approx(1)
    assert (pixels["near_copies"], pixels["real"]) == (0.5, 50)
    assert figures["spaces"]["features"]["near_copies"] == 0
    assert figures["per_class"] == {
        "a": {"n": 2, "features": 0.0, "pixels": 0.5},
        "c": {"n": 2, "features": 0.0, "pixels": 0.5},
    }


def test_diversity_is_the_mean_distance() -> None:
    assert diversity(torch.tensor([[0.0], [3.0], [6.0]])) == pytest.approx(4)
    assert diversity(torch.ones(5, 2)) == 0
    assert diversity(torch.ones(1, 2)) is None
