"""Radiometry: files are read as they are, mapped once and as declared, and what was mapped otherwise is made anew."""

import json
import re
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import tifffile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_conf import settings

from sarsynth.classifier.learning import channel_statistics
from sarsynth.data import formats
from sarsynth.data.chips import Window, centre_crop
from sarsynth.data.formats import image_size
from sarsynth.data.radiometry import (
    EightBit,
    Levels,
    Linear,
    Log,
    MeanSigma,
    Radiometry,
    Rule,
    Training,
    exact_percentiles,
    mean_sigma,
)
from sarsynth.data.readers.imagefolder import ImageFolder
from sarsynth.data.records import ImageRecord
from sarsynth.data.transforms import load_images, resize, to_float
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.contours import canny
from sarsynth.errors import BadImage, UserError
from sarsynth.report.image_health import _outlines
from sarsynth.report.pieces import Note
from sarsynth.stages.curate_images import source
from sarsynth.stages.curate_images import training as trained_on
from sarsynth.stages.encode_images import latents
from sarsynth.stages.fit_radiometry import radiometry
from sarsynth.stages.generate_images import image_recipe
from sarsynth.stages.inspect_images import health
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study
from sarsynth.stages.sum_up import about
from sarsynth.tracking import Tracker

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RNG = np.random.default_rng(0)
SPECKLE = RNG.rayleigh(100, (40, 60)).astype(np.float32)


def save(file: Path, pixels: np.ndarray, **keys) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    match file.suffix.lower():
        case ".npy":
            np.save(file, pixels)
        case ".mat":
            scipy.io.savemat(file, {"image": pixels, "azimuth": 12.5})
        case ".tif" | ".tiff":
            tifffile.imwrite(file, pixels, **keys)
        case _:
            Image.fromarray(pixels).save(file, **keys)
    return file


