"""The health of image sets: bad files are named, one picture is found under two names, splits keep it together."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from test_imagefolder import folder, write, write_metadata

from sarsynth.data import duplicates, health
from sarsynth.data.curated import Curated
from sarsynth.data.duplicates import groups, near_duplicates
from sarsynth.data.folders import children, images_below
from sarsynth.data.health import Scan, by_class, scan
from sarsynth.data.records import SPLITS, Draw, ImageRecord, Split, draw_splits
from sarsynth.errors import UserError

SIDE = 80
BITS = 12


def chip(seed: int) -> np.ndarray:
    """A chip of one kind of ship: one bright target in the middle, sea clutter, and speckle of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    turned = np.deg2rad(rng.uniform(0, 8))
    along, across = x * np.cos(turned) + y * np.sin(turned), y * np.cos(turned) - x * np.sin(turned)
    target = 110 * np.exp(-((along / 20) ** 2) - (across / 6) ** 2)
    return (np.sqrt(rng.gamma(3, 1 / 3, (SIDE, SIDE))) * (target + 25)).clip(0, 235)


class Arrays:
    """A source of arrays in memory; what is no array is raised."""

    channels = 1

    def __init__(self, images: dict[str, Any], split: Split = "train") -> None:
        self.classes, self.images, self.split = ["ship"], images, split

    def records(self, split: Split) -> list[ImageRecord]:
        return [ImageRecord(name, 0, split) for name in self.images] if split == self.split else []

    def read(self, record: ImageRecord) -> np.ndarray:
        return self.images[record.path][..., None]

    def fingerprint(self) -> str:
        return "arrays"


def scanned(source: Any) -> Scan:
    return scan(source, [record for split in SPLITS for record in source.records(split)], lambda: None)


def eight(pixels: np.ndarray) -> np.ndarray:
    return pixels.clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    _, content = cv2.imencode(".jpg", eight(pixels), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE).astype(float)


def shifted(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """Look at the scene from a pixel further on; what was outside is new."""
    moved = np.roll(pixels, (down, right), (0, 1))
    edge = np.random.default_rng(99).permutation(pixels.ravel()).reshape(pixels.shape)
    moved[:down], moved[:, :right] = edge[:down], edge[:, :right]
    return moved


PLANTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identical": lambda pixels: pixels,
    "recompressed": lambda pixels: jpeg(pixels, 60),
    "brighter": lambda pixels: pixels + 20,
    "amplified": lambda pixels: pixels * 1.25,
    "a pixel to the right": lambda pixels: shifted(pixels, 0, 1),
    "a pixel along both": lambda pixels: shifted(pixels, 1, 1),
    "two pixels down": lambda pixels: shifted(pixels, 2, 0),
    "three to the right": lambda pixels: shifted(pixels, 0, 3),
    "two and three": lambda pixels: shifted(pixels, 2, 3),
    "noisier": lambda pixels: pixels * np.random.default_rng(5).normal(1, 0.05, pixels.shape),
    "larger": lambda pixels: cv2.resize(pixels, None, fx=1.5, fy=1.5),
}
AS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uint8": eight,
    "uint16": lambda pixels: (pixels.clip(0) * 250).astype(np.uint16),
    "float32": lambda pixels: (pixels.clip(0) * 1e-3).astype(np.float32),
    "complex64": lambda pixels: (pixels.clip(0) * np.exp(1j * np.arange(pixels.shape[1]))).astype(np.complex64),
}


# --- One picture under two names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", AS)
def test_planted_duplicates_are_found_and_nothing_else(dtype: str) -> None:
    chips = {f"chip {seed:02d}": chip(seed) for seed in range(40)}
    planted = {name: change(chips[f"chip {row:02d}"]) for row, (name, change) in enumerate(PLANTED.items())}
    looked = scanned(Arrays({name: AS[dtype](pixels) for name, pixels in (chips | planted).items()}))
    found = near_duplicates(looked, BITS)
    assert {(looked.paths[i], looked.paths[j]) for i, j, _ in found} == {
        (f"chip {row:02d}", name) for row, name in enumerate(planted)
    }
    assert [alike for i, _, alike in found if i == 0] == [1.0], "the same pixels agree in full"
    assert set(looked.dtypes) == {dtype}


def test_a_mirror_image_is_another_picture() -> None:
    images = {"one": eight(chip(0)), "mirrored": eight(chip(0)[:, ::-1]), "upside down": eight(chip(0)[::-1])}
    assert near_duplicates(scanned(Arrays(images)), 64) == []


