"""Images in files below a folder, as readers find them: their records, their pixels, their fingerprint. Torch-free."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from sarsynth import hashes
from sarsynth.data.formats import open_image
from sarsynth.data.found import Found
from sarsynth.data.records import SPLITS, ImageRecord, Split
from sarsynth.errors import UserError

SCENES = 2  # kept in memory while chips are cut from them


class Files:
    """A source of images that lie in files below one folder. A reader finds them; this reads them.

    Args:
        root: The folder that the files' names start from.
        found: The images.
        channels: 1 (grey) or 3 (RGB) of the images that `read` returns.
        crop: Side in px of the square cut from the centre of every image, mirrored outwards where the image is smaller;
            None for the whole image.
        classes: Names in the order of their labels; None for those found, sorted.

    Raises:
        UserError: An argument is out of range, there are no images, or two have one name.
    """

    def __init__(
        self,
        root: Path,
        found: Iterable[Found],
        *,
        channels: int,
        crop: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"channels={channels}: use 1 (grey) or 3 (RGB)")
        if crop is not None and crop < 1:
            raise UserError(f"crop={crop}: use a side in pixels, or null for whole images")
        self.root, self.channels, self.crop = root, channels, crop
        found = sorted(found, key=lambda one: one.path)
        if not found:
            raise UserError(f"root={root}: no image of any class there")
        self._found = {one.path: one for one in found}
        if len(self._found) < len(found):
            twice = next(path for path, count in Counter(one.path for one in found).items() if count > 1)
            raise UserError(f"{root / twice}: listed twice; remove one of its entries")
        self.classes = list(classes or sorted({one.class_name for one in found}))
        labels = {name: label for label, name in enumerate(self.classes)}
        self._records: dict[Split, list[ImageRecord]] = {split: [] for split in SPLITS}
        for one in found:
            record = ImageRecord(
                one.path, labels[one.class_name], one.split, one.text, one.instances, one.group, one.drawn
            )
            self._records[one.split].append(record)
        self._fingerprint: str | None = None
        self._scene = lru_cache(maxsize=SCENES)(self._open)
        self._lock = Lock()  # one thread decodes a scene while the others, who want the same, wait

    def records(self, split: Split) -> list[ImageRecord]:
        """List a split's images, sorted by path."""
        return list(self._records[split])

    def read(self, record: ImageRecord) -> np.ndarray:
        """Read one image, cut and cropped as the source says.

        Returns:
            uint8, uint16 or float32, shape (H, W, C), as `open_image` says; H = W = `crop` if there is one.

        Raises:
            UserError: The file is damaged, gone, or of a form that has no obvious grey or RGB version.
        """
        one = self._found[record.path]
        if one.window is None:
            pixels = self._open(one.file)
        else:
            with self._lock:
                scene = self._scene(one.file)
            pixels = one.window.cut(scene)
        return pixels if self.crop is None else centre_crop(pixels, self.crop)

    def fingerprint(self) -> str:
        """Hex sha256 over each image's record, bytes and window, and classes, crop and channels."""
        if self._fingerprint is None:
            files = {one.file for one in self._found.values()}
            # A bad image, as who reads it will learn, has no content; one that can be read tomorrow is another.
            contents = hashes.of_files(self.root, files, unreadable=lambda error: str(error.strerror))
            rows = []
            for record in sorted(record for split in SPLITS for record in self._records[split]):
                one = self._found[record.path]
                rows.append((*record.plain, one.window and one.window.plain, contents[one.file]))
            whole = json.dumps([self.classes, self.crop, self.channels, rows])
            self._fingerprint = hashlib.sha256(whole.encode()).hexdigest()
        return self._fingerprint

    def _open(self, file: str) -> np.ndarray:
        return open_image(self.root / file, self.channels)


# --- Pixels -----------------------------------------------------------------------------------------------------------


def centre_crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """Cut the central square out of an image, mirrored outwards where the image ends.

    Args:
        pixels: Shape (H, W, C).
        side: Side of the square in px. Where side and image differ by an odd number, the cut lies half a pixel towards
            the upper left.

    Returns:
        Shape (side, side, C).
    """
    missing = [max(0, side - length) for length in pixels.shape[:2]]
    top, left = (max(0, crop_offset(length, side)) for length in pixels.shape[:2])
    pixels = np.pad(pixels, [(m // 2, m - m // 2) for m in missing] + [(0, 0)], mode="reflect")
    return pixels[top : top + side, left : left + side]


def crop_offset(length: int, side: int) -> int:
    """Where a central cut of `side` px begins; negative where the image is shorter and is filled up."""
    return (length - side) // 2 if length >= side else -((side - length) // 2)
