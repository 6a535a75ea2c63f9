"""SRSDD-v1.0, Gaofen-3 scenes with turned boxes (doi:10.3390/rs13245104): a chip around each ship."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sarsynth.data.chips import Cutting
from sarsynth.data.folders import files_in, images_in, locate, matches
from sarsynth.data.found import Found, split_off
from sarsynth.data.image_files import Files
from sarsynth.data.readers.labeltxt import read_labels
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, chips
from sarsynth.errors import UserError

LAYOUT = ("train/images", "train/labels", "test/images", "test/labels")
SPLIT_FOLDERS: dict[Split, str] = {"train": "train", "test": "test"}
# Both spellings of bulk carriers occur.
CLASSES = {
    "ore-oil": "ore_oil",
    "bulk-cargo": "bulk_cargo",
    "cell-container": "bulk_cargo",
    "container": "container",
    "fishing": "fishing",
    "dredger": "dredger",
    "lawenforce": "law_enforce",
}


class Srsdd(Files):
    """Chips of SRSDD, one for each ship.

    ```
    train/
        images/    one image a scene, 1024 x 1024 px
        labels/    one text file of the same name a scene: `x1 y1 … x4 y4 category difficulty` a ship
    test/          the same
    ```

    Args:
        root: The archive's folder.
        val: Fraction of the training scenes for validation, drawn so that classes keep their shares; None for none.
        split_seed: Of that draw.
        size: Side of each chip in px; None fits it to its ship.
        margin: Share of the ship's longer side around it, where fitted.
        rotate: Turn each chip so that its ship lies along the rows.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of SRSDD, or a label is of another form.
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
        found = find_srsdd(place, Cutting(size, margin, rotate))
        super().__init__(place, split_off(found, {"val": val}, split_seed), channels=channels)


def find_srsdd(place: Path, cutting: Cutting) -> list[Found]:
    """Find the chips of SRSDD below the folder of its layout, in its own splits, under our names of its classes."""
    return list(chips(place, _scenes(place), cutting))


def _scenes(place: Path) -> Iterator[Scene]:
    for split, name in SPLIT_FOLDERS.items():
        images = {path.stem: path for folder in matches(place, f"{name}/images") for path in images_in(folder)}
        for folder in matches(place, f"{name}/labels"):
            for labels in files_in(folder, ".txt"):
                if labels.stem not in images:
                    raise UserError(f"{labels}: no image of that name in {name}/images; add it or remove the labels")
                objects = read_labels(labels)
                for one in objects:
                    if one.class_name.lower() not in CLASSES:
                        raise UserError(f"{labels}: no category `{one.class_name}` in SRSDD ({', '.join(CLASSES)})")
                image = images[labels.stem].relative_to(place).as_posix()
                ships = tuple(replace(one, class_name=CLASSES[one.class_name.lower()]) for one in objects)
                yield Scene(image, split, f"{name}/{labels.stem}", ships)
