"""What people really have: files and tables of every kind that once went wrong, each with its right value.

Small files are made here; those of `../shared/cases` stand apart, and are skipped where they are not there.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_imagefolder import folder, write, write_metadata
from test_leaks import picture, plant, root, said, study  # noqa: F401

from sarsynth import hashes
from sarsynth.commands.guarding import leaks_of
from sarsynth.config.composition import settings_of
from sarsynth.data import folders, formats
from sarsynth.data.chips import check_box, rectangle
from sarsynth.data.framing import Framing, Shape, framing_of
from sarsynth.data.phoenix import read_phoenix
from sarsynth.data.readers.dota import Dota
from sarsynth.data.readers.hrsc2016 import Hrsc2016
from sarsynth.data.readers.manifest import Manifest
from sarsynth.data.readers.mstar import Mstar
from sarsynth.data.transforms import resize
from sarsynth.diffusion.contours import read_maps
from sarsynth.errors import LeakError, UserError
from sarsynth.stages import curate_images
from sarsynth.stages.curate_images import counts, records, training
from sarsynth.stages.inspect_images import inspect
from sarsynth.stages.resize_images import images
from sarsynth.stages.sum_up import about

CASES = Path(os.environ.get("SARSYNTH_CASES", Path(__file__).parents[2] / "shared/cases"))
RNG = np.random.default_rng(16)
COLOURS = RNG.integers(30, 200, (20, 30, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def case(name: str) -> Path:
    if not (CASES / name).is_dir():
        pytest.skip(f"{CASES / name} is not there")
    return CASES / name


def geotiff(file: Path, pixels: np.ndarray, **keys: Any) -> Path:
    """Write pixels (bands, H, W) with GDAL, as its tools do."""
    rasterio = pytest.importorskip("rasterio")
    bands, height, width = pixels.shape
    form = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(file, "w", **form | keys) as out:
        out.write(pixels)
    return file


def text(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def manifest(place: Path, **keys: Any) -> Manifest:
    form = {"manifest": None, "val": None, "test": None, "split_seed": 0, "size": None, "margin": 0.25}
    return Manifest(place, **form | {"rotate": False, "crop": None, "channels": 1} | keys)


# --- Pixels -----------------------------------------------------------------------------------------------------------

INFRARED = RNG.integers(0, 20, (20, 30, 1), dtype=np.uint8)  # dark over water
CUT_OUT = np.where(np.arange(20)[:, None, None] < 5, 0, 255).astype(np.uint8) * np.ones((1, 30, 1), np.uint8)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_a_fourth_band_is_alpha_only_where_it_is(tmp_path: Path, suffix: str) -> None:
    def saved(name: str, fourth: np.ndarray) -> Path:
        file, pixels = tmp_path / f"{name}.{suffix}", np.concatenate([COLOURS, fourth], axis=2)
        if suffix == "tif":
            return geotiff(file, pixels.transpose(2, 0, 1))
        Image.fromarray(pixels).save(file)
        return file

    infrared = saved("infrared", INFRARED)
    with pytest.raises(UserError, match=r"infrared\.\w+: its last band of 4 is marked as alpha, .* bands=\[1,2,3\]"):
        formats.open_image(infrared, 3)
    chosen = formats.open_image(infrared, 3, [1, 2, 3])
    np.testing.assert_array_equal(chosen.pixels, COLOURS)
    assert chosen.notes == ("of its 4 bands, 1, 2, 3",)
    np.testing.assert_array_equal(formats.open_image(infrared, 1, [4]).pixels, INFRARED)
    np.testing.assert_array_equal(formats.open_image(saved("opaque", CUT_OUT | 255), 3).pixels, COLOURS)
    cut, notes = formats.open_image(saved("cut", CUT_OUT), 3)
    np.testing.assert_array_equal(cut, COLOURS * (CUT_OUT > 0))
    assert notes == ("pixels that are transparent are black",)


def test_soft_edges_of_an_alpha_channel_are_laid_on_black(tmp_path: Path) -> None:
    soft = CUT_OUT.copy()
    soft[5] = 128
    Image.fromarray(np.concatenate([COLOURS, soft], axis=2)).save(tmp_path / "soft.png")
    pixels, _ = formats.open_image(tmp_path / "soft.png", 3)
    assert not pixels[:5].any() and np.abs(pixels[5] / 1.0 - COLOURS[5] / 2).max() <= 1
    np.testing.assert_array_equal(pixels[6:], COLOURS[6:])


def test_bands_without_a_meaning_are_named_by_a_key(tmp_path: Path) -> None:
    two = geotiff(tmp_path / "two.tif", RNG.integers(-99, 99, (2, 20, 30)).astype(np.int16), compress="lzw")
    with pytest.raises(UserError, match=r"two\.tif: .*2 bands; say which, bands=\[1\] or \[2\] .* bands=iq"):
        formats.open_image(two, 1)
    planes = np.moveaxis(_gdal(two), 0, -1).astype(float)
    np.testing.assert_array_equal(formats.open_image(two, 1, [2]).pixels, planes[..., 1:])
    amplitude = formats.open_image(two, 1, "iq")
    np.testing.assert_allclose(amplitude.pixels[..., 0], np.hypot(planes[..., 0], planes[..., 1]), rtol=1e-6)
    assert amplitude.pixels.dtype == np.float32
    np.save(tmp_path / "four.npy", RNG.random((20, 30, 4)))
    with pytest.raises(UserError, match=r"four\.npy: .*4 bands; say which, e\.g\. bands=\[1,2,3\]"):
        formats.open_image(tmp_path / "four.npy", 3)
    assert formats.open_image(tmp_path / "four.npy", 3, [3, 2, 1]).pixels.shape == (20, 30, 3)
    with pytest.raises(UserError, match=r"two\.tif: bands=\[3\], but it has 2"):
        formats.open_image(two, 1, [3])


def _gdal(file: Path) -> np.ndarray:
    with pytest.importorskip("rasterio").open(file) as opened:
        return opened.read()


@pytest.mark.parametrize(("bands", "said_of_it"), [([1, 2], "one band or three"), ("all", "one band or three")])
def test_bands_that_are_none_are_refused(tmp_path: Path, bands: Any, said_of_it: str) -> None:
    write(tmp_path / "train/a/1.png")
    with pytest.raises(UserError, match=rf"^bands=.*{said_of_it}"):
        folder(tmp_path, bands=bands)
    with pytest.raises(UserError, match=r"^bands=\[1, 2, 3\]: three bands, but channels=1"):
        folder(tmp_path, bands=[1, 2, 3])


def test_another_choice_of_bands_is_another_set(tmp_path: Path) -> None:
    write(tmp_path / "train/a/1.png")
    known = folder(tmp_path).fingerprint()
    assert known == folder(tmp_path, bands=None).fingerprint() != folder(tmp_path, bands=[1]).fingerprint()


@pytest.mark.parametrize("keys", [{"compress": "lzw"}, {"compress": "lzw", "predictor": 2}, {"compress": "zstd"}, {}])
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32", "complex64"])
def test_a_tiff_is_read_whatever_its_tags(tmp_path: Path, dtype: str, keys: dict[str, Any]) -> None:
    if "predictor" in keys and dtype == "complex64":
        keys = {"compress": "lzw"}
    pixels = RNG.integers(0, 3000, (1, 20, 30)).astype(dtype)
    for nodata in ({}, {"nodata": 5000}):
        file = geotiff(tmp_path / f"a{len(nodata)}.tif", pixels, **keys, **nodata)
        np.testing.assert_array_equal(formats.open_image(file, 1).pixels[..., 0], np.abs(pixels[0]))


def test_integers_that_are_complex_become_their_amplitude(tmp_path: Path) -> None:
    parts = RNG.integers(-99, 99, (2, 1, 20, 30))
    file = geotiff(tmp_path / "slc.tif", (parts[0] + 1j * parts[1]).astype(np.complex64), dtype="complex_int16")
    pixels, notes = formats.open_image(file, 1)
    np.testing.assert_allclose(pixels[..., 0], np.hypot(*parts)[0], rtol=1e-6)
    assert notes == ("complex pixels became their amplitude",)


def test_without_rasterio_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = geotiff(tmp_path / "a.tif", GREY[None].astype(np.int16), compress="lzw")
    monkeypatch.setattr("sarsynth.data.tiff._rasterio", lambda: None)
    with pytest.raises(UserError, match=r"a\.tif: .*install sarsynth\[geotiff\]"):
        formats.open_image(file, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_as_its_orientation_says(tmp_path: Path, orientation: int) -> None:
    for name, compression in (("a", None), ("b", "tiff_lzw")):
        Image.fromarray(GREY).save(tmp_path / f"{name}.tif", tiffinfo={274: orientation}, compression=compression)
    with Image.open(tmp_path / "b.tif") as image:  # compressed ones are turned by Pillow, too
        image.load()
        shown = np.asarray(image)
    np.testing.assert_array_equal(formats.open_image(tmp_path / "b.tif", 1).pixels[..., 0], shown)
    np.testing.assert_array_equal(formats.open_image(tmp_path / "a.tif", 1).pixels[..., 0], shown)
    assert formats.image_size(tmp_path / "a.tif") == shown.shape[::-1]


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp"])
def test_further_frames_are_said(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())]
    frames[0].save(
        tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {})
    )
    assert any("the first of its 2" in note for note in formats.open_image(tmp_path / name, 3).notes)


def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "train/a/1.png")
    os.mkfifo(tmp_path / "train/a/pipe.png")
    source = folder(tmp_path)
    assert len(source.fingerprint()) == 64
    with pytest.raises(UserError, match=r"pipe\.png: no file, but a pipe"):
        source.read(source.records("train")[1])
    os.mkfifo(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match=r"manifest\.csv: no file, but a folder, a pipe"):
        manifest(tmp_path)
    assert hashes.of_files(tmp_path, ["train/a/pipe.png"], lambda error: str(error.strerror)) == {
        "train/a/pipe.png": "a pipe or a device"
    }


# --- Images and captions that were not seen ---------------------------------------------------------------------------


def test_images_below_a_class_folder_are_of_its_class(tmp_path: Path) -> None:
    for name in ["cargo/1.png", "cargo/bulk/2.png", "cargo/bulk/deep/3.png", "tanker/4.png", "cargo/b.gif"]:
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (write(tmp_path / "train" / name) if name.endswith("png") else (tmp_path / "train" / name).write_bytes(b"GIF"))
    source = folder(tmp_path)
    assert [(record.path, record.label) for record in source.records("train")] == [
        ("train/cargo/1.png", 0),
        ("train/cargo/bulk/2.png", 0),
        ("train/cargo/bulk/deep/3.png", 0),
        ("train/tanker/4.png", 1),
    ]
    assert source.seen.remarks == [f"images in train/cargo/{name} are of class cargo" for name in ("bulk", "bulk/deep")]
    assert source.seen.passed_over == {"no image of a format that is read": ["train/cargo/b.gif"]}
    with pytest.raises(UserError, match=r"train: class folder of train without images directly in it, but in .*move"):
        folder(tmp_path, train=".")


def test_links_that_lead_round_end(tmp_path: Path) -> None:
    write(tmp_path / "train/a/1.png")
    write(tmp_path / "elsewhere/2.png")
    (tmp_path / "train/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "train/a")
    assert [record.path for record in folder(tmp_path).records("train")] == ["train/a/1.png", "train/a/more/2.png"]


@pytest.mark.parametrize("form", ["prompt", "caption", "metadata.csv", ".txt", ".caption"])
def test_captions_are_found_in_any_of_the_usual_forms(tmp_path: Path, form: str) -> None:
    write(tmp_path / "train/a/1.png")
    if form.startswith("."):
        (tmp_path / f"train/a/1{form}").write_text("sar chip,\nrough sea\n")
    elif form == "metadata.csv":
        (tmp_path / "train/metadata.csv").write_text('file_name,text\na/1.png,"sar chip, rough sea"\n')
    else:
        write_metadata(tmp_path / "train", {"file_name": "a/1.png", form: "sar chip, rough sea"})
    source = folder(tmp_path)
    assert source.records("train")[0].text == "sar chip, rough sea"
    assert not source.seen.passed_over


def test_what_is_no_caption_is_told(tmp_path: Path) -> None:
    write(tmp_path / "train/a/1.png")
    (tmp_path / "train/a/1.txt").write_text("0 0.5 0.5 0.2 0.3\n")
    (tmp_path / "train/a/metadata.parquet").write_bytes(b"PAR1")
    write(tmp_path / "train/stray.png")
    source = folder(tmp_path)
    assert source.records("train")[0].text is None
    assert set().union(*source.seen.passed_over.values()) == {
        "train/a/1.txt",
        "train/a/metadata.parquet",
        "train/stray.png",
    }


def test_numbers_of_kohyas_folders_are_left_off(tmp_path: Path) -> None:
    for name in ["10_cargo", "20_oil tanker"]:
        write(tmp_path / "train" / name / "1.png")
    source = folder(tmp_path)
    assert source.classes == ["cargo", "oil tanker"] and "without these numbers" in source.seen.remarks[0]
    write(tmp_path / "train/5_cargo/2.png")
    assert folder(tmp_path).classes == ["10_cargo", "20_oil tanker", "5_cargo"], "two would be one"


def test_classes_on_some_rows_alone_are_refused(tmp_path: Path) -> None:
    for name in "12":
        write(tmp_path / f"train/{name}.png")
    rows = [{"file_name": "1.png", "text": "a", "label": "tug"}, {"file_name": "2.png", "text": "b"}]
    write_metadata(tmp_path / "train", *rows)
    with pytest.raises(UserError, match=r"2\.png: metadata has a class of other images .* not of this one"):
        folder(tmp_path, unnamed="ship")
    write_metadata(tmp_path / "train", *(row | {"label": "tug"} for row in rows))
    assert folder(tmp_path, unnamed="ship").classes == ["tug"]


# --- Tables -----------------------------------------------------------------------------------------------------------


def test_backslashes_are_read(tmp_path: Path) -> None:
    write(tmp_path / "train/cargo/0.png")
    text(tmp_path / "manifest.csv", "path,class,prompt", r"train\cargo\0.png,cargo,a chip,")
    (record,) = manifest(tmp_path).records("train")
    assert (record.path, record.text) == ("train/cargo/0.png", "a chip")
    text(tmp_path / "list.txt", r"train\cargo\0.png")
    assert folder(tmp_path, train="list.txt").records("train")[0].path == "train/cargo/0.png"


OUTSIDE = ["../1.png", "/etc/hosts", r"C:\1.png", r"..\1.png", "a/../../1.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_that_lead_out_are_refused_by_line(tmp_path: Path, name: str) -> None:
    write(tmp_path / "1.png")
    place = tmp_path / "set"
    write(place / "train/a/0.png")
    text(place / "manifest.csv", "path,class", f"{name},a")
    with pytest.raises(UserError, match=r"manifest\.csv, line 2: .* may lie outside"):
        manifest(place)
    text(place / "list.txt", "train/a/0.png", name)
    with pytest.raises(UserError, match=r"list\.txt, line 2: .* may lie outside"):
        folder(place, train="list.txt")
    write_metadata(place / "train", {"file_name": name, "text": "x"})
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 1: .* may lie outside"):
        folder(place)


BOXES = ["nan 0 5 5", "0 0 inf 5", "0 0 1e30 5", "5 5 0 0", "3 3 3 9", "0 0 5 5 0 0 5 5"]


@pytest.mark.parametrize("box", BOXES)
def test_boxes_in_no_image_are_refused_by_line(tmp_path: Path, box: str) -> None:
    write(tmp_path / "1.png")
    text(tmp_path / "manifest.csv", "path,class,box", "1.png,a,1 1 5 5", f"1.png,a,{box}")
    with pytest.raises(UserError, match=r"manifest\.csv, line 3: .*; mend or remove it"):
        manifest(tmp_path)


def test_a_box_far_beyond_its_image_is_refused_before_memory_is(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    text(tmp_path / "manifest.csv", "path,class,box", "1.png,a,1 1 900000 900000")
    with pytest.raises(UserError, match=r"manifest\.csv, line 2: a box of 1\.png lies outside the image"):
        manifest(tmp_path)


def test_every_reader_refuses_boxes_that_are_no_numbers() -> None:
    assert check_box(rectangle(0, 0, 5, 5), "here") == rectangle(0, 0, 5, 5)
    for value in (float("nan"), float("inf"), 1e30):
        with pytest.raises(UserError, match=r"^here: a box"):
            check_box(rectangle(0, 0, value, 5), "here")


ROWS = {
    "twice": ('{"file_name": "a/1.png"}\n{"file_name": "a/1.png"}', r"line 2: a/1\.png has a row already"),
    "nan": ('{"file_name": "a/1.png", "objects": {"bbox": [[NaN, 0, 2, 2]]}}', r"line 1: a box .* lies in no image"),
    "empty": ('{"file_name": "a/1.png", "objects": {"bbox": [[1, 1, 0, 2]]}}', r"line 1: box .* has no area"),
    "list": ('{"file_name": "a/1.png", "label": ["tug"]}', r"line 1: `label` must be a name or a whole number"),
    "deep": ('{"file_name": ' + "[" * 100_000, r"line 1: expected a JSON object"),
    "caption": ('{"file_name": "a/1.png", "caption": ["a", "b"]}', r"line 1: `caption` must be a string"),
    "gsd": ('{"file_name": "a/1.png", "gsd": -1}', r"line 1: gsd=-1: use metres a pixel"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_bad_rows_are_named(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "train/a/1.png")
    line, message = ROWS[kind]
    (tmp_path / "train/metadata.jsonl").write_text(line)
    with pytest.raises(UserError, match=rf"metadata\.jsonl, {message}"):
        folder(tmp_path)


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train/a/1.png")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "train"))

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"train: cannot be read \(Permission denied\); see its permissions"):
        folder(tmp_path)


def test_a_fraction_that_gives_no_image_is_refused(tmp_path: Path) -> None:
    for index in range(20):
        write(tmp_path / f"train/a/{index}.png")
    with pytest.raises(UserError, match=r"^test=0\.01: not half an image of any class"):
        folder(tmp_path, test=0.01)
    assert len(folder(tmp_path, test=0.05).records("test")) == 1


# --- Formats ----------------------------------------------------------------------------------------------------------


def raw(file: Path, magnitude: np.ndarray) -> Path:
    """Write a chip as MSTAR's public release has it."""
    height, width = magnitude.shape
    head = f"[PhoenixHeaderVer01.04]\nPhoenixHeaderLength= 00512\nNumberOfColumns= {width}\nNumberOfRows= {height}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    planes = np.stack([magnitude, RNG.random(magnitude.shape)]).astype(">f4")
    file.write_bytes((head + "[EndofPhoenixHeader]\n").encode().ljust(512) + planes.tobytes())
    return file


