"""HRSC2016, ships in harbor images with turned boxes (doi:10.5220/0006120603240331)."""

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from sarsynth.data.chips import Cutting, Marked
from sarsynth.data.folders import files_in, images_in, locate, matches
from sarsynth.data.image_files import Files
from sarsynth.data.readers import voc
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, chips
from sarsynth.errors import UserError

SHIP = "ship"


class Hrsc2016(Files):
    """Patches of HRSC2016, one for each ship.

    ```
    FullDataSet/
        AllImages/      100000006.bmp …
        Annotations/    100000006.xml …: centre, size and angle (radians) of each ship
    ImageSets/          train.txt, val.txt, test.txt: names without suffix; need not be there
    ```
    Or `Train/` and `Test/` in place of `FullDataSet/`, each with the same two folders. An image that no list names
    belongs to `test` if it lies in `Test/`, else to `train`.

    Args:
        root: The archive's folder.
        size: Side of each patch in px; None fits it to its ship.
        margin: Share of the ship's longer side around it, where fitted.
        rotate: Turn each patch so that its ship lies along the rows.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of HRSC2016, or an annotation is of another form.
    """

    def __init__(self, root: str | Path, *, size: int | None, margin: float, rotate: bool, channels: int) -> None:
        cutting = Cutting(size, margin, rotate)
        place = locate(
            root,
            "HRSC2016",
            ["FullDataSet/AllImages", "FullDataSet/Annotations"],
            ["Train/AllImages", "Train/Annotations"],
        )
        super().__init__(place, chips(place, _scenes(place), cutting), channels=channels)


def _scenes(place: Path) -> Iterator[Scene]:
    sets = {name: split for folder in matches(place, "ImageSets") for name, split in voc.image_sets(folder).items()}
    parts = matches(place, "FullDataSet") or [*matches(place, "Train"), *matches(place, "Test")]
    for part in parts:
        images = {path.stem: path for folder in matches(part, "AllImages") for path in images_in(folder)}
        for file in (file for folder in matches(part, "Annotations") for file in files_in(folder, ".xml")):
            if file.stem not in images:
                raise UserError(
                    f"{file}: no image {file.stem}.bmp in {part.name}/AllImages; add it or remove the annotation"
                )
            unlisted: Split = "test" if part.name.lower() == "test" else "train"
            ships = tuple(_ship(one, file) for one in voc.read_xml(file).iter("HRSC_Object"))
            image = images[file.stem].relative_to(place).as_posix()
            yield Scene(image, sets.get(file.stem.lower(), unlisted), file.stem, ships)


def _ship(one: ElementTree.Element, file: Path) -> Marked:
    x, y, width, height, angle = (voc.number(one, f"mbox_{key}", file) for key in ("cx", "cy", "w", "h", "ang"))
    cos, sin = math.cos(angle) / 2, math.sin(angle) / 2
    corners = tuple(
        (x + i * width * cos - j * height * sin, y + i * width * sin + j * height * cos)
        for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    )
    return Marked(SHIP, corners, voc.flag(one, "truncated"), voc.flag(one, "difficult"))
