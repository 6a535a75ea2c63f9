"""FUSAR-Ship, Gaofen-3 chips matched with AIS (doi:10.1007/s11432-019-2772-5): folders of categories, subcategories."""

import csv
import re
from collections.abc import Collection
from pathlib import Path, PureWindowsPath

from sarsynth.data.entries import Entry, counts_in_test, rare_classes, rename, snake_case, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import check_file, children, images_in, locate, matches
from sarsynth.errors import UserError

LAYOUT = ("Cargo/*/Ship_C*",)
CATEGORIES = (  # in the order of their numbers, C01 to C15, in the names of the files
    *("Cargo", "DiveVessel", "Dredger", "Fishing", "HighSpeedCraft", "LawEnforce", "Other", "Passenger"),
    *("PortTender", "Reserved", "SAR", "Tanker", "Tug", "Unspecified", "WingInGrnd"),
)


class Fusar(FileSource):
    """FUSAR-Ship in its fifteen categories, the small ones joined.

    ```
    Cargo/                          one folder for each of the fifteen categories that there are
        AggregatesCarrier/          subcategories
            Ship_C01S01N0001.tiff   512 x 512 px, 8-bit grey
    meta.csv                        id, mmsi, …: which ship; need not be there
    ```
    Folders of other names hold no ships and are left out; case does not matter. Images of one ship (one MMSI) are a
    group. A row of `meta.csv` is of the image that its `id` names, or else the last part of its `path`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        val: float | None,
        test: float | None,
        other_below: int,
        split_seed: int,
        crop: int | None,
        channels: int,
    ) -> None:
        place = locate(root, "FUSAR-Ship", LAYOUT)
        entries = find_fusar(place)
        entries = rename(entries, rare_classes(counts_in_test(entries, test), other_below))
        entries = split_off(entries, {"val": val, "test": test}, split_seed)
        super().__init__(place, entries, channels=channels, crop=crop)


def find_fusar(place: Path) -> list[Entry]:
    """List the ships of FUSAR-Ship below the folder of its layout, all in `train`, their categories in snake case."""
    spelled = {name.lower(): snake_case(name) for name in CATEGORIES}
    images = [
        (image, spelled[category.name.lower()])
        for category in children(place)
        if category.name.lower() in spelled
        for folder in [category, *children(category)]
        for image in images_in(folder)
    ]
    ships = _ships(place, {image.stem for image, _ in images})
    return [
        Entry(image.relative_to(place).as_posix(), category, "train", group=ships.get(image.stem))
        for image, category in images
    ]


def category_of(name: str) -> str | None:
    """Read the category off a file's name (`Ship_C03S01N0001` is a dredger); None for files of other names."""
    match = re.match(r"Ship_C(\d\d)S\d\dN\d+", name)
    number = int(match[1]) if match else 0
    return snake_case(CATEGORIES[number - 1]) if 1 <= number <= len(CATEGORIES) else None


def _ships(place: Path, stems: Collection[str]) -> dict[str, str]:
    """Read from `meta.csv`, if it is there, which ship the images of these stems show.

    Raises:
        UserError: It lacks a column, or knows none of the images.
    """
    ships: dict[str, str] = {}
    for file in matches(place, "meta.csv"):
        with check_file(file).open(newline="", encoding="utf-8-sig", errors="replace") as content:
            delimiter = "\t" if "\t" in content.readline() else ","
            content.seek(0)
            table = csv.DictReader(content, delimiter=delimiter)
            if not {"id", "mmsi"} <= set(table.fieldnames or ()):
                raise UserError(f"{file}: expected columns id and mmsi; found {', '.join(table.fieldnames or ())}")
            rows = list(table)
        known, unknown = False, None
        for row in rows:
            names = (row["id"] or "").strip(), PureWindowsPath((row.get("path") or "").strip()).stem
            stem = next((name for name in names if name in stems), None)
            known, unknown = known or stem is not None, unknown or names
            if stem and (row["mmsi"] or "0").strip().strip("0"):
                ships[stem] = f"mmsi {row['mmsi'].strip()}"
        if unknown and not known:
            raise UserError(
                f"{file}: of none of the images: expected names such as {min(stems, default='Ship_C01S01N0001')} in "
                f"column id, or at the end of path; found {' and '.join(filter(None, unknown)) or 'nothing'}"
            )
    return ships
