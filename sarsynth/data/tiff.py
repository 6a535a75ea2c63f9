"""TIFF files: one way to read all of them, whatever their compression, types and tags. Torch-free.

GDAL (rasterio) reads them where it is installed. Without it, tifffile reads what it can without further libraries, and
the others are refused with the remedy. Pillow reads what has to be turned into grey levels or colours first: palettes,
white at 0, black and white, JPEG's colours.
"""

import warnings
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile

from sarsynth.data.decoded import Decoded, check_pixels, first_of, read_pillow
from sarsynth.errors import UserError

NODATA_TAG = 42113  # GDAL's
ORIENTATION_TAG = 274
ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
TURNS = {2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}  # quarters, then mirrored or not
MASKED = "pixels that it marks as missing are black"


def read_tiff(path: Path) -> Decoded:
    """Read the first image of a TIFF file, turned as its orientation says."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        check_pixels(page.imagewidth, page.imagelength)
        notes = first_of(sum(not (p.is_reduced or p.is_mask) for p in map(_frame, file.pages)), "pages")
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB) or _is_bool(page):
            if not (_is_bool(page) or page.dtype == np.uint8):
                raise UserError(f"{path}: {page.photometric.name} pixels of {page.dtype}; save grey or RGB ones")
            decoded = read_pillow(path)  # which turns it itself
            return decoded._replace(notes=notes + decoded.notes)
        samples = page.extrasamples
        alpha: Literal["marked"] | None = (
            "marked" if page.samplesperpixel > 1 and samples and samples[-1] in ALPHA else None
        )
        missing_marked = NODATA_TAG in page.tags or any(p.is_mask for p in map(_frame, file.pages))
        pixels = _read_gdal(path) if _rasterio() else _read_tifffile(path, page, missing_marked)
        if np.ma.is_masked(pixels):
            notes += (MASKED,)
        if _orientation(page) in TURNS:
            pixels, notes = _upright(pixels, _orientation(page)), (*notes, "turned as its orientation says")
        return Decoded(pixels, alpha, notes)


def size_tiff(path: Path) -> tuple[int, int]:
    """Read width and height in px from the header."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        size = page.imagewidth, page.imagelength
        return size[::-1] if _orientation(page) >= 5 else size


def _frame(page: Any) -> Any:
    """A page with its tags, which tifffile reads of the first alone unless asked."""
    return page.aspage()


def _is_bool(page: Any) -> bool:
    return page.dtype == np.bool_


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION_TAG)
    return int(tag.value) if tag else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror an image as TIFF's orientation, one of `TURNS`, says."""
    quarters, mirrored = TURNS[orientation]
    pixels = np.rot90(pixels, quarters)
    return np.flip(pixels, axis=1) if mirrored else pixels


@cache
def _rasterio() -> Any:
    """The library, None where it is not installed."""
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError:
        return None
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return rasterio


def _read_gdal(path: Path) -> np.ndarray:
    """Read all bands, (H, W, bands), masked where the file says that pixels are missing.

    A band marked as alpha masks nothing here: GDAL marks the fourth of four bands by itself.
    """
    rasterio = _rasterio()
    try:
        str(path).encode()
        opened = rasterio.open(path)
    except UnicodeEncodeError:  # GDAL takes names in UTF-8 alone
        opened = rasterio.MemoryFile(path.read_bytes()).open()
    with opened as file:
        pixels = np.moveaxis(file.read(), 0, -1)
        flags = rasterio.enums.MaskFlags
        masks = [
            file.read_masks(band) == 0
            for band, of_band in zip(file.indexes, file.mask_flag_enums, strict=True)
            if flags.all_valid not in of_band and flags.alpha not in of_band
        ]
    missing = np.logical_or.reduce(masks) if masks else np.zeros((), bool)
    return np.ma.array(pixels, mask=np.broadcast_to(missing[..., None], pixels.shape)) if missing.any() else pixels


def _read_tifffile(path: Path, page: Any, missing_marked: bool) -> np.ndarray:
    if missing_marked:
        raise UserError(f"{path}: marks missing pixels, which takes rasterio; install sarsynth[geotiff]")
    try:
        pixels = page.asarray()
    except ValueError as error:
        if page.compression == tifffile.COMPRESSION.NONE:
            raise  # it is damaged
        raise UserError(
            f"{path}: cannot be read as an image ({error}); install sarsynth[geotiff], or save it without compression"
        ) from error
    return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