def test_raw_mstar_is_read(tmp_path: Path) -> None:
    magnitude = RNG.gamma(1, 100, (24, 30)).astype(np.float32)
    for angle, suffix in ((17, "017"), (15, "015"), (30, "030")):
        raw(tmp_path / f"TARGETS/{angle}_DEG/T72/HB1.{suffix}", magnitude)
    source = Mstar(tmp_path, val=None, split_seed=0, crop=None, channels=1)
    (train,), (test,) = source.records("train"), source.records("test")
    np.testing.assert_array_equal(source.read(train)[..., 0], magnitude)
    assert (train.path, test.path) == ("TARGETS/17_DEG/T72/HB1.017", "TARGETS/15_DEG/T72/HB1.015")
    assert list(source.seen.passed_over.values()) == [["TARGETS/30_DEG/T72/HB1.030"]]
    cut = tmp_path / "cut.017"
    cut.write_bytes((tmp_path / train.path).read_bytes()[:900])
    with pytest.raises(UserError, match=r"cut\.017: .*900 bytes, of 6272"):
        formats.open_image(cut, 1)
    (tmp_path / "other.017").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no Phoenix header"):
        read_phoenix(tmp_path / "other.017")


HRSC = (
    "<annotation><object><name>100000006</name><robndbox><cx>20</cx><cy>20</cy><w>24</w><h>8</h><angle>{}</angle>"
    "</robndbox></object></annotation>"
)


