"""Folders of images: what is accepted, what is read, what is refused and in which words."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sarsynth.data.chips import centre_crop
from sarsynth.data.readers.imagefolder import ImageFolder
from sarsynth.data.records import ImageRecord, Instance
from sarsynth.errors import UserError


def write(path: Path, pixels: np.ndarray | None = None, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(os.fsencode(path.name))
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12), dtype=np.uint8) if pixels is None else pixels
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def folder(root: Path, **keys: Any) -> ImageFolder:
    return ImageFolder(
        root, **{"train": "train", "val": None, "test": None, "unnamed": None, "crop": None, "channels": 1} | keys
    )


def write_metadata(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set with two classes in `train` and `test`, names with spaces and accents, and things to pass over."""
    for name in ["train/cargo/1.PNG", "train/cargo/two words.jpg", "train/müllschute/ä 1.Tif", "test/cargo/9.bmp"]:
        write(tmp_path / name)
    for name in ["train/cargo/._1.png", "train/cargo/notes.txt", "train/.cache/x.png", "train/README.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not an image")
    return tmp_path


def test_class_folders(root: Path) -> None:
    source = folder(root, test="test")
    assert source.classes == ["cargo", "müllschute"]
    assert source.records("train") == [
        ImageRecord("train/cargo/1.PNG", 0, "train"),
        ImageRecord("train/cargo/two words.jpg", 0, "train"),
        ImageRecord("train/müllschute/ä 1.Tif", 1, "train"),
    ]
    assert [record.path for record in source.records("test")] == ["test/cargo/9.bmp"]
    assert source.records("val") == []
    assert [source.read(record).shape for record in source.records("train")] == [(9, 12, 1)] * 3


def test_list_files(root: Path) -> None:
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_bytes(
        "\ufefftrain/cargo/two words.jpg\r\n\r\ntrain/müllschute/ä 1.Tif\r\n".encode()
    )
    source = folder(root, train="lists/train.txt", test="test")
    assert source.classes == ["cargo", "müllschute"]
    assert [(record.path, record.label) for record in source.records("train")] == [
        ("train/cargo/two words.jpg", 0),
        ("train/müllschute/ä 1.Tif", 1),
    ]


def test_fractions_of_class_folders_below_root(tmp_path: Path) -> None:
    for name in ["a", "b"]:
        for index in range(20):
            write(tmp_path / name / f"{index:02d}.png")
    source = folder(tmp_path, train=".", val=0.1, test=0.25)
    splits = {split: source.records(split) for split in ("train", "val", "test")}
    assert {split: len(records) for split, records in splits.items()} == {"train": 26, "val": 4, "test": 10}
    assert len({record.path for records in splits.values() for record in records}) == 40
    assert all(record.split == split for split, records in splits.items() for record in records)
    assert [record.label for record in splits["test"]] == [0] * 5 + [1] * 5
    assert folder(tmp_path, train=".", val=0.1, test=0.25).records("test") == splits["test"]
    assert not source.seen.remarks


def test_a_folder_that_a_fraction_passes_by_is_told(root: Path) -> None:
    write(root / "train/müllschute/2.png")
    assert folder(root, test=0.25).seen.remarks == ["test/ is not read: test=0.25 draws from train; test=test reads it"]


def test_metadata_gives_captions_and_classes(tmp_path: Path) -> None:
    for name in ["train/cargo/1.png", "train/flat.png", "train/ignored.png", "train/other.png"]:
        write(tmp_path / name)
    write_metadata(
        tmp_path / "train",
        {"file_name": "cargo/1.png", "text": "a grey ship"},
        {"file_name": "flat.png", "text": "a tug", "class_name": "tug", "label": 7},
        {"file_name": "other.png", "label": 3},
    )
    source = folder(tmp_path)
    assert source.classes == ["3", "cargo", "tug"]
    assert [(record.path, record.label, record.text) for record in source.records("train")] == [
        ("train/cargo/1.png", 1, "a grey ship"),
        ("train/flat.png", 2, "a tug"),
        ("train/other.png", 0, None),
    ]


def test_a_synthetic_set_can_be_read_back(tmp_path: Path) -> None:
    write(tmp_path / "images/tanker/000000.png")
    row = {
        "file_name": "images/tanker/000000.png",
        "text": "a SAR image",
        "label": 3,
        "class_name": "tanker",
        "seed": 1,
    }
    write_metadata(tmp_path, row)
    source = folder(tmp_path, train="images")
    assert source.classes == ["tanker"]
    assert source.records("train")[0].text == "a SAR image"


