"""FUSRS v2, the paper's SAR set as its authors released it, in any of its three forms."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from sarsynth.data.entries import OTHER, Entry, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import EXTENSIONS, images_in, inside, json_lines, lines, locate, matches
from sarsynth.data.readers.fu_srs import ORDER
from sarsynth.data.readers.fusar import category_of
from sarsynth.data.records import SPLITS, Split
from sarsynth.errors import UserError

LISTS = ["images", "meta/train.txt", "meta/test.txt"]
CAPTIONS = ["train/metadata.jsonl"]
FOLDERS = [f"{name}/*" for name in ORDER]


class Fusrs(FileSource):
    """FUSRS as released.

    ```
    images/   meta/{train,val,test}.txt     the classification copy: `relative/path.png classindex` a line
    ```
    or `train/` with images and `metadata.jsonl` (`file_name`, and `text` such as "SAR image of cargo ship"), or the
    folders `cargo/ dredger/ fishing/ other/ tanker/`. These two have no splits of their own: `val` and `test` are for
    them alone.

    `Ship_C01S02N0003.png` is a chip of FUSAR-Ship and states its category, `L17_2.png` one of SRSDD's scene 17. All
    that are cut from one scene are a group.

    Args:
        labels: `release` for the labels as they are, in which FUSAR's cargo ships are called `other`, and its other
            ships `cargo`; `categories` for what the files' names say.
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
        entries = list(_listed(place) if listed else _captioned(place) if captioned else _in_folders(place))
        if labels == "categories":  # the names of SRSDD's files state none, and their labels are right
            stated = [(entry, category_of(Path(entry.file).name) or entry.class_name) for entry in entries]
            entries = [replace(entry, class_name=name if name in ORDER else OTHER) for entry, name in stated]
        if not listed:
            entries = split_off(entries, {"val": val, "test": test}, split_seed)
        super().__init__(place, entries, channels=channels, crop=crop, classes=ORDER)


def _entry(file: str, class_name: str, split: Split, text: str | None = None) -> Entry:
    scene, _, number = Path(file).stem.partition("_")
    from_srsdd = scene[:1] == "L" and scene[1:].isdigit() and number.isdigit()
    return Entry(file, class_name, split, text, group=scene if from_srsdd else None)


def _listed(place: Path) -> Iterator[Entry]:
    for split in SPLITS:
        for listing in matches(place, f"meta/{split}.txt"):
            for number, line in lines(listing):
                path, _, index = line.rpartition(" ")
                if not path or not index.isdigit() or int(index) >= len(ORDER):
                    raise UserError(
                        f"{listing}, line {number}: expected `relative/path.png classindex`, the index in 0 to "
                        f"{len(ORDER) - 1}; found `{line}`"
                    )
                if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                    raise UserError(f"{listing}, line {number}: {path} may lie outside {place}; name a path below it")
                file = next((file for file in (f"images/{path}", path) if (place / file).is_file()), None)
                if file is None:
                    raise UserError(f"{listing}, line {number}: no file {path} in {place / 'images'} or {place}")
                yield _entry(file, ORDER[int(index)], split)


def _captioned(place: Path) -> Iterator[Entry]:
    for listing in matches(place, CAPTIONS[0]):
        for number, row in json_lines(listing, "file_name", "text"):
            text = str(row["text"])
            path = listing.parent / inside(listing.parent, str(row["file_name"]), f"{listing}, line {number}")
            named = [name for name in ORDER if name in text.lower().split()]
            if len(named) != 1 or path.suffix.lower() not in EXTENSIONS:
                raise UserError(
                    f"{listing}, line {number}: expected an image and a text that names one of {', '.join(ORDER)}; "
                    f"found {row['file_name']}, `{text}`"
                )
            yield _entry(path.relative_to(place).as_posix(), named[0], "train", text)


def _in_folders(place: Path) -> Iterator[Entry]:
    for name in ORDER:
        for folder in matches(place, name):
            for image in images_in(folder):
                yield _entry(image.relative_to(place).as_posix(), name, "train")
