"""What is known about an image before it is opened, and how lists of images are split. Torch-free.

A data set is a `Source`: it lists the `ImageRecord`s of a split, and reads one when asked. Whatever chooses images
(minor classes, the stratified tenth, held-out parts) works on records alone, and opens no file.
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from sarsynth.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

MINOR_SHARE = 0.2  # the paper's rule: a class is minor if it holds at most this share of the training images

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in px; x1 and y1 are where the next pixel begins


@dataclass(frozen=True, order=True, slots=True)
class Instance:
    """One object in an image, as its annotator marked it."""

    box: Box
    truncated: bool = False
    difficult: bool = False
    corners: tuple[tuple[float, float], ...] = ()  # of a turned box, px, in order around it; an upright one has none
    name: str | None = None  # its class, if that is known

    @property
    def plain(self) -> tuple[Any, ...]:
        """All of it in plain values, for a digest."""
        return *self.box, self.truncated, self.difficult, self.corners, self.name


@dataclass(frozen=True)
class Draw:
    """How the split of an image is drawn where its data set does not give it."""

    shares: tuple[tuple[Split, float], ...]  # fraction of each stratum for each split but `train`, which gets the rest
    seed: int
    stratum: int  # the number of the class that the image had when it was first drawn


@dataclass(frozen=True, order=True)
class ImageRecord:
    """One image of a source."""

    path: str  # its name, unique within the source
    label: int  # index into the source's classes
    split: Split
    text: str | None = None  # its caption
    instances: tuple[Instance, ...] = ()  # the objects marked in it
    group: str | None = None  # what it shares with others, such as a scene or a ship; no split is drawn through it
    drawn: Draw | None = field(default=None, compare=False)  # how its split is drawn; None where the data set gives it
    gsd: float | None = field(default=None, compare=False)  # metres a pixel, if that is known

    @property
    def plain(self) -> tuple[Any, ...]:
        """All of it in plain values, for a digest; its split counts, but not who chose that."""
        objects = [instance.plain for instance in self.instances]
        scale = () if self.gsd is None else (self.gsd,)
        return self.path, self.label, self.split, self.text, objects, self.group, *scale


class Look(NamedTuple):
    """One image, and what it was before it became that."""

    pixels: np.ndarray  # what is read: uint8, uint16 or float32 (H, W, C)
    whole: np.ndarray  # the same before it was cropped, of the same type
    notes: tuple[str, ...]  # what was done to the pixels of its file, or not read of it, in a few words each


class Source(Protocol):
    """A data set: any class of this shape can stand behind `data=`, `ors=` or `regular=`."""

    @property
    def classes(self) -> list[str]:
        """Class names; a record's label is an index into them."""

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB): the C of every image this source reads."""

    def records(self, split: Split) -> list[ImageRecord]:
        """List the images of a split, in an order that depends on the data alone; empty if there is no such split."""

    def read(self, record: ImageRecord) -> np.ndarray:
        """Read one image as it is stored: uint8, uint16 or float32, shape (H, W, C), NaN where pixels are missing.

        Sizes may differ from image to image. A `Radiometry` makes grey levels of the pixels.
        """

    def fingerprint(self) -> str:
        """Hex digest of all that `records` and `read` can return, wherever it lies."""


def class_counts(records: Iterable[ImageRecord], classes: Sequence[str]) -> dict[str, int]:
    """Count the images of each class, absent classes as 0, in the order of `classes`."""
    counts = Counter(record.label for record in records)
    return {name: counts[label] for label, name in enumerate(classes)}


def minor_classes(counts: Mapping[str, int], rule: Literal["auto"] | Sequence[str]) -> list[str]:
    """Name the minor classes, in the order of `counts`, the training images of each class.

    The rule is `auto` for the paper's (at most `MINOR_SHARE` of all training images), or the names themselves.

    Raises:
        UserError: A name in the list is no class.
    """
    if isinstance(rule, str):
        if rule != "auto":
            raise UserError(f"data.minor={rule}: use `auto` or a list of class names, e.g. [{next(iter(counts), '')}]")
        total = sum(counts.values())
        return [name for name, count in counts.items() if count <= MINOR_SHARE * total]
    for name in rule:
        if name not in counts:
            near = get_close_matches(str(name), counts, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"classes: {', '.join(counts)}"
            raise UserError(f"data.minor: `{name}` is not a class of this data set; {hint}")
    return [name for name in counts if name in rule]


def stratified_split(
    records: Sequence[ImageRecord], fractions: Sequence[float], seed: int, *, part_groups: bool = False
) -> list[list[ImageRecord]]:
    """Draw disjoint random parts that keep the class shares, and the rest; a group stays together.

    The rarest class draws first. A class is shuffled by (seed, label) alone, so where there are no groups, adding
    images to one class leaves the others' parts as they are. A part takes the groups for which it has room in all their
    classes, then those that bring it nearer to its size, and at the very least the smallest group of each class.

    Args:
        records: Images to split; their order does not matter.
        fractions: Share of every class in each part, in (0, 1). A part takes round(share * n) images of a class, halves
            up and at least one, while there are any; groups may make it some more or fewer.
        seed: Of the draw.
        part_groups: Do not keep groups together; for parts of which only one is used.

    Returns:
        One list a fraction, then one list with all that is left; each sorted by path.
    """
    records = sorted(records)
    keys = [index if part_groups or r.group is None else r.group for index, r in enumerate(records)]
    contents: dict[int | str, Counter[int]] = defaultdict(Counter)  # of each group, or image of its own: class counts
    for key, record in zip(keys, records, strict=True):
        contents[key][record.label] += 1
    counts = Counter(record.label for record in records)
    sizes = [{label: max(1, math.floor(share * count + 0.5)) for label, count in counts.items()} for share in fractions]
    parts = [_Part(size) for size in sizes]
    free = dict(contents)
    for label in sorted(counts, key=lambda label: (counts[label], label)):
        members = [key for key, record in zip(keys, records, strict=True) if record.label == label]
        order = np.random.default_rng([seed, label]).permutation(len(members))
        shuffled = list(dict.fromkeys(members[i] for i in order))
        for part in parts:
            for suits in (part.has_room, part.gets_nearer):
                for key in shuffled:
                    if key in free and part.taken[label] < part.size[label] and suits(free[key]):
                        part.take(key, free.pop(key))
            left = [key for key in shuffled if key in free]
            if left and not part.taken[label]:
                smallest = min(left, key=lambda key: contents[key].total())
                part.take(smallest, free.pop(smallest))
    homes = [part.groups for part in parts] + [free.keys()]
    return [[record for key, record in zip(keys, records, strict=True) if key in home] for home in homes]


@dataclass(frozen=True)
class _Part:
    """A part that is being drawn: how many images of each class it should have and has, and its groups."""

    size: Mapping[int, int]
    taken: Counter[int] = field(default_factory=Counter)
    groups: set[int | str] = field(default_factory=set)

    def has_room(self, group: Mapping[int, int]) -> bool:
        """Whether all of a group, given as images by class, fits in."""
        return all(self.taken[label] + count <= self.size[label] for label, count in group.items())

    def gets_nearer(self, group: Mapping[int, int]) -> bool:
        """Whether a group brings the part nearer to its size, all classes taken together."""
        lacking = {label: self.size[label] - self.taken[label] for label in group}
        return sum(abs(lacking[label] - count) - abs(lacking[label]) for label, count in group.items()) < 0

    def take(self, key: int | str, group: Mapping[int, int]) -> None:
        """Add a group."""
        self.groups.add(key)
        self.taken.update(group)


def draw_splits(records: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Draw the splits that are not the data set's own (`drawn`), anew if need be; groups stay together.

    Images with other shares or another seed are another draw. The largest draw goes first, and a group that an earlier
    one has placed stays there.
    """
    records = list(records)
    pools: dict[tuple[Any, ...], list[ImageRecord]] = defaultdict(list)
    for record in records:
        if record.drawn:
            pools[record.drawn.shares, record.drawn.seed].append(record)
    places: dict[str, Split] = {}  # of images
    homes: dict[str, Split] = {}  # of groups
    for (shares, seed), pool in sorted(pools.items(), key=lambda item: (-len(item[1]), item[0])):
        loose = [(r, r.drawn.stratum) for r in pool if r.drawn and r.group not in homes]
        free = [replace(record, label=stratum, split="train") for record, stratum in loose]
        parts = stratified_split(free, [share for _, share in shares], seed)
        placed = {r.path: split for split, part in zip([*dict(shares), "train"], parts, strict=True) for r in part}
        places |= {record.path: placed.get(record.path) or homes[str(record.group)] for record in pool}
        homes |= {record.group: places[record.path] for record in pool if record.group}
    return [replace(record, split=places.get(record.path, record.split)) for record in records]


