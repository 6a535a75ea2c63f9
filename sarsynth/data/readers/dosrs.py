"""DOSRS v1, the paper's ORS set as its authors released it: patches of DOTA and whole images of ShipRSImageNet."""

from pathlib import Path

from sarsynth.data.entries import Entry
from sarsynth.data.file_source import FileSource
from sarsynth.data.folders import images_below, json_lines, locate, matches
from sarsynth.errors import UserError

LAYOUTS = (["images", "meta/annotation.jsonl"], ["metadata.jsonl"])


class Dosrs(FileSource):
    """DOSRS with its captions.

    ```
    images/                   P0019_23.png … (512 x 512 px, around one ship or harbor) and 000100.bmp … (whole images)
    meta/annotation.jsonl     an image a line: {"file_name": "P0019_23.png", "text": "ORS, optical remote sensing, …"}
    ```
    Or the form that its trainer reads, `metadata.jsonl` with the same lines beside the images or above them. A patch is
    of class `harbor` if its caption says so; everything else is of class `ship`. Patches of one image are a group.
    """

    def __init__(self, root: str | Path, *, channels: int) -> None:
        place = locate(root, "DOSRS", *LAYOUTS)
        (captions, *_) = matches(place, LAYOUTS[0][1]) or matches(place, LAYOUTS[1][0])
        images = {path.name: path.relative_to(place).as_posix() for path in images_below(place)}
        entries = []
        for number, row in json_lines(captions, "file_name", "text"):
            name, text = Path(str(row["file_name"])).name, str(row["text"])
            if name not in images:
                raise UserError(f"{captions}, line {number}: no image {name} in {place}")
            scene, _, patch = Path(name).stem.partition("_")
            class_name = "harbor" if patch and "harbor" in text.lower() else "ship"
            entries.append(Entry(images[name], class_name, "train", text, group=scene))
        super().__init__(place, entries, channels=channels)
