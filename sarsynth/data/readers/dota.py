"""DOTA, aerial images with turned boxes (arXiv 1711.10398, 2102.12219): patches around ships and harbors."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sarsynth.data.chips import Cutting
from sarsynth.data.folders import images_below, locate, matches
from sarsynth.data.image_files import Files
from sarsynth.data.readers.labeltxt import read_labels
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, chips, only
from sarsynth.errors import UserError

UPRIGHT = ("hbb", "reclabel")  # in the names of folders with upright boxes


class Dota(Files):
    """Patches of DOTA v1.0, v1.5 or v2.0, one for each object of the chosen categories.

    ```
    train/                          or images/ and labelTxt/ right below the root: all of it is `train`
        images/                     P0001.png …, directly or in folders such as part1/
        labelTxt*/                  P0001.txt …, directly or in folders such as DOTA-v2.0_train/
    val/                            the same; need not be there
    ```
    Each label file has the lines `imagesource:…` and `gsd:…` or not, and `x1 y1 … x4 y4 category difficulty` an object.
    Folders of upright boxes (`*_hbb`, `*reclabel*`) are passed over, and so are images without labels and labels
    without an image, since the archive comes in parts.

    Args:
        root: The archive's folder.
        version: Which labels to use where there are several, e.g. `v1.5`; None for those that are there.
        categories: Objects to cut patches for; the classes.
        size: Side of each patch in px; None fits it to its object.
        margin: Share of the object's longer side around it, where fitted.
        rotate: Turn each patch so that its object lies along the rows.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of DOTA, or a label file is of another form.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        version: str | None,
        categories: Sequence[str],
        size: int | None,
        margin: float,
        rotate: bool,
        channels: int,
    ) -> None:
        cutting = Cutting(size, margin, rotate)
        place = locate(root, "DOTA", ["train/images", "train/labelTxt*"], ["images", "labelTxt*"])
        parts: dict[Split, Path] = {"train": place / "train", "val": place / "val"}
        if not parts["train"].is_dir():
            parts = {"train": place}
        scenes = [scene for split, part in parts.items() for scene in _scenes(place, part, split, version)]
        super().__init__(place, chips(place, only(scenes, categories), cutting), channels=channels)


def _scenes(place: Path, part: Path, split: Split, version: str | None) -> Iterator[Scene]:
    """Read the scenes of one split."""
    images = {path.stem: path for folder in matches(part, "images") for path in images_below(folder)}
    labels = _labels(part, images, version)
    for stem in sorted(labels.keys() & images.keys()):
        file = images[stem].relative_to(place).as_posix()
        # Patches cut from an image are named after it: P0001__1__0___824.
        yield Scene(file, split, stem.partition("__")[0], tuple(read_labels(labels[stem])))


def _labels(part: Path, images: Mapping[str, Path], version: str | None) -> dict[str, Path]:
    """Find the label files of a split's images, by stem."""
    if not images:
        return {}
    folders: dict[Path, dict[str, Path]] = defaultdict(dict)
    for above in matches(part, "labelTxt*"):
        for file in sorted(above.rglob("*.txt")):
            folders[file.parent][file.stem] = file
    fitting = {
        folder.relative_to(part).as_posix(): files
        for folder, files in folders.items()
        if images.keys() & files.keys()
        and not any(word in str(folder.relative_to(part)).lower() for word in UPRIGHT)
        and (version or "") in str(folder.relative_to(part))
    }
    match list(fitting):
        case [one]:
            return fitting[one]
        case []:
            found = ", ".join(sorted(str(folder.relative_to(part)) for folder in folders)) or "none"
            raise UserError(
                f"version={version}: {part}: expected a folder labelTxt* with text files named after the images; "
                f"found {found}"
            )
    raise UserError(f"version={version}: {part}: labels of several versions: {', '.join(fitting)}; choose one")
