"""FU-SRS, the paper's SAR set (arXiv 2311.17486), built from the two sets that it is made of."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from sarsynth.data.chips import Cutting
from sarsynth.data.entries import OTHER, Seen, counts_in_test, rare_classes, rename, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import locate
from sarsynth.data.readers import fusar, srsdd
from sarsynth.data.scenes import cut_scenes

ORDER = ("cargo", OTHER, "fishing", "tanker", "dredger")  # of the labels, as in the release
FUSAR_NAMES = {"bulk_cargo": "cargo", "container": "cargo", "ore_oil": "tanker"}  # for SRSDD's classes
UNUSED = "unspecified"  # FUSAR's category 14, of which the release has no image
SWAPPED = {"cargo": OTHER, OTHER: "cargo"}


class FuSrs(FileSource):
    """FU-SRS from FUSAR-Ship and SRSDD: FUSAR's chips as they are, and a chip for each ship of SRSDD.

    ```
    FUSAR_Ship1.0/     both of any name, up to two folders deep, each as its own reader describes it
    SRSDD-v1.0/
    ```
    FUSAR is split class by class (`val` and `test` are fractions of it). SRSDD has its own test scenes; of its training
    scenes as large a part is for validation as of FUSAR's images that are not for testing. Classes with too few test
    images in both together join `other`. `size`, `margin` and `rotate` are of SRSDD's chips.

    Args:
        labels: `categories` for what the two sets say a ship is; `release` for the labels of the authors' release, in
            which FUSAR's cargo ships are called `other`, and its other ships `cargo`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: Literal["categories", "release"],
        val: float,
        test: float,
        other_below: int,
        split_seed: int,
        size: int | None,
        margin: float,
        rotate: bool,
        channels: int,
    ) -> None:
        root = Path(root).expanduser()
        fusar_place = locate(root, "FUSAR-Ship (of FU-SRS)", fusar.LAYOUT)
        srsdd_place = locate(root, "SRSDD (of FU-SRS)", srsdd.LAYOUT)
        chips = [entry for entry in fusar.find_fusar(fusar_place) if entry.class_name != UNUSED]
        seen = Seen()
        scenes = cut_scenes(srsdd_place, srsdd.find_scenes(srsdd_place), Cutting(size, margin, rotate), seen)
        ships = rename(scenes, FUSAR_NAMES)
        rare = rare_classes(counts_in_test(chips, test) + counts_in_test(ships, None), other_below)
        chips = split_off(rename(chips, rare), {"val": val, "test": test}, split_seed)
        ships = split_off(rename(ships, rare), {"val": val / (1 - test)}, split_seed)
        if labels == "release":
            chips = rename(chips, SWAPPED)
        listed = [(fusar_place, entry) for entry in chips] + [(srsdd_place, entry) for entry in ships]
        entries = [replace(entry, file=(place / entry.file).relative_to(root).as_posix()) for place, entry in listed]
        names = {entry.class_name for entry in entries}
        classes = [name for name in ORDER if name in names] + sorted(names.difference(ORDER))
        super().__init__(root, entries, channels=channels, classes=classes, seen=seen)
