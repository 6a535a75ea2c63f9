"""A source as a study uses it: without bad images, and with near-duplicates in one group. Torch-free."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from sarsynth.data.records import SPLITS, ImageRecord, Source, Split, digest, draw_splits
from sarsynth.errors import UserError


@dataclass(frozen=True)
class Pair:
    """Two images of one set that show one picture, and how well they agree: 1 for the same pixels."""

    one: ImageRecord
    other: ImageRecord
    agreement: float

    @property
    def crosses(self) -> bool:
        """Whether they lie in two splits."""
        return self.one.split != self.other.split


class Curated:
    """A source without some of its images, and with other groups.

    Splits that the data set gives stay as they are. Those that are drawn are drawn again if they part a group.

    Args:
        bad: Names of the images to leave out.
        groups: By name, the groups of images that are in another group than their source says.

    Raises:
        UserError: The groups leave a class without training images.
    """

    def __init__(self, source: Source, bad: Collection[str], groups: Mapping[str, str]) -> None:
        self._source = source
        self.classes, self.channels = source.classes, source.channels
        listed = [record for split in SPLITS for record in source.records(split)]
        records = [replace(record, group=groups.get(record.path, record.group)) for record in listed]
        homes = {(record.group, record.split) for record in records if record.drawn and record.group is not None}
        if len(homes) > len({group for group, _ in homes}):  # a group lies in several of the splits that were drawn
            trained = {record.label for record in records if record.split == "train"}
            records = sorted(draw_splits(records))
            for label in sorted(trained - {record.label for record in records if record.split == "train"}):
                raise UserError(
                    f"near_bits: joined with near-duplicates, all images of `{self.classes[label]}` are held out; "
                    "lower it, or give splits of your own"
                )
        self._records: dict[Split, list[ImageRecord]] = {split: [] for split in SPLITS}
        self.emptied: dict[Split, dict[str, str]] = {}  # by split, classes of which it has lost all, and one of these
        for record in records:
            if record.path not in bad:
                self._records[record.split].append(record)
            else:
                self.emptied.setdefault(record.split, {}).setdefault(self.classes[record.label], record.path)
        for split, left in self._records.items():
            for record in left:
                self.emptied.get(split, {}).pop(self.classes[record.label], None)
        self.emptied = {split: names for split, names in self.emptied.items() if names}

    def records(self, split: Split) -> list[ImageRecord]:
        """List the good images of a split, in the source's order."""
        return list(self._records[split])

    def read(self, record: ImageRecord) -> np.ndarray:
        """Read one image as the source does."""
        return self._source.read(record)

    def fingerprint(self) -> str:
        """Hex sha256 of the source's and of which images are left, in which splits and groups."""
        left = digest(record for split in SPLITS for record in self._records[split])
        return hashlib.sha256(f"{self._source.fingerprint()} {left}".encode()).hexdigest()
