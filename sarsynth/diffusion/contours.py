"""Contours that images follow: their extraction, which images may give one, which image gets which. Torch-free.

A contour is uint8 of shape (H, W), 255 on an edge and 0 elsewhere.
"""

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sarsynth.data.folders import check_file
from sarsynth.data.records import Box, Instance
from sarsynth.errors import UserError


def canny(image: np.ndarray, thresholds: tuple[float, float], blur: float) -> np.ndarray:
    """Find the edges of an image (Canny, doi:10.1109/TPAMI.1986.4767851, as OpenCV has it).

    Args:
        image: In 0..255, uint8 or float32, shape (H, W, 1 or 3); Canny sees whole grey levels.
        thresholds: Of the gradient (3 x 3 Sobel, L1 norm): edges begin at the upper one and go on down to the lower.
        blur: Standard deviation in px of a Gaussian filter before it, 0 for none: speckle has edges of its own.

    Returns:
        The contour, shape (H, W).
    """
    pixels = np.ascontiguousarray(image)
    if blur:
        pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
    return cv2.Canny(np.rint(pixels).astype(np.uint8), *thresholds)


def pack(contours: np.ndarray) -> np.ndarray:
    """Pack contours into one bit a pixel: (…, H, W) to uint8 (…, H, W / 8), W a multiple of 8."""
    return np.packbits(contours > 0, axis=-1)


def unpack(packed: np.ndarray) -> np.ndarray:
    """Undo `pack`: contours (…, H, W)."""
    return np.unpackbits(packed, axis=-1) * np.uint8(255)


def usable(instances: Sequence[Instance], frame: Box, *, max_instances: int, max_overlap: float) -> bool:
    """Whether an image's contour shows whole objects that can be told apart.

    Args:
        instances: The objects in it; an image without any counts as one whole object.
        frame: The part of the image that is used, px.
        max_instances: Objects; more are a crowd.
        max_overlap: Share of the smaller box that two of them may have in common; more is a crowd.
    """
    return (
        len(instances) <= max_instances
        and all(whole(instance, frame) for instance in instances)
        and all(overlap(first.box, second.box) <= max_overlap for first, second in combinations(instances, 2))
    )


def whole(instance: Instance, frame: Box) -> bool:
    """Whether an object keeps a pixel's distance from the border and is not marked truncated or difficult."""
    (x0, y0, x1, y1), (left, top, right, bottom) = instance.box, frame
    inside = left + 1 <= x0 and top + 1 <= y0 and x1 <= right - 1 and y1 <= bottom - 1
    return inside and not instance.truncated and not instance.difficult


def overlap(first: Box, second: Box) -> float:
    """Share of the smaller box's area that lies in the other, 0 to 1."""
    width, height = (min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1))
    smaller = min((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second))
    return max(0.0, width) * max(0.0, height) / smaller if smaller > 0 else 0.0


def assign(index: int, size: int, paired: int, seed: Sequence[int]) -> int:
    """Choose the contour of one image: each contour once in shuffled order, then each once more, and so on.

    So the numbers of images that two contours serve differ by one at most. The first round begins with contours
    0, 1, …, `paired` - 1 in their order.

    Args:
        index: Which image of its class.
        size: Contours of the class, at least 1.
        paired: Contours that belong to the first images.
        seed: Of the shuffling.

    Returns:
        Which contour, in [0, size).
    """
    turn, place = divmod(index, size)
    rng = np.random.default_rng([*seed, turn])
    if turn:
        return int(rng.permutation(size)[place])
    return place if place < paired else paired + int(rng.permutation(size - paired)[place - paired])


def check_reuse(images: Mapping[str, int], contours: Mapping[str, int], reuse_cap: int) -> None:
    """Refuse classes whose contours would have to serve more than `reuse_cap` images each.

    Args:
        images: Wanted of each class.
        contours: There are of each class.
        reuse_cap: Images a contour may serve.

    Raises:
        UserError: There are too few; names the keys.
    """
    for name, wanted in images.items():
        if not contours[name]:
            raise UserError(f"contours: none for class {name}; choose contours=real, or add some to contours.root")
        needed = -(-wanted // contours[name])
        if needed > reuse_cap:
            raise UserError(
                f"contours.reuse_cap={reuse_cap}: the {contours[name]} contours of class {name} cannot give {wanted} "
                f"images; raise it to {needed}, or lower generate.per_class"
            )


@dataclass(frozen=True)
class Maps:
    """Contour maps from a folder: by class name, their paths relative to it and the maps (K, H, W)."""

    paths: dict[str, list[str]]
    contours: dict[str, np.ndarray]
    turned: Sequence[str] = ()  # paths of those that were dark on white

    def without(self, paths: Container[str]) -> "Maps":
        """Leave some out."""
        kept = {name: [path not in paths for path in of_class] for name, of_class in self.paths.items()}
        left = {name: [p for p, keep in zip(self.paths[name], kept[name], strict=True) if keep] for name in kept}
        contours = {name: maps[np.array(kept[name], bool)] for name, maps in self.contours.items()}
        return Maps(left, contours, [path for path in self.turned if path not in paths])

    def fingerprint(self) -> str:
        """Hex digest of names and pixels."""
        content = hashlib.sha256(repr(self.paths).encode())
        for maps in self.contours.values():
            content.update(maps.tobytes())
        return content.hexdigest()


def read_maps(root: Path, classes: Sequence[str], image_size: int) -> Maps:
    """Read a folder of contour maps: PNGs in a folder per class; what is brighter than half is an edge.

    Edges are few: where more than half of a map is bright, it is dark on white, and is turned.

    Raises:
        UserError: There is no such folder, nothing in it for any class, or a file is no map of that size.
    """
    if not root.is_dir():
        raise UserError(f"contours.root={root}: no such folder")
    paths = {name: sorted((root / name).glob("*.png")) for name in classes}
    if not any(paths.values()):
        raise UserError(f"contours.root={root}: no PNG in a folder named after a class ({', '.join(classes)})")
    contours, turned = {}, []
    for name, files in paths.items():
        maps = []
        for file in files:
            drawn = _read_map(file, image_size)
            if np.mean(drawn > 0) > 0.5:
                drawn = 255 - drawn
                turned.append(file.relative_to(root).as_posix())
            maps.append(drawn)
        contours[name] = np.stack(maps) if maps else np.empty((0, image_size, image_size), np.uint8)
    names = {name: [file.relative_to(root).as_posix() for file in paths[name]] for name in classes}
    return Maps(names, contours, turned)


def _read_map(file: Path, image_size: int) -> np.ndarray:
    try:
        with Image.open(check_file(file)) as picture:
            pixels = np.asarray(picture.convert("L"))
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        raise UserError(f"{file}: cannot be read as an image ({error}); repair or remove it") from error
    if pixels.shape != (image_size, image_size):
        height, width = pixels.shape
        raise UserError(
            f"{file}: a contour map of {width} x {height} px, but base.image_size={image_size}; "
            f"draw it anew at that size, or set base.image_size"
        )
    return np.where(pixels > 127, np.uint8(255), np.uint8(0))