def deci(records: Sequence[ImageRecord], seed: int) -> list[ImageRecord]:
    """Draw the stratified tenth of the paper's Deci experiments: a tenth of every class, at least one image of each.

    The other nine tenths are used for nothing, so groups need not stay together.
    """
    return stratified_split(records, [0.1], seed, part_groups=True)[0]


def first_of_classes(
    records: Sequence[ImageRecord], classes: Sequence[str], chosen: Sequence[str], count: int, seed: int
) -> list[ImageRecord]:
    """Keep so many images of each chosen class that has any, and all of the others, in their order.

    A class is shuffled by (seed, label) alone, and its first images are kept: more of them hold the fewer. The
    paper's minor classes stay the same: their share, x / (others + classes * x), rises with the number x that is left.

    Raises:
        UserError: A chosen class has fewer.
    """
    sizes = {name: size for name, size in class_counts(records, classes).items() if size}
    kept: set[str] = set()
    for name in (name for name in chosen if name in sizes):
        if sizes[name] < count:
            fewest = min(sizes[other] for other in chosen if other in sizes)
            raise UserError(
                f"data.minor_images={count}: class {name} has {sizes[name]} training images; say {fewest} or less, or "
                "name in data.minor those classes alone that have more"
            )
        label = list(classes).index(name)
        members = sorted(record for record in records if record.label == label)
        order = np.random.default_rng([seed, label]).permutation(len(members))
        kept.update(members[place].path for place in order[:count])
    return [record for record in records if classes[record.label] not in chosen or record.path in kept]


def digest(records: Iterable[ImageRecord]) -> str:
    """Hex sha256 of which images these are, in which order, with all that is known of them; not of their pixels."""
    return hashlib.sha256(json.dumps([record.plain for record in records]).encode()).hexdigest()
