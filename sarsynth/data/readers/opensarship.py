"""OpenSARShip, Sentinel-1 chips matched with AIS (doi:10.1109/JSTARS.2017.2755672): a folder a scene."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from sarsynth.data.entries import OTHER, Entry, counts_in_test, rare_classes, rename, snake_case, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import check_file, children, images_in, locate, matches
from sarsynth.errors import UserError

SCENE = ("Ship.xml", "Patch_Uint8")
NAME = re.compile(r"Visual_(?P<type>.+)_x(?P<x>\d+)_y(?P<y>\d+)_(?P<polarisation>[vh]{2})", re.IGNORECASE)
UNKNOWN = ("na", "unspecified", "", "other_type")  # types that say nothing


class OpenSarShip(FileSource):
    """The 8-bit chips of OpenSARShip 1.0 or 2.0.

    ```
    S1A_IW_GRDH_…_2D00/                      a folder a scene, up to two folders deep; or one scene's folder
        Ship.xml                             centre, MMSI and types of each ship
        Patch_Uint8/
            Visual_Cargo_x224_y5691_vv.tif   type, centre and polarisation
    ```
    There are no splits of its own. All chips of one ship (one MMSI), of both polarisations and of every passage, are a
    group. Chips are as large as their ships demand, so one `crop` for all is wise.

    Args:
        types: `ais` for the types in the files' names (Cargo, Tanker, …); `elaborated` for those of `Ship.xml`
            (Bulk Carrier, Container Ship, …), where ships without one are `other`.
        polarisations: Which to read, of `vv`, `vh`, `hh` and `hv`.
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
        entries = [entry for scene in scenes for entry in _entries(place, scene, types, polarisations)]
        entries = rename(entries, rare_classes(counts_in_test(entries, test), other_below))
        entries = split_off(entries, {"val": val, "test": test}, split_seed)
        super().__init__(place, entries, channels=channels, crop=crop)


def _entries(place: Path, scene: Path, types: str, polarisations: Sequence[str]) -> Iterator[Entry]:
    """List the chips of one scene."""
    ships = _ships(scene / "Ship.xml")
    for image in (image for folder in matches(scene, SCENE[1]) for image in images_in(folder)):
        words = NAME.fullmatch(image.stem)
        if words is None:
            raise UserError(f"{image}: expected a name such as Visual_Cargo_x224_y5691_vv.tif")
        if words["polarisation"].lower() not in polarisations:
            continue
        centre = int(words["x"]), int(words["y"])
        if centre not in ships:
            raise UserError(f"{image}: no ship with its centre at {centre} in {scene / 'Ship.xml'}")
        mmsi, elaborated = ships[centre]
        name = snake_case(elaborated if types == "elaborated" else words["type"])
        name = OTHER if name in UNKNOWN else re.sub(r"\W+", "_", name)
        group = f"mmsi {mmsi}" if mmsi.strip("0") else f"{scene.name} {centre}"
        yield Entry(image.relative_to(place).as_posix(), name, "train", group=group)


def _ships(file: Path) -> dict[tuple[int, int], tuple[str, str]]:
    r"""Read MMSI and elaborated type of each ship, by its centre in px.

    The files end with `<\ShipList>`, and have names of ships with a bare `&`: no XML in the strict sense.
    """
    text = check_file(file).read_text(encoding="utf-8", errors="replace").replace("<\\", "</")
    text = re.sub(r"&(?!\w+;|#)", "&amp;", text)
    try:
        return {
            (round(float(ship.findtext(".//Center_x", ""))), round(float(ship.findtext(".//Center_y", "")))): (
                (ship.findtext(".//MMSI") or "").strip(),
                (ship.findtext(".//Elaborated_type") or "").strip(),
            )
            for ship in ElementTree.fromstring(text.encode()).iter("ship")
        }
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file}: expected a list of ships with Center_x and Center_y ({error})") from error