def hrsc(place: Path) -> Hrsc2016:
    return Hrsc2016(place, size=None, margin=0.25, rotate=False, channels=3)


def test_hrsc2016_ms_is_read(tmp_path: Path) -> None:
    write(tmp_path / "FullDataSet/AllImages/1.bmp", np.zeros((40, 40, 3), np.uint8))
    text(tmp_path / "FullDataSet/Annotations/1.xml", HRSC.format(np.pi / 2))
    (record,) = hrsc(tmp_path).records("train")
    x0, y0, x1, y1 = record.instances[0].box
    assert (x1 - x0, y1 - y0) == (8, 24), "it stands upright"
    text(tmp_path / "FullDataSet/Annotations/1.xml", "<annotation><thing/></annotation>")
    with pytest.raises(UserError, match=r"1\.xml: no ship in any of 1 annotation files .* <HRSC_Object> .* <robndbox>"):
        hrsc(tmp_path)


def test_images_of_dota_without_labels_are_told(tmp_path: Path) -> None:
    for name in "12":
        write(tmp_path / f"train/images/P{name}.png", np.zeros((40, 40, 3), np.uint8))
    text(tmp_path / "train/labelTxt/P1.txt", "5 5 25 5 25 15 5 15 ship 0", "5 5 5 5 5 5 5 5 ship 0")
    keys = {"version": None, "categories": ["ship"], "size": None, "margin": 0.25, "rotate": False, "channels": 3}
    source = Dota(tmp_path, **keys)
    assert len(source.records("train")) == 1
    assert source.seen.passed_over == {
        "images without a label file": ["train/images/P2.png"],
        "objects outside their image, or without area": ["train/images/P1.png"],
    }


