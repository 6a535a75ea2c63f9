"""Images of one's own: folders named after classes, or list files, with captions if there are any. Torch-free."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from sarsynth.data.records import SPLITS, ImageRecord, Instance, Split, stratified_split
from sarsynth.errors import UserError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
METADATA = "metadata.jsonl"
SPLIT_SEED = 0  # of splits by fraction: part of the data set, so that no study seed moves an image into the test set


class ImageFolder:
    """A data set of image files below one folder.

    Each split is one of
      * a folder below `root` that holds a folder per class (`train/cargo/0001.png`); `.` is `root` itself;
      * a list file below `root`, one image a line, its path relative to `root`, its class the folder it lies in;
      * a fraction (`val` and `test` only): that part of every class of `train`, drawn once and for all;
      * None: there is no such split.
    A `metadata.jsonl` in `root` or any folder on the way to an image (Hugging Face's imagefolder: `file_name` relative
    to the file, `text`, and `class_name` or `label`) gives captions; where it names a class, it wins over the folder.
    Its `objects` (Hugging Face's object detection: `bbox`, a list of [x, y, width, height] in px, and if need be the
    lists `truncated` and `difficult`) are the instances of an image.

    Hidden files and files of other types are passed over. Classes are sorted by name.

    Args:
        root: The folder everything is relative to.
        train: Folder, list file or None.
        val: Folder, list file, fraction or None.
        test: Folder, list file, fraction or None.
        crop: Side in px of the square cut from the centre of every image, mirrored outwards where the image is smaller;
            None for the whole image.
        channels: 1 (grey) or 3 (RGB) of the images that `read` returns.

    Raises:
        UserError: Something of the above is not there or contradicts itself; the message names it.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        train: str | None,
        val: str | float | None,
        test: str | float | None,
        crop: int | None,
        channels: int,
    ) -> None:
        self.root = Path(root).expanduser()
        self.crop = crop
        self.channels = channels
        self._metadata: dict[PurePosixPath, dict[PurePosixPath, Mapping[str, Any]]] = {}
        self._fingerprint: str | None = None
        if channels not in (1, 3):
            raise UserError(f"channels={channels}: use 1 (grey) or 3 (RGB)")
        if crop is not None and crop < 1:
            raise UserError(f"crop={crop}: use a side in pixels, or null for whole images")
        if not self.root.is_dir():
            raise UserError(f"root={self.root}: no such folder")

        wanted: dict[Split, str | float | None] = {"train": train, "val": val, "test": test}
        fractions = {split: value for split, value in wanted.items() if isinstance(value, int | float)}
        named = {split: value for split, value in wanted.items() if isinstance(value, str)}
        _check_fractions(fractions, trained="train" in named)

        classes: dict[Split, dict[str, str]] = {split: {} for split in SPLITS}  # path -> class name
        for split in SPLITS:
            if split in named:
                classes[split] = {str(path): self._class_name(path) for path in self._paths(split, named[split])}
        self._check_splits(classes, trained="train" in named)

        self.classes = sorted({name for of_split in classes.values() for name in of_split.values()})
        labels = {name: label for label, name in enumerate(self.classes)}
        self._records: dict[Split, list[ImageRecord]] = {
            split: [
                ImageRecord(
                    path,
                    labels[name],
                    split,
                    self._row(PurePosixPath(path)).get("text"),
                    self._instances(PurePosixPath(path)),
                )
                for path, name in sorted(classes[split].items())
            ]
            for split in SPLITS
        }
        if fractions:
            self._split_off(fractions)

    def records(self, split: Split) -> list[ImageRecord]:
        """List a split's images, sorted by path."""
        return list(self._records[split])

    def read(self, record: ImageRecord) -> np.ndarray:
        """Read one image, cropped as the source says.

        Returns:
            uint8, shape (H, W, C); H = W = `crop` if there is one, else the file's own size.

        Raises:
            UserError: The file is damaged, gone, or of a mode that has no obvious grey or RGB version.
        """
        path = self.root / record.path
        try:
            with Image.open(path) as image:
                mode, pixels = image.mode, np.asarray(image)
        except FileNotFoundError:
            raise UserError(f"{path}: this image is no longer there") from None
        except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
            raise UserError(f"{path}: cannot be read as an image ({error}); repair or remove it") from error
        pixels = _to_channels(pixels, mode, self.channels, path)
        return pixels if self.crop is None else centre_crop(pixels, self.crop)

    def fingerprint(self) -> str:
        """Hex sha256 over each image's record and bytes, and classes, crop and channels."""
        if self._fingerprint is None:
            records = [record for split in SPLITS for record in self._records[split]]
            with ThreadPoolExecutor() as pool:
                contents = list(pool.map(self._hash, records))
            rows = sorted((*astuple(record), content) for record, content in zip(records, contents, strict=True))
            whole = json.dumps([self.classes, self.crop, self.channels, rows])
            self._fingerprint = hashlib.sha256(whole.encode()).hexdigest()
        return self._fingerprint

    def _hash(self, record: ImageRecord) -> str:
        try:
            return hashlib.sha256((self.root / record.path).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{self.root / record.path}: cannot be read ({error.strerror})") from error

    def _paths(self, split: Split, name: str) -> Iterator[PurePosixPath]:
        """Yield the images of a named split, relative to `root`."""
        place = self.root / name
        if place.is_dir():
            yield from self._paths_in_folder(split, place)
        elif place.is_file():
            yield from self._paths_in_list(split, place)
        else:
            found = sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))
            there = ", ".join(found[:8]) + (", …" if len(found) > 8 else "") or "nothing"
            remedy = (
                "`.` if the class folders lie there directly" if split == "train" else "a fraction such as 0.2, or null"
            )
            raise UserError(
                f"{split}={name}: no such folder or list file in {self.root} (there: {there}); or is it {remedy}?"
            )

    def _paths_in_folder(self, split: Split, folder: Path) -> Iterator[PurePosixPath]:
        class_folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        for class_folder in class_folders:
            images = _images_in(class_folder)
            if not images:
                raise UserError(
                    f"{class_folder}: class folder of {split} without images directly in it "
                    f"({', '.join(sorted(EXTENSIONS))}); fill it or remove it"
                )
            yield from (self._relative(path) for path in images)
        # Images beside the class folders belong to the data set only if the metadata says which class they are.
        flat = [path for path in map(self._relative, _images_in(folder)) if _named_class(self._row(path)) is not None]
        yield from flat
        if not class_folders and not flat:
            raise UserError(f"{folder}: {split} needs one folder per class with images in it; none found")

    def _paths_in_list(self, split: Split, listing: Path) -> Iterator[PurePosixPath]:
        entries = _lines(listing)
        if not entries:
            raise UserError(f"{split}={listing}: the list is empty")
        seen: set[PurePosixPath] = set()
        for number, entry in entries:
            path = PurePosixPath(entry)
            if path in seen:
                raise UserError(f"{listing}, line {number}: {entry} is listed twice; remove one of the lines")
            seen.add(path)
            if not (self.root / path).is_file():
                raise UserError(f"{listing}, line {number}: no file {entry} in {self.root} (paths are relative to it)")
            if path.suffix.lower() not in EXTENSIONS:
                raise UserError(f"{listing}, line {number}: {entry} is no image ({', '.join(sorted(EXTENSIONS))})")
            yield path

    def _relative(self, path: Path) -> PurePosixPath:
        return PurePosixPath(path.relative_to(self.root).as_posix())

    def _class_name(self, path: PurePosixPath) -> str:
        """Name an image's class: what its metadata says, else the folder it lies in."""
        name = _named_class(self._row(path))
        if name is None and not path.parent.name:
            raise UserError(f"{self.root / path}: lies in no class folder, and no {METADATA} gives its class_name")
        return path.parent.name if name is None else name

    def _row(self, path: PurePosixPath) -> Mapping[str, Any]:
        """Find an image's metadata, in the nearest folder that has some."""
        for folder in path.parents:
            if folder not in self._metadata:
                self._metadata[folder] = self._read_metadata(folder)
            if path in self._metadata[folder]:
                return self._metadata[folder][path]
        return {}

    def _read_metadata(self, folder: PurePosixPath) -> dict[PurePosixPath, Mapping[str, Any]]:
        file = self.root / folder / METADATA
        if not file.is_file():
            return {}
        rows = {}
        for number, line in _lines(file):
            try:
                row = json.loads(line)
                path = folder / row["file_name"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{file}, line {number}: not a JSON object with a `file_name`") from None
            if not isinstance(row.get("text"), str | None):
                raise UserError(f"{file}, line {number}: `text` must be a string")
            if not (self.root / path).is_file():
                raise UserError(f"{file}, line {number}: no file {path} in {self.root}")
            if not _are_objects(row.get("objects", {})):
                raise UserError(
                    f"{file}, line {number}: `objects` must hold `bbox`, a list of [x, y, width, height], and may hold "
                    "`truncated` and `difficult`, equally long lists of true and false"
                )
            rows[path] = row
        return rows

    def _instances(self, path: PurePosixPath) -> tuple[Instance, ...]:
        """The objects of an image, in pixels of what `read` returns."""
        objects = self._row(path).get("objects") or {}
        boxes = objects.get("bbox", [])
        left, top = self._cut_off(path) if boxes and self.crop is not None else (0, 0)
        flags = [objects.get(flag, [False] * len(boxes)) for flag in ("truncated", "difficult")]
        return tuple(
            Instance((x - left, y - top, x - left + width, y - top + height), bool(truncated), bool(difficult))
            for (x, y, width, height), truncated, difficult in zip(boxes, *flags, strict=True)
        )

    def _cut_off(self, path: PurePosixPath) -> tuple[int, int]:
        """Pixels that the crop takes away on the left and above, negative where it adds some."""
        assert self.crop is not None
        try:
            with Image.open(self.root / path) as image:
                size = image.size
        except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
            raise UserError(f"{self.root / path}: cannot be read as an image ({error}); repair or remove it") from error
        horizontal, vertical = (_offset(length, self.crop) for length in size)
        return horizontal, vertical

    def _check_splits(self, classes: Mapping[Split, Mapping[str, str]], trained: bool) -> None:
        """Refuse images in two splits and classes that are tested but never trained."""
        owners = Counter(path for split in SPLITS for path in classes[split])
        shared = next((path for path, count in owners.items() if count > 1), None)
        if shared is not None:
            both = " and ".join(f"{split}" for split in SPLITS if shared in classes[split])
            raise UserError(f"{self.root / shared}: in {both}; splits must not share images")
        known = set(classes["train"].values())
        for split in SPLITS:
            unknown = sorted(set(classes[split].values()) - known)
            if trained and unknown:
                raise UserError(f"{split}: class `{unknown[0]}` has no images in train; add some or remove it")

    def _split_off(self, fractions: Mapping[Split, float]) -> None:
        """Move the asked fractions of every training class to their splits."""
        train = self._records["train"]
        *parts, rest = stratified_split(train, list(fractions.values()), SPLIT_SEED)
        for label in {record.label for record in train} - {record.label for record in rest}:
            raise UserError(
                f"train: too few images of `{self.classes[label]}` to give "
                f"{' and '.join(f'{split}={share:g}' for split, share in fractions.items())} away; add some"
            )
        self._records["train"] = rest
        for split, part in zip(fractions, parts, strict=True):
            self._records[split] = [replace(record, split=split) for record in part]


def centre_crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """Cut the central square out of an image, mirrored outwards where the image ends.

    Args:
        pixels: Shape (H, W, C).
        side: Side of the square in px. Where side and image differ by an odd number, the cut lies half a pixel towards
            the upper left.

    Returns:
        Shape (side, side, C).
    """
    missing = [max(0, side - length) for length in pixels.shape[:2]]
    top, left = (max(0, _offset(length, side)) for length in pixels.shape[:2])
    pixels = np.pad(pixels, [(m // 2, m - m // 2) for m in missing] + [(0, 0)], mode="reflect")
    return pixels[top : top + side, left : left + side]


def _offset(length: int, side: int) -> int:
    """Where a central cut of `side` px begins; negative where the image is shorter and is filled up."""
    return (length - side) // 2 if length >= side else -((side - length) // 2)


def _images_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(
            folder / entry.name
            for entry in entries
            if not entry.name.startswith(".") and os.path.splitext(entry.name)[1].lower() in EXTENSIONS
        )


def _lines(file: Path) -> list[tuple[int, str]]:
    """Read the lines of a text file that are not blank, without white space around them, and their numbers from 1."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file in UTF-8; convert it, or name a folder or another file") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _named_class(row: Mapping[str, Any]) -> str | None:
    name = row.get("class_name", row.get("label"))
    return None if name is None else str(name)


def _are_objects(objects: Any) -> bool:
    """Whether metadata has the form of Hugging Face's object detection."""
    if not isinstance(objects, Mapping):
        return objects is None
    boxes = objects.get("bbox", [])
    flags = [objects.get(flag, boxes) for flag in ("truncated", "difficult")]
    return (
        isinstance(boxes, list)
        and all(isinstance(flag, list) and len(flag) == len(boxes) for flag in flags)
        and all(isinstance(box, list) and len(box) == 4 for box in boxes)
        and all(isinstance(value, int | float) for box in boxes for value in box)
    )


def _check_fractions(fractions: Mapping[Split, float], trained: bool) -> None:
    if "train" in fractions or (fractions and not trained):
        raise UserError("train: must name a folder or a list file; val and test can be fractions of it")
    for split, share in fractions.items():
        if not 0 < share < 1:
            raise UserError(f"{split}={share:g}: a fraction must lie between 0 and 1")
    if sum(fractions.values()) >= 1:
        raise UserError("val and test leave no training images: lower the fractions")


def _to_channels(pixels: np.ndarray, mode: str, channels: int, path: Path) -> np.ndarray:
    """Map a file's pixels to (H, W, channels) where that loses nothing; refuse where it would."""
    if mode == "L":
        return np.repeat(pixels[..., None], channels, axis=2)
    if mode != "RGB":
        raise UserError(f"{path}: image mode {mode}; convert it to 8-bit grey (L) or RGB")
    if channels == 3:
        return pixels
    if (pixels == pixels[..., :1]).all():
        return pixels[..., :1]
    raise UserError(f"{path}: a colour image, but channels=1; convert it to grey or set channels=3")
