"""SAR realism: traits of known images, and the order in which sets must come."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from known import a_study_that_knows
from test_clutter import amplitude

from sarsynth.data.clutter import target_masks
from sarsynth.data.framing import CENTRAL
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.transforms import to_channels, to_float, to_uint8
from sarsynth.diffusion.base import NANO, Base
from sarsynth.errors import UserError
from sarsynth.evidence.realism import UNITS, Traits, distances, realism, traits
from sarsynth.sim import CLASSES, render
from sarsynth.stages import measure_realism
from sarsynth.stages.curate_images import source, training
from sarsynth.stages.fit_radiometry import radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.load_base import base, base_artifact
from sarsynth.stages.resize_images import images as tensors
from sarsynth.store.artifacts import Request
from sarsynth.store.building import Store
from sarsynth.training.precision import FULL


@pytest.fixture(scope="module")
def chips() -> np.ndarray:
    """Simulated SAR chips, uint8 (40, 1, 64, 64), classes in turn."""
    return np.stack([render(0, i, CLASSES[i % 5], "sar").pixels.transpose(2, 0, 1) for i in range(40)])


# --- Images -----------------------------------------------------------------------------------------------------------


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
    artifacts = [store.make(Request("cache", name, {}, {}, 1, ""), lambda folder: None) for name in ("images", "base")]
    monkeypatch.setattr(measure_realism, "labelled", lambda *_: LabelledImages(pixels, torch.tensor(labels), []))
    monkeypatch.setattr(
        measure_realism, "load_images", lambda source, records, *_: pixels[[one.row for one in records]]
    )
    study = a_study_that_knows(
        (source, ("sar",), SimpleNamespace(channels=1, classes=["a", "b"])),
        (training, ("sar",), [SimpleNamespace(label=label, row=row) for row, label in enumerate(labels)]),
        (tensors, ("train",), artifacts[0]),
        (base_artifact, (), artifacts[1]),
        (radiometry, ("sar",), None),
        (framing, ("sar",), CENTRAL),
        (base, (), SimpleNamespace(encode=lambda shown: (shown, None), decode=lambda latents: latents)),
        settings=SimpleNamespace(
            base=SimpleNamespace(name="sd-nano", image_size=64),
            classifier=SimpleNamespace(image_size=64, network="resnet18"),
            data=SimpleNamespace(name="sim"),
            method=SimpleNamespace(name="lora"),
        ),
        make=lambda *request, command, **about: store.make(
            Request(*request[:4], version=1, command="", **about), request[4]
        ),
        device="cpu",
        precision=FULL,
    )
    real, passed = (
        measure_realism._load(made(study)) for made in (measure_realism.real_traits, measure_realism.autoencoder_traits)
    )
    assert distances(real, passed) == pytest.approx(dict.fromkeys(UNITS, 0.0))
