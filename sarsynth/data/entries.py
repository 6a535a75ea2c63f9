"""What a reader lists: images by class name, before classes have numbers, and how such lists change. Torch-free."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor

from sarsynth.data.chips import Window
from sarsynth.data.records import Draw, ImageRecord, Instance, Split, draw_splits
from sarsynth.errors import UserError

OTHER = "other"  # what rare classes become


@dataclass(frozen=True)
class Entry:
    """One image of a data set."""

    file: str  # relative to the data set's folder, with forward slashes
    class_name: str
    split: Split
    text: str | None = None  # its caption
    instances: tuple[Instance, ...] = ()  # the objects in it, in px of what is read
    group: str | None = None  # what it shares with other images, such as a scene or a ship
    window: Window | None = None  # the part of the file that is read; None for all of it
    number: int = 0  # which part of the file this is, for its name
    drawn: Draw | None = None  # how its split is drawn; None where the data set gives it
    gsd: float | None = None  # metres a pixel, if that is known

    @property
    def path(self) -> str:
        """Its name within the source: that of the file, and `#number` behind it for a part of one."""
        return self.file if self.window is None else f"{self.file}#{self.number:04d}"


@dataclass(frozen=True)
class Seen:
    """What a reader came across, beside the images that it lists, and how it took what has two readings."""

    passed_over: dict[str, list[str]] = field(default_factory=dict)  # files, relative to the folder, by the reason
    remarks: list[str] = field(default_factory=list)

    def pass_over(self, reason: str, file: str) -> None:
        """Note a file, or an object of one, that is not read."""
        self.passed_over.setdefault(reason, []).append(file)

    def take_back(self, files: Container[str]) -> None:
        """Forget files that are read after all."""
        for reason, passed in list(self.passed_over.items()):
            self.passed_over[reason] = [file for file in passed if file not in files]
            if not self.passed_over[reason]:
                del self.passed_over[reason]

    def remark(self, text: str) -> None:
        """Note, once, how something was taken."""
        if text not in self.remarks:
            self.remarks.append(text)


def split_off(entries: Iterable[Entry], shares: Mapping[Split, float | None], seed: int) -> list[Entry]:
    """Move shares of every training class to other splits, whole groups at a time; None leaves a split as it is.

    Raises:
        UserError: A fraction is out of range or gives no image, or a class has too few images to give any away.
    """
    entries = list(entries)
    fractions = {split: share for split, share in shares.items() if share is not None}
    for split, share in fractions.items():
        if not 0 < share < 1:
            raise UserError(f"{split}={share:g}: a fraction must lie between 0 and 1")
    if sum(fractions.values()) >= 1:
        raise UserError("val and test leave no training images: lower the fractions")
    if not fractions:
        return entries
    counts = class_counts(entries, "train")
    names, largest = sorted(counts), max(counts.values(), default=0)
    for split, share in fractions.items():
        if share * largest < 0.5:
            raise UserError(
                f"{split}={share:g}: not half an image of any class, of which the largest has {largest} training "
                "images; raise it, or use null"
            )
    draws = {name: Draw(tuple(fractions.items()), seed, stratum) for stratum, name in enumerate(names)}
    entries = [replace(entry, drawn=draws[entry.class_name]) if entry.split == "train" else entry for entry in entries]
    records = [ImageRecord(entry.path, 0, entry.split, group=entry.group, drawn=entry.drawn) for entry in entries]
    entries = [replace(entry, split=record.split) for entry, record in zip(entries, draw_splits(records), strict=True)]
    for name in sorted(set(names) - class_counts(entries, "train").keys()):
        given = " and ".join(f"{split}={share:g}" for split, share in fractions.items())
        raise UserError(f"train: too few images of `{name}` to give {given} away; add some")
    return entries


def class_counts(entries: Iterable[Entry], split: Split) -> Counter[str]:
    """Count a split's images by class name."""
    return Counter(entry.class_name for entry in entries if entry.split == split)


def counts_in_test(entries: Sequence[Entry], share: float | None) -> Counter[str]:
    """Count the test images of each class, as if a share of its training images had been moved there."""
    train, test = (class_counts(entries, split) for split in ("train", "test"))
    return Counter({name: test[name] + floor((share or 0) * train[name] + 0.5) for name in train | test})


def rare_classes(counts: Mapping[str, int], least: int) -> dict[str, str]:
    """Rename classes with fewer test images than `least` to `other`, as the paper does; names for `rename`."""
    return {name: OTHER for name, count in counts.items() if count < least}


def rename(entries: Iterable[Entry], names: Mapping[str, str]) -> list[Entry]:
    """Give classes other names."""
    return [replace(entry, class_name=names.get(entry.class_name, entry.class_name)) for entry in entries]


def snake_case(name: str) -> str:
    """Write a name such as DiveVessel as dive_vessel."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", name.strip()).lower()
