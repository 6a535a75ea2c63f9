"""Filters: planted bad images are dropped for the right reason, good ones stay, and test data has no say."""

import numpy as np
import pytest
import torch

from sarsynth.filters import Near, Original, Recognised, Sample
from sarsynth.sim import CLASSES, render


def sample(features: list[list[float]], labels: list[int], logits: list[list[float]] | None = None) -> Sample:
    count = len(labels)
    return Sample(
        torch.zeros(count, 1, 64, 64, dtype=torch.uint8),
        torch.tensor(features),
        torch.tensor(logits if logits is not None else [[0.0, 0.0]] * count),
        torch.tensor(labels),
    )


def test_recognised_asks_for_the_confidence_of_real_images_of_the_class() -> None:
    """By probabilities: real images of class 0 have 0.6 … 1.0, of class 1 but 0.2 and 0.3."""

    def sure(*shares: float) -> list[list[float]]:
        return [[np.log(share), np.log(1 - share)] for share in shares]

    real = sample([[0.0]] * 7, [0] * 5 + [1] * 2, sure(0.6, 0.7, 0.8, 0.9, 0.999, 0.8, 0.7))
    made = sample([[0.0]] * 4, [0, 0, 1, 1], sure(0.59, 0.71, 0.75, 0.9))
    verdict = Recognised(quantile=0.0).judge(real, made)
    assert verdict.scores.tolist() == pytest.approx([0.59, 0.71, 0.25, 0.1])
    assert verdict.limits.tolist() == pytest.approx([0.6, 0.6, 0.2, 0.2])
    assert verdict.kept.tolist() == [False, True, True, False]
    assert Recognised(quantile=0.5).judge(real, made).limits[0] == pytest.approx(0.8)


def test_near_asks_a_real_image_of_the_class_to_vouch() -> None:
    """Real images of class 0 at 0, 1, 3 (k = 1: radii 1, 1, 2), of class 1 far away."""
    real = sample([[0.0], [1.0], [3.0], [100.0], [101.0]], [0, 0, 0, 1, 1])
    made = sample([[-0.9], [-1.1], [4.9], [5.5], [100.5], [100.5]], [0, 0, 0, 0, 1, 0])
    verdict = Near(neighbours=1).judge(real, made)
    assert verdict.kept.tolist() == [True, False, True, False, True, False]
    assert verdict.scores[3].item() == pytest.approx(2.5) and verdict.limits[3].item() == pytest.approx(2)
    reason = Near.reason.format(score=verdict.scores[3].item(), limit=verdict.limits[3].item())
    assert reason == "2.5 from the real image that could vouch for it, which does so up to 2"


def test_original_drops_copies_alone() -> None:
    drawn = [render(0, i, CLASSES[i % 5], "sar").pixels.transpose(2, 0, 1) for i in range(60)]
    images = torch.from_numpy(np.stack(drawn))
    blank = torch.zeros(60, 1)
    real = Sample(images[:40], blank[:40], blank[:40], blank[:40, 0].long())
    mixed = torch.cat([images[40:], images[:20:2].flip(-1)])
    made = Sample(mixed, blank[:30], blank[:30], blank[:30, 0].long())
    kept = Original(quantile=0.01).judge(real, made).kept
    assert not kept[20:].any()
    assert kept[:20].float().mean() >= 0.9


def test_a_class_of_one_real_image_drops_what_it_can_judge() -> None:
    real, made = sample([[0.0], [5.0], [6.0]], [0, 1, 1]), sample([[99.0], [99.0]], [0, 1])
    assert Near(neighbours=5).judge(real, made).kept.tolist() == [True, False]
    assert Recognised(quantile=0.05).judge(real, made).kept.tolist() == [True, True]
