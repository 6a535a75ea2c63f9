"""A table of images of one's own: CSV or JSON lines that say where each lies and what it shows."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sarsynth.data.chips import Cutting, Marked, Points, quadrangle, rectangle
from sarsynth.data.class_names import check_name
from sarsynth.data.entries import Entry, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import json_lines, listing, matches
from sarsynth.data.records import SPLITS, Split
from sarsynth.data.scenes import Scene, cut_scenes
from sarsynth.errors import UserError

NAMES = ("manifest.csv", "manifest.jsonl")


class Manifest(FileSource):
    """Images listed in a table.

    ```
    manifest.csv       path,class,split,group,text,box     or manifest.jsonl, a line an image: {"path": …, "class": …}
    any/where.png      paths are relative to the table
    ```
    `path` and `class` are needed. `split` is train, val or test, train if it is empty. `group` names what no split may
    part (a scene, a ship), `text` is a caption. `box` is one object of the image: `x0 y0 x1 y1` or four corners
    `x1 y1 … x4 y4`, px; a chip is cut around it, all boxes of one image are its objects, and the image is their group
    unless they name another. Other columns are ignored.

    Args:
        root: The table's folder.
        manifest: Its name; None for `manifest.csv` or `manifest.jsonl`.
        val: Fraction of each training class for validation, None for what the table says; `test` likewise.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        manifest: str | None,
        val: float | None,
        test: float | None,
        split_seed: int,
        size: int | None,
        margin: float,
        rotate: bool,
        crop: int | None,
        channels: int,
    ) -> None:
        place = Path(root).expanduser()
        files = [file for name in ([manifest] if manifest else NAMES) for file in matches(place, name)]
        if len(files) != 1:
            raise UserError(f"root={root}: expected one {manifest or ' or '.join(NAMES)}; found {listing(place)}")
        entries = _entries(place, files[0], Cutting(size, margin, rotate))
        shares: dict[Split, float | None] = {"val": val, "test": test}
        for split, share in shares.items():
            if share is not None and any(entry.split == split for entry in entries):
                raise UserError(f"{split}={share:g}: {files[0]} has {split} images of its own; use null")
        super().__init__(place, split_off(entries, shares, split_seed), channels=channels, crop=crop)


def _entries(place: Path, file: Path, cutting: Cutting) -> list[Entry]:
    entries: list[Entry] = []
    objects: dict[str, list[tuple[Entry, Marked]]] = defaultdict(list)  # by image, those that have boxes
    for number, row in _rows(file):
        where = f"{file}, line {number}"
        path, name, split = (str(row.get(key) or "").strip() for key in ("path", "class", "split"))
        if not path or not name:
            raise UserError(f"{where}: expected a path and a class, found `{path}` and `{name}`")
        check_name(name, where)
        if Path(path).is_absolute() or not (place / path).is_file():
            raise UserError(f"{where}: no file {path} in {place} (paths are relative to it)")
        if split and split not in SPLITS:
            raise UserError(f"{where}: split={split}: use {', '.join(SPLITS)} or nothing, which is train")
        text, group = (str(row[key]).strip() if row.get(key) else None for key in ("text", "group"))
        entry = Entry(path, name, split or "train", text, group=group)
        if row.get("box"):
            objects[path].append((entry, Marked(name, _corners(row["box"], where))))
        else:
            entries.append(entry)
    for path, pairs in objects.items():
        if len({(entry.split, entry.group) for entry, _ in pairs}) > 1:
            raise UserError(f"{file}: the objects of {path} are in different splits or groups; give all the same")
        first, marked = pairs[0][0], tuple(marked for _, marked in pairs)
        chips = list(cut_scenes(place, [Scene(path, first.split, first.group or path, marked)], cutting))
        if len(chips) < len(pairs):
            raise UserError(f"{file}: a box of {path} lies outside the image; mend it")
        entries += [replace(chip, text=pairs[chip.number][0].text) for chip in chips]
    return entries


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows of a table and the numbers of their lines."""
    if file.suffix.lower() == ".jsonl":
        yield from json_lines(file)
        return
    with file.open(newline="", encoding="utf-8-sig") as content:
        table = csv.DictReader(content)
        try:
            if not {"path", "class"} <= set(table.fieldnames or ()):
                raise UserError(f"{file}: expected columns path and class; found {', '.join(table.fieldnames or ())}")
            yield from ((table.line_num, row) for row in table)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{file}: no table in UTF-8 with commas ({error})") from error


def _corners(box: Any, where: str) -> Points:
    words = box if isinstance(box, list) else str(box).replace(",", " ").split()
    try:
        numbers = [float(word) for word in words]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) == 4:
        return rectangle(*numbers)
    if len(numbers) == 8:
        return quadrangle(numbers)
    raise UserError(f"{where}: expected a box `x0 y0 x1 y1` or `x1 y1 … x4 y4`, found `{box}`")
