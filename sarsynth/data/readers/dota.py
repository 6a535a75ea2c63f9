"""DOTA, aerial images with turned boxes (arXiv 1711.10398, 2102.12219): chips around ships and harbors."""

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from sarsynth.data.chips import Cutting
from sarsynth.data.entries import Seen
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import images_by_stem, locate, matches
from sarsynth.data.readers.labeltxt import read_labels
from sarsynth.data.records import Split
from sarsynth.data.scenes import Scene, cut_scenes, only
from sarsynth.errors import UserError

UPRIGHT = ("hbb", "reclabel")  # in the names of folders with upright boxes


class Dota(FileSource):
    """Chips of DOTA v1.0, v1.5 or v2.0, one for each object of the chosen categories.

    ```
    train/                          or images/ and labelTxt/ right below the root: all of it is `train`
        images/                     P0001.png …, directly or in folders such as part1/
        labelTxt*/                  P0001.txt …, directly or in folders such as DOTA-v2.0_train/
    val/                            the same; need not be there
    ```
    Each label file has the lines `imagesource:…` and `gsd:…` or not, and `x1 y1 … x4 y4 category difficulty` an object.
    Folders of upright boxes (`*_hbb`, `*reclabel*`) are left out, and so, told by number, are images without labels and
    labels without an image, since the archive comes in parts.

    Args:
        version: Which labels to use where there are several, e.g. `v1.5`; None for those that are there.
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
        folders: dict[Split, str] = {"train": "train/", "val": "val/"} if (place / "train").is_dir() else {"train": ""}
        seen = Seen()
        scenes = [scene for split, folder in folders.items() for scene in _scenes(place, split, folder, version, seen)]
        entries = cut_scenes(place, only(scenes, categories), cutting, seen)
        super().__init__(place, entries, channels=channels, seen=seen)


def _scenes(place: Path, split: Split, folder: str, version: str | None, seen: Seen) -> Iterator[Scene]:
    """Read the scenes of one split, which lie in a folder such as `train/`."""
    images = images_by_stem(place, f"{folder}images", below=True)
    labels = _labels(place / folder, images, version) if images else {}
    for stem in sorted(images.keys() - labels.keys()):
        seen.pass_over("images without a label file", images[stem])
    for stem in sorted(labels.keys() - images.keys()):
        seen.pass_over("label files without an image", labels[stem].relative_to(place).as_posix())
    for stem in sorted(labels.keys() & images.keys()):
        # Patches cut from an image are named after it: P0001__1__0___824.
        yield Scene(images[stem], split, stem.partition("__")[0], tuple(read_labels(labels[stem])))


def _labels(folder: Path, images: Container[str], version: str | None) -> dict[str, Path]:
    """Find the label files of a split's images, by stem: those of one folder."""
    folders: dict[str, dict[str, Path]] = defaultdict(dict)
    for parent in matches(folder, "labelTxt*"):
        for file in sorted(parent.rglob("*.txt")):
            folders[file.parent.relative_to(folder).as_posix()][file.stem] = file
    fitting = {
        name: files
        for name, files in folders.items()
        if any(stem in images for stem in files)
        and not any(word in name.lower() for word in UPRIGHT)
        and (version or "") in name
    }
    if len(fitting) > 1:
        raise UserError(f"version={version}: {folder}: labels of several versions: {', '.join(fitting)}; choose one")
    if not fitting:
        raise UserError(
            f"version={version}: {folder}: expected a folder labelTxt* with text files named after the images; "
            f"found {', '.join(sorted(folders)) or 'none'}"
        )
    return next(iter(fitting.values()))
