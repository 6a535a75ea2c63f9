"""Fidelity against closed forms and an independent implementation."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from sarsynth.errors import UserError
from sarsynth.evidence.fidelity import Pairs, compare, fid, fidelity


class Features(nn.Identity):
    """Stands where torchmetrics expects an image network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root.real))


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> Tensor:
    """Draw features whose *sample* mean and unbiased covariance are exactly the given ones, float64 (count, F)."""
    raw = np.random.default_rng(seed).normal(size=(count, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


def random_covariance(width: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(width, 2 * width))
    return factor @ factor.T / width


@pytest.mark.parametrize(("count", "width"), [(500, 8), (20, 64)])
def test_fid_of_a_set_with_itself_is_zero(count: int, width: int) -> None:
    features = torch.from_numpy(np.random.default_rng(0).normal(3, 2, size=(count, width))).float()
    assert fid(features, features) == pytest.approx(0, abs=1e-5)


def test_fid_of_known_gaussians_is_the_closed_form() -> None:
    mean_a, mean_b = np.zeros(6), np.arange(6.0)
    cov_a, cov_b = random_covariance(6, 1), random_covariance(6, 2)
    a, b = with_moments(mean_a, cov_a, 40, 3), with_moments(mean_b, cov_b, 50, 4)
    assert fid(a, b) == pytest.approx(frechet(mean_a, cov_a, mean_b, cov_b), rel=1e-9)
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-9)


def test_fid_of_diagonal_gaussians() -> None:
    a = with_moments(np.array([1.0, 2.0]), np.diag([4.0, 9.0]), 30, 0)
    b = with_moments(np.array([0.0, 0.0]), np.diag([1.0, 1.0]), 30, 1)
    assert fid(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 1) ** 2, rel=1e-9)


def test_fid_does_not_lose_digits_far_from_the_origin() -> None:
    a = with_moments(np.zeros(4), random_covariance(4, 1), 30, 0)
    b = with_moments(np.ones(4), random_covariance(4, 2), 30, 1)
    assert fid(a + 1e6, b + 1e6) == pytest.approx(fid(a, b), rel=1e-6)


