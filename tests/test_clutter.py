"""Targets and clutter of a chip: known targets are found, and known speckle and distributions are given back."""

import numpy as np
import pytest
from scipy import stats

from sarsynth.data.clutter import equivalent_looks, fit_clutter_models, k_distribution, target_masks
from sarsynth.evidence.realism import traits


def speckled(mean: np.ndarray, looks: float, seed: int) -> np.ndarray:
    """Intensity of fully developed speckle."""
    return mean * np.random.default_rng(seed).gamma(looks, 1 / looks, mean.shape)


def amplitude(intensity: np.ndarray) -> np.ndarray:
    """As a chip: uint8 (1, H, W)."""
    return np.clip(np.sqrt(intensity).round(), 0, 255).astype(np.uint8)[None]


# --- Speckle ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [1, 3.5, 12])
def test_speckle_of_known_looks_gives_them_back(looks: float) -> None:
    """Within 5 %, also across a slope, beside a target, and in eight bits."""
    slope = 1200 * np.linspace(0.7, 1.3, 128)[:, None] * np.ones(128)
    found = [equivalent_looks(speckled(slope, looks, seed)) for seed in range(12)]
    assert np.mean(found) == pytest.approx(looks, rel=0.05)
    target = np.zeros((128, 128), bool)
    target[50:80, 40:90] = True
    with_target = [
        equivalent_looks(speckled(np.where(target, 40 * slope, slope), looks, seed), ~target) for seed in range(12)
    ]
    assert np.mean(with_target) == pytest.approx(looks, rel=0.05)
    images = np.stack([amplitude(speckled(slope, looks, seed)) for seed in range(12)])
    assert np.exp(np.median(traits(images).rows["looks"])) == pytest.approx(looks, rel=0.05)


def test_k_distribution_has_its_limit_and_its_samples() -> None:
    x = np.linspace(0.01, 6, 50)
    assert k_distribution(x, 3, 1e6) == pytest.approx(stats.gamma.cdf(x, 3, scale=1 / 3), abs=1e-3)
    rng = np.random.default_rng(0)
    sample = rng.gamma(2.5, 1 / 2.5, 20_000) * rng.gamma(4, 1 / 4, 20_000)
    assert stats.ks_1samp(sample, lambda values: k_distribution(values, 4, 2.5)).statistic < 0.012


def test_the_model_that_made_a_sample_fits_it_best() -> None:
    rng, count, looks = np.random.default_rng(1), 20_000, 4.0
    samples = {
        "gamma": rng.gamma(looks, 1 / looks, count),
        "k": rng.gamma(1.5, 1 / 1.5, count) * rng.gamma(looks, 1 / looks, count),
        "lognormal": rng.lognormal(0, 0.6, count),
    }
    found = {name: fit_clutter_models(sample, looks) for name, sample in samples.items()}
    assert found["gamma"]["gamma"]["looks"] == pytest.approx(looks, rel=0.05)
    assert found["k"]["k"]["shape"] == pytest.approx(1.5, rel=0.1)
    assert found["lognormal"]["lognormal"]["sigma"] == pytest.approx(0.6, rel=0.05)
    for name, models in found.items():
        assert models[name]["ks"] < 0.02
        assert all(models[name]["ks"] <= one["ks"] + 0.002 for one in models.values())
    assert found["k"]["gamma"]["ks"] > 0.03 and found["lognormal"]["gamma"]["ks"] > 0.02


# --- Targets ----------------------------------------------------------------------------------------------------------


def test_a_mask_covers_the_target_and_little_else() -> None:
    """A bar that reaches into the frame is covered to its end; a bright spot in the frame alone is no target."""
    true = np.zeros((64, 64), bool)
    true[28:36, 2:50] = True
    spot = np.zeros((64, 64), bool)
    spot[1:4, 58:62] = True
    images = np.stack([amplitude(speckled(np.where(true | spot, 20_000, 400), 4, seed)) for seed in range(5)])
    masks = target_masks(images)
    assert (masks[:, true]).mean() > 0.98
    assert masks[:, spot].mean() == 0
    assert masks.sum(axis=(1, 2)).max() < 3 * true.sum()
