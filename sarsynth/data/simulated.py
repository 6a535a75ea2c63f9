"""The embedded world as a data set: pictures are drawn when they are read, no file lies anywhere."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from sarsynth.data.records import ImageRecord, Instance, Split
from sarsynth.errors import UserError
from sarsynth.sim import CLASSES, DOMAINS, render, scene

_render = lru_cache(maxsize=4096)(render)  # the same picture is asked for several times

# Test ships are never training ships: their numbers begin elsewhere.
FIRST_INDEX: dict[Split, int] = {"train": 0, "val": 1_000_000, "test": 2_000_000}


class Simulated:
    """A source of simulated ships.

    Args:
        domain: `regular`, `ors` or `sar`.
        seed: Which world.
        train: Training images: of each class, or by class.
        test: Test images: of each class, or by class.
        image_size: Side in px.
    """

    def __init__(
        self, domain: str, seed: int, train: int | Mapping[str, int], test: int | Mapping[str, int], image_size: int
    ) -> None:
        if domain not in DOMAINS:
            raise UserError(f"domain={domain}: the simulated world has {', '.join(DOMAINS)}")
        self.domain, self.seed, self.image_size = domain, seed, image_size
        self.sizes: dict[Split, dict[str, int]] = {"train": _by_class(train), "val": {}, "test": _by_class(test)}
        self.classes = list(CLASSES)
        self.channels = 1 if domain == "sar" else 3

    def records(self, split: Split) -> list[ImageRecord]:
        """List the images of a split, class by class."""
        records = []
        for label, name in enumerate(self.classes):
            for index in range(FIRST_INDEX[split], FIRST_INDEX[split] + self.sizes[split].get(name, 0)):
                text, instances = _describe(self.seed, index, name, self.domain, self.image_size)
                records.append(ImageRecord(f"{name}/{index}", label, split, text, instances))
        return records

    def read(self, record: ImageRecord) -> np.ndarray:
        """Draw one image: uint8, shape (image_size, image_size, channels)."""
        name, _, index = record.path.partition("/")
        return _render(self.seed, int(index), name, self.domain, self.image_size).pixels

    def fingerprint(self) -> str:
        """Hash the settings and, standing for the code that draws, the first ship of every class."""
        content = hashlib.sha256(repr((self.domain, self.seed, self.sizes, self.image_size)).encode())
        for name in self.classes:
            picture = render(self.seed, 0, name, self.domain, self.image_size)
            content.update(picture.pixels.tobytes() + repr(picture[1:]).encode())
        return content.hexdigest()


@lru_cache(maxsize=100_000)
def _describe(seed: int, index: int, name: str, domain: str, size: int) -> tuple[str | None, tuple[Instance, ...]]:
    """The caption of a picture and its ship, as far as its domain has them."""
    if domain == "sar":
        return None, ()
    picture = scene(seed, index, name, size) if domain == "ors" else _render(seed, index, name, domain, size)
    box = picture.box
    return picture.text, (Instance(box, truncated=min(box) < 0 or max(box) > size),) if box else ()


def _by_class(sizes: int | Mapping[str, int]) -> dict[str, int]:
    if isinstance(sizes, int):
        return dict.fromkeys(CLASSES, sizes)
    if unknown := [name for name in sizes if name not in CLASSES]:
        raise UserError(f"`{unknown[0]}` is not a class of the simulated world; it has {', '.join(CLASSES)}")
    return {name: int(sizes.get(name, 0)) for name in CLASSES}