def test_grey_and_colour(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write(tmp_path / "train/a/grey.png", grey)
    write(tmp_path / "train/a/grey_as_rgb.png", grey, mode="RGB")
    colour = np.stack([grey, grey, grey + 1], axis=2)
    write(tmp_path / "train/a/rgb.png", colour)
    one, three = folder(tmp_path), folder(tmp_path, channels=3)
    first, second, third = one.records("train")
    for record in (first, second):
        np.testing.assert_array_equal(one.read(record), grey[..., None])
        np.testing.assert_array_equal(three.read(record), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(three.read(third), colour)
    with pytest.raises(UserError, match=r"rgb\.png: a colour image, but channels=1"):
        one.read(third)


@pytest.mark.parametrize("mode", ["1", "CMYK"])
def test_other_modes_are_refused(tmp_path: Path, mode: str) -> None:
    write(tmp_path / "train/a/odd.tif", mode=mode)
    source = folder(tmp_path)
    with pytest.raises(UserError, match=rf"odd\.tif: image mode {mode}; convert it"):
        source.read(source.records("train")[0])


def test_captioned_images_without_a_class(tmp_path: Path) -> None:
    for name in ["train/1.png", "train/2.png", "train/barge/3.png"]:
        write(tmp_path / name)
    rows = [{"file_name": "1.png", "text": "a ship"}, {"file_name": "barge/3.png", "text": "a barge", "group": "P1"}]
    write_metadata(tmp_path / "train", *rows)
    source = folder(tmp_path, unnamed="ship")
    assert source.classes == ["barge", "ship"]
    assert [(record.path, record.label, record.text, record.group) for record in source.records("train")] == [
        ("train/1.png", 1, "a ship", None),
        ("train/barge/3.png", 0, "a barge", "P1"),
    ]
    assert folder(tmp_path).classes == ["barge"]


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"GIF" + data[3:]]
)
def test_unreadable_image(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path / "train/a/broken.png", np.zeros((64, 64), np.uint8))
    path.write_bytes(damage(path.read_bytes()))
    source = folder(tmp_path)
    with pytest.raises(UserError, match=r"broken\.png: cannot be read as an image"):
        source.read(source.records("train")[0])


