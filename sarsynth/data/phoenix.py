"""Chips of MSTAR as they were released: a text header, then magnitude and phase. Torch-free."""

import re
from pathlib import Path

import numpy as np

from sarsynth.data.decoded import Decoded, check_pixels
from sarsynth.errors import UserError

MAGIC = b"[Phoenix"
SUFFIX = re.compile(r"\.\d{3}")  # a number of the target
HEAD = 64 * 1024  # bytes within which a header ends
FIELDS = ("PhoenixHeaderLength", "NumberOfColumns", "NumberOfRows")
PIXEL = 8  # bytes: two big-endian floats, in two planes


def read_phoenix(path: Path) -> Decoded:
    """Read the magnitude, float32 (H, W)."""
    begin, width, height = _header(path)
    check_pixels(width, height)
    size = path.stat().st_size
    if size < begin + PIXEL * width * height:
        raise ValueError(f"{size} bytes, of {begin + PIXEL * width * height} that its header tells of")
    magnitude = np.fromfile(path, ">f4", width * height, offset=begin).reshape(height, width)
    return Decoded(magnitude, None, ("its magnitude is read, not its phase",))


def size_phoenix(path: Path) -> tuple[int, int]:
    """Read width and height in px from the header."""
    _, width, height = _header(path)
    return width, height


def is_phoenix(path: Path) -> bool:
    """Whether a file of such a name begins as these do."""
    if not SUFFIX.fullmatch(path.suffix) or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _header(path: Path) -> tuple[int, int, int]:
    """Read where the magnitude begins, in bytes, and width and height in px."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.startswith(MAGIC):
        raise UserError(f"{path}: a name as of MSTAR's raw files, but no Phoenix header; remove it")
    text = head.partition(b"[EndofPhoenixHeader]")[0].decode("latin-1")
    found = [re.search(rf"^{field}\s*=\s*(\d+)", text, re.MULTILINE) for field in FIELDS]
    begin, width, height = (int(field[1]) if field else 0 for field in found)
    if not (begin and width and height):
        raise ValueError(f"its header lacks one of {', '.join(FIELDS)}")
    return begin, width, height
