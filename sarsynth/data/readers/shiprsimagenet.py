"""ShipRSImageNet, ships of fifty types in aerial images (doi:10.1109/JSTARS.2021.3104230), in either of its forms."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from sarsynth.data.chips import Cutting, Marked, Points, check_box, quadrangle, rectangle
from sarsynth.data.entries import Seen, snake_case
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import check_file, images_by_stem, locate, matches
from sarsynth.data.readers import voc
from sarsynth.data.records import SPLITS, Split
from sarsynth.data.scenes import Scene, cut_scenes
from sarsynth.errors import UserError

IMAGES = "VOC_Format/JPEGImages"
ANNOTATIONS = {"voc": ["VOC_Format/Annotations", "VOC_Format/ImageSets"], "coco": ["COCO_Format/*.json"]}

# By level; an object's number counts them from 1. Level 3 is named in the annotations themselves.
NAMES = {
    0: ["Ship", "Dock"],
    1: ["Other Ship", "Warship", "Merchant", "Dock"],
    2: [
        *("Other Ship", "Other Warship", "Submarine", "Aircraft Carrier", "Cruiser", "Destroyer", "Frigate", "Patrol"),
        *("Landing", "Commander", "Auxiliary Ships", "Other Merchant", "Container Ship", "RoRo", "Cargo", "Barge"),
        *("Tugboat", "Ferry", "Yacht", "Sailboat", "Fishing Vessel", "Oil Tanker", "Hovercraft", "Motorboat", "Dock"),
    ],
}

Annotated = tuple[str, Split, list[Marked]]  # an image's stem, its split, and its objects under their own names


class ShipRSImageNet(FileSource):
    """Ships of ShipRSImageNet at one level of its tree of types: a chip for each, or whole images.

    ```
    VOC_Format/
        JPEGImages/     000001.bmp …
        Annotations/    000001.xml …: name, level_0 … level_3, polygon, bndbox of each object
        ImageSets/      train.txt, val.txt, test.txt: names of images
    COCO_Format/        ShipRSImageNet_bbox_{train,val,test}_level_{0..3}.json
    ```
    The images are those of `VOC_Format/` in both forms. Images without annotations, as the test images of the COCO
    form are, are left out.

    Args:
        form: `voc` or `coco`: which annotations to read.
        level: 0 (ship or dock) to 3 (fifty types).
        names: Our names for some of theirs, each with a list of theirs; the others keep their own, in snake case.
        cut: `objects` for a chip around each object, `images` for whole images of the class of their largest object.
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
        place = locate(root, f"ShipRSImageNet ({form})", [IMAGES, *ANNOTATIONS[form]])
        images = images_by_stem(place, IMAGES)
        renamed = {theirs: name for name, several in names.items() for theirs in several}
        scenes = []
        for stem, split, objects in _voc(place, level) if form == "voc" else _coco(place, level):
            if objects and stem not in images:
                raise UserError(f"{place}: no image {stem}.bmp in {IMAGES}, but annotations; add it")
            ships = [replace(o, class_name=renamed.get(o.class_name, snake_case(o.class_name))) for o in objects]
            scenes += [Scene(images[stem], split, stem, tuple(ships))] if stem in images else []
        if not any(scene.objects for scene in scenes):
            raise UserError(f"{place}: no object in any of its {len(scenes)} images; expected {ANNOTATIONS[form][0]}")
        chosen, seen = cutting if cut == "objects" else None, Seen()
        super().__init__(place, cut_scenes(place, scenes, chosen, seen), channels=channels, seen=seen)


def _voc(place: Path, level: int) -> Iterator[Annotated]:
    splits = voc.image_sets(place, "VOC_Format/ImageSets")
    for file in matches(place, "VOC_Format/Annotations/*.xml"):
        if file.stem.lower() in splits:
            elements = voc.read_xml(file).iter("object")
            objects = [voc.marked(e, _name(e, level, file), voc.corners(e, file)) for e in elements]
            yield file.stem, splits[file.stem.lower()], objects


def _name(element: ElementTree.Element, level: int, file: Path) -> str:
    if level == 3:
        return voc.word(element, "name", file)
    number = voc.number(element, f"level_{level}", file)
    if number not in range(1, len(NAMES[level]) + 1):
        raise UserError(f"{file}: level_{level}={number:g} is none of 1 to {len(NAMES[level])}")
    return NAMES[level][int(number) - 1]


def _coco(place: Path, level: int) -> Iterator[Annotated]:
    for split in SPLITS:
        for file in matches(place, f"COCO_Format/*_{split}_level_{level}.json"):
            try:
                content = json.loads(check_file(file).read_text(encoding="utf-8"))
                names = {category["id"]: category["name"] for category in content["categories"]}
                objects: dict[Any, list[Marked]] = defaultdict(list)
                for annotation in content.get("annotations", []):
                    marked = Marked(names[annotation["category_id"]], _corners(annotation, file))
                    objects[annotation["image_id"]].append(marked)
                stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}: not COCO's form of annotations ({type(error).__name__}: {error})") from error
            yield from ((stem, split, objects[key]) for key, stem in stems.items())


def _corners(annotation: Mapping[str, Any], file: Path) -> Points:
    """Take the turned box if there is one: eight numbers, in a list of their own or not."""
    outline = annotation.get("segmentation") or []
    if isinstance(outline, list) and len(outline) == 1:
        outline = outline[0]
    if isinstance(outline, list) and len(outline) == 8:
        return check_box(quadrangle([float(number) for number in outline]), str(file))
    x, y, width, height = annotation["bbox"]
    return check_box(rectangle(x, y, x + width, y + height), str(file))
