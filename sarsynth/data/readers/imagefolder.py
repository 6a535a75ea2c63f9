"""Images of one's own: folders named after classes, or list files, with captions if there are any. Torch-free."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from sarsynth.data.bands import Bands
from sarsynth.data.entries import Entry, Seen, class_counts, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import EXTENSIONS, children, files_below, inside, lines, listing
from sarsynth.data.readers.metadata import BESIDE, TABLES, Metadata, class_of, gsd_of, instances_of
from sarsynth.data.records import SPLITS, Split
from sarsynth.errors import UserError

SPLIT_SEED = 0  # of splits by fraction: part of the data set, so that no study seed moves an image into the test set
REPEATS = re.compile(r"\d+_(?=\D)")  # begins the names of folders in which kohya's trainers find images: 10_cargo

Placed = Iterator[tuple[PurePosixPath, str | None]]  # images relative to root, and the classes that their places give


class ImageFolder(FileSource):
    """A data set of image files below one folder.

    Each split is one of
      * a folder below `root` that holds a folder per class (`train/cargo/0001.png`); `.` is `root` itself;
      * a list file below `root`, one image a line, its path relative to `root`, its class the folder it lies in;
      * a fraction (`val` and `test` only): that part of every class of `train`, drawn once and for all;
      * None: there is no such split.
    Images in folders below a class folder are of that class. Where all class folders have names such as `10_cargo`,
    as trainers of LoRAs want them, the number is left off.

    A `metadata.jsonl` or `metadata.csv` in `root` or any folder on the way to an image (Hugging Face's imagefolder:
    `file_name` relative to the file, `text`, `prompt` or `caption`, and `class_name` or `label`) gives captions; where
    it names a class, it wins over the folder. So does a text file beside an image (`0001.txt` or `0001.caption`), if
    metadata has no caption of it. Metadata's `objects` (Hugging Face's object detection: `bbox`, a list of [x, y,
    width, height] in px, and if need be the lists `truncated` and `difficult`) are the instances of an image, its
    `group` (a scene, a ship) what no split may part, its `gsd` how many metres a pixel is: where all images have it,
    all are seen at one scale. Hidden files are left out; other files that are not read are told.
    Classes are sorted by name.

    Args:
        root: The folder everything is relative to.
        unnamed: Class of images beside the class folders whose metadata has a text and no class (Hugging Face's form of
            captioned images); None if there must be no such images.
        bands: Which bands of every file are read, from 1, e.g. `[1, 2, 3]`; `iq` for the amplitude of two, I and Q;
            None where that is clear.
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
        bands: Bands = None,
    ) -> None:
        root = Path(root).expanduser()
        if not root.is_dir():
            raise UserError(f"root={root}: no such folder")
        wanted: dict[Split, str | float | None] = {"train": train, "val": val, "test": test}
        fractions = {split: value for split, value in wanted.items() if isinstance(value, int | float)}
        named = {split: value for split, value in wanted.items() if isinstance(value, str)}
        if "train" in fractions or (fractions and "train" not in named):
            raise UserError("train: must name a folder or a list file; val and test can be fractions of it")

        metadata, seen = Metadata(root), Seen()
        entries = []
        for split, name in named.items():
            for path, class_folder in _images(_Place(root, split, unnamed, metadata, seen), name):
                row = metadata.row(path)
                class_name = class_of(row) or class_folder
                if class_name is None:
                    raise UserError(f"{root / path}: lies in no class folder, and no metadata gives its class_name")
                objects = instances_of(row, root / path, crop)
                entry = Entry(str(path), class_name, split, metadata.text(path), objects, row.get("group"))
                entries.append(replace(entry, gsd=gsd_of(row, str(path))))
        seen.take_back(metadata.used)
        _check_splits(root, entries, trained="train" in named)
        for split, share in fractions.items():
            if (root / split).is_dir():
                seen.remark(f"{split}/ is not read: {split}={share:g} draws from train; {split}={split} reads it")
        entries = split_off(entries, fractions, SPLIT_SEED)
        super().__init__(root, entries, channels=channels, crop=crop, bands=bands, seen=seen)


@dataclass(frozen=True)
class _Place:
    """Where a split is looked for, and what is known on the way."""

    root: Path
    split: Split
    unnamed: str | None
    metadata: Metadata
    seen: Seen

    def relative(self, path: Path) -> PurePosixPath:
        return PurePosixPath(path.relative_to(self.root))


