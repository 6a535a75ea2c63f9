"""Scenes in which objects are marked, and the images that readers make of them. Torch-free."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from sarsynth.data.chips import Cutting, Marked, Window, has_area, instances
from sarsynth.data.entries import Entry, Seen
from sarsynth.data.formats import image_size
from sarsynth.data.records import Split
from sarsynth.errors import UserError


@dataclass(frozen=True)
class Scene:
    """An image file, relative to the data set's folder, with the objects marked in it."""

    file: str
    split: Split
    group: str
    objects: tuple[Marked, ...]


def only(scenes: Iterable[Scene], categories: Sequence[str]) -> list[Scene]:
    """Keep the objects of some categories alone.

    Raises:
        UserError: There are none; says which there are.
    """
    scenes = list(scenes)
    kept = [replace(scene, objects=tuple(o for o in scene.objects if o.class_name in categories)) for scene in scenes]
    if not any(scene.objects for scene in kept):
        names = sorted({marked.class_name for scene in scenes for marked in scene.objects})
        raise UserError(
            f"categories={list(categories)}: no such object in {len(scenes)} annotated images; "
            f"found {', '.join(names) or 'nothing'}"
        )
    return kept


def cut_scenes(
    place: Path, scenes: Iterable[Scene], cutting: Cutting | None, seen: Seen | None = None
) -> Iterator[Entry]:
    """Cut a chip for every object of every scene, or take scenes as they are; those of one scene are one group.

    Objects that lie outside their scene altogether or have no area, as some published ones do, are left out, and so are
    scenes without objects; `seen` is told. A scene that cannot be opened is listed as one image: reading it says why it
    is bad. Without `cutting`, scenes are taken whole, each with the class of its largest object.
    """
    seen = seen or Seen()
    for scene in scenes:
        if not scene.objects:
            seen.pass_over("images without an object of any class", scene.file)
            continue
        size = image_size(place / scene.file)
        if size is None:
            yield Entry(scene.file, scene.objects[0].class_name, scene.split, group=scene.group)
            continue
        if cutting:
            views = _chips(scene.objects, cutting, *size)
            for _ in range(len(scene.objects) - len(views)):
                seen.pass_over("objects outside their image, or without area", scene.file)
        else:
            areas = [cv2.contourArea(np.array(marked.corners, dtype=np.float32)) for marked in scene.objects]
            views = [(int(np.argmax(areas)), None)]
        for (number, window), shown in zip(views, instances(scene.objects, views, *size), strict=True):
            name = scene.objects[number].class_name
            yield Entry(scene.file, name, scene.split, None, shown, scene.group, window, number)


def _chips(objects: Sequence[Marked], cutting: Cutting, width: int, height: int) -> list[tuple[int, Window | None]]:
    """Place a chip on each object that has an area, and of which a part lies in the scene and none far from it."""
    views: list[tuple[int, Window | None]] = []
    for number, marked in enumerate(objects):
        xs, ys = zip(*marked.corners, strict=True)
        inside = all(
            max(values) > 0 and min(values) < length and min(values) > -length and max(values) < 2 * length
            for values, length in ((xs, width), (ys, height))
        )
        if inside and has_area(marked.corners):
            views.append((number, cutting.window(marked.corners, width, height)))
    return views
