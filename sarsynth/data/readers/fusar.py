"""FUSAR-Ship, Gaofen-3 chips matched with AIS (doi:10.1007/s11432-019-2772-5): folders of categories, subcategories."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import floor
from pathlib import Path

from sarsynth.data.files import Files, Found, children, images_in, locate, matches, split_off
from sarsynth.data.records import Split
from sarsynth.errors import UserError

LAYOUT = ("Cargo/*/Ship_C*",)
OTHER = "other"
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
    Folders of other names hold no ships and are passed over. Images of one ship (one MMSI) are a group.

    Args:
        root: The archive's folder.
        val: Fraction of each class for validation; None for none.
        test: Fraction of each class for testing; None for none.
        other_below: Categories with fewer test images than that become `other`.
        split_seed: Of the draw of both.
        crop: Side in px of the square cut from the centre, where the ship is; None for all of it.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of FUSAR-Ship.
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
        fractions: dict[Split, float] = {"val": val or 0, "test": test or 0}
        super().__init__(
            place,
            split_off(rename(found, dict.fromkeys(rare, OTHER)), {s: f for s, f in fractions.items() if f}, split_seed),
            channels=channels,
            crop=crop,
        )


def find_fusar(place: Path) -> list[Found]:
    """Find the ships of FUSAR-Ship below the folder of its layout, all in `train`, their categories in our spelling."""
    ships = dict(_ships(place))
    return [
        Found(
            image.relative_to(place).as_posix(),
            snake_case(category.name),
            "train",
            group=ships.get(image.stem),
        )
        for category in children(place)
        if category.name in CATEGORIES
        for subcategory in [category, *(folder for folder in children(category) if folder.is_dir())]
        for image in images_in(subcategory)
    ]


def category_of(name: str) -> str | None:
    """Name the category that a file's name states (`Ship_C03S01N0001` is a dredger), None for files of other names."""
    found = re.match(r"Ship_C(\d\d)S\d\dN\d+", name)
    if found is None or not 1 <= int(found[1]) <= len(CATEGORIES):
        return None
    return snake_case(CATEGORIES[int(found[1]) - 1])


def snake_case(name: str) -> str:
    """Write a name such as DiveVessel as dive_vessel."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", name.strip()).lower()


def tested(found: Iterable[Found], share: float) -> Counter[str]:
    """Count the test images of each class if that share of the training images becomes some."""
    found = list(found)
    train = Counter(one.class_name for one in found if one.split == "train")
    test = Counter(one.class_name for one in found if one.split == "test")
    return Counter({name: test[name] + floor(share * train[name] + 0.5) for name in train | test})


def rare_classes(counts: Mapping[str, int], least: int) -> set[str]:
    """Name the classes with fewer test images than `least`: the paper's rule of what becomes `other`."""
    return {name for name, count in counts.items() if count < least}


def rename(found: Iterable[Found], names: Mapping[str, str]) -> list[Found]:
    """Give classes other names."""
    return [replace(one, class_name=names.get(one.class_name, one.class_name)) for one in found]


def _ships(place: Path) -> Iterator[tuple[str, str]]:
    """Yield each image's name without suffix and the ship it shows, as far as `meta.csv` says."""
    for file in matches(place, "meta.csv"):
        with file.open(newline="", encoding="utf-8-sig", errors="replace") as content:
            delimiter = "\t" if "\t" in content.readline() else ","
            content.seek(0)
            rows = csv.DictReader(content, delimiter=delimiter)
            if not {"id", "mmsi"} <= set(rows.fieldnames or ()):
                raise UserError(f"{file}: expected columns id and mmsi; found {', '.join(rows.fieldnames or ())}")
            for row in rows:
                if (row["mmsi"] or "0").strip().strip("0"):
                    yield row["id"].strip(), f"mmsi {row['mmsi'].strip()}"
