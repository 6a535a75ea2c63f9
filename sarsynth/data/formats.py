"""Image files as arrays of exactly their pixels. Torch-free.

`decoded` (Pillow), `tiff` and `phoenix` read files as they are, NumPy's and MATLAB's are read here; `bands` chooses
which of their bands are wanted.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.io
from PIL import Image, UnidentifiedImageError

from sarsynth.data.bands import TAKEN_BY, Bands, choose_bands
from sarsynth.data.decoded import Decoded, check_pixels, read_pillow, size_pillow
from sarsynth.data.phoenix import SUFFIX, read_phoenix, size_phoenix
from sarsynth.data.tiff import read_tiff, size_tiff
from sarsynth.errors import BadImage, UserError, one_line

LARGEST_WHOLE = 2**24  # up to here float32 holds every integer
AMPLITUDE = "amplitude"  # the variable of a .mat file that is read where there are several
AMPLITUDES = "complex pixels became their amplitude"


class _Format(NamedTuple):
    read: Callable[[Path], Decoded]
    size: Callable[[Path], tuple[int, int]]  # width and height in px
    version: int = 1  # raised when files of this format are read otherwise than before


class Opened(NamedTuple):
    """An image and what was done to its pixels on the way, in a few words each."""

    pixels: np.ndarray  # uint8, uint16 or float32 (H, W, C)
    notes: tuple[str, ...]


def open_image(path: Path, channels: int, bands: Bands = None) -> Opened:
    """Read an image file's pixels unchanged: uint8, uint16 or float32, shape (H, W, channels).

    Complex pixels (I + jQ) become their amplitude. Those marked as missing, or transparent, are NaN, or 0 in 8-bit
    images.

    Args:
        path: The file.
        channels: 1 (grey) or 3 (RGB).
        bands: Which of its bands, where it has more than grey or colours.

    Raises:
        BadImage: It is damaged, empty, gone, no file, or larger than Pillow's limit against decompression bombs.
        UserError: It cannot be given that many channels without loss, or it has pixels that are not finite and not
            marked as missing.
    """
    pixels, _, notes = choose_bands(_try("read", path), bands, path)
    if pixels.dtype.kind == "c":
        notes += (AMPLITUDES,)
    return Opened(_channels(_numbers(pixels, path), channels, path), notes)


def image_size(path: Path) -> tuple[int, int] | None:
    """Read an image's width and height in px from its header; None for a bad image (`open_image` says why)."""
    try:
        return _try("size", path)
    except BadImage:
        return None


def format_version(file: str) -> int:
    """Give the version of what reads files of such a name: pixels of another one may differ."""
    return _format(Path(file)).version


def _format(path: Path) -> _Format:
    return PHOENIX if SUFFIX.fullmatch(path.suffix) else FORMATS.get(path.suffix.lower(), PILLOW)


