"""Scenes in which objects are marked, and the chips that readers cut from them. Torch-free."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from sarsynth.data.chips import Cutting, Marked, instances
from sarsynth.data.formats import image_size
from sarsynth.data.found import Found
from sarsynth.data.records import Split
from sarsynth.errors import UserError


@dataclass(frozen=True)
class Scene:
    """An image file, relative to its root, with the objects that somebody marked in it."""

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
    kept = [replace(one, objects=tuple(o for o in one.objects if o.class_name in categories)) for one in scenes]
    if not any(one.objects for one in kept):
        there = sorted({marked.class_name for one in scenes for marked in one.objects})
        raise UserError(
            f"categories={list(categories)}: no such object in {len(scenes)} annotated images; "
            f"found {', '.join(there) or 'nothing'}"
        )
    return kept


def chips(root: Path, scenes: Iterable[Scene], cutting: Cutting) -> Iterator[Found]:
    """Cut a chip for every object of every scene; all that are cut from one scene are one group.

    An object that lies outside its scene altogether, as some published ones do, shows nothing and is passed over.

    A scene that cannot be opened is one image, which is bad.
    """
    for scene in scenes:
        if not scene.objects:
            continue
        size = image_size(root / scene.file)
        if size is None:
            yield _unseen(scene)
            continue
        width, height = size
        views = [
            (number, cutting.window(one.corners, width, height))
            for number, one in enumerate(scene.objects)
            if _overlaps(one, width, height)
        ]
        for (number, window), shown in zip(views, instances(scene.objects, views, width, height), strict=True):
            name = scene.objects[number].class_name
            yield Found(scene.file, name, scene.split, None, shown, scene.group, window, number)


def _unseen(scene: Scene) -> Found:
    """Stand for a scene that cannot be opened, and for all that is marked in it: reading it will say why."""
    return Found(scene.file, scene.objects[0].class_name, scene.split, group=scene.group)


def _overlaps(one: Marked, width: int, height: int) -> bool:
    """Whether any of an object's box lies in its scene."""
    xs, ys = zip(*one.corners, strict=True)
    return max(xs) > 0 and min(xs) < width and max(ys) > 0 and min(ys) < height


def whole(root: Path, scenes: Iterable[Scene]) -> Iterator[Found]:
    """Take every scene in which something is marked as it is, of the class of its largest object."""
    for scene in scenes:
        if not scene.objects:
            continue
        size = image_size(root / scene.file)
        if size is None:
            yield _unseen(scene)
            continue
        width, height = size
        areas = [cv2.contourArea(np.array(one.corners, dtype=np.float32)) for one in scene.objects]
        largest = int(np.argmax(areas))
        (shown,) = instances(scene.objects, [(largest, None)], width, height)
        yield Found(scene.file, scene.objects[largest].class_name, scene.split, instances=shown, group=scene.group)
