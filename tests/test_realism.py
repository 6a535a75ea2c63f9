"""SAR realism against known speckle, planted shortcuts, and the order in which sets must come."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sarsynth.data.clutter import equivalent_looks, fit_clutter_models, k_distribution, target_masks
from sarsynth.data.datamodules import LabelledImages
from sarsynth.data.transforms import to_channels, to_float, to_uint8
from sarsynth.diffusion.base import NANO, Base
from sarsynth.errors import UserError
from sarsynth.evidence.realism import UNITS, Traits, distances, realism, traits
from sarsynth.evidence.shortcut import hide_targets, shortcut
from sarsynth.sim import CLASSES, render
from sarsynth.stages import measure_images
from sarsynth.store.building import Store
from sarsynth.training.precision import FULL


def speckled(mean: np.ndarray, looks: float, seed: int) -> np.ndarray:
    """Intensity of fully developed speckle."""
    return mean * np.random.default_rng(seed).gamma(looks, 1 / looks, mean.shape)


def amplitude(intensity: np.ndarray) -> np.ndarray:
    """As a chip: uint8 (1, H, W)."""
    return np.clip(np.sqrt(intensity).round(), 0, 255).astype(np.uint8)[None]


@pytest.fixture(scope="module")
def chips() -> np.ndarray:
    """Simulated SAR chips, uint8 (40, 1, 64, 64), classes in turn."""
    return np.stack([render(0, i, CLASSES[i % 5], "sar").pixels.transpose(2, 0, 1) for i in range(40)])


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


def test_contrast_is_that_of_target_and_clutter() -> None:
    """20 dB, less what the grown mask takes in."""
    mean = np.full((64, 64), 100.0)
    mean[20:44, 20:44] = 10_000
    (contrast,) = traits(amplitude(mean)[None]).rows["contrast"]
    target = target_masks(amplitude(mean)[None])[0]
    expected = 10 * np.log10((10_000 * 24**2 + 100 * (target.sum() - 24**2)) / target.sum() / 100)
    assert contrast == pytest.approx(expected, abs=0.01)
    assert 17 < contrast < 20


def test_a_shadow_is_found_beside_a_target_alone() -> None:
    plain = np.full((64, 64), 900.0)
    plain[26:38, 20:32] = 20_000
    dark = plain.copy()
    dark[24:40, 36:44] = 16
    first, second = traits(np.stack([amplitude(plain), amplitude(dark)])).rows["shadow"]
    assert first == 0 and 0.05 < second < 0.5


# --- Sets -------------------------------------------------------------------------------------------------------------


def test_real_halves_come_before_the_autoencoder_and_that_before_noise(chips: np.ndarray) -> None:
    base = Base.load(NANO)
    pixels = to_float(to_channels(torch.from_numpy(chips[:20]), 3))
    passed = to_uint8(to_channels(base.decode(base.encode(pixels)[0]), 1)).numpy()
    noise = np.random.default_rng(0).normal(0, 60, chips.shape)
    noisy = np.clip(chips + noise, 0, 255).astype(np.uint8)
    real = traits(chips)
    report = realism(real, traits(noisy), traits(passed))
    assert report["n"] == {"real": 40, "synthetic": 40, "autoencoder": 20, "halves": 20}
    assert "relative use only" in report["note"]
    assert list(report["measures"]) == list(UNITS)
    assert [name for name, one in report["measures"].items() if one["headline"]] == ["texture", "clutter", "contrast"]
    for name in ("texture", "clutter", "looks", "edges"):
        apart = report["measures"][name]["distance"]
        assert apart["halves"] < apart["autoencoder"] < apart["synthetic"], name
    for name, one in report["measures"].items():
        assert one["distance"]["autoencoder"] < one["distance"]["synthetic"], name
    assert distances(real, real) == pytest.approx(dict.fromkeys(UNITS, 0.0))
    assert report["measures"]["looks"]["median"]["autoencoder"] > report["measures"]["looks"]["median"]["real"]
    assert report["measures"]["texture"]["median"] is None
    assert set(report["fits"]["real"]) == {"gamma", "k", "lognormal"}


def test_traits_do_not_depend_on_the_company(chips: np.ndarray) -> None:
    together, alone = traits(chips[:4]), traits(chips[:2])
    assert isinstance(together[:2], Traits) and len(together) == 4
    for name, rows in together[:2].rows.items():
        np.testing.assert_array_equal(rows, alone.rows[name])


def test_constant_images_are_counted_and_have_nothing_else(chips: np.ndarray) -> None:
    flat = traits(np.full((6, 1, 64, 64), 7, np.uint8))
    report = realism(traits(chips[:10]), flat, traits(chips[10:20]))
    assert report["constant"] == {"real": 0, "synthetic": 6}
    apart = {name: one["distance"]["synthetic"] for name, one in report["measures"].items()}
    assert apart.pop("grey") > 0
    assert set(apart.values()) == {None}
    assert report["fits"]["synthetic"] is None
    black = np.zeros((2, 1, 64, 64), np.uint8)
    black[:, :, 30:34, 30:34] = 200
    assert np.isnan(traits(black).rows["looks"]).all(), "clutter without variance has no speckle"


def test_one_image_and_small_images() -> None:
    one = traits(np.random.default_rng(0).integers(0, 255, (1, 1, 64, 64), dtype=np.uint8))
    report = realism(one, one, one)
    assert report["measures"]["texture"]["distance"]["halves"] is None
    assert report["measures"]["texture"]["distance"]["synthetic"] == 0
    with pytest.raises(UserError, match="classifier.image_size=12: .*16 px"):
        traits(np.zeros((2, 1, 12, 12), np.uint8))


def test_an_autoencoder_that_changes_nothing_is_a_floor_of_zero(tmp_path: Path, monkeypatch) -> None:
    """Whatever the sizes of the classes: the same images are compared, with the classes in the same shares."""
    labels = [0] * 70 + [1] * 9
    images = np.stack([render(0, i, CLASSES[label], "sar").pixels.transpose(2, 0, 1) for i, label in enumerate(labels)])
    pixels = torch.from_numpy(images)
    store = Store(tmp_path)
    artifacts = [
        store.make("cache", name, {}, {}, lambda folder: None, version=1, command="") for name in ("images", "base")
    ]
    monkeypatch.setattr(measure_images, "load_images", lambda source, records, *_: pixels[[one.row for one in records]])
    study: Any = SimpleNamespace(
        settings=SimpleNamespace(
            base=SimpleNamespace(name="sd-nano", image_size=64),
            classifier=SimpleNamespace(image_size=64, network="resnet18"),
            data=SimpleNamespace(name="sim"),
            method=SimpleNamespace(name="lora"),
        ),
        store=store,
        classes=["a", "b"],
        training=[SimpleNamespace(label=label, row=row) for row, label in enumerate(labels)],
        labelled=lambda _: LabelledImages(pixels, torch.tensor(labels), []),
        images=lambda _: artifacts[0],
        base_artifact=artifacts[1],
        sources={"sar": SimpleNamespace(channels=1)},
        radiometry={"sar": None},
        base=SimpleNamespace(encode=lambda shown: (shown, None), decode=lambda latents: latents),
        device="cpu",
        precision=FULL,
        command=lambda *_: "",
    )
    real, passed = (
        measure_images._load_traits(made(study))
        for made in (measure_images.real_traits, measure_images.autoencoder_traits)
    )
    assert distances(real, passed) == pytest.approx(dict.fromkeys(UNITS, 0.0))


# --- The clutter shortcut ---------------------------------------------------------------------------------------------


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