def test_of_many_same_images_each_is_paired_once() -> None:
    images = {f"{row:03d}": eight(chip(row % 2)) for row in range(600)}
    found = near_duplicates(scanned(Arrays(images)), BITS)
    assert found == sorted((row % 2, row, 1.0) for row in range(2, 600))


def test_hashes_that_propose_are_those_that_differ_in_few_bits() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**64, 600, dtype=np.uint64)
    codes[400:] = codes[:200] ^ (np.uint64(1) << rng.integers(0, 64, 200, dtype=np.uint64)) ^ np.uint64(1)
    every = [(i, j) for i in range(600) for j in range(i + 1, 600) if (int(codes[i]) ^ int(codes[j])).bit_count() < 3]
    batches = duplicates._proposals(codes[:, None], 2)
    assert sorted(map(tuple, np.concatenate(batches).tolist())) == every
    assert max(map(len, batches)) <= duplicates.BLOCK


def test_either_hash_proposes() -> None:
    codes = np.array([[0, 0], [0, 2**40 - 1], [2**40 - 1, 0], [2**40 - 1, 2**20 - 1]], np.uint64)
    assert np.concatenate(duplicates._proposals(codes, 2)).tolist() == [[0, 1], [0, 2], [2, 3]]


def test_displacement_is_found_to_half_a_pixel() -> None:
    """A scene sampled at half steps: the same structure, between the pixels."""
    fine = cv2.GaussianBlur(np.random.default_rng(0).normal(128, 60, (200, 200)), (0, 0), 2)
    one, other = (eight(fine[start : start + 128 : 2, start : start + 128 : 2]) for start in (0, 3))
    pair = np.array([[0, 1]])
    assert duplicates.agreements(np.stack([one, other]), pair) > 0.9
    unlike = eight(cv2.GaussianBlur(np.random.default_rng(1).normal(128, 60, (64, 64)), (0, 0), 1))
    assert duplicates.agreements(np.stack([one, unlike]), pair) < 0.5


# --- Bad files --------------------------------------------------------------------------------------------------------


