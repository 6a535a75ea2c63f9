"""DIOR and DIOR-R, aerial images with upright and turned boxes (arXiv 1909.00133, 2110.01931)."""

from collections.abc import Iterator
from pathlib import Path

from sarsynth.data.chips import Cutting
from sarsynth.data.entries import Seen
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import annotated, locate, matches
from sarsynth.data.readers import voc
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, cut_scenes, only
from sarsynth.errors import UserError

BOXES = ("Annotations/Oriented Bounding Boxes", "Annotations/Horizontal Bounding Boxes", "Annotations")  # best first


class Dior(FileSource):
    """Chips of DIOR, one for each object of the chosen categories.

    ```
    JPEGImages-trainval/  JPEGImages-test/     00001.jpg …; or one folder JPEGImage*
    Annotations/
        Oriented Bounding Boxes/               00001.xml …: these if they are there (DIOR-R)
        Horizontal Bounding Boxes/             else these
    ImageSets/Main/                            train.txt, val.txt, test.txt; or Main/
    ```
    Images that no list names are test images if they lie in a folder of that name, else training images.
    """

    def __init__(
        self, root: str | Path, *, categories: list[str], size: int | None, margin: float, rotate: bool, channels: int
    ) -> None:
        cutting = Cutting(size, margin, rotate)
        place = locate(root, "DIOR", ["JPEGImage*", "Annotations"])
        seen = Seen()
        entries = cut_scenes(place, only(_scenes(place), categories), cutting, seen)
        super().__init__(place, entries, channels=channels, seen=seen)


def _scenes(place: Path) -> Iterator[Scene]:
    splits = voc.image_sets(place, "ImageSets/Main", "Main", "ImageSets")
    annotations = next((pattern for folder in BOXES if matches(place, pattern := f"{folder}/*.xml")), None)
    if annotations is None:
        raise UserError(f"{place}: expected XML files in {' or '.join(BOXES)}; found none")
    for file, image in annotated(place, annotations, "JPEGImage*", below=True):
        unlisted: Split = "test" if "test" in image.lower().rpartition("/")[0] else "train"
        objects = tuple(
            voc.marked(element, voc.word(element, "name", file).lower(), voc.corners(element, file))
            for element in voc.read_xml(file).iter("object")
        )
        yield Scene(image, splits.get(file.stem.lower(), unlisted), file.stem, objects)
