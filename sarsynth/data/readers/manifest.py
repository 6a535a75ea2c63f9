"""A table of images of one's own: CSV or JSON lines that say where each lies and what it shows."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sarsynth.data.bands import Bands
from sarsynth.data.chips import Cutting, Marked, Points, check_box, has_area, quadrangle, rectangle
from sarsynth.data.class_names import check_name
from sarsynth.data.entries import Entry, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import check_file, inside, json_lines, listing, matches
from sarsynth.data.readers.metadata import TEXTS, csv_rows, gsd_of
from sarsynth.data.records import SPLITS, Split
from sarsynth.data.scenes import Scene, cut_scenes
from sarsynth.errors import UserError

NAMES = ("manifest.csv", "manifest.jsonl")


class Manifest(FileSource):
    r"""Images listed in a table.

    ```
    manifest.csv       path,class,split,group,text,gsd,box   or manifest.jsonl, a line an image: {"path": …, "class": …}
    any/where.png      paths are relative to the table
    ```
    `path` and `class` are needed. `split` is train, val or test, train if it is empty. `group` names what no split may
    part (a scene, a ship), `text` (or `prompt`, `caption`) is a caption, `gsd` says how many metres a pixel is: where
    all images have it, all are seen at one scale. `box` is one object of the image: `x0 y0 x1 y1` or four corners
    `x1 y1 … x4 y4`, px; a chip is cut around it, all boxes of one image are its objects, and the image is their group
    unless they name another. Other columns are ignored. `train\cargo\0.png`, as Windows writes it, is read.

    Args:
        root: The table's folder.
        manifest: Its name; None for `manifest.csv` or `manifest.jsonl`.
        val: Fraction of each training class for validation, None for what the table says; `test` likewise.
        bands: Which bands of every file are read, from 1, e.g. `[1, 2, 3]`; `iq` for the amplitude of two, I and Q;
            None where that is clear.
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
        bands: Bands = None,
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
        entries = split_off(entries, shares, split_seed)
        super().__init__(place, entries, channels=channels, crop=crop, bands=bands)


def _entries(place: Path, file: Path, cutting: Cutting) -> list[Entry]:
    entries: list[Entry] = []
    objects: dict[str, list[tuple[Entry, Marked, str]]] = defaultdict(list)  # by image, those that have boxes
    known: set[str] = set()
    for number, row in _rows(file):
        where = f"{file}, line {number}"
        if not all(isinstance(row.get(key), str | int | None) for key in ("path", "class", "split", "group", *TEXTS)):
            raise UserError(f"{where}: path, class, split, group and text must be strings")
        path, name, split = (str(row.get(key) or "").strip() for key in ("path", "class", "split"))
        if not path or not name:
            raise UserError(f"{where}: expected a path and a class, found `{path}` and `{name}`")
        check_name(name, where)
        path = str(inside(place, path, where))
        if split and split not in SPLITS:
            raise UserError(f"{where}: split={split}: use {', '.join(SPLITS)} or nothing, which is train")
        text = next((str(row[key]).strip() for key in TEXTS if row.get(key)), None)
        group = str(row["group"]).strip() if row.get("group") else None
        entry = Entry(path, name, split or "train", text, group=group, gsd=gsd_of(row, where))
        if row.get("box"):
            objects[path].append((entry, Marked(name, _corners(row["box"], where)), where))
        elif path in known:
            raise UserError(f"{where}: {path} is listed twice; remove one of the lines")
        else:
            known.add(path)
            entries.append(entry)
    for path, rows in objects.items():
        if len({(entry.split, entry.group) for entry, *_ in rows}) > 1:
            raise UserError(f"{file}: the objects of {path} are in different splits or groups; give all the same")
        first, marked = rows[0][0], tuple(marked for _, marked, _ in rows)
        chips = list(cut_scenes(place, [Scene(path, first.split, first.group or path, marked)], cutting))
        cut = {chip.number for chip in chips}
        outside = [where for row, (*_, where) in enumerate(rows) if row not in cut]
        if outside and all(chip.window for chip in chips):  # a file that cannot be opened is one image
            raise UserError(f"{outside[0]}: a box of {path} lies outside the image; mend it")
        entries += [replace(chip, text=own.text, gsd=own.gsd) for chip in chips for own in [rows[chip.number][0]]]
    return entries


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows of a table and the numbers of their lines."""
    if file.suffix.lower() == ".jsonl":
        yield from json_lines(check_file(file))
        return
    yield from csv_rows(file, "path", "class")


def _corners(box: Any, where: str) -> Points:
    words = box if isinstance(box, list) else str(box).replace(",", " ").split()
    try:
        numbers = [float(word) for word in words]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) in (4, 8):
        corners = check_box(rectangle(*numbers) if len(numbers) == 4 else quadrangle(numbers), where)
        inverted = len(numbers) == 4 and (numbers[0] >= numbers[2] or numbers[1] >= numbers[3])
        if inverted or not has_area(corners):
            raise UserError(f"{where}: box `{box}` has no area, or ends before it begins; mend or remove it")
        return corners
    raise UserError(f"{where}: expected a box `x0 y0 x1 y1` or `x1 y1 … x4 y4`, found `{box}`")