class Arrays:
    """A source of arrays."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays, self.classes, self.channels = arrays, ["a"], arrays[0].shape[2]

    def records(self, split: str) -> list[ImageRecord]:
        return [ImageRecord(f"{index}", 0, "train") for index in range(len(self.arrays))]

    def read(self, record: ImageRecord) -> np.ndarray:
        return self.arrays[int(record.path)]

    def fingerprint(self) -> str:
        return "arrays"


def open_image(file: Path, channels: int) -> np.ndarray:
    return formats.open_image(file, channels).pixels


def training(*arrays: np.ndarray) -> Training:
    source = Arrays(*arrays)
    return Training(source, source.records("train"))


# --- Files ------------------------------------------------------------------------------------------------------------

STORED = {
    "grey.png": RAMP,
    "grey.tif": RAMP,
    "UPPER.TIF": RAMP,
    "big_endian.tif": RAMP.astype(">u2"),
    "compressed.tiff": RAMP,
    "signed.tif": RAMP[:128].astype(np.int16),
    "long.tif": RAMP.astype(np.uint32) * 200,
    "float.tif": SPECKLE,
    "double.tif": SPECKLE.astype(np.float64),
    "half.tif": SPECKLE.astype(np.float16),
    "short.npy": RAMP,
    "big_endian.npy": RAMP.astype(">u2"),
    "float.npy": SPECKLE,
    "double.mat": SPECKLE.astype(np.float64),
    "eight.npy": RAMP.astype(np.uint8),
    "eight.tif": RAMP.astype(np.uint8),
}


@pytest.mark.parametrize("name", STORED)
def test_pixels_are_read_as_they_are(tmp_path: Path, name: str):
    stored = STORED[name]
    keys = {"compression": "zlib"} if name == "compressed.tiff" else {}
    file = save(tmp_path / name, stored, **keys)
    pixels = open_image(file, 1)
    np.testing.assert_array_equal(pixels[..., 0], stored)
    assert pixels.shape == (*stored.shape, 1)
    assert pixels.dtype == (stored.dtype.newbyteorder("=") if stored.dtype.str[1:] in ("u1", "u2") else np.float32)
    assert image_size(file) == stored.shape[::-1]


@pytest.mark.parametrize("name", ["iq.npy", "iq.tif", "iq.mat"])
def test_complex_pixels_are_read_as_amplitude(tmp_path: Path, name: str):
    phases = np.exp(1j * RNG.uniform(0, 2 * np.pi, SPECKLE.shape))
    file = save(tmp_path / name, (SPECKLE * phases).astype(np.complex64))
    np.testing.assert_allclose(open_image(file, 1)[..., 0], SPECKLE, rtol=1e-6)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_of_16_bits_keep_them_in_a_tiff(tmp_path: Path, planar: str):
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
    shown = colours if planar == "contig" else np.moveaxis(colours, 2, 0)
    file = save(tmp_path / "rgb.tif", shown, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(open_image(file, 3), colours)
    assert image_size(file) == (256, 256)


def test_a_mat_file_gives_the_one_called_amplitude_of_several(tmp_path: Path):
    scipy.io.savemat(tmp_path / "a.mat", {"amplitude": SPECKLE, "incidence": SPECKLE * 2, "name": "x"})
    np.testing.assert_array_equal(open_image(tmp_path / "a.mat", 1)[..., 0], SPECKLE)
    scipy.io.savemat(tmp_path / "b.mat", {"hh": SPECKLE, "hv": SPECKLE})
    with pytest.raises(UserError, match=r"b\.mat: expected one matrix, or one called `amplitude`; found hh, hv"):
        open_image(tmp_path / "b.mat", 1)


def holed(*values: float) -> np.ndarray:
    pixels = SPECKLE.copy()
    pixels[0, : len(values)] = values
    return pixels


REFUSED = {
    "nan.npy": (holed(np.nan), "1 pixels are NaN or infinite"),
    "inf.tif": (holed(np.inf, -np.inf), "2 pixels are NaN or infinite"),
    "huge.npy": (SPECKLE.astype(np.float64) * 1e300, "2400 pixels are NaN or infinite"),
    "nan_complex.npy": (holed(np.nan).astype(np.complex64), "1 pixels are NaN"),
    "long.npy": (RAMP.astype(np.int64) * 1000, "integers beyond 24 bits"),
    "unsigned.tif": (np.full((8, 8), 2**32 - 1, np.uint32), "integers beyond 24 bits"),
    "two.tif": (np.stack([SPECKLE, SPECKLE], axis=2), "pixels of shape 40 x 60 x 2"),
    "stack.npy": (np.zeros((4, 8, 8, 1)), "pixels of shape 4 x 8 x 8 x 1"),
    "words.npy": (np.full((8, 8), "a"), "<U1 pixels"),
    "bool.npy": (np.zeros((8, 8), bool), "bool pixels"),
    "colour.npy": (RNG.random((8, 8, 3)), "a colour image, but channels=1"),
    "objects.npy": (np.array([[None]]), "cannot be read as an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_obvious_reading_is_refused_by_name(tmp_path: Path, name: str):
    pixels, said = REFUSED[name]
    keys = {"photometric": "minisblack", "planarconfig": "contig"} if name == "two.tif" else {}
    file = save(tmp_path / name, pixels, **keys)
    with pytest.raises(UserError, match=f"{re.escape(str(file))}: .*{re.escape(said)}"):
        open_image(file, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_of_16_bit_colours_is_refused_for_pillow_would_cut_them(tmp_path: Path, channels: int):
    cv2.imwrite(str(tmp_path / "cut.png"), np.stack([RAMP] * 3, axis=2))
    with Image.open(tmp_path / "cut.png") as image:
        assert np.asarray(image).max() == 255, "if Pillow has learned it, read them"
    with pytest.raises(UserError, match=r"cut\.png: colours of 16 bits"):
        open_image(tmp_path / "cut.png", channels)


@pytest.mark.parametrize("name", ["broken.npy", "broken.mat", "broken.tif", "gone.npy", "gone.mat", "gone.tif"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str):
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"II*\0 no image at all")
    with pytest.raises(UserError, match=name):
        open_image(tmp_path / name, 1)
    assert image_size(tmp_path / name) is None, "reading it says why"


def geotiff(file: Path, pixels: np.ndarray, nodata: float) -> Path:
    rasterio = pytest.importorskip("rasterio")
    height, width = pixels.shape
    form = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": pixels.dtype, "nodata": nodata}
    with rasterio.open(file, "w", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **form) as out:
        out.write(pixels, 1)
    return file


@pytest.mark.parametrize("nodata", [0.0, -9999.0, np.nan])
def test_missing_pixels_of_a_geotiff_are_black_and_count_for_nothing(tmp_path: Path, nodata: float):
    pixels = open_image(geotiff(tmp_path / "a.tif", holed(nodata, nodata, nodata), nodata), 1)
    assert np.isnan(pixels[0, :3]).all() and np.isnan(pixels).sum() == 3
    assert exact_percentiles(training(pixels), [0, 100]) == [SPECKLE.ravel()[3:].min(), SPECKLE.ravel()[3:].max()]
    for rule in (Linear([0, 100]), Log([-60, 60], None), MeanSigma(3)):
        levels = rule.fit(training(pixels)).levels(pixels, "a")
        assert not levels[0, :3].any() and np.isfinite(levels).all()


def test_missing_pixels_of_8_bits_are_black_and_of_16_bits_are_marked(tmp_path: Path):
    eight = open_image(geotiff(tmp_path / "8.tif", RAMP.astype(np.uint8), 7), 1)
    assert eight.dtype == np.uint8 and not eight[:, 7].any() and (eight[:, 8] == 8).all()
    sixteen = open_image(geotiff(tmp_path / "16.tif", RAMP, 7), 1)
    assert np.isnan(sixteen[0, 7]) and np.isnan(sixteen).sum() == 1 and sixteen[-1, -1] == 65535
    np.testing.assert_array_equal(open_image(geotiff(tmp_path / "none.tif", RAMP[1:], 7), 1)[..., 0], RAMP[1:])
    with pytest.raises(UserError, match=r"nan\.tif: 1 pixels are NaN"):
        open_image(geotiff(tmp_path / "nan.tif", holed(np.nan, 7), 7), 1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_chips_of_any_type_are_cut_alike(dtype: type):
    eight = RNG.integers(0, 256, (30, 40, 1), dtype=np.uint8)
    for cut in (lambda scene: centre_crop(scene, 35), Window(3, 4, 16).cut, Window(20, 15, 16, 30.0).cut):
        finer = cut(eight.astype(dtype))
        assert finer.dtype == dtype
        np.testing.assert_allclose(finer.astype(float), cut(eight), atol=1)


# --- Rules ------------------------------------------------------------------------------------------------------------

SHIFTED = [RNG.normal(loc, 30, (17 + loc, 23, 1)).astype(np.float32) for loc in range(9)]  # of both signs
SHORT = [RNG.integers(0, 65536, (11, 13, 1), dtype=np.uint16) for _ in range(5)]
FEW = [RNG.integers(0, 4, (5, 7, 1), dtype=np.uint8) for _ in range(3)]


@pytest.mark.parametrize("images", [SHIFTED, SHORT, FEW], ids=["float", "16 bits", "few levels"])
def test_percentiles_and_moments_are_those_of_all_pixels(images: list[np.ndarray]):
    pixels = np.concatenate([image.ravel() for image in images])
    wanted = [0, 0.1, 2, 37.3, 50, 98, 99.9, 100]
    expected = [np.percentile(pixels, percent, method="inverted_cdf") for percent in wanted]
    assert exact_percentiles(training(*images), wanted) == expected
    mu, sigma = mean_sigma(training(*images))
    assert mu == pytest.approx(pixels.mean(dtype=np.float64), rel=1e-12)
    assert sigma == pytest.approx(pixels.std(dtype=np.float64), rel=1e-12)


def test_levels_are_what_the_rules_say():
    image = SPECKLE[..., None]
    low, high = np.percentile(image, [2, 98], method="inverted_cdf")
    linear = Linear([2, 98]).fit(training(image))
    np.testing.assert_allclose(linear.levels(image, ""), 255 * ((image - low) / (high - low)).clip(0, 1), atol=1e-4)
    assert (linear.below, linear.above) == ((image < low).mean(), (image > high).mean())
    decibels = 20 * np.log10(image / np.percentile(image, 50, method="inverted_cdf"))
    log = Log([-10, 5], None).fit(training(image))
    np.testing.assert_allclose(log.levels(image, ""), 255 * ((decibels + 10) / 15).clip(0, 1), atol=1e-3)
    calibrated = Log([-10, 45], 1.0).fit(training(image)).levels(image, "")
    np.testing.assert_allclose(calibrated, 255 * ((20 * np.log10(image) + 10) / 55).clip(0, 1), atol=1e-3)
    white = image.mean(dtype=np.float64) + 3 * image.std(dtype=np.float64)
    mean = MeanSigma(3).fit(training(image)).levels(image, "")
    np.testing.assert_allclose(mean, 255 * (image / white).clip(0, 1), atol=1e-4)


def test_eight_bits_stay_what_they_are():
    pixels = RAMP.astype(np.uint8)[..., None]
    assert EightBit().levels(pixels, "a") is pixels
    for other in (RAMP[..., None], SPECKLE[..., None]):
        with pytest.raises(UserError, match=rf"^ship\.tif: {other.dtype} pixels.*radiometry=linear, log or mean_sigma"):
            EightBit().levels(other, "ship.tif")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (lambda: Linear([99, 1]), "percentiles=[99, 1]: use two rising numbers"),
        (lambda: Linear([1, 101]), "percentiles=[1, 101]: use two rising numbers from 0 to 100"),
        (lambda: Linear([1]), "percentiles=[1]: use two"),
        (lambda: Linear(["a", "b"]), "percentiles=['a', 'b']: use two"),  # type: ignore[list-item]
        (lambda: Log([0, 0], None), "limits=[0, 0]: use two"),
        (lambda: Log([0, 1], 0.0), "reference=0: use an amplitude above 0"),
        (lambda: MeanSigma(-1), "sigmas=-1: use 0 or more"),
    ],
)
def test_keys_out_of_range_are_refused(rule, said: str):
    with pytest.raises(UserError, match=re.escape(said)):
        rule()


@pytest.mark.parametrize(
    ("rule", "image", "said"),
    [
        (
            Linear([0, 100]),
            np.full((4, 4, 1), 5, np.uint16),
            "black would be 5 and white 5; are the training images const",
        ),
        (Log([-20, 20], None), np.zeros((4, 4, 1), np.uint16), "median is 0, which cannot be 0 dB; set radiometry.ref"),
        (MeanSigma(3), np.full((4, 4, 1), np.nan, np.float32), "every pixel of the training images is missing"),
    ],
)
def test_training_images_without_levels_are_refused(rule: Rule, image: np.ndarray, said: str):
    with pytest.raises(UserError, match=re.escape(said)):
        rule.fit(training(image))


def test_negative_pixels_have_no_logarithm():
    levels = Log([-20, 20], 1.0).fit(training(SPECKLE[..., None]))
    with pytest.raises(UserError, match=r"^ship\.tif: negative pixels.*in dB already"):
        levels.levels(-SPECKLE[..., None], "ship.tif")


# --- In memory --------------------------------------------------------------------------------------------------------

WHOLE: dict[str, Radiometry] = {
    "linear": Linear([0, 100]).fit(training(RAMP[..., None])),
    "log": Log([-1, 97], 1.0).fit(training(RAMP[..., None])),
    "mean_sigma": MeanSigma(3).fit(training(RAMP[..., None])),
}


@pytest.mark.parametrize("rule", WHOLE)
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_a_ramp_of_16_bits_keeps_all_its_levels(tmp_path: Path, rule: str, suffix: str):
    save(tmp_path / f"images/a/ramp.{suffix}", RAMP)
    source = ImageFolder(tmp_path, train="images", val=None, test=None, unnamed=None, crop=None, channels=1)
    images = load_images(source, source.records("train"), 256, WHOLE[rule])
    save_file({"images": images}, tmp_path / "cache.safetensors")
    cached = load_file(tmp_path / "cache.safetensors")["images"]
    assert cached.min() >= 0 and cached.max() <= 255
    for form in (cached, to_float(cached)):
        assert form.dtype == torch.float32
        assert (form.flatten().diff() > 0).all(), "65,536 levels, in their order"


def test_speckle_is_averaged_after_it_was_mapped():
    image = SPECKLE[:32, :32, None]
    radiometry = Log([-30, 20], None).fit(training(image))
    source = Arrays(image)
    shrunk = load_images(source, source.records("train"), 1, radiometry)
    levels = radiometry.levels(image, "")[..., 0]
    triangle = 1 - np.abs(np.arange(32) - 15.5) / 32  # Pillow's bilinear filter, as wide as two images, seen over one
    assert shrunk.item() == pytest.approx(np.average(levels, weights=np.outer(triangle, triangle)), rel=1e-4)


def test_finer_images_resize_as_those_of_8_bits_do():
    eight = RNG.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    fine = resize(eight.astype(np.float32), 32)
    assert fine.dtype == np.float32 and fine.shape == (32, 32, 3)
    assert np.abs(fine - resize(eight, 32)).max() <= 1


def test_statistics_and_contours_of_grey_levels_do_not_depend_on_their_type():
    eight = RNG.integers(0, 256, (3, 2, 16, 16), dtype=np.uint8)
    fine = torch.from_numpy(eight.astype(np.float32))
    assert channel_statistics(fine) == channel_statistics(torch.from_numpy(eight))
    assert channel_statistics(fine / 7)[1] == pytest.approx((fine / 7).double().std((0, 2, 3), correction=0).tolist())
    assert channel_statistics(torch.full((2, 1, 4, 4), 0.1)) == ([pytest.approx(0.1)], [1.0])
    image = np.kron(eight[0, 0, :4, :4], np.ones((8, 8), np.uint8))[..., None]
    assert canny(image, (50, 100), 0).any()
    np.testing.assert_array_equal(canny(image, (50, 100), 0), canny(image.astype(np.float32), (50, 100), 0))


# --- In a study -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six training and two test images of 16 bits; the test images are brighter than any for training."""
    for split, bright in (("train", 1), ("test", 8)):
        for name in ("cargo", "tanker"):
            for index in range(3 if split == "train" else 1):
                pixels = (bright * RNG.rayleigh(2000, (32, 32))).clip(1, 65535).astype(np.uint16)
                save(tmp_path / split / name / f"{index}.tif", pixels)
    return tmp_path


