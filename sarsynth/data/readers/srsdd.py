"""SRSDD-v1.0, Gaofen-3 scenes with turned boxes (doi:10.3390/rs13245104): a chip around each ship."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sarsynth.data.chips import Cutting
from sarsynth.data.entries import Seen, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import annotated, locate
from sarsynth.data.readers.labeltxt import read_labels
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, cut_scenes
from sarsynth.errors import UserError

LAYOUT = ("train/images", "train/labels", "test/images", "test/labels")
OWN_SPLITS: tuple[Split, ...] = ("train", "test")
CLASSES = {  # both spellings of bulk carriers occur
    "ore-oil": "ore_oil",
    "bulk-cargo": "bulk_cargo",
    "cell-container": "bulk_cargo",
    "container": "container",
    "fishing": "fishing",
    "dredger": "dredger",
    "lawenforce": "law_enforce",
}


class Srsdd(FileSource):
    """Chips of SRSDD, one for each ship.

    ```
    train/
        images/    one image a scene, 1024 x 1024 px
        labels/    one text file of the same name a scene: `x1 y1 … x4 y4 category difficulty` a ship
    test/          the same
    ```
    Chips of one scene are a group; `val` is a fraction of the training scenes.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        val: float | None,
        split_seed: int,
        size: int | None,
        margin: float,
        rotate: bool,
        channels: int,
    ) -> None:
        place = locate(root, "SRSDD", LAYOUT)
        seen = Seen()
        entries = cut_scenes(place, find_scenes(place), Cutting(size, margin, rotate), seen)
        super().__init__(place, split_off(entries, {"val": val}, split_seed), channels=channels, seen=seen)


def find_scenes(place: Path) -> Iterator[Scene]:
    """List the scenes of SRSDD below the folder of its layout, in its own splits, under our names of its classes."""
    for split in OWN_SPLITS:
        for file, image in annotated(place, f"{split}/labels/*.txt", f"{split}/images"):
            ships = read_labels(file)
            for ship in ships:
                if ship.class_name.lower() not in CLASSES:
                    raise UserError(f"{file}: no category `{ship.class_name}` in SRSDD ({', '.join(CLASSES)})")
            objects = tuple(replace(ship, class_name=CLASSES[ship.class_name.lower()]) for ship in ships)
            yield Scene(image, split, f"{split}/{file.stem}", objects)
