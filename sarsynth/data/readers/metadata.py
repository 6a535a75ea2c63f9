"""What stands beside images of one's own: captions, classes, groups and objects, in any of the usual forms. Torch-free.

Hugging Face's imagefolder has `metadata.jsonl` or `metadata.csv`, trainers of LoRAs a text file beside each image.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sarsynth.data.chips import FARTHEST, check_box, crop_offset, rectangle
from sarsynth.data.folders import check_file, inside, json_lines, lines
from sarsynth.data.formats import image_size
from sarsynth.data.records import Instance
from sarsynth.errors import UserError

TABLES = ("metadata.jsonl", "metadata.csv")
TEXTS = ("text", "prompt", "caption")  # keys of a caption; the first that a row has is read
CLASSES = ("class_name", "label")
BESIDE = (".txt", ".caption")  # text files of an image's name


class Metadata:
    """What is said of the images below a folder; each file is read when it is first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.used: set[str] = set()  # text files beside images that are captions
        self._rows: dict[PurePosixPath, dict[PurePosixPath, Mapping[str, Any]]] = {}  # by folder and image

    def row(self, path: PurePosixPath) -> Mapping[str, Any]:
        """Find an image's row in the nearest folder that has one; empty if there is none."""
        for folder in path.parents:
            if folder not in self._rows:
                self._rows[folder] = self._read(folder)
            if path in self._rows[folder]:
                return self._rows[folder][path]
        return {}

    def text(self, path: PurePosixPath) -> str | None:
        """Find an image's caption: that of its row, else that of a text file beside it."""
        row = self.row(path)
        said = next((row[key] for key in TEXTS if row.get(key) is not None), None)
        if said is not None:
            return said
        for suffix in BESIDE:
            file = path.with_suffix(suffix)
            if (self.root / file).is_file():
                words = " ".join(line for _, line in lines(self.root / file))
                if words and not _are_numbers(words):
                    self.used.add(str(file))
                    return words
        return None

    def _read(self, folder: PurePosixPath) -> dict[PurePosixPath, Mapping[str, Any]]:
        files = [file for name in TABLES if (file := self.root / folder / name).exists()]
        if len(files) > 1:
            raise UserError(f"{files[0]}: lies beside {files[1].name}; keep one of them")
        rows: dict[PurePosixPath, Mapping[str, Any]] = {}
        for number, row in _rows_of(files[0]) if files else ():
            where = f"{files[0]}, line {number}"
            name = row.get("file_name")
            if not isinstance(name, str):
                raise UserError(f"{where}: `file_name` must be a string")
            path = folder / inside(self.root / folder, name, where)
            if path in rows:
                raise UserError(f"{where}: {name} has a row already; remove one of them")
            _check(row, where)
            rows[path] = row
        return rows


def _rows_of(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows of a table with the numbers of their lines; what is empty in a CSV file is not said."""
    if file.suffix == ".jsonl":
        yield from json_lines(check_file(file), "file_name")
        return
    for number, row in csv_rows(file, "file_name"):
        yield number, {key: value for key, value in row.items() if value}


def csv_rows(file: Path, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV file and the numbers of their lines.

    Raises:
        UserError: It lacks a column, a row has more cells than columns, or it is no table in UTF-8.
    """
    wanted = " and ".join(columns)
    with check_file(file).open(newline="", encoding="utf-8-sig") as content:
        table = csv.DictReader(content)
        try:
            if not set(columns) <= set(table.fieldnames or ()):
                found = ", ".join(table.fieldnames or ()) or "nothing"
                raise UserError(f"{file}: expected columns {wanted}, with commas between; found {found}")
            for row in table:
                if any(row.pop(None, None) or ()):  # a comma at the end is no cell
                    raise UserError(f"{file}, line {table.line_num}: more cells than columns; quote what has commas")
                yield table.line_num, row
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{file}: no table in UTF-8 with commas ({error})") from error


def class_of(row: Mapping[str, Any]) -> str | None:
    """Give the class that a row names; None if it names none."""
    name = next((row[key] for key in CLASSES if row.get(key) is not None), None)
    return None if name is None else str(name)


def gsd_of(row: Mapping[str, Any], where: str) -> float | None:
    """Give how many metres a pixel is, if a row says so; a `UserError`, beginning with `where`, if it is no length."""
    if row.get("gsd") in (None, ""):
        return None
    try:
        gsd = float(row["gsd"])
    except (TypeError, ValueError, OverflowError):
        gsd = 0.0
    if not 0 < gsd < FARTHEST:
        raise UserError(f"{where}: gsd={str(row['gsd'])[:80]}: use metres a pixel, above 0")
    return gsd


def _are_numbers(words: str) -> bool:
    """Whether a text file holds numbers alone: boxes, as some detectors take them, and no caption."""
    return all(word.lstrip("+-").replace(".", "", 1).isdigit() for word in words.replace(",", " ").split())


def _check(row: Mapping[str, Any], where: str) -> None:
    """Refuse what is not as it should be in a row."""
    for key in (*TEXTS, "group"):
        if not isinstance(row.get(key), str | None):
            raise UserError(f"{where}: `{key}` must be a string")
    for key in CLASSES:
        name = row.get(key)
        if isinstance(name, bool) or not isinstance(name, str | int | None) or not str(name).strip():
            raise UserError(f"{where}: `{key}` must be a name or a whole number")
    gsd_of(row, where)
    if not _are_objects(row.get("objects")):
        raise UserError(
            f"{where}: `objects` must hold `bbox`, a list of [x, y, width, height], and may hold "
            "`truncated` and `difficult`, equally long lists of true and false"
        )
    for box in (row.get("objects") or {}).get("bbox", ()):
        x, y, width, height = box
        check_box(rectangle(x, y, x + width, y + height), where)
        if width <= 0 or height <= 0:
            raise UserError(f"{where}: box {box} has no area; mend or remove it")


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


def instances_of(row: Mapping[str, Any], file: Path, crop: int | None) -> tuple[Instance, ...]:
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