composed = cache(settings)


def study(folder: Path, *overrides: str) -> Study:
    keys = [
        "data=imagefolder",
        f"data.root={folder}",
        "data.test=test",
        "base.image_size=32",
        f"paths.store={folder}/store",
    ]
    return Study(composed(*keys, *overrides), Tracker(None))


def test_16_bits_without_a_mapping_are_refused_before_anything_is_made(folder: Path):
    with pytest.raises(UserError, match=r"cargo/0\.tif: uint16 pixels.*radiometry=linear, log or mean_sigma"):
        image_recipe(study(folder))
    made = {card.parents[1].name for card in (folder / "store").rglob("card.json")}
    assert made <= {"cache"}, "nothing but the scan"


def test_a_report_on_images_without_a_mapping_says_so_and_goes_on(folder: Path):
    (note,) = _outlines(health(study(folder), "sar", folder))
    assert isinstance(note, Note) and "radiometry=linear, log or mean_sigma" in note.text


def test_the_mapping_follows_from_the_training_images_alone(folder: Path, capsys):
    one = study(folder, "radiometry=linear", "radiometry.percentiles=[0,100]")
    pixels = np.stack([source(one, "sar").read(record) for record in trained_on(one, "sar")])
    levels = radiometry(one, "sar")
    assert isinstance(levels, Levels)
    assert (levels.low, levels.high, levels.below, levels.above) == (pixels.min(), pixels.max(), 0, 0)
    assert "clips" not in capsys.readouterr().out
    assert labelled(one, "test").images.max() == 255, "brighter than any training image"
    assert about(one)["radiometry"] == levels.plain and json.dumps(levels.plain)
    assert levels.plain["rule"] == {"name": "linear", "percentiles": [0, 100]}
    assert about(study(folder))["radiometry"] == {"name": "eight_bit"}
    save(folder / "test/cargo/0.tif", np.arange(1024, dtype=np.uint16).reshape(32, 32))
    again = radiometry(study(folder, "radiometry=linear", "radiometry.percentiles=[0,100]"), "sar")
    assert again == levels


