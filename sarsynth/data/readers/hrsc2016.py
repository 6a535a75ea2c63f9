"""HRSC2016, ships in harbor images with turned boxes (doi:10.5220/0006120603240331)."""

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from sarsynth.data.chips import Cutting, Marked
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import annotated, locate, matches
from sarsynth.data.readers import voc
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, cut_scenes

LAYOUTS = [[f"{part}/AllImages", f"{part}/Annotations"] for part in ("FullDataSet", "Train")]


class Hrsc2016(FileSource):
    """Chips of HRSC2016, one for each ship.

    ```
    FullDataSet/
        AllImages/      100000006.bmp …
        Annotations/    100000006.xml …: centre, size and angle (radians) of each ship
    ImageSets/          train.txt, val.txt, test.txt: names without suffix; need not be there
    ```
    Or `Train/` and `Test/` in place of `FullDataSet/`, each with the same two folders. An image that no list names
    belongs to `test` if it lies in `Test/`, else to `train`.
    """

    def __init__(self, root: str | Path, *, size: int | None, margin: float, rotate: bool, channels: int) -> None:
        cutting = Cutting(size, margin, rotate)
        place = locate(root, "HRSC2016", *LAYOUTS)
        super().__init__(place, cut_scenes(place, _scenes(place), cutting), channels=channels)


def _scenes(place: Path) -> Iterator[Scene]:
    splits = voc.image_sets(place, "ImageSets")
    for part in ["FullDataSet"] if matches(place, "FullDataSet") else ["Train", "Test"]:
        unlisted: Split = "test" if part == "Test" else "train"
        for file, image in annotated(place, f"{part}/Annotations/*.xml", f"{part}/AllImages"):
            ships = tuple(_ship(element, file) for element in voc.read_xml(file).iter("HRSC_Object"))
            yield Scene(image, splits.get(file.stem.lower(), unlisted), file.stem, ships)


def _ship(element: ElementTree.Element, file: Path) -> Marked:
    x, y, width, height, angle = (voc.number(element, f"mbox_{key}", file) for key in ("cx", "cy", "w", "h", "ang"))
    cos, sin = math.cos(angle) / 2, math.sin(angle) / 2
    corners = tuple(
        (x + i * width * cos - j * height * sin, y + i * width * sin + j * height * cos)
        for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    )
    return voc.marked(element, "ship", corners)
