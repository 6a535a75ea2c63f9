"""FU-SRS, the paper's SAR set (arXiv 2311.17486), built from the two sets that it is made of."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from sarsynth.data.chips import Cutting
from sarsynth.data.folders import locate
from sarsynth.data.found import OTHER, Found, rare_classes, rename, split_off, tested
from sarsynth.data.image_files import Files
from sarsynth.data.readers import fusar, srsdd
from sarsynth.data.readers.fusar import find_fusar
from sarsynth.data.readers.srsdd import find_srsdd

ORDER = ("cargo", OTHER, "fishing", "tanker", "dredger")  # of the labels, as in the release
OURS = {"bulk_cargo": "cargo", "container": "cargo", "ore_oil": "tanker"}  # SRSDD's classes under FUSAR's names
UNUSED = "unspecified"  # FUSAR's category 14, of which the release has no image
SWAPPED = {"cargo": OTHER, OTHER: "cargo"}


class FuSrs(Files):
    """FU-SRS from FUSAR-Ship and SRSDD: FUSAR's chips as they are, and a chip for each ship of SRSDD.

    ```
    FUSAR_Ship1.0/     both of any name, up to two folders deep, each as its own reader describes it
    SRSDD-v1.0/
    ```
    FUSAR is split class by class. SRSDD has its own test scenes; of its training scenes as large a part is for
    validation as of FUSAR's images that are not for testing. Classes with too few test images in both together join
    `other`.

    Args:
        root: The folder that both archives were unpacked to.
        labels: `categories` for what the two sets say a ship is; `release` for the labels of the authors' release, in
            which FUSAR's cargo ships are called `other`, and its other ships `cargo`.
        val: Fraction of FUSAR for validation.
        test: Fraction of FUSAR for testing.
        other_below: Classes with fewer test images than that become `other`.
        split_seed: Of the draws.
        size: Side of each of SRSDD's chips in px; None fits it to its ship.
        margin: Share of the ship's longer side around it, where fitted.
        rotate: Turn each of SRSDD's chips so that its ship lies along the rows.
        channels: 1 or 3.

    Raises:
        UserError: One of the sets is not there.
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
        top = Path(root).expanduser()
        chips_at = locate(top, "FUSAR-Ship (of FU-SRS)", fusar.LAYOUT)
        scenes_at = locate(top, "SRSDD (of FU-SRS)", srsdd.LAYOUT)
        chips = [one for one in find_fusar(chips_at) if one.class_name != UNUSED]
        scenes = rename(find_srsdd(scenes_at, Cutting(size, margin, rotate)), OURS)
        rare = dict.fromkeys(rare_classes(tested(chips, test) + tested(scenes, 0), other_below), OTHER)
        chips = split_off(rename(chips, rare), {"val": val, "test": test}, split_seed)
        scenes = split_off(rename(scenes, rare), {"val": val / (1 - test)}, split_seed)
        if labels == "release":
            chips = rename(chips, SWAPPED)
        found = [*_below(top, chips_at, chips), *_below(top, scenes_at, scenes)]
        names = {one.class_name for one in found}
        super().__init__(
            top,
            found,
            channels=channels,
            classes=[name for name in ORDER if name in names] + sorted(names.difference(ORDER)),
        )


def _below(top: Path, place: Path, found: list[Found]) -> list[Found]:
    """Name files from the folder above."""
    above = place.relative_to(top)
    return [replace(one, file=(above / one.file).as_posix()) for one in found]