def test_clipping_is_said_and_written(folder: Path, capsys):
    one = study(folder, "radiometry=linear", "radiometry.percentiles=[5,90]")
    levels = radiometry(one, "sar")
    assert re.search(r"radiometry=linear clips 1\d\.\d% of the training pixels: \d\.\d% below", capsys.readouterr().out)
    assert levels.plain["above"] == pytest.approx(0.1, abs=0.001)
    assert levels.plain["below"] == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize("shape", [(90, 90), (90, 90, 3), (3, 90, 90), (8100,)])
def test_an_array_too_large_is_never_read(tmp_path: Path, monkeypatch, shape: tuple[int, ...]):
    np.save(tmp_path / "bomb.npy", np.ones(shape, np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    load = np.load
    monkeypatch.setattr(np, "load", lambda path, mmap_mode, **keys: load(path, mmap_mode or "no reading", **keys))
    with pytest.raises(BadImage, match=r"bomb\.npy: too large"):
        open_image(tmp_path / "bomb.npy", 1)


def test_a_bad_key_is_named(folder: Path):
    with pytest.raises(UserError, match=r"^radiometry\.percentiles=\[99, 1\]: use two rising"):
        _ = radiometry(study(folder, "radiometry=linear", "radiometry.percentiles=[99,1]"), "sar")
    with pytest.raises(UserError, match=r"unknown key radiometry\.percentile; the nearest is radiometry\.percentiles"):
        study(folder, "radiometry=linear", "+radiometry.percentile=3")


def test_caches_are_remade_when_a_pixel_a_key_or_a_weight_changes_and_only_then(folder: Path, tiny: Base):
    weights = folder / "base"
    tiny.save(weights)

    def made(*overrides: str) -> tuple[Path, Path, float]:
        one = study(folder, "radiometry=mean_sigma", f"base.path={weights}", *overrides)
        tensors, encoded = images(one, "train").path, latents(one, "sar").path
        return tensors, encoded, next(encoded.glob("moments-*")).stat().st_mtime_ns

    first = made()
    assert made() == first, "nothing changed"
    pixels_of, latents_of, _ = made("radiometry.sigmas=4")
    assert pixels_of != first[0] and latents_of != first[1], "a key of the mapping"
    assert not torch.equal(*(load_file(path / "images.safetensors")["images"] for path in (pixels_of, first[0])))

    file = next((weights / "vae").glob("*.safetensors"))
    kept, tensors = file.read_bytes(), load_file(file)
    name = next(iter(tensors))
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] += 1
    save_file(tensors, file)
    pixels_of, latents_of, _ = made()
    assert pixels_of == first[0] and latents_of != first[1], "a weight of the base"
    file.write_bytes(kept)
    assert made() == first, "as it was"

    picture = folder / "train/cargo/1.tif"
    pixels = tifffile.imread(picture)
    pixels[3, 4] += 1
    save(picture, pixels)
    pixels_of, latents_of, _ = made()
    assert pixels_of != first[0] and latents_of != first[1], "a pixel"
