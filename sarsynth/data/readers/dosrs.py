"""DOSRS v1, the paper's ORS set as its authors released it: patches of DOTA and whole images of ShipRSImageNet."""

from pathlib import Path

from sarsynth.data.folders import captions, images_below, locate, matches
from sarsynth.data.found import Found
from sarsynth.data.image_files import Files
from sarsynth.errors import UserError

LAYOUTS = (["images", "meta/annotation.jsonl"], ["metadata.jsonl"])


class Dosrs(Files):
    """DOSRS with its captions.

    ```
    images/                   P0019_23.png … (512 x 512 px, around one ship or harbor) and 000100.bmp … (whole images)
    meta/annotation.jsonl     an image a line: {"file_name": "P0019_23.png", "text": "ORS, optical remote sensing, …"}
    ```
    Or the form that its trainer reads, `metadata.jsonl` with the same lines beside the images or above them. A patch is
    of class `harbor` if its caption says so; everything else is of class `ship`. Patches of one image are a group.

    Args:
        root: The archive's folder.
        channels: 1 or 3.

    Raises:
        UserError: The folder is none of DOSRS, or captions and images do not go together.
    """

    def __init__(self, root: str | Path, *, channels: int) -> None:
        place = locate(root, "DOSRS", *LAYOUTS)
        (listing, *_) = matches(place, LAYOUTS[0][1]) or matches(place, LAYOUTS[1][0])
        images = {path.name: path.relative_to(place).as_posix() for path in images_below(place)}
        found = []
        for number, file_name, text in captions(listing):
            name = Path(file_name).name
            if name not in images:
                raise UserError(f"{listing}, line {number}: no image {name} in {place}")
            patch, _, numbered = Path(name).stem.partition("_")
            harbor = bool(numbered) and "harbor" in text.lower()
            found.append(Found(images[name], "harbor" if harbor else "ship", "train", text, group=patch))
        super().__init__(place, found, channels=channels)