@pytest.mark.parametrize(("count", "width"), [(60, 8), (20, 48)])
def test_fid_and_kid_agree_with_torchmetrics(count: int, width: int) -> None:
    """Also with fewer images than features, where covariances are singular."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(count, width, generator=generator, dtype=torch.float64)
    b = a.roll(1, 0) + 0.5 * torch.randn(count, width, generator=generator, dtype=torch.float64) + 0.3
    known_fid = FrechetInceptionDistance(feature=Features(width)).set_dtype(torch.float64)
    known_kid = KernelInceptionDistance(Features(width), subsets=1, subset_size=count).set_dtype(torch.float64)
    for metric in (known_fid, known_kid):
        metric.update(a, real=True)
        metric.update(b, real=False)
    assert fid(a, b) == pytest.approx(known_fid.compute().item(), rel=1e-3)
    assert Pairs(a, b).kid() == pytest.approx(known_kid.compute()[0].item(), rel=1e-9)
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (a, b)]
    expected = frechet(a.mean(0).numpy(), covariances[0], b.mean(0).numpy(), covariances[1])
    assert fid(a, b) == pytest.approx(expected, rel=1e-3)


def test_kid_tells_equal_from_different() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 150, 8, generator=generator)
    assert abs(Pairs(a, b).kid()) < 0.2
    assert Pairs(a, b + 1).kid() > 1
    assert Pairs(a, a + 0).kid() < 0, "unbiased, so below zero for one and the same sample"


def test_overlaps_of_points_on_a_line() -> None:
    """Worked by hand; k = 5, or as many others as there are, here two: a ball reaches to the farther of the others."""
    real, synthetic = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[1.5], [5.5], [40.0]])
    # Real balls: 0 ± 3, 1 ± 2, 3 ± 3. 1.5 lies in all three, 5.5 in the last, 40 in none.
    # Synthetic balls: 1.5 ± 38.5, 5.5 ± 34.5, 40 ± 38.5, and every real point lies in the first.
    found = Pairs(real, synthetic).overlaps()
    assert found == pytest.approx({"precision": 2 / 3, "recall": 1.0, "density": 4 / 3 / 2, "coverage": 1.0})
    # The other way: real points far from all that is synthetic but one.
    assert Pairs(synthetic, real).overlaps()["precision"] == 1


def test_overlaps_tell_dropped_modes_from_outliers() -> None:
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(300, 4, generator=generator)
    modes[150:] += 20
    again = torch.randn(300, 4, generator=generator)
    again[150:] += 20
    same = Pairs(modes, again).overlaps()
    assert min(same.values()) > 0.8
    collapsed = Pairs(modes, again[:150]).overlaps()
    assert collapsed["precision"] > 0.8 and collapsed["recall"] < 0.6 and collapsed["coverage"] < 0.6
    noisy = Pairs(modes, torch.cat([again, again + 200])).overlaps()
    assert noisy["precision"] == pytest.approx(same["precision"] / 2) and noisy["coverage"] == same["coverage"]


def test_intervals_are_as_wide_as_the_figures_spread() -> None:
    """The standard error from one pair of sets against the spread over many pairs."""
    generator = torch.Generator().manual_seed(0)
    found = [
        compare(torch.randn(120, 4, generator=generator), 1.3 * torch.randn(120, 4, generator=generator) + 0.5)
        for _ in range(30)
    ]
    for name in ("fid", "kid", "density", "coverage"):
        spread = np.std([one[name] for one in found], ddof=1)
        errors = [(one["intervals"][name][1] - one["intervals"][name][0]) / 2 / 1.96 for one in found]
        assert 0.7 < np.mean(errors) / spread < 1.5, name
    sets = torch.randn(2, 20, 4, generator=generator)
    assert compare(*sets) == compare(*sets), "sub-samples are seeded"


def test_figures_name_their_sizes_and_what_they_cannot_tell() -> None:
    generator = torch.Generator().manual_seed(0)
    real, real_labels = torch.randn(31, 4, generator=generator), torch.tensor([0] * 20 + [1] * 10 + [2])
    synthetic, synthetic_labels = torch.randn(12, 4, generator=generator), torch.tensor([0] * 8 + [1] + [2] * 3)
    result = fidelity(real, real_labels, synthetic, synthetic_labels, ["a", "b", "c", "d"])
    per_class = result["per_class"]
    assert list(per_class) == ["a", "b", "c"]
    a = per_class["a"]
    assert (a["fid"], a["kid"]) == (fid(real[:20], synthetic[:8]), Pairs(real[:20], synthetic[:8]).kid())
    assert (a["n_real"], a["n_synthetic"], a["fid_reliable"]) == (20, 8, True)
    for name, figure in a["intervals"].items():
        low, high = figure
        assert low <= a[name] <= high
    for name, sizes in {"b": (10, 1), "c": (1, 3)}.items():
        one = per_class[name]
        assert (one["fid"], one["kid"], one["precision"], one["intervals"]) == (None, None, None, {})
        assert (one["n_real"], one["n_synthetic"]) == sizes
    pooled = result["pooled"]
    assert pooled is not None
    assert (pooled["n_real"], pooled["n_synthetic"]) == (10, 10), "8 of a, 1 of b, 1 of c on either side"
    assert result["width"] == 4


def test_fid_is_unreliable_with_fewer_images_than_features() -> None:
    features = torch.randn(8, 9, generator=torch.Generator().manual_seed(0))
    assert not compare(features, features)["fid_reliable"]
    assert compare(features[:, :8], features[:, :8])["fid_reliable"]


def test_features_that_are_not_finite_are_refused_in_one_line() -> None:
    good, bad = torch.zeros(5, 3), torch.zeros(5, 3)
    bad[1, 2], bad[3] = torch.nan, torch.inf
    with pytest.raises(UserError, match="features of 2 of 5 synthetic images are not finite.*classifier.learning_rate"):
        compare(good, bad)


def test_constant_features_are_measured() -> None:
    """All images alike: equal sets agree in everything, different ones in nothing."""
    zeros = torch.zeros(6, 3)
    same, other = compare(zeros, zeros), compare(zeros, zeros + 1)
    assert (same["fid"], same["precision"], same["coverage"]) == (0, 1, 1)
    assert (other["fid"], other["precision"], other["coverage"]) == (3, 0, 0)
