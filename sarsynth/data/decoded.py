"""What decoders hand on of an image file, and the decoder of most: Pillow. Torch-free."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from sarsynth.errors import UserError

PALETTE = "its palette was replaced by the colours"


class Decoded(NamedTuple):
    """The pixels of a file as it holds them."""

    pixels: np.ndarray  # (H, W) or (H, W, bands), of the file's own type; masked where pixels are missing
    alpha: Literal["known", "marked"] | None = None  # what the last band is; marked as alpha, it may be another
    notes: tuple[str, ...] = ()  # what was done to the pixels, or not read, in a few words each


def check_pixels(width: int, height: int) -> None:
    """Refuse what Pillow would refuse: a small file may unpack to any amount of memory."""
    if Image.MAX_IMAGE_PIXELS and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{width} x {height} pixels")


def first_of(number: int, what: str) -> tuple[str, ...]:
    """Note that the first alone is read of a file's frames or pages; nothing, if there is but one."""
    return (f"the first of its {number} {what} is read",) if number > 1 else ()


def read_pillow(path: Path) -> Decoded:
    """Read with Pillow what it does not change. A palette is replaced by its colours."""
    with Image.open(path) as file:
        cut = file.format == "PNG" and file.mode[0] != "I" and ";16" in str(file.tile[0].args)
        notes = () if file.format == "TIFF" else first_of(getattr(file, "n_frames", 1), "frames")
        file.load()
    if cut:
        raise UserError(f"{path}: colours of 16 bits; save it as TIFF, which keeps them, or with 8 bits")
    image: Image.Image = file
    if file.mode == "P":
        image, notes = file.convert("RGBA" if "transparency" in file.info else "RGB"), (*notes, PALETTE)
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I", "F"):
        raise UserError(f"{path}: image mode {image.mode}; convert it to 8-bit grey (L) or RGB")
    marked: Literal["known", "marked"] = "marked" if file.format == "TIFF" and file.mode != "P" else "known"
    return Decoded(np.asarray(image), marked if image.mode in ("LA", "RGBA") else None, notes)


def size_pillow(path: Path) -> tuple[int, int]:
    """Read width and height in px from the header."""
    with Image.open(path) as image:
        return image.size