def test_contour_maps_that_are_dark_on_white_are_turned(tmp_path: Path) -> None:
    drawn = np.zeros((64, 64), np.uint8)
    drawn[10, 5:40] = 255
    write(tmp_path / "tanker/white.png", 255 - drawn)
    write(tmp_path / "tanker/usual.png", drawn)
    maps = read_maps(tmp_path, ["tanker"], 64)
    assert maps.turned == ["tanker/white.png"] and (maps.contours["tanker"] == drawn).all()
    assert maps.without({"tanker/usual.png"}).paths == {"tanker": ["tanker/white.png"]}


# --- Chips that are not square ----------------------------------------------------------------------------------------


def test_what_is_not_square_is_cut_padded_or_stretched() -> None:
    chip = RNG.integers(0, 255, (44, 71, 1), dtype=np.uint8)
    shape = Shape(44, 71)
    crop, pad, stretch = (Framing(fit) for fit in ("crop", "pad", "stretch"))
    np.testing.assert_array_equal(resize(chip, 44, crop.frame(shape)), chip[:, 13:57])
    np.testing.assert_array_equal(resize(chip, 44), chip[:, 13:57])
    padded = resize(chip, 71, pad.frame(shape))
    np.testing.assert_array_equal(padded[13:57], chip)
    np.testing.assert_array_equal(padded[:13], chip[13:0:-1])
    whole = np.asarray(Image.fromarray(chip[..., 0]).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize(chip, 32, stretch.frame(shape))[..., 0], whole)
    assert [round(framing.cut(shape), 2) for framing in (crop, pad, stretch)] == [0.38, 0, 0]
    assert not crop.plain and pad.plain and stretch.plain, "fingerprints stay where nothing changes"
    (line,) = crop.warnings([("a.png", shape)])
    assert "cuts off up to 38% of their length" in line and "a.png, 44 x 71 px" in line