def _try(what: Literal["read", "size"], path: Path) -> Any:
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(path)
        return getattr(_format(path), what)(path)
    except UserError:
        raise
    except Exception as error:  # on damaged files, decoders raise errors of any kind
        raise BadImage(path, _reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    """Say in a few words why a file cannot be read as an image."""
    if not path.exists():
        return "a link that leads nowhere" if path.is_symlink() else "no longer there"
    if not path.is_file():
        return "no file" if path.is_dir() else "no file, but a pipe or a device"
    if not path.stat().st_size:
        return "cannot be read as an image (0 bytes)"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large ({one_line(error).rstrip('.')})"
    if isinstance(error, PermissionError):
        return "may not be read; see its permissions"
    if isinstance(error, UnidentifiedImageError):
        return "cannot be read as an image (no format that is known)"
    return f"cannot be read as an image ({one_line(error)})"


def _numbers(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Keep uint8 and uint16, and turn other types into float32; raise a `UserError` where float32 cannot hold them."""
    missing: np.ndarray = np.asarray(np.ma.getmaskarray(pixels).any(axis=2, keepdims=True))
    pixels = np.ma.filled(pixels, 0)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and not missing.any()):
        return pixels
    if pixels.dtype.kind not in "iufc":
        raise UserError(f"{path}: {pixels.dtype} pixels; save numbers")
    if pixels.dtype.kind in "iu" and pixels.size and max(-int(pixels.min()), int(pixels.max())) > LARGEST_WHOLE:
        raise UserError(f"{path}: integers beyond 24 bits; save them as floating-point numbers")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
        numbers = (np.abs(pixels) if pixels.dtype.kind == "c" else pixels).astype(np.float32)
    if bad := np.count_nonzero(~np.isfinite(numbers)):
        raise UserError(
            f"{path}: {bad} pixels are NaN or infinite; repair it, or mark them as missing (GeoTIFF's nodata)"
        )
    return np.where(missing, np.float32(np.nan), numbers) if missing.any() else numbers


def _channels(pixels: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """Give an image (H, W, 1 or 3) that many channels; raise a `UserError` where that would lose colours."""
    if not pixels.size:
        raise BadImage(path, "has no pixels")
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if np.array_equal(pixels, np.broadcast_to(pixels[..., :1], pixels.shape), equal_nan=True):
        return np.ascontiguousarray(pixels[..., :1])
    raise UserError(
        f"{path}: a colour image, but channels=1; convert it to grey or set channels=3; "
        f"if its bands are no colours, name one, e.g. bands=[1] ({TAKEN_BY})"
    )


# --- Formats ----------------------------------------------------------------------------------------------------------


def _read_npy(path: Path) -> Decoded:
    shape = _load_npy(path, "r").shape  # mapped: nothing is read yet
    plane = shape[:2] if shape[2:] in ((1,), (3,)) else shape
    check_pixels(math.prod(plane[1:]), math.prod(plane[:1]))
    return Decoded(_load_npy(path, None))


def _size_npy(path: Path) -> tuple[int, int]:
    height, width = _load_npy(path, "r").shape[:2]
    return width, height


def _load_npy(path: Path, mode: Any) -> np.ndarray:
    pixels = np.load(path, mmap_mode=mode, allow_pickle=False)
    if not isinstance(pixels, np.ndarray):
        raise UserError(f"{path}: an archive of arrays; save one with numpy.save")
    return pixels


def _read_mat(path: Path) -> Decoded:
    name, (height, width, *_) = _variable(path)
    check_pixels(width, height)
    return Decoded(scipy.io.loadmat(path, variable_names=[name])[name])


def _size_mat(path: Path) -> tuple[int, int]:
    _, (height, width, *_) = _variable(path)
    return width, height


def _variable(path: Path) -> tuple[str, tuple[int, ...]]:
    """Find name and shape of the image in a .mat file: its only matrix, or of several the one called `amplitude`."""
    try:
        variables = scipy.io.whosmat(path)
    except NotImplementedError:
        raise UserError(f"{path}: of MATLAB 7.3; save it with -v7") from None
    images = {
        name: shape
        for name, shape, kind in variables
        if min(shape[:2]) > 1 and kind not in ("cell", "struct", "object", "char", "function", "opaque", "sparse")
    }
    if len(images) > 1 and AMPLITUDE in images:
        return AMPLITUDE, images[AMPLITUDE]
    if len(images) != 1:
        names = ", ".join(images or [name for name, *_ in variables]) or "nothing"
        raise UserError(f"{path}: expected one matrix, or one called `{AMPLITUDE}`; found {names}")
    return next(iter(images.items()))


PILLOW = _Format(read_pillow, size_pillow)
PHOENIX = _Format(read_phoenix, size_phoenix)
_TIFF = _Format(read_tiff, size_tiff, version=2)
FORMATS = {".tif": _TIFF, ".tiff": _TIFF, ".npy": _Format(_read_npy, _size_npy), ".mat": _Format(_read_mat, _size_mat)}
