"""Fidelity against closed forms and an independent implementation."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from sarsynth.fidelity import fid, fidelity, kid


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


def test_kid_tells_equal_from_different_and_is_seeded() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 150, 8, generator=generator)
    assert abs(kid(a, b)) < 0.2
    assert kid(a, b + 1) > 1
    state = torch.get_rng_state()
    assert kid(a, b) == kid(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_per_class_figures_name_their_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    real, real_labels = torch.randn(31, 4, generator=generator), torch.tensor([0] * 20 + [1] * 10 + [2])
    synthetic, synthetic_labels = torch.randn(12, 4, generator=generator), torch.tensor([0] * 8 + [1] + [2] * 3)
    result = fidelity(real, real_labels, synthetic, synthetic_labels, ["a", "b", "c", "d"])
    assert list(result) == ["a", "b", "c"]
    assert result["a"] == {
        "fid": fid(real[:20], synthetic[:8]),
        "kid": kid(real[:20], synthetic[:8]),
        "n_real": 20,
        "n_synthetic": 8,
    }
    assert result["b"] == {"fid": None, "kid": None, "n_real": 10, "n_synthetic": 1}
    assert result["c"] == {"fid": None, "kid": None, "n_real": 1, "n_synthetic": 3}
