"""Images of one's own: folders named after classes, or list files, with captions if there are any. Torch-free."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sarsynth.data.chips import crop_offset
from sarsynth.data.entries import Entry, class_counts, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import EXTENSIONS, children, images_in, json_lines, lines, listing
from sarsynth.data.formats import image_size
from sarsynth.data.records import SPLITS, Instance, Split
from sarsynth.errors import UserError

METADATA = "metadata.jsonl"
SPLIT_SEED = 0  # of splits by fraction: part of the data set, so that no study seed moves an image into the test set

Placed = Iterator[tuple[PurePosixPath, str | None]]  # images relative to root, and the classes that their places give


class ImageFolder(FileSource):
    """A data set of image files below one folder.

    Each split is one of
      * a folder below `root` that holds a folder per class (`train/cargo/0001.png`); `.` is `root` itself;
      * a list file below `root`, one image a line, its path relative to `root`, its class the folder it lies in;
      * a fraction (`val` and `test` only): that part of every class of `train`, drawn once and for all;
      * None: there is no such split.
    A `metadata.jsonl` in `root` or any folder on the way to an image (Hugging Face's imagefolder: `file_name` relative
    to the file, `text`, and `class_name` or `label`) gives captions; where it names a class, it wins over the folder.
    Its `objects` (Hugging Face's object detection: `bbox`, a list of [x, y, width, height] in px, and if need be the
    lists `truncated` and `difficult`) are the instances of an image, its `group` (a scene, a ship) what no split may
    part. Hidden files and files of other types are left out. Classes are sorted by name.

    Args:
        root: The folder everything is relative to.
        unnamed: Class of images beside the class folders whose metadata has a text and no class (Hugging Face's form of
            captioned images); None if there must be no such images.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        train: str | None,
        val: str | float | None,
        test: str | float | None,
        unnamed: str | None,
        crop: int | None,
        channels: int,
    ) -> None:
        root = Path(root).expanduser()
        if not root.is_dir():
            raise UserError(f"root={root}: no such folder")
        wanted: dict[Split, str | float | None] = {"train": train, "val": val, "test": test}
        fractions = {split: value for split, value in wanted.items() if isinstance(value, int | float)}
        named = {split: value for split, value in wanted.items() if isinstance(value, str)}
        if "train" in fractions or (fractions and "train" not in named):
            raise UserError("train: must name a folder or a list file; val and test can be fractions of it")

        metadata = Metadata(root)
        entries = []
        for split, name in named.items():
            for path, class_folder in _images(root, split, name, unnamed, metadata):
                row = metadata.row(path)
                class_name = _class_name(row) or class_folder
                if class_name is None:
                    raise UserError(f"{root / path}: lies in no class folder, and no {METADATA} gives its class_name")
                objects = _instances(row, root / path, crop)
                entries.append(Entry(str(path), class_name, split, row.get("text"), objects, row.get("group")))
        _check_splits(root, entries, trained="train" in named)
        super().__init__(root, split_off(entries, fractions, SPLIT_SEED), channels=channels, crop=crop)


def _images(root: Path, split: Split, name: str, unnamed: str | None, metadata: "Metadata") -> Placed:
    """Yield the images of a split that is a folder or a list file."""
    place = root / name
    if place.is_dir():
        return _images_in_folder(root, split, place, unnamed, metadata)
    if place.is_file():
        return _images_in_list(root, split, place)
    remedy = "`.` if the class folders lie there directly" if split == "train" else "a fraction such as 0.2, or null"
    raise UserError(
        f"{split}={name}: no such folder or list file in {root} (there: {listing(root)}); or is it {remedy}?"
    )


def _images_in_folder(root: Path, split: Split, folder: Path, unnamed: str | None, metadata: "Metadata") -> Placed:
    class_folders = [path for path in children(folder) if path.is_dir()]
    for class_folder in class_folders:
        images = images_in(class_folder)
        if not images:
            raise UserError(
                f"{class_folder}: class folder of {split} without images directly in it "
                f"({', '.join(sorted(EXTENSIONS))}); fill it or remove it"
            )
        yield from ((PurePosixPath(path.relative_to(root)), class_folder.name) for path in images)
    # Images beside the class folders belong to the data set only if the metadata says what they are.
    beside = [PurePosixPath(path.relative_to(root)) for path in images_in(folder)]
    flat = [path for path in beside if _class_name(row := metadata.row(path)) or (unnamed and "text" in row)]
    yield from ((path, unnamed) for path in flat)
    if not class_folders and not flat:
        raise UserError(f"{folder}: {split} needs one folder per class with images in it; none found")


