"""ShipRSImageNet, ships of fifty types in aerial images (doi:10.1109/JSTARS.2021.3104230), in either of its forms."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from sarsynth.data.chips import Cutting, Marked, rectangle
from sarsynth.data.folders import files_in, images_in, locate, matches
from sarsynth.data.found import snake_case
from sarsynth.data.image_files import Files
from sarsynth.data.readers import voc
from sarsynth.data.records import SPLITS, Split
from sarsynth.data.scenes import Scene, chips, whole
from sarsynth.errors import UserError

# By level; an object's number counts them from 1. Level 3 is named in the annotations themselves.
NAMES = {
    0: ["Ship", "Dock"],
    1: ["Other Ship", "Warship", "Merchant", "Dock"],
    2: [
        "Other Ship",
        "Other Warship",
        "Submarine",
        "Aircraft Carrier",
        "Cruiser",
        "Destroyer",
        "Frigate",
        "Patrol",
        "Landing",
        "Commander",
        "Auxiliary Ships",
        "Other Merchant",
        "Container Ship",
        "RoRo",
        "Cargo",
        "Barge",
        "Tugboat",
        "Ferry",
        "Yacht",
        "Sailboat",
        "Fishing Vessel",
        "Oil Tanker",
        "Hovercraft",
        "Motorboat",
        "Dock",
    ],
}


class ShipRSImageNet(Files):
    """Ships of ShipRSImageNet at one level of its tree of types: a patch for each, or whole images.

    ```
    VOC_Format/
        JPEGImages/     000001.bmp …
        Annotations/    000001.xml …: name, level_0 … level_3, polygon, bndbox of each object
        ImageSets/      train.txt, val.txt, test.txt: names of images
    COCO_Format/        ShipRSImageNet_bbox_{train,val,test}_level_{0..3}.json
    ```
    The images are those of `VOC_Format/` in both forms. Images without annotations, as the test images of the COCO
    form are, are passed over.

    Args:
        root: The archive's folder.
        form: `voc` or `coco`: which annotations to read.
        level: 0 (ship or dock) to 3 (fifty types).
        names: Our names for some of theirs, each with a list of theirs; the others keep their own, in snake case.
        cut: `objects` for a patch around each object, `images` for whole images of the class of their largest object.
        size: Side of each patch in px; None fits it to its object.
        margin: Share of the object's longer side around it, where fitted.
        rotate: Turn each patch so that its object lies along the rows.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of ShipRSImageNet, or an annotation is of another form.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        form: Literal["voc", "coco"],
        level: int,
        names: Mapping[str, Sequence[str]],
        cut: Literal["objects", "images"],
        size: int | None,
        margin: float,
        rotate: bool,
        channels: int,
    ) -> None:
        if level not in range(4):
            raise UserError(f"level={level}: use 0 (ship or dock), 1, 2 or 3 (fifty types)")
        cutting = Cutting(size, margin, rotate)
        annotations = {"voc": ["VOC_Format/Annotations", "VOC_Format/ImageSets"], "coco": ["COCO_Format/*.json"]}
        place = locate(root, f"ShipRSImageNet ({form})", ["VOC_Format/JPEGImages", *annotations[form]])
        images = {path.stem: path for at in matches(place, "VOC_Format/JPEGImages") for path in images_in(at)}
        ours = {theirs: name for name, several in names.items() for theirs in several}
        scenes = [
            Scene(
                _image(images, stem, place),
                split,
                stem,
                tuple(replace(one, class_name=ours.get(one.class_name, snake_case(one.class_name))) for one in objects),
            )
            for stem, split, objects in (_voc(place, level) if form == "voc" else _coco(place, level))
            if objects
        ]
        found = chips(place, scenes, cutting) if cut == "objects" else whole(place, scenes)
        super().__init__(place, found, channels=channels)


Annotated = tuple[str, Split, list[Marked]]  # an image's stem, its split, and its objects under their own names


def _image(images: Mapping[str, Path], stem: str, place: Path) -> str:
    if stem not in images:
        raise UserError(f"{place}: no image {stem}.bmp in VOC_Format/JPEGImages, but annotations; add it")
    return images[stem].relative_to(place).as_posix()


def _voc(place: Path, level: int) -> Iterator[Annotated]:
    (folder, *_) = matches(place, "VOC_Format/ImageSets")
    sets = voc.image_sets(folder)
    for file in (file for folder in matches(place, "VOC_Format/Annotations") for file in files_in(folder, ".xml")):
        if file.stem.lower() in sets:
            objects = [
                Marked(
                    _name(one, level, file),
                    voc.corners(one, file),
                    voc.flag(one, "truncated"),
                    voc.flag(one, "difficult"),
                )
                for one in voc.objects(file)
            ]
            yield file.stem, sets[file.stem.lower()], objects


def _name(one: ElementTree.Element, level: int, file: Path) -> str:
    if level == 3:
        return voc.word(one, "name", file)
    number = voc.number(one, f"level_{level}", file)
    if number not in range(1, len(NAMES[level]) + 1):
        raise UserError(f"{file}: level_{level}={number:g} is none of 1 to {len(NAMES[level])}")
    return NAMES[level][int(number) - 1]


def _coco(place: Path, level: int) -> Iterator[Annotated]:
    for split in SPLITS:
        for file in matches(place, f"COCO_Format/*_{split}_level_{level}.json"):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                names = {category["id"]: category["name"] for category in content["categories"]}
                objects: dict[Any, list[Marked]] = defaultdict(list)
                for one in content.get("annotations", []):
                    objects[one["image_id"]].append(Marked(names[one["category_id"]], _corners(one)))
                stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}: not COCO's form of annotations ({type(error).__name__}: {error})") from error
            yield from ((stem, split, objects[key]) for key, stem in stems.items())


def _corners(one: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """Take the turned box if there is one: eight numbers, in a list of their own or not."""
    outline = one.get("segmentation") or []
    if isinstance(outline, list) and len(outline) == 1:
        outline = outline[0]
    if isinstance(outline, list) and len(outline) == 8:
        return tuple((float(x), float(y)) for x, y in zip(outline[::2], outline[1::2], strict=True))
    x, y, width, height = one["bbox"]
    return rectangle(x, y, x + width, y + height)
