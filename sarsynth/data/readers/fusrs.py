"""FUSRS v2, the paper's SAR set as its authors released it, in any of its three forms."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sarsynth.data.folders import EXTENSIONS, captions, images_in, lines, locate, matches
from sarsynth.data.found import OTHER, Found, split_off
from sarsynth.data.image_files import Files
from sarsynth.data.readers.fu_srs import ORDER
from sarsynth.data.readers.fusar import category_of
from sarsynth.data.records import SPLITS, Split
from sarsynth.errors import UserError

LISTS = ["images", "meta/train.txt", "meta/test.txt"]
CAPTIONS = ["train/metadata.jsonl"]
FOLDERS = [f"{name}/*" for name in ORDER]


class Fusrs(Files):
    """FUSRS as released.

    ```
    images/   meta/{train,val,test}.txt     the classification copy: `relative/path.png classindex` a line
    ```
    or `train/` with images and `metadata.jsonl` (`file_name`, and `text` such as "SAR image of cargo ship"), or the
    folders `cargo/ dredger/ fishing/ other/ tanker/`. These two have no splits of their own.

    `Ship_C01S02N0003.png` is a chip of FUSAR-Ship and states its category, `L17_2.png` one of SRSDD's scene 17. All
    that are cut from one scene are a group.

    Args:
        root: The copy's folder, or one above it.
        labels: `release` for the labels as they are, in which FUSAR's cargo ships are called `other`, and its other
            ships `cargo`; `categories` for what the files' names say.
        val: Fraction of each class for validation, in copies without splits; None for none.
        test: Fraction of each class for testing, in copies without splits; None for none.
        split_seed: Of the draw of both.
        crop: Side in px of the square cut from the centre, where the ship is; None for all of it.
        channels: 1 or 3.

    Raises:
        UserError: The folder is no copy of FUSRS, or a line in it is of another form.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: Literal["categories", "release"],
        val: float | None,
        test: float | None,
        split_seed: int,
        crop: int | None,
        channels: int,
    ) -> None:
        place = locate(root, "FUSRS", LISTS, CAPTIONS, FOLDERS)
        listed = all(matches(place, pattern) for pattern in LISTS)
        captioned = bool(matches(place, CAPTIONS[0]))
        found = list(_listed(place) if listed else _captioned(place) if captioned else _in_folders(place))
        if labels == "categories":
            found = [replace(one, class_name=_category(one)) for one in found]
        if not listed:
            found = split_off(found, {"val": val, "test": test}, split_seed)
        super().__init__(place, found, channels=channels, crop=crop, classes=ORDER)


def _category(one: Found) -> str:
    """Name the class that a file's name states; SRSDD's files state none, and their labels are right."""
    name = category_of(Path(one.file).name)
    if name is None:
        return one.class_name
    return name if name in ORDER else OTHER


def _found(file: str, class_name: str, split: Split, text: str | None = None) -> Found:
    scene, _, number = Path(file).stem.partition("_")
    from_srsdd = scene[:1] == "L" and scene[1:].isdigit() and number.isdigit()
    return Found(file, class_name, split, text, group=scene if from_srsdd else None)


def _listed(place: Path) -> Iterator[Found]:
    for split in SPLITS:
        for listing in matches(place, f"meta/{split}.txt"):
            for number, line in lines(listing):
                path, _, index = line.rpartition(" ")
                if not path or not index.isdigit() or int(index) >= len(ORDER):
                    raise UserError(
                        f"{listing}, line {number}: expected `relative/path.png classindex`, the index in 0 to "
                        f"{len(ORDER) - 1}; found `{line}`"
                    )
                file = next((file for file in (f"images/{path}", path) if (place / file).is_file()), None)
                if file is None:
                    raise UserError(f"{listing}, line {number}: no file {path} in {place / 'images'} or {place}")
                yield _found(file, ORDER[int(index)], split)


def _captioned(place: Path) -> Iterator[Found]:
    for listing in matches(place, CAPTIONS[0]):
        for number, file_name, text in captions(listing):
            path = listing.parent / file_name
            named = [name for name in ORDER if name in text.lower().split()]
            if len(named) != 1 or not path.is_file() or path.suffix.lower() not in EXTENSIONS:
                raise UserError(
                    f"{listing}, line {number}: expected an image and a text that names one of {', '.join(ORDER)}; "
                    f"found {file_name}, `{text}`"
                )
            yield _found(path.relative_to(place).as_posix(), named[0], "train", text)


def _in_folders(place: Path) -> Iterator[Found]:
    for name in ORDER:
        for folder in matches(place, name):
            for image in images_in(folder):
                yield _found(image.relative_to(place).as_posix(), name, "train")
