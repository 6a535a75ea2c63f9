"""A source of images in files below a folder: their records, their pixels, their fingerprint. Torch-free."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from sarsynth import hashes
from sarsynth.data.chips import centre_crop
from sarsynth.data.class_names import check_name
from sarsynth.data.entries import Entry
from sarsynth.data.formats import open_image
from sarsynth.data.records import SPLITS, ImageRecord, Split
from sarsynth.errors import UserError

SCENES = 2  # kept in memory while chips are cut from them


class FileSource:
    """A source of images in files below one folder. Every reader is one: it lists the images, this reads them.

    Args:
        root: The folder that the files' names start from.
        channels: 1 (grey) or 3 (RGB) of the images that `read` returns.
        crop: Side in px of the square cut from the centre of every image, mirrored outwards where the image is smaller;
            None for the whole image.
        classes: Names in the order of their labels; None for those of the images, sorted.

    Raises:
        UserError: An argument is out of range, there are no images, or two have one name.
    """

    def __init__(
        self,
        root: Path,
        entries: Iterable[Entry],
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
        entries = sorted(entries, key=lambda entry: entry.path)
        if not entries:
            raise UserError(f"root={root}: no image of any class there")
        self._entries = {entry.path: entry for entry in entries}
        if len(self._entries) < len(entries):
            twice, _ = Counter(entry.path for entry in entries).most_common(1)[0]
            raise UserError(f"{root / twice}: listed twice; remove one of its entries")
        for name, entry in {entry.class_name: entry for entry in entries}.items():
            check_name(name, str(root / entry.file))
        self.classes = list(classes or sorted({entry.class_name for entry in entries}))
        labels = {name: label for label, name in enumerate(self.classes)}
        self._records: dict[Split, list[ImageRecord]] = {split: [] for split in SPLITS}
        for e in entries:
            record = ImageRecord(e.path, labels[e.class_name], e.split, e.text, e.instances, e.group, e.drawn)
            self._records[e.split].append(record)
        self._fingerprint: str | None = None
        self._scene = lru_cache(maxsize=SCENES)(open_image)
        self._lock = Lock()  # one thread decodes a scene while the others, who want the same, wait

    def records(self, split: Split) -> list[ImageRecord]:
        """List a split's images, sorted by path."""
        return list(self._records[split])

    def read(self, record: ImageRecord) -> np.ndarray:
        """Read one image, cut and cropped as the source says: uint8, uint16 or float32 (H, W, C), H = W = any `crop`.

        Raises:
            UserError: The file is damaged, gone, or of a form that has no obvious grey or RGB version.
        """
        entry = self._entries[record.path]
        if entry.window is None:
            pixels = open_image(self.root / entry.file, self.channels)
        else:
            with self._lock:
                scene = self._scene(self.root / entry.file, self.channels)
            pixels = entry.window.cut(scene)
        return pixels if self.crop is None else centre_crop(pixels, self.crop)

    def fingerprint(self) -> str:
        """Hex sha256 over each image's record, bytes and window, and classes, crop and channels."""
        if self._fingerprint is None:
            files = {entry.file for entry in self._entries.values()}
            # For a file that cannot be read, the reason stands in; once it can be, the fingerprint is another.
            contents = hashes.of_files(self.root, files, unreadable=lambda error: str(error.strerror))
            rows = []
            for record in sorted(record for split in SPLITS for record in self._records[split]):
                entry = self._entries[record.path]
                rows.append((*record.plain, entry.window and astuple(entry.window), contents[entry.file]))
            whole = json.dumps([self.classes, self.crop, self.channels, rows])
            self._fingerprint = hashlib.sha256(whole.encode()).hexdigest()
        return self._fingerprint