def _images_in_list(root: Path, split: Split, file: Path) -> Placed:
    entries = lines(file)
    if not entries:
        raise UserError(f"{split}={file}: the list is empty")
    seen: set[PurePosixPath] = set()
    for number, entry in entries:
        path = PurePosixPath(entry)
        if path in seen:
            raise UserError(f"{file}, line {number}: {entry} is listed twice; remove one of the lines")
        seen.add(path)
        if not (root / path).is_file():
            raise UserError(f"{file}, line {number}: no file {entry} in {root} (paths are relative to it)")
        if path.suffix.lower() not in EXTENSIONS:
            raise UserError(f"{file}, line {number}: {entry} is no image ({', '.join(sorted(EXTENSIONS))})")
        yield path, path.parent.name or None


def _check_splits(root: Path, entries: Sequence[Entry], trained: bool) -> None:
    """Refuse images in two splits, and classes without training images if there are any training images."""
    shared = next((file for file, count in Counter(entry.file for entry in entries).items() if count > 1), None)
    if shared is not None:
        both = " and ".join(entry.split for entry in entries if entry.file == shared)
        raise UserError(f"{root / shared}: in {both}; splits must not share images")
    for split in SPLITS if trained else ():
        if unknown := sorted(class_counts(entries, split).keys() - class_counts(entries, "train").keys()):
            raise UserError(f"{split}: class `{unknown[0]}` has no images in train; add some or remove it")


# --- Metadata ---------------------------------------------------------------------------------------------------------


class Metadata:
    """What the `metadata.jsonl` files below a folder say of its images; each file is read when it is first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._rows: dict[PurePosixPath, dict[PurePosixPath, Mapping[str, Any]]] = {}  # by folder and image

    def row(self, path: PurePosixPath) -> Mapping[str, Any]:
        """Find an image's row in the nearest folder that has one; empty if there is none."""
        for folder in path.parents:
            if folder not in self._rows:
                file = self.root / folder / METADATA
                self._rows[folder] = self._read(file, folder) if file.is_file() else {}
            if path in self._rows[folder]:
                return self._rows[folder][path]
        return {}

    def _read(self, file: Path, folder: PurePosixPath) -> dict[PurePosixPath, Mapping[str, Any]]:
        rows: dict[PurePosixPath, Mapping[str, Any]] = {}
        for number, row in json_lines(file, "file_name"):
            path = folder / str(row["file_name"])
            for key in ("text", "group"):
                if not isinstance(row.get(key), str | None):
                    raise UserError(f"{file}, line {number}: `{key}` must be a string")
            if not (self.root / path).is_file():
                raise UserError(f"{file}, line {number}: no file {path} in {self.root}")
            if not _are_objects(row.get("objects", {})):
                raise UserError(
                    f"{file}, line {number}: `objects` must hold `bbox`, a list of [x, y, width, height], and may hold "
                    "`truncated` and `difficult`, equally long lists of true and false"
                )
            rows[path] = row
        return rows


def _class_name(row: Mapping[str, Any]) -> str | None:
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


def _instances(row: Mapping[str, Any], file: Path, crop: int | None) -> tuple[Instance, ...]:
    """List the objects of an image, in px of what `read` returns."""
    objects = row.get("objects") or {}
    boxes = objects.get("bbox", [])
    left = top = 0
    if boxes and crop is not None:
        width, height = image_size(file) or (crop, crop)
        left, top = crop_offset(width, crop), crop_offset(height, crop)
    flags = [objects.get(flag, [False] * len(boxes)) for flag in ("truncated", "difficult")]
    return tuple(
        Instance((x - left, y - top, x - left + width, y - top + height), bool(truncated), bool(difficult))
        for (x, y, width, height), truncated, difficult in zip(boxes, *flags, strict=True)
    )