def break_file(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    match how:
        case "empty":
            path.touch()
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "text":
            path.write_text("no image at all")
        case "constant":
            write(path, np.full((9, 12), 7, np.uint8))
        case "bomb":
            write(path, np.eye(90, dtype=np.uint8))
        case "dangling":
            path.symlink_to("nowhere.png")
        case "loop":
            path.symlink_to(path)
        case "folder":
            path.mkdir()


def stamp(path: Path) -> tuple[int, int, int]:
    """What a file looks like, but for when it was read."""
    state = path.lstat()
    return state.st_mode, state.st_size, state.st_mtime_ns


@pytest.mark.parametrize("suffix", [".png", ".tif", ".JPG"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("empty", "0 bytes"),
        ("truncated", "cannot be read as an image"),
        ("text", "cannot be read as an image"),
        ("constant", "constant: every pixel is 7"),
        ("bomb", "too large"),
        ("dangling", "a link that leads nowhere"),
        ("loop", "a link that leads nowhere"),
        ("folder", "no file"),
        ("gone", "no longer there"),
    ],
)
def test_bad_images_are_named_with_the_reason(tmp_path: Path, monkeypatch, how: str, reason: str, suffix: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    for name in ["good", "bad"]:
        write(tmp_path / f"train/a/{name}{suffix}", eight(chip(0)[:30, :30]))
    path = tmp_path / f"train/a/bad{suffix}"
    if how != "gone":
        break_file(path, how)
    before = stamp(path)
    source = folder(tmp_path)
    if how == "gone":
        path.unlink()
    assert source.fingerprint()
    looked = scanned(source)
    assert list(looked.bad) == [f"train/a/bad{suffix}"]
    assert reason in looked.bad[f"train/a/bad{suffix}"]
    assert looked.contents[looked.rows[f"train/a/good{suffix}"]]
    if how != "gone":
        assert stamp(path) == before, "nothing is repaired or removed"


def test_images_of_a_kind_that_cannot_be_used_stop_the_run(tmp_path: Path) -> None:
    write(tmp_path / "train/a/colour.png", np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"colour\.png: a colour image, but channels=1"):
        scanned(folder(tmp_path))


def test_nothing_finite_is_bad_and_some_missing_pixels_are_not() -> None:
    partly = chip(0).astype(np.float32)
    partly[:3] = np.nan
    looked = scanned(Arrays({"none": np.full((9, 9), np.nan, np.float32), "some": partly}))
    assert looked.bad == {"none": "holds no finite value"}
    assert looked.histograms[1].sum() == partly.size - 3 * SIDE


# --- Names ------------------------------------------------------------------------------------------------------------


def test_odd_names_and_links_are_read(tmp_path: Path) -> None:
    root = tmp_path / "data set [1] ü 数据"
    names = ["1.PNG", "two  words.Jpeg", "[red]x[b].png", "舰船.TIF", "a'b\"c;$d.bmp", os.fsdecode(b"na\xefve.png")]
    for name in names:
        write(root / "train/Müllschute" / name, eight(chip(len(name))))
    (root / "elsewhere").mkdir()
    write(root / "elsewhere/far.png", eight(chip(50)))
    (root / "train/linked").symlink_to(root / "elsewhere")
    (root / "train/up").symlink_to(root)
    (root / "train/self").symlink_to(root / "train/self")
    (root / "train/Müllschute/again").symlink_to(root / "train/Müllschute")
    source = folder(root)
    assert source.classes == ["Müllschute", "linked"]
    assert {Path(record.path).name for record in source.records("train")} == {*names, "far.png"}
    looked = scanned(source)
    assert not looked.bad
    looked.save(tmp_path)
    assert list(Scan.load(tmp_path).paths) == list(looked.paths)
    assert len(images_below(root)) == len(names) + 1
    assert [path.name for path in children(root / "train")] == ["Müllschute", "linked", "self"]


# --- What is kept of a look -------------------------------------------------------------------------------------------


def test_a_scan_survives_the_disk_and_counts_every_pixel(tmp_path: Path) -> None:
    images = {dtype: AS[dtype](chip(3)) for dtype in AS}
    looked = scanned(Arrays(images))
    looked.save(tmp_path)
    again = Scan.load(tmp_path)
    for key in ("paths", "reasons", "contents", "dtypes"):
        assert list(getattr(again, key)) == list(getattr(looked, key))
    for key in ("sizes", "codes", "saturated", "histograms", "thumbs"):
        np.testing.assert_array_equal(getattr(again, key), getattr(looked, key))
    assert looked.histograms.sum(axis=1).tolist() == [SIDE * SIDE] * len(AS)
    for row, dtype in enumerate(AS):
        pixels, limits = np.abs(images[dtype]).astype(float), health.edges(dtype)
        reference, _ = np.histogram(np.maximum(pixels, limits[0]), limits)
        np.testing.assert_allclose(looked.histograms[row], reference, atol=2)  # a value on a limit, in single precision


def test_saturated_pixels_are_those_at_the_end_of_the_range() -> None:
    pixels = eight(chip(0)).clip(0, 200)
    pixels[:2] = 255
    wide = pixels.astype(np.uint16) * 257
    images = {"8 bits": pixels, "16 bits": wide, "12 bits": wide // 16, "any": chip(0).astype(np.float32)}
    looked = scanned(Arrays(images | {"complex": AS["complex64"](chip(0))}))
    np.testing.assert_allclose(looked.saturated, [2 / SIDE, 2 / SIDE, 0, np.nan, np.nan])
    records = [ImageRecord(name, label, "train") for label, name in enumerate(images)]
    assert [facts["saturated"] for facts in by_class(records, "abcd", looked).values()] == [
        *[pytest.approx(2 / SIDE)] * 2,
        *(0, None),
    ]


def test_a_grey_image_is_the_same_in_three_channels() -> None:
    grey = eight(chip(0))[..., None]
    colour = np.repeat(grey, 3, axis=2)
    assert health.content_digest(grey) == health.content_digest(colour)
    colour[0, 0, 1] ^= 1
    assert health.content_digest(grey) != health.content_digest(colour)
    assert health.content_digest(grey) != health.content_digest(grey.astype(np.uint16))
    assert health.content_digest(grey) != health.content_digest(grey.reshape(SIDE // 2, 2 * SIDE, 1))


def test_summary_by_class() -> None:
    looked = scanned(Arrays({"a": eight(chip(0)), "b": eight(chip(1))[:40], "c": AS["uint16"](chip(2))}))
    records = [ImageRecord("a", 0, "train"), ImageRecord("b", 0, "test"), ImageRecord("c", 1, "train")]
    summary = by_class(records, ["ship", "tug", "none"], looked)
    assert summary["ship"]["sizes"] == {f"40x{SIDE}": 1, f"{SIDE}x{SIDE}": 1}
    assert summary["ship"]["histograms"]["uint8"].sum() == 1.5 * SIDE * SIDE
    assert list(summary["tug"]["histograms"]) == ["uint16"]
    assert summary["none"]["images"] == 0 and summary["none"]["sizes"] == {}


# --- Groups and splits ------------------------------------------------------------------------------------------------


def test_groups_of_one_picture_are_joined() -> None:
    own = {"a": "scene 2", "b": "scene 2", "c": None, "d": "scene 1", "e": "scene 1", "f": None, "g": None, "h": "x"}
    records = [ImageRecord(path, 0, "train", group=group) for path, group in own.items()]
    assert groups(records, [("b", "c"), ("c", "e"), ("f", "g")]) == dict.fromkeys("abcde", "scene 1") | dict.fromkeys(
        "fg", "like f"
    )
    assert groups(records, []) == {}


def test_drawn_splits_keep_near_duplicates_together_and_given_ones_stay() -> None:
    draw = Draw((("val", 0.2), ("test", 0.2)), seed=0, stratum=0)
    drawn = draw_splits([ImageRecord(f"{row:03d}", 0, "train", drawn=draw) for row in range(60)])
    assert [sum(record.split == split for record in drawn) for split in SPLITS] == [36, 12, 12]
    given = ImageRecord("given", 0, "test")
    apart = [
        next(record.path for record in drawn if record.split == split and record.path > start)
        for split, start in (("train", ""), ("test", ""), ("val", "030"))
    ]

    class Source(Arrays):
        def records(self, split: Split) -> list[ImageRecord]:
            return [record for record in (*drawn, given) if record.split == split]

    one_picture = dict.fromkeys([*apart, "given"], "like 000")
    source = Curated(Source({}), bad={"059"}, groups=one_picture)
    splits = {record.path: record.split for split in SPLITS for record in source.records(split)}
    assert len({splits[path] for path in apart}) == 1
    assert splits["given"] == "test"
    assert set(splits) == {record.path for record in (*drawn, given)} - {"059"}
    assert [list(splits.values()).count(split) for split in SPLITS] == pytest.approx([36, 12, 13], abs=3)
    fingerprints = {Curated(Source({}), bad, near).fingerprint() for bad in ([], ["059"]) for near in ({}, one_picture)}
    assert len(fingerprints) == 4

    untouched = Curated(Source({}), bad=["059"], groups={drawn[0].path: "alone"})
    assert {record.path: record.split for split in SPLITS for record in untouched.records(split)} == {
        record.path: record.split for record in (*drawn, given) if record.path != "059"
    }, "where no group is parted, nothing is drawn again"


def test_a_group_in_two_draws_goes_one_way() -> None:
    draws = [Draw((("test", 0.5),), seed=seed, stratum=0) for seed in (0, 1)]
    for pairs in range(1, 8):
        records = [
            ImageRecord(f"{number} {row}", 0, "train", group=f"ship {row}" if row < pairs else None, drawn=draw)
            for number, draw in enumerate(draws)
            for row in range(8 + 2 * number)
        ]
        split = {record.path: record.split for record in draw_splits(records)}
        assert all(split[f"0 {row}"] == split[f"1 {row}"] for row in range(pairs))


def test_a_class_that_is_one_picture_cannot_be_split() -> None:
    draw = Draw((("test", 0.5),), seed=0, stratum=0)
    drawn = draw_splits([ImageRecord(f"{row}", 0, "train", drawn=draw) for row in range(4)])

    class Source(Arrays):
        def records(self, split: Split) -> list[ImageRecord]:
            return [record for record in drawn if record.split == split]

    with pytest.raises(UserError, match=r"near_bits: .* all images of `ship` are held out"):
        Curated(Source({}), (), {record.path: "one" for record in drawn})


def test_fractions_of_a_folder_are_drawn_as_records_say(tmp_path: Path) -> None:
    for index in range(20):
        write(tmp_path / f"a/{index:02d}.png", eight(chip(index)[:20, :20]))
    source = folder(tmp_path, train=".", val=0.2, test=0.2)
    records = [record for split in SPLITS for record in source.records(split)]
    assert all(record.drawn == Draw((("val", 0.2), ("test", 0.2)), 0, 0) for record in records)
    assert sorted(draw_splits(records)) == sorted(records), "drawn again, they are what they were"
    write_metadata(tmp_path, {"file_name": "a/00.png", "group": "g"})
    assert all(record.drawn is None for record in folder(tmp_path, train=".").records("train"))