def test_crop_is_central_and_mirrors_beyond_the_edge(tmp_path: Path) -> None:
    pixels = np.arange(9 * 12, dtype=np.uint8).reshape(9, 12)
    write(tmp_path / "train/a/1.png", pixels)
    source = folder(tmp_path, crop=5)
    np.testing.assert_array_equal(source.read(source.records("train")[0])[..., 0], pixels[2:7, 3:8])
    large = centre_crop(pixels[..., None], 13)
    assert large.shape == (13, 13, 1)
    np.testing.assert_array_equal(large[2:11, :12, 0], pixels)
    np.testing.assert_array_equal(large[1, :12, 0], pixels[1])
    assert centre_crop(pixels[:1, :2, None], 9).shape == (9, 9, 1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train": "trian"}, r"train=trian: no such folder or list file .*there: test/, train/"),
        ({"test": "missing.txt"}, r"test=missing\.txt: no such folder or list file"),
        ({"test": "train"}, r"1\.PNG: in train and test; splits must not share images"),
        ({"test": 1.5}, r"test=1\.5: a fraction must lie between 0 and 1"),
        ({"train": None, "test": 0.5}, r"train: must name a folder"),
        ({"train": 0.5}, r"train: must name a folder"),
        ({"val": 0.5, "test": 0.5}, r"val and test leave no training images"),
        ({"test": 0.5}, r"too few images of `müllschute`"),
        ({"crop": 0}, r"crop=0"),
        ({"channels": 4}, r"channels=4"),
    ],
)
def test_contradictions_are_refused(root: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        folder(root, **keys)
    assert "\n" not in str(caught.value)


def test_a_list_must_be_text(root: Path) -> None:
    with pytest.raises(UserError, match=r"1\.PNG: not a text file"):
        folder(root, train="train/cargo/1.PNG")


def test_missing_root() -> None:
    with pytest.raises(UserError, match="root=nowhere: no such folder"):
        folder(Path("nowhere"))


def test_class_folder_without_images(root: Path) -> None:
    (root / "train/empty").mkdir()
    with pytest.raises(UserError, match=r"empty: class folder of train without images"):
        folder(root)


def test_split_folder_without_classes(tmp_path: Path) -> None:
    write(tmp_path / "train/1.png")
    with pytest.raises(UserError, match=r"train needs one folder per class"):
        folder(tmp_path)


def test_class_that_is_only_tested(root: Path) -> None:
    write(root / "test/tug/1.png")
    with pytest.raises(UserError, match=r"test: class `tug` has no images in train"):
        folder(root, test="test")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("train/cargo/1.PNG\ntrain/cargo/none.png\n", r"list\.txt, line 2: no file train/cargo/none\.png"),
        ("train/cargo/1.PNG\n\ntrain/cargo/1.PNG\n", r"list\.txt, line 3: train/cargo/1\.PNG is listed twice"),
        ("train/README.md\n", r"line 1: train/README\.md is no image"),
        ("root.png\n", r"root\.png: lies in no class folder"),
        ("\n", r"list\.txt: the list is empty"),
    ],
)
def test_bad_lists(root: Path, lines: str, message: str) -> None:
    write(root / "root.png")
    (root / "list.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        folder(root, train="list.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "cargo/none.png"}', r"line 1: no file cargo/none\.png in .*train"),
        ('{"text": "no name"}', r"line 1: expected a JSON object with `file_name`"),
        ("[1", r"line 1: expected a JSON object"),
        ('{"file_name": "cargo/1.PNG", "text": 3}', r"line 1: `text` must be a string"),
    ],
)
def test_bad_metadata(root: Path, line: str, message: str) -> None:
    (root / "train/metadata.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        folder(root)


def test_fingerprint_follows_content_not_place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(root, copy)
    original = folder(root).fingerprint()
    assert folder(copy).fingerprint() == original
    changes = [folder(root, crop=4), folder(root, channels=3), folder(root, test="test")]
    write_metadata(copy / "train", {"file_name": "cargo/1.PNG", "text": "new"})
    changes.append(folder(copy))
    write(root / "train/cargo/1.PNG", np.zeros((9, 12), np.uint8))
    changes.append(folder(root))
    assert len({original, *(changed.fingerprint() for changed in changes)}) == 6


def test_readers_do_not_import_torch() -> None:
    code = "import sys, sarsynth.data.readers.imagefolder, sarsynth.data.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Objects ----------------------------------------------------------------------------------------------------------

SHIPS = {"bbox": [[2, 3, 4, 5], [6, 0, 1.5, 2]], "truncated": [False, True], "difficult": [1, 0]}


def test_objects_are_the_instances_of_an_image(root: Path) -> None:
    none, before = folder(root).records("train"), folder(root).fingerprint()
    assert all(record.instances == () for record in none)
    write_metadata(root / "train", {"file_name": "cargo/1.PNG", "objects": SHIPS})
    source = folder(root)
    (record,) = (record for record in source.records("train") if record.path == "train/cargo/1.PNG")
    assert record.instances == (
        Instance((2, 3, 6, 8), truncated=False, difficult=True),
        Instance((6, 0, 7.5, 2), truncated=True, difficult=False),
    )
    assert source.fingerprint() != before
    write_metadata(root / "train", {"file_name": "cargo/1.PNG", "objects": {"bbox": SHIPS["bbox"][:1]}})
    (record,) = (record for record in folder(root).records("train") if record.path == "train/cargo/1.PNG")
    assert record.instances == (Instance((2, 3, 6, 8)),)


@pytest.mark.parametrize("crop", [5, 6, 13])
def test_objects_move_with_the_crop(tmp_path: Path, crop: int) -> None:
    pixels = np.zeros((9, 12), np.uint8)
    pixels[4:6, 5:8] = 255
    write(tmp_path / "train/a/1.png", pixels)
    write_metadata(tmp_path / "train", {"file_name": "a/1.png", "objects": {"bbox": [[5, 4, 3, 2]]}})
    source = folder(tmp_path, crop=crop)
    (record,) = source.records("train")
    rows, columns = np.nonzero(source.read(record)[..., 0])
    assert record.instances[0].box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize(
    "objects",
    [
        [],
        {"bbox": 3},
        {"bbox": [[1, 2, 3]]},
        {"bbox": [[1, 2, 3, "4"]]},
        {"bbox": [[1, 2, 3, 4]], "truncated": []},
        {"bbox": [[1, 2, 3, 4]], "difficult": [True, False]},
    ],
)
def test_objects_of_another_form_are_refused(root: Path, objects: Any) -> None:
    write_metadata(root / "train", {"file_name": "cargo/1.PNG", "objects": objects})
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 1: `objects` must hold `bbox`"):
        folder(root)