def _images(place: _Place, name: str) -> Placed:
    """Yield the images of a split that is a folder or a list file."""
    path = place.root / name
    if path.is_dir():
        return _images_in_folder(place, path)
    if path.is_file():
        return _images_in_list(place, path)
    split = place.split
    remedy = "`.` if the class folders lie there directly" if split == "train" else "a fraction such as 0.2, or null"
    raise UserError(
        f"{split}={name}: no such folder or list file in {place.root} (there: {listing(place.root)}); "
        f"or is it {remedy}?"
    )


def _images_in_folder(place: _Place, folder: Path) -> Placed:
    inner = children(folder)
    class_folders = [path for path in inner if path.is_dir()]
    names = _class_names(place, class_folders)
    for class_folder, name in zip(class_folders, names, strict=True):
        yield from ((place.relative(path), name) for path in _images_of_class(place, class_folder))
    # Images beside the class folders belong to the data set only if the metadata says what they are.
    flat = []
    for path in _pictures(place, [path for path in inner if not path.is_dir()]):
        row = place.metadata.row(place.relative(path))
        if class_of(row) or (place.unnamed and place.metadata.text(place.relative(path)) is not None):
            flat.append(place.relative(path))
        else:
            place.seen.pass_over("beside class folders, and no metadata says their class", str(place.relative(path)))
    _check_flat(place, flat)
    yield from ((path, place.unnamed) for path in flat)
    if not class_folders and not flat:
        tables = [path for path in inner if path.stem == "metadata"]
        of_other_form = f"; {tables[0].name} names no class_name or label of them" if tables else ""
        raise UserError(
            f"{folder}: {place.split} needs one folder per class with images in it; none found{of_other_form}"
        )


def _class_names(place: _Place, class_folders: Sequence[Path]) -> list[str]:
    """Give the class of each class folder; kohya's numbers are left off where all have one and no names collide."""
    names = [folder.name for folder in class_folders]
    if not names or not all(REPEATS.match(name) for name in names):
        return names
    plain = [REPEATS.sub("", name, count=1) for name in names]
    if len(set(plain)) < len(plain):
        place.seen.remark(f"{names[0]} and the like are classes of these names, since without them some are the same")
        return names
    place.seen.remark(f"{names[0]} and the like are classes without these numbers: {plain[0]}; repeats are not read")
    return plain


def _images_of_class(place: _Place, class_folder: Path) -> Iterator[Path]:
    """Yield the images in a class folder and below it; a remark names the folders below."""
    images = list(_pictures(place, files_below(class_folder, follow=True)))
    below = sorted({path.parent for path in images} - {class_folder})
    if len(below) >= len({path.parent for path in images}):
        deeper = f", but in {below[0]}: move them up, or name the folder that holds the class folders" if below else ""
        raise UserError(
            f"{class_folder}: class folder of {place.split} without images directly in it{deeper} "
            f"({', '.join(sorted(EXTENSIONS))}); fill it or remove it"
        )
    for parent in below:
        place.seen.remark(f"images in {place.relative(parent)} are of class {class_folder.name}")
    yield from images


def _pictures(place: _Place, files: Sequence[Path]) -> Iterator[Path]:
    """Yield the files that are images; the others are passed over, but for what is known to belong to images."""
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in EXTENSIONS}
    for path in files:
        if path.suffix.lower() in EXTENSIONS:
            yield path
        elif path.name in TABLES:
            continue
        elif path.suffix in BESIDE and path.with_suffix("") in stems:
            reason = "text beside an image that is no caption of it: numbers, nothing, or metadata has one"
            place.seen.pass_over(reason, str(place.relative(path)))
        elif path.stem == "metadata":
            reason = f"metadata of a form that is not read, unlike {' and '.join(TABLES)}"
            place.seen.pass_over(reason, str(place.relative(path)))
        else:
            place.seen.pass_over("no image of a format that is read", str(place.relative(path)))


def _check_flat(place: _Place, flat: Sequence[PurePosixPath]) -> None:
    """Refuse classes on some rows alone."""
    without = [path for path in flat if class_of(place.metadata.row(path)) is None]
    if without and len(without) < len(flat):
        raise UserError(
            f"{place.root / without[0]}: metadata has a class of other images in this folder, but not of this one; add "
            "its class_name"
        )


def _images_in_list(place: _Place, file: Path) -> Placed:
    entries = lines(file)
    if not entries:
        raise UserError(f"{place.split}={file}: the list is empty")
    known: set[PurePosixPath] = set()
    for number, entry in entries:
        path = inside(place.root, entry, f"{file}, line {number}")
        if path in known:
            raise UserError(f"{file}, line {number}: {entry} is listed twice; remove one of the lines")
        known.add(path)
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
