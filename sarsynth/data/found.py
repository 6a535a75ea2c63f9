"""What a reader found: images before they have labels, and what is done to lists of them. Torch-free."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import floor

from sarsynth.data.chips import Window
from sarsynth.data.records import Draw, ImageRecord, Instance, Split, draw_splits
from sarsynth.errors import UserError

OTHER = "other"  # what rare classes become


@dataclass(frozen=True)
class Found:
    """One image that a reader found.

    Attributes:
        file: Relative to the root, with forward slashes.
        class_name: What it shows.
        split: Which it belongs to.
        text: Its caption.
        instances: The objects in it, in px of what is read.
        group: What it shares with other images.
        window: The part of the file that is read; None for all of it.
        number: Which part of the file this is, for its name.
        drawn: How we chose its split; None where the data set says which.
    """

    file: str
    class_name: str
    split: Split
    text: str | None = None
    instances: tuple[Instance, ...] = ()
    group: str | None = None
    window: Window | None = None
    number: int = 0
    drawn: Draw | None = None

    @property
    def path(self) -> str:
        """Its name within the source: that of the file, and `#number` behind it for a part of one."""
        return self.file if self.window is None else f"{self.file}#{self.number:04d}"


def split_off(found: Iterable[Found], shares: Mapping[Split, float | None], seed: int) -> list[Found]:
    """Move fractions of every training class to other splits, whole groups at a time.

    Args:
        found: Images; those that are not in `train` stay as they are.
        shares: Share of the training images for each other split; None for a split as it is.
        seed: Of the draw.

    Raises:
        UserError: A fraction is out of range, or a class has too few images to give any away.
    """
    fractions = {split: share for split, share in shares.items() if share is not None}
    for split, share in fractions.items():
        if not 0 < share < 1:
            raise UserError(f"{split}={share:g}: a fraction must lie between 0 and 1")
    if sum(fractions.values()) >= 1:
        raise UserError("val and test leave no training images: lower the fractions")
    if not fractions:
        return list(found)
    found = list(found)
    names = sorted({one.class_name for one in found if one.split == "train"})
    draws = {name: Draw(tuple(fractions.items()), seed, stratum) for stratum, name in enumerate(names)}
    found = [replace(one, drawn=draws[one.class_name]) if one.split == "train" else one for one in found]
    records = [ImageRecord(one.path, 0, one.split, group=one.group, drawn=one.drawn) for one in found]
    found = [replace(one, split=record.split) for one, record in zip(found, draw_splits(records), strict=True)]
    left = {one.class_name for one in found if one.split == "train"}
    for name in names:
        if name not in left:
            given = " and ".join(f"{split}={share:g}" for split, share in fractions.items())
            raise UserError(f"train: too few images of `{name}` to give {given} away; add some")
    return found


def snake_case(name: str) -> str:
    """Write a name such as DiveVessel as dive_vessel."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", name.strip()).lower()


def tested(found: Iterable[Found], share: float) -> Counter[str]:
    """Count the test images of each class if that share of the training images becomes some."""
    found = list(found)
    train = Counter(one.class_name for one in found if one.split == "train")
    test = Counter(one.class_name for one in found if one.split == "test")
    return Counter({name: test[name] + floor(share * train[name] + 0.5) for name in train | test})


def rare_classes(counts: Mapping[str, int], least: int) -> set[str]:
    """Name the classes with fewer test images than `least`: the paper's rule of what becomes `other`."""
    return {name for name, count in counts.items() if count < least}


def rename(found: Iterable[Found], names: Mapping[str, str]) -> list[Found]:
    """Give classes other names."""
    return [replace(one, class_name=names.get(one.class_name, one.class_name)) for one in found]
