"""FUSAR-Ship, Gaofen-3 chips matched with AIS (doi:10.1007/s11432-019-2772-5): folders of categories, subcategories."""

import csv
import re
from collections.abc import Collection
from pathlib import Path, PureWindowsPath

from sarsynth.data.folders import children, images_in, locate, matches
from sarsynth.data.found import OTHER, Found, rare_classes, rename, snake_case, split_off, tested
from sarsynth.data.image_files import Files
from sarsynth.errors import UserError

LAYOUT = ("Cargo/*/Ship_C*",)
# In the order of their numbers, C01 to C15, in the names of the files.
CATEGORIES = (
    "Cargo",
    "DiveVessel",
    "Dredger",
    "Fishing",
    "HighSpeedCraft",
    "LawEnforce",
    "Other",
    "Passenger",
    "PortTender",
    "Reserved",
    "SAR",
    "Tanker",
    "Tug",
    "Unspecified",
    "WingInGrnd",
)


class Fusar(Files):
    """FUSAR-Ship in its fifteen categories, the small ones joined.

    ```
    Cargo/                          one folder for each of the fifteen categories that there are
        AggregatesCarrier/          subcategories
            Ship_C01S01N0001.tiff   512 x 512 px, 8-bit grey
    meta.csv                        id, mmsi, …: which ship; need not be there
    ```
    Folders of other names, in any case, hold no ships and are passed over. Images of one ship (one MMSI) are a group. A
    row of `meta.csv` is of the image that its `id` names, or else the last part of its `path`.

    Args:
        root: The archive's folder.
        val: Fraction of each class for validation; None for none.
        test: Fraction of each class for testing; None for none.
        other_below: Categories with fewer test images than that become `other`.
        split_seed: Of the draw of both.
        crop: Side in px of the square cut from the centre, where the ship is; None for all of it.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of FUSAR-Ship, or its `meta.csv` is of other images.
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
        found = find_fusar(place)
        rare = rare_classes(tested(found, test or 0), other_below)
        super().__init__(
            place,
            split_off(rename(found, dict.fromkeys(rare, OTHER)), {"val": val, "test": test}, split_seed),
            channels=channels,
            crop=crop,
        )


def find_fusar(place: Path) -> list[Found]:
    """Find the ships of FUSAR-Ship below the folder of its layout, all in `train`, their categories in our spelling."""
    spelled = {name.lower(): snake_case(name) for name in CATEGORIES}
    images = [
        (image, spelled[category.name.lower()])
        for category in children(place)
        if category.name.lower() in spelled
        for subcategory in [category, *(folder for folder in children(category) if folder.is_dir())]
        for image in images_in(subcategory)
    ]
    ships = _ships(place, {image.stem for image, _ in images})
    return [
        Found(image.relative_to(place).as_posix(), category, "train", group=ships.get(image.stem))
        for image, category in images
    ]


def category_of(name: str) -> str | None:
    """Name the category that a file's name states (`Ship_C03S01N0001` is a dredger), None for files of other names."""
    found = re.match(r"Ship_C(\d\d)S\d\dN\d+", name)
    if found is None or not 1 <= int(found[1]) <= len(CATEGORIES):
        return None
    return snake_case(CATEGORIES[int(found[1]) - 1])


def _ships(place: Path, stems: Collection[str]) -> dict[str, str]:
    """Say which ship the images of these names, without suffix, show, as far as `meta.csv` knows.

    Raises:
        UserError: It lacks a column, or knows none of the images.
    """
    ships: dict[str, str] = {}
    for file in matches(place, "meta.csv"):
        with file.open(newline="", encoding="utf-8-sig", errors="replace") as content:
            delimiter = "\t" if "\t" in content.readline() else ","
            content.seek(0)
            rows = csv.DictReader(content, delimiter=delimiter)
            if not {"id", "mmsi"} <= set(rows.fieldnames or ()):
                raise UserError(f"{file}: expected columns id and mmsi; found {', '.join(rows.fieldnames or ())}")
            named = unknown = None
            for row in rows:
                both = (row["id"] or "").strip(), PureWindowsPath((row.get("path") or "").strip()).stem
                known = next((name for name in both if name in stems), None)
                named, unknown = named or known, unknown or both
                if known and (row["mmsi"] or "0").strip().strip("0"):
                    ships[known] = f"mmsi {row['mmsi'].strip()}"
        if unknown and not named:
            raise UserError(
                f"{file}: of none of the images: expected names such as {min(stems, default='Ship_C01S01N0001')} in "
                f"column id, or at the end of path; found {' and '.join(filter(None, unknown)) or 'nothing'}"
            )
    return ships
