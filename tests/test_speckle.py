"""Speckle put back: a factor of known moments, and clutter as rough as real clutter."""

import numpy as np
import pytest

from sarsynth.data.clutter import target_masks
from sarsynth.evidence.speckle import Moments, Speckle, moments
from sarsynth.sim import CLASSES, render


@pytest.fixture(scope="module")
def chips() -> np.ndarray:
    """Simulated SAR chips, uint8 (60, 1, 64, 64), classes in turn."""
    return np.stack([render(0, i, CLASSES[i % 5], "sar").pixels.transpose(2, 0, 1) for i in range(60)])


def fields(speckle: Speckle, side: int = 64, count: int = 200) -> np.ndarray:
    return np.stack([speckle.draw((side, side), np.random.default_rng(seed)) for seed in range(count)])


def chips_of(intensity: np.ndarray) -> np.ndarray:
    """Amplitudes in eight bits, (N, 1, H, W), of a mean intensity of 3000."""
    return np.clip(np.sqrt(3000 * intensity).round(), 0, 255).astype(np.uint8)[:, None]


@pytest.mark.parametrize("looks", [0.5, 1.0, 3.5, 12.0])
@pytest.mark.parametrize(("down", "across"), [(0.0, 0.0), (0.6, 0.2)])
def test_a_factor_has_the_moments_that_it_is_asked_for(looks: float, down: float, across: float) -> None:
    """Mean 1, variance 1 / looks, the gamma's third moment, and the correlations of neighbours."""
    drawn = fields(Speckle(looks, down, across))
    assert drawn.shape == (200, 64, 64) and (drawn >= 0).all()
    rest = drawn - 1
    assert drawn.mean() == pytest.approx(1, abs=0.01)
    assert (rest**2).mean() * looks == pytest.approx(1, rel=0.03)
    assert (rest**3).mean() * looks**2 == pytest.approx(2, rel=0.15)
    assert (rest[:, 1:] * rest[:, :-1]).mean() * looks == pytest.approx(down, abs=0.03)
    assert (rest[:, :, 1:] * rest[:, :, :-1]).mean() * looks == pytest.approx(across, abs=0.03)


def test_farther_pixels_are_those_of_a_band() -> None:
    """A field of 0.4 cycles per pixel: sinc(0.4 d)², at 2 px and, where no bell has any left, at 4 px."""
    rest = fields(Speckle(0.5, np.sinc(0.4) ** 2, 0.0)) - 1
    for lag in (1, 2, 3, 4):
        assert (rest[:, lag:] * rest[:, :-lag]).mean() / 2 == pytest.approx(np.sinc(0.4 * lag) ** 2, abs=0.025)


def test_a_factor_is_a_function_of_its_generator() -> None:
    one, same, other = (Speckle(2, 0.3, 0.1).draw((16, 20), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (16, 20)
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_what_is_missing_solves_the_moments_of_a_product() -> None:
    real, made = Moments(0.4, 0.2, 0.1), Moments(0.12, 0.06, 0.1)
    factor = Speckle.missing(real, made)
    assert factor is not None
    variance = 1.4 / 1.12 - 1
    assert factor.looks == 4 and variance == pytest.approx(0.25)
    assert (1 + made.down) * (1 + factor.down * variance) == pytest.approx(1 + real.down)
    assert factor.across == 0
    assert Speckle.missing(made, real) is None, "rougher than real: nothing can be put back"
    assert Speckle.missing(real, real) is None
    rough = Speckle.missing(Moments(9, 0, 0), made)
    assert rough is not None and rough.looks == 0.5, "the roughest"


@pytest.mark.parametrize("looks", [1.0, 4.0])
def test_moments_of_known_clutter(looks: float) -> None:
    """Without correlation 1 / looks; a block's own mean takes 1 of its 64 pixels from it, and from its neighbours'."""
    found = moments(chips_of(fields(Speckle(looks), 64, 60) * 0.6))
    assert found is not None
    assert found.variance == pytest.approx(63 / 64 / looks, rel=0.06)
    assert found.looks == 1 / found.variance
    assert found.down == pytest.approx(0, abs=0.05 / looks)
    assert found.across == pytest.approx(0, abs=0.05 / looks)
    assert moments(np.full((3, 1, 64, 64), 9, np.uint8)) is None
    assert moments(np.zeros((3, 1, 64, 64), np.uint8)) is None


def test_smoothed_chips_become_as_rough_as_they_were(chips: np.ndarray) -> None:
    """Even clutter of 8 looks gets the moments of simulated chips: the variance within a tenth."""
    real = moments(chips)
    sea = Speckle(8.0, 0.4, 0.4)
    smooth = chips_of(fields(sea, 64, 60) * 0.5)
    made = moments(smooth)
    assert real is not None and made is not None and made.variance < real.variance / 2
    factor = Speckle.missing(real, made)
    assert factor is not None
    restored = moments(np.stack([factor.on(chip, np.random.default_rng([9, i])) for i, chip in enumerate(smooth)]))
    assert restored is not None
    assert restored.variance == pytest.approx(real.variance, rel=0.1)
    assert restored.down == pytest.approx(real.down, abs=0.03)
    assert restored.across == pytest.approx(real.across, abs=0.03)


def test_a_target_stays_where_it_is(chips: np.ndarray) -> None:
    speckled = np.stack([Speckle(6.0, 0.3, 0.3).on(chip, np.random.default_rng(0)) for chip in chips])
    assert speckled.dtype == np.uint8 and speckled.shape == chips.shape
    before, after = target_masks(chips), target_masks(speckled)
    assert (before & after).sum() / (before | after).sum() > 0.7


def test_all_channels_get_the_same_speckle() -> None:
    image = np.full((3, 32, 32), 80, np.uint8)
    image[1] = 40
    red, green, blue = Speckle(3).on(image, np.random.default_rng(5)).astype(float)
    np.testing.assert_array_equal(red, blue)
    np.testing.assert_allclose(red / 2, green, atol=1)
    assert red.std() > 5
