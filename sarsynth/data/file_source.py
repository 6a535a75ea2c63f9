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
from sarsynth.data.bands import Bands, check_bands
from sarsynth.data.chips import centre_crop
from sarsynth.data.class_names import check_name
from sarsynth.data.entries import Entry, Seen
from sarsynth.data.formats import format_version, open_image
from sarsynth.data.records import SPLITS, ImageRecord, Look, Split
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
        bands: Which bands of every file are read, from 1; `iq` for the amplitude of two; None where that is clear.
        seen: What the reader came across; complete when all entries have been listed.

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
        bands: Bands = None,
        seen: Seen | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"channels={channels}: use 1 (grey) or 3 (RGB)")
        if crop is not None and crop < 1:
            raise UserError(f"crop={crop}: use a side in pixels, or null for whole images")
        check_bands(bands, channels)
        self.root, self.channels, self.crop = root, channels, crop
        self.bands: Bands = tuple(bands) if isinstance(bands, list) else bands  # which a cache can take
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
            record = ImageRecord(e.path, labels[e.class_name], e.split, e.text, e.instances, e.group, e.drawn, e.gsd)
            self._records[e.split].append(record)
        self.seen = seen or Seen()
        self._fingerprint: str | None = None
        self._scene = lru_cache(maxsize=SCENES)(open_image)
        self._lock = Lock()  # one thread decodes a scene while the others, who want the same, wait

    def records(self, split: Split) -> list[ImageRecord]:
        """List a split's images, sorted by path."""
        return list(self._records[split])

    @property
    def files(self) -> set[str]:
        """The files that are read, relative to its folder."""
        return {entry.file for entry in self._entries.values()}

    def read(self, record: ImageRecord) -> np.ndarray:
        """Read one image, cut and cropped as the source says: uint8, uint16 or float32 (H, W, C), H = W = any `crop`.

        Raises:
            UserError: The file is damaged, gone, or of a form that has no obvious grey or RGB version.
        """
        return self.look(record).pixels

    def look(self, record: ImageRecord) -> Look:
        """Read one image, and say what it is without its crop and what was done to its pixels.

        Raises:
            UserError: As `read` does.
        """
        entry = self._entries[record.path]
        file = self.root / entry.file
        if entry.window is None:
            whole, notes = open_image(file, self.channels, self.bands)
        else:
            with self._lock:
                scene, notes = self._scene(file, self.channels, self.bands)
            whole = entry.window.cut(scene)
        return Look(whole if self.crop is None else centre_crop(whole, self.crop), whole, notes)

    def fingerprint(self) -> str:
        """Hex sha256 over each image's record, bytes and window, and classes, crop, channels and bands."""
        if self._fingerprint is None:
            # For a file that cannot be read, the reason stands in; once it can be, the fingerprint is another.
            contents = hashes.of_files(self.root, self.files, unreadable=lambda error: str(error.strerror))
            rows = []
            for record in sorted(record for split in SPLITS for record in self._records[split]):
                entry = self._entries[record.path]
                version = [version] if (version := format_version(entry.file)) > 1 else []
                window = entry.window and astuple(entry.window)
                rows.append((*record.plain, window, contents[entry.file], *version))
            chosen = [self.bands] if self.bands else []
            whole = json.dumps([self.classes, self.crop, self.channels, rows, *chosen])
            self._fingerprint = hashlib.sha256(whole.encode()).hexdigest()
        return self._fingerprint
