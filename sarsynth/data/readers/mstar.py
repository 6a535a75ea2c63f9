"""MSTAR, X-band chips of ground vehicles (Proc. SPIE 3370, 1998), as released or as images in folders."""

import re
from collections.abc import Iterator
from pathlib import Path

from sarsynth.data.entries import Entry, Seen, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import EXTENSIONS, files_below, listing
from sarsynth.data.phoenix import is_phoenix
from sarsynth.data.records import Split
from sarsynth.errors import UserError

# The standard condition: trained at 17 degrees of depression, tested at 15.
SPLIT_NAMES: dict[str, Split] = {"train": "train", "17": "train", "test": "test", "15": "test"}
NO_CLASS = re.compile(r"targets|mixed_targets|train|test|\d\d_?deg|col\d+|scene\d+", re.IGNORECASE)


class Mstar(FileSource):
    """MSTAR chips, in the standard operating condition.

    ```
    train/                     or TRAIN/17_DEG/, 17_DEG/COL2/SCENE1/ and the like
        2S1/                   a folder a class
            hb19377.jpg …      8-bit grey; directly or in folders such as SN_9563/; or as released,
            HB19377.015 …      a text header, then magnitude, which is read, and phase: they need radiometry=linear
    test/                      or TEST/15_DEG/ and the like
    ```
    Folders at other depression angles than 17 and 15 degrees are left out, and told. The size of a chip gives its
    class away in some copies, so one `crop` for all is wise.
    """

    def __init__(
        self, root: str | Path, *, val: float | None, split_seed: int, crop: int | None, channels: int
    ) -> None:
        place = Path(root).expanduser()
        if not place.is_dir():
            raise UserError(f"root={root}: no such folder")
        seen = Seen()
        entries = list(_entries(place, seen))
        if not entries:
            raise UserError(
                f"root={root}: not MSTAR: expected images in class folders below train/ and test/, or below folders "
                f"such as 17_DEG/ and 15_DEG/; found {listing(place)}"
            )
        entries = split_off(entries, {"val": val}, split_seed)
        super().__init__(place, entries, channels=channels, crop=crop, seen=seen)


def _entries(place: Path, seen: Seen) -> Iterator[Entry]:
    for image in files_below(place):
        if image.suffix.lower() not in EXTENSIONS and not is_phoenix(image):
            continue
        path = image.relative_to(place)
        folders = path.parts[:-1]
        split = _split(folders)
        # The first folder below all that name a split, an angle or a collection is the class.
        start = max((index + 1 for index, name in enumerate(folders) if NO_CLASS.fullmatch(name)), default=0)
        if split and folders[start:]:
            yield Entry(path.as_posix(), folders[start], split)
        else:
            seen.pass_over("images in no class folder below one of train, test, 17 or 15 degrees", path.as_posix())


def _split(folders: tuple[str, ...]) -> Split | None:
    """Read the split off the innermost folder that states an angle, else off one called train or test."""
    for folder in reversed(folders):
        if angle := re.fullmatch(r"(\d\d)_?deg", folder, re.IGNORECASE):
            return SPLIT_NAMES.get(angle[1])
    return next((SPLIT_NAMES[name.lower()] for name in folders if name.lower() in ("train", "test")), None)
