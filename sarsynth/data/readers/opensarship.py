"""OpenSARShip, Sentinel-1 chips matched with AIS (doi:10.1109/JSTARS.2017.2755672): a folder a scene."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from sarsynth.data.folders import children, images_in, locate, matches
from sarsynth.data.found import OTHER, Found, rare_classes, rename, snake_case, split_off, tested
from sarsynth.data.image_files import Files
from sarsynth.errors import UserError

SCENE = ("Ship.xml", "Patch_Uint8")
NAME = re.compile(r"Visual_(?P<type>.+)_x(?P<x>\d+)_y(?P<y>\d+)_(?P<polarisation>[vh]{2})", re.IGNORECASE)
UNKNOWN = ("na", "unspecified", "")  # elaborated types that say nothing


class OpenSarShip(Files):
    """The 8-bit chips of OpenSARShip 1.0 or 2.0.

    ```
    S1A_IW_GRDH_…_2D00/                      a folder a scene, up to two folders deep
        Ship.xml                             centre, MMSI and types of each ship
        Patch_Uint8/
            Visual_Cargo_x224_y5691_vv.tif   type, centre and polarisation
    ```
    There are no splits of its own. All chips of one ship (one MMSI), of both polarisations and of every passage, are a
    group.

    Args:
        root: The archive's folder, or one scene's.
        types: `ais` for the types in the files' names (Cargo, Tanker, …); `elaborated` for those of `Ship.xml`
            (Bulk Carrier, Container Ship, …), where ships without one are `other`.
        polarisations: Which to read, of `vv`, `vh`, `hh` and `hv`.
        val: Fraction of each class for validation; None for none.
        test: Fraction of each class for testing; None for none.
        other_below: Types with fewer test images than that become `other`.
        split_seed: Of the draw of both.
        crop: Side in px of the square cut from the centre, where the ship is, mirrored outwards; chips are as large as
            their ships demand. None for all of it.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of OpenSARShip, or its files contradict each other.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        types: Literal["ais", "elaborated"],
        polarisations: Sequence[str],
        val: float | None,
        test: float | None,
        other_below: int,
        split_seed: int,
        crop: int | None,
        channels: int,
    ) -> None:
        place = locate(root, "OpenSARShip", ["*/Ship.xml", "*/Patch_Uint8"], SCENE)
        scenes = [scene for scene in (place, *children(place)) if matches(scene, SCENE[0])]
        found = [one for scene in scenes for one in _chips(place, scene, types, polarisations)]
        rare = rare_classes(tested(found, test or 0), other_below)
        super().__init__(
            place,
            split_off(rename(found, dict.fromkeys(rare, OTHER)), {"val": val, "test": test}, split_seed),
            channels=channels,
            crop=crop,
        )


def _chips(place: Path, scene: Path, types: str, polarisations: Sequence[str]) -> Iterator[Found]:
    """Find the chips of one scene."""
    ships = _ships(scene / "Ship.xml")
    for image in (image for folder in matches(scene, SCENE[1]) for image in images_in(folder)):
        named = NAME.fullmatch(image.stem)
        if named is None:
            raise UserError(f"{image}: expected a name such as Visual_Cargo_x224_y5691_vv.tif")
        if named["polarisation"].lower() not in polarisations:
            continue
        at = int(named["x"]), int(named["y"])
        if at not in ships:
            raise UserError(f"{image}: no ship with its centre at {at} in {scene / 'Ship.xml'}")
        mmsi, elaborated = ships[at]
        name = snake_case(elaborated if types == "elaborated" else named["type"])
        name = OTHER if name in (*UNKNOWN, "other_type") else re.sub(r"\W+", "_", name)
        group = f"mmsi {mmsi}" if mmsi.strip("0") else f"{scene.name} {at}"
        yield Found(image.relative_to(place).as_posix(), name, "train", group=group)


def _ships(file: Path) -> dict[tuple[int, int], tuple[str, str]]:
    r"""Read MMSI and elaborated type of each ship, by its centre in px.

    The files end with `<\ShipList>`, and have names of ships with a bare `&`: no XML in the strict sense.
    """
    text = file.read_text(encoding="utf-8", errors="replace").replace("<\\", "</")
    text = re.sub(r"&(?!\w+;|#)", "&amp;", text)
    try:
        ships = ElementTree.fromstring(text.encode()).iter("ship")
        return {
            (round(float(ship.findtext(".//Center_x", ""))), round(float(ship.findtext(".//Center_y", "")))): (
                (ship.findtext(".//MMSI") or "").strip(),
                (ship.findtext(".//Elaborated_type") or "").strip(),
            )
            for ship in ships
        }
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file}: expected a list of ships with Center_x and Center_y ({error})") from error
