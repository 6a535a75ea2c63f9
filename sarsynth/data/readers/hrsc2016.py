"""HRSC2016, ships in harbor images with turned boxes (doi:10.5220/0006120603240331)."""

from collections.abc import Iterator
from pathlib import Path

from sarsynth.data.chips import Cutting, Marked
from sarsynth.data.entries import Seen
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import annotated, locate, matches
from sarsynth.data.readers import voc
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, cut_scenes
from sarsynth.errors import UserError

OWN = ("cx", "cy", "w", "h", "ang")  # ends of the tags of a box
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
    belongs to `test` if it lies in `Test/`, else to `train`. HRSC2016-MS, whose annotations have VOC's tags and a
    `robndbox` (centre, size and angle), is read too.
    """

    def __init__(self, root: str | Path, *, size: int | None, margin: float, rotate: bool, channels: int) -> None:
        cutting = Cutting(size, margin, rotate)
        place = locate(root, "HRSC2016", *LAYOUTS)
        scenes, seen = list(_scenes(place)), Seen()
        if not any(scene.objects for scene in scenes):
            (file, *_) = [file for layout in LAYOUTS for file in matches(place, f"{layout[1]}/*.xml")] or [place]
            raise UserError(
                f"{file}: no ship in any of {len(scenes)} annotation files such as this: expected <HRSC_Object> with "
                "<mbox_cx>, or <object> with <robndbox> or <bndbox>"
            )
        super().__init__(place, cut_scenes(place, scenes, cutting, seen), channels=channels, seen=seen)


def _scenes(place: Path) -> Iterator[Scene]:
    splits = voc.image_sets(place, "ImageSets")
    for part in ["FullDataSet"] if matches(place, "FullDataSet") else ["Train", "Test"]:
        unlisted: Split = "test" if part == "Test" else "train"
        for file, image in annotated(place, f"{part}/Annotations/*.xml", f"{part}/AllImages"):
            yield Scene(image, splits.get(file.stem.lower(), unlisted), file.stem, _ships(file))


def _ships(file: Path) -> tuple[Marked, ...]:
    """Read the ships of an annotation file in either form; their types are not told apart."""
    root = voc.read_xml(file)
    own = [
        voc.marked(element, "ship", voc.turned(element, file, *(f"mbox_{key}" for key in OWN)))
        for element in root.iter("HRSC_Object")
    ]
    return (*own, *(voc.marked(element, "ship", voc.corners(element, file)) for element in root.iter("object")))