def test_images_of_known_scale_are_seen_at_one_scale() -> None:
    shapes = [Shape(40, 60, 0.5), Shape(40, 40, 1.0)]
    for fit, metres in (("pad", 40.0), ("crop", 20.0)):
        framing = framing_of(fit, shapes)
        assert framing.extent == metres
        frames = [framing.frame(shape) for shape in shapes]
        assert [(x1 - x0) * shape.gsd for (x0, _, x1, _), shape in zip(frames, shapes, strict=True)] == [metres] * 2
    assert framing_of("pad", [*shapes, Shape(9, 9)]).extent is None


def test_the_scale_of_a_table_is_read(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    text(tmp_path / "manifest.csv", "path,class,gsd", "1.png,a,0.5")
    assert manifest(tmp_path).records("train")[0].gsd == 0.5
    text(tmp_path / "manifest.csv", "path,class,gsd", "1.png,a,0")
    with pytest.raises(UserError, match=r"line 2: gsd=0: use metres a pixel"):
        manifest(tmp_path)


def test_a_run_says_what_is_cut_and_pads_when_asked(root: Path, said: Any, tmp_path: Path) -> None:  # noqa: F811
    write(root / "sar/train/cargo/long.png", np.concatenate([picture(91), picture(92)], axis=1))
    cut = study(root)
    cropped = images(cut, "train").fingerprint
    assert "data: 1 of 25 images are not square, or not of one scale: fit=crop cuts off up to 50%" in said()
    assert images(study(root, "data.fit=pad"), "train").fingerprint != cropped
    (tmp_path / "report").mkdir()
    list(inspect(cut, tmp_path / "report"))
    page = (tmp_path / "report/report.html").read_text()
    assert "train/cargo/long.png: 40 x 80 px, 50% of its length cut off" in page
    go_on = "python evaluate.py -m method=none,resample,lora,2lora,plora evaluate.baseline=resample"
    assert go_on in page and f"next: {go_on}" in said()


# --- Held-out images --------------------------------------------------------------------------------------------------


def test_leaks_can_be_dropped_and_are_recorded(root: Path, said: Any) -> None:  # noqa: F811
    plant(root, "sar/test/cargo/3.png", "sar/train/tanker/copy.bmp")
    Image.fromarray(picture(1) // 2 + 60).save(root / "sar/test/tanker/again.jpg", quality=90)
    with pytest.raises(LeakError, match=r"^data: 2 of what is learnt from .*data\.leak=drop"):
        training(study(root), "sar")
    made = study(root, "data.leak=drop")
    assert {record.path for record in training(made, "sar")}.isdisjoint({"train/tanker/copy.bmp", "train/cargo/0.png"})
    assert counts(made) == {"cargo": 7, "tanker": 4}
    assert len(records(made, "sar", "test")) == 13, "the training side alone"
    assert about(made)["dropped"]["data"]["count"] == 2 and not about(made)["leaks"]
    assert "data.leak=drop leaves 2 held-out samples out of training" in said()
    (sample,) = images(made, "train").card["samples"].values()
    assert (sample["count"], sample["left_out"]) == (11, 2)


def test_the_report_lists_what_to_leave_out(root: Path, said: Any, tmp_path: Path) -> None:  # noqa: F811
    plant(root, "sar/test/cargo/3.png", "sar/train/tanker/copy.bmp")
    looked = study(root, f"data.root={root}/sar")
    (tmp_path / "report").mkdir()
    files = list(inspect(looked, tmp_path / "report"))
    (listed,) = (file for file in files if file.suffix == ".txt")
    assert listed.read_text() == "train/tanker/copy.bmp\n"
    assert f"python evaluate.py data.leave_out={listed}" in said()
    health = json.loads((tmp_path / "report/health.json").read_text())["data"]
    assert health["two_labels"] == [["train/tanker/copy.bmp", "test/cargo/3.png"]]
    assert "same picture, two labels, 1 times: train/tanker/copy.bmp (tanker) and test/cargo/3.png (cargo)" in said()
    used = study(root, f"data.leave_out={listed}")
    assert len(training(used, "sar")) == 12 and not curate_images.contradictions(used, "sar")
    listed.write_text("train/tanker/copy.png\n")
    with pytest.raises(UserError, match=r"txt, line 1: no image train/tanker/copy\.png in data; the nearest is"):
        training(study(root, f"data.leave_out={listed}"), "sar")


def test_a_sweep_asks_once_before_its_first_job(root: Path) -> None:  # noqa: F811
    plant(root, "sar/test/cargo/3.png", "sar/train/tanker/copy.bmp")
    sets = ["data=imagefolder", f"data.root={root}/sar", f"paths.store={root}/store"]
    jobs = [[*sets, method] for method in ("method=none", "method=resample")] + [[*sets, "data.leak=drop"]]
    ((message, numbers),) = leaks_of([(settings_of("evaluate", job), job) for job in jobs]).items()
    assert not leaks_of([(settings_of("evaluate", ["method=none"]), ["method=none"])]), "the simulated world needs none"
    assert message.startswith("data: 1 of what is learnt from are held out: train/tanker/copy.bmp") and numbers == [
        0,
        1,
    ]


def test_of_two_same_copies_each_is_held_out_by_itself(root: Path) -> None:  # noqa: F811
    Image.fromarray(picture(1) // 2 + 60).save(root / "sar/test/tanker/again.jpg", quality=90)
    plant(root, "sar/train/cargo/0.png", "sar/train/cargo/same.png")
    text(root / "list.txt", "train/cargo/0.png")
    with pytest.raises(LeakError, match=r"^data: 1 of .*train/cargo/same\.png is as good as test image"):
        training(study(root, f"data.leave_out={root}/list.txt"), "sar")


def test_a_crop_changes_no_verdict(root: Path) -> None:  # noqa: F811
    Image.fromarray(picture(1) // 2 + 60).save(root / "sar/test/tanker/again.jpg", quality=90)
    whole = [pair.agreement for pair in curate_images.pairs(study(root), "sar")]
    assert [pair.agreement for pair in curate_images.pairs(study(root, "data.crop=16"), "sar")] == whole
    framed = np.pad(picture(2), 4)
    write(root / "sar/test/cargo/framed.png", framed)  # another image, that a crop makes the same
    assert len(curate_images.pairs(study(root, "data.crop=20"), "sar")) == 2


def test_contradictory_answers_to_a_leak_are_refused(root: Path) -> None:  # noqa: F811
    with pytest.raises(UserError, match=r"data\.allow_leak=true keeps what data\.leak=drop leaves out"):
        study(root, "data.leak=drop", "data.allow_leak=true")


def test_a_class_whose_images_are_all_bad_is_named(root: Path) -> None:  # noqa: F811
    for index in range(4):
        write(root / f"sar/train/tanker/{index}.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(UserError, match=r"^data: all train images of class tanker are bad \(train/tanker/0"):
        training(study(root, "data.max_bad=0.9"), "sar")


# --- Files of people --------------------------------------------------------------------------------------------------


def test_case_of_four_bands() -> None:
    place = case("rgb-nir-tiff")
    source = folder(place, channels=3, bands=[1, 2, 3])
    record = next(record for record in source.records("train") if record.path == "train/ship/0.tif")
    assert 60 < np.median(source.read(record)) < 75, "water, unchanged"
    with pytest.raises(UserError, match=r"0\.tif: its last band of 4 is marked as alpha"):
        folder(place, channels=3).read(record)


def test_cases_of_folders_and_tables() -> None:
    nested = folder(case("nested-images"), test="test")
    assert [record.label for record in nested.records("train")].count(nested.classes.index("cargo")) == 7
    assert all(record.text for record in folder(case("hf-prompt-column")).records("train"))
    assert len(manifest(case("csv-backslash")).records("train")) == 6
    source = folder(case("tiff-lzw-int16"))
    assert all(source.read(record).dtype == np.float32 for record in source.records("train"))


def test_cases_of_formats() -> None:
    source = Mstar(case("mstar-raw"), val=None, split_seed=0, crop=24, channels=1)
    assert [len(source.records(split)) for split in ("train", "test")] == [4, 4]
    assert all(100 < source.read(record).mean() < 150 for record in source.records("train"))
    ships = hrsc(case("hrsc2016-ms"))
    assert len(ships.records("train")) == 3 and ships.classes == ["ship"]
