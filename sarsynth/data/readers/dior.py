"""DIOR and DIOR-R, aerial images with upright and turned boxes (arXiv 1909.00133, 2110.01931)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sarsynth.data.chips import Cutting, Marked
from sarsynth.data.folders import files_in, images_below, locate, matches
from sarsynth.data.image_files import Files
from sarsynth.data.readers import voc
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, chips, only
from sarsynth.errors import UserError

BOXES = ("Annotations/Oriented Bounding Boxes", "Annotations/Horizontal Bounding Boxes", "Annotations")  # best first
LISTS = ("ImageSets/Main", "Main", "ImageSets")


class Dior(Files):
    """Patches of DIOR, one for each object of the chosen categories.

    ```
    JPEGImages-trainval/  JPEGImages-test/     00001.jpg …; or one folder JPEGImage*
    Annotations/
        Oriented Bounding Boxes/               00001.xml …: these if they are there (DIOR-R)
        Horizontal Bounding Boxes/             else these
    ImageSets/Main/                            train.txt, val.txt, test.txt; or Main/
    ```
    Images that no list names are test images if they lie in a folder of that name, else training images.

    Args:
        root: The archive's folder.
        categories: Objects to cut patches for; the classes.
        size: Side of each patch in px; None fits it to its object.
        margin: Share of the object's longer side around it, where fitted.
        rotate: Turn each patch so that its object lies along the rows.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of DIOR, or an annotation is of another form.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        categories: Sequence[str],
        size: int | None,
        margin: float,
        rotate: bool,
        channels: int,
    ) -> None:
        cutting = Cutting(size, margin, rotate)
        place = locate(root, "DIOR", ["JPEGImage*", "Annotations"])
        super().__init__(place, chips(place, only(_scenes(place), categories), cutting), channels=channels)


def _scenes(place: Path) -> Iterator[Scene]:
    lists = [voc.image_sets(folder) for names in LISTS for folder in matches(place, names)]
    sets = {name: split for one in lists for name, split in one.items()}
    images = {path.stem: path for folder in matches(place, "JPEGImage*") for path in images_below(folder)}
    folders = [at for boxes in BOXES for at in matches(place, boxes)]
    files = next((found for folder in folders if (found := files_in(folder, ".xml"))), [])
    if not files:
        raise UserError(f"{place}: expected XML files in {' or '.join(BOXES)}; found none")
    for file in files:
        if file.stem not in images:
            raise UserError(f"{file}: no image {file.stem}.jpg in JPEGImages*; add it or remove the annotation")
        image = images[file.stem].relative_to(place).as_posix()
        unlisted: Split = "test" if "test" in image.lower().rpartition("/")[0] else "train"
        objects = tuple(
            Marked(
                voc.word(one, "name", file).lower(),
                voc.corners(one, file),
                voc.flag(one, "truncated"),
                voc.flag(one, "difficult"),
            )
            for one in voc.objects(file)
        )
        yield Scene(image, sets.get(file.stem.lower(), unlisted), file.stem, objects)
