"""Images of one's own: folders named after classes, or list files, with captions if there are any. Torch-free."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sarsynth.data.folders import EXTENSIONS, children, images_in, lines, listing
from sarsynth.data.formats import image_size
from sarsynth.data.found import Found, split_off
from sarsynth.data.image_files import Files, crop_offset
from sarsynth.data.records import SPLITS, Instance, Split
from sarsynth.errors import UserError

METADATA = "metadata.jsonl"
SPLIT_SEED = 0  # of splits by fraction: part of the data set, so that no study seed moves an image into the test set


class ImageFolder(Files):
    """A data set of image files below one folder.

    Each split is one of
      * a folder below `root` that holds a folder per class (`train/cargo/0001.png`); `.` is `root` itself;
      * a list file below `root`, one image a line, its path relative to `root`, its class the folder it lies in;
      * a fraction (`val` and `test` only): that part of every class of `train`, drawn once and for all;
      * None: there is no such split.
    A `metadata.jsonl` in `root` or any folder on the way to an image (Hugging Face's imagefolder: `file_name` relative
    to the file, `text`, and `class_name` or `label`) gives captions; where it names a class, it wins over the folder.
    Its `objects` (Hugging Face's object detection: `bbox`, a list of [x, y, width, height] in px, and if need be the
    lists `truncated` and `difficult`) are the instances of an image, its `group` (a scene, a ship)
    what no split may part.

    Hidden files and files of other types are passed over. Classes are sorted by name.

    Args:
        root: The folder everything is relative to.
        train: Folder, list file or None.
        val: Folder, list file, fraction or None.
        test: Folder, list file, fraction or None.
        unnamed: Class of images beside the class folders whose metadata has a text and no class (Hugging Face's form of
            captioned images); None if there must be no such images.
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
        unnamed: str | None,
        crop: int | None,
        channels: int,
    ) -> None:
        self.root, self.crop = Path(root).expanduser(), crop
        self._metadata: dict[PurePosixPath, dict[PurePosixPath, Mapping[str, Any]]] = {}
        if not self.root.is_dir():
            raise UserError(f"root={self.root}: no such folder")

        wanted: dict[Split, str | float | None] = {"train": train, "val": val, "test": test}
        fractions = {split: value for split, value in wanted.items() if isinstance(value, int | float)}
        named = {split: value for split, value in wanted.items() if isinstance(value, str)}
        if "train" in fractions or (fractions and "train" not in named):
            raise UserError("train: must name a folder or a list file; val and test can be fractions of it")

        classes: dict[Split, dict[PurePosixPath, str]] = {split: {} for split in SPLITS}
        for split, name in named.items():
            classes[split] = {
                path: self._class_name(path, folder) for path, folder in self._paths(split, name, unnamed)
            }
        self._check_splits(classes, trained="train" in named)
        found = [
            Found(
                str(path),
                name,
                split,
                self._row(path).get("text"),
                self._instances(path),
                self._row(path).get("group"),
            )
            for split in SPLITS
            for path, name in classes[split].items()
        ]
        super().__init__(self.root, split_off(found, fractions, SPLIT_SEED), channels=channels, crop=crop)

    def _paths(self, split: Split, name: str, unnamed: str | None) -> Iterator[tuple[PurePosixPath, str | None]]:
        """Yield the images of a named split, relative to `root`, and the class that their place gives them."""
        place = self.root / name
        if place.is_dir():
            yield from self._paths_in_folder(split, place, unnamed)
        elif place.is_file():
            yield from self._paths_in_list(split, place)
        else:
            remedy = (
                "`.` if the class folders lie there directly" if split == "train" else "a fraction such as 0.2, or null"
            )
            raise UserError(
                f"{split}={name}: no such folder or list file in {self.root} (there: {listing(self.root)}); "
                f"or is it {remedy}?"
            )

    def _paths_in_folder(
        self, split: Split, folder: Path, unnamed: str | None
    ) -> Iterator[tuple[PurePosixPath, str | None]]:
        class_folders = [path for path in children(folder) if path.is_dir()]
        for class_folder in class_folders:
            images = images_in(class_folder)
            if not images:
                raise UserError(
                    f"{class_folder}: class folder of {split} without images directly in it "
                    f"({', '.join(sorted(EXTENSIONS))}); fill it or remove it"
                )
            yield from ((self._relative(path), class_folder.name) for path in images)
        # Images beside the class folders belong to the data set only if the metadata says what they are.
        rows = {path: self._row(path) for path in map(self._relative, images_in(folder))}
        flat = [path for path, row in rows.items() if _named_class(row) or (unnamed and "text" in row)]
        yield from ((path, unnamed) for path in flat)
        if not class_folders and not flat:
            raise UserError(f"{folder}: {split} needs one folder per class with images in it; none found")

    def _paths_in_list(self, split: Split, file: Path) -> Iterator[tuple[PurePosixPath, str | None]]:
        entries = lines(file)
        if not entries:
            raise UserError(f"{split}={file}: the list is empty")
        seen: set[PurePosixPath] = set()
        for number, entry in entries:
            path = PurePosixPath(entry)
            if path in seen:
                raise UserError(f"{file}, line {number}: {entry} is listed twice; remove one of the lines")
            seen.add(path)
            if not (self.root / path).is_file():
                raise UserError(f"{file}, line {number}: no file {entry} in {self.root} (paths are relative to it)")
            if path.suffix.lower() not in EXTENSIONS:
                raise UserError(f"{file}, line {number}: {entry} is no image ({', '.join(sorted(EXTENSIONS))})")
            yield path, path.parent.name or None

    def _relative(self, path: Path) -> PurePosixPath:
        return PurePosixPath(path.relative_to(self.root).as_posix())

    def _class_name(self, path: PurePosixPath, folder: str | None) -> str:
        """Name an image's class: what its metadata says, else what its place says."""
        name = _named_class(self._row(path)) or folder
        if name is None:
            raise UserError(f"{self.root / path}: lies in no class folder, and no {METADATA} gives its class_name")
        return name

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
        for number, line in lines(file):
            try:
                row = json.loads(line)
                path = folder / row["file_name"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{file}, line {number}: not a JSON object with a `file_name`") from None
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
        width, height = image_size(self.root / path) or (self.crop, self.crop)
        return crop_offset(width, self.crop), crop_offset(height, self.crop)

    def _check_splits(self, classes: Mapping[Split, Mapping[PurePosixPath, str]], trained: bool) -> None:
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
