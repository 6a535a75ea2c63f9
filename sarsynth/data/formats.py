"""Image files as arrays of exactly their pixels. Torch-free.

Pillow reads what it does not change. It has no complex numbers, and cuts colours of 16 bits to 8 without a word, so
other TIFF files are read by tifffile, and those that mark missing pixels by rasterio.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.io
import tifffile
from PIL import Image, UnidentifiedImageError

from sarsynth.errors import BadImage, UserError, one_line

LARGEST_WHOLE = 2**24  # up to here float32 holds every integer
AMPLITUDE = "amplitude"  # the variable of a .mat file that is read where there are several
NODATA_TAG = 42113  # GDAL's, in a TIFF file


class _Format(NamedTuple):
    read: Callable[[Path], np.ndarray]  # (H, W) or (H, W, C), of the file's own type; masked where pixels are missing
    size: Callable[[Path], tuple[int, int]]  # width and height in px


def open_image(path: Path, channels: int) -> np.ndarray:
    """Read an image file's pixels unchanged: uint8, uint16 or float32, shape (H, W, channels).

    Complex pixels (I + jQ) become their amplitude. Those marked as missing are NaN, or 0 in 8-bit images.

    Raises:
        BadImage: It is damaged, empty, gone, or larger than Pillow's limit against decompression bombs.
        UserError: It cannot be given that many channels without loss, or it has pixels that are not finite and not
            marked as missing.
    """
    return _channels(_numbers(_try("read", path), path), channels, path)


def image_size(path: Path) -> tuple[int, int] | None:
    """Read an image's width and height in px from its header; None for a bad image (`open_image` says why)."""
    try:
        return _try("size", path)
    except BadImage:
        return None


def _try(what: Literal["read", "size"], path: Path) -> Any:
    try:
        return getattr(FORMATS.get(path.suffix.lower(), PILLOW), what)(path)
    except UserError:
        raise
    except Exception as error:  # on damaged files, decoders raise errors of any kind
        raise BadImage(path, _reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    """Say in a few words why a file cannot be read as an image."""
    if not path.exists():
        return "a link that leads nowhere" if path.is_symlink() else "no longer there"
    if not path.is_file():
        return "no file"
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
    missing: np.ndarray = np.ma.getmaskarray(pixels)
    if pixels.ndim == 3:
        missing = np.asarray(missing.any(axis=2, keepdims=True))
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
    """Give an image (H, W) or (H, W, C) that many channels; raise a `UserError` where that would lose colours."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if not pixels.size:
        raise BadImage(path, "has no pixels")
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        shape = " x ".join(map(str, pixels.shape))
        raise UserError(f"{path}: pixels of shape {shape}; save rows x columns, or rows x columns x 3 for colours")
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if np.array_equal(pixels, np.broadcast_to(pixels[..., :1], pixels.shape), equal_nan=True):
        return np.ascontiguousarray(pixels[..., :1])
    raise UserError(f"{path}: a colour image, but channels=1; convert it to grey or set channels=3")


# --- Formats ----------------------------------------------------------------------------------------------------------


def _read_pillow(path: Path) -> np.ndarray:
    """Read with Pillow what it does not change.

    A palette is replaced by its colours. An alpha channel that is the same everywhere is dropped, even at 0 (in BMP
    files, the fourth byte may be unused); where it varies, the image is laid on black, as missing data are.
    """
    with Image.open(path) as file:
        cut = file.format == "PNG" and file.mode[0] != "I" and ";16" in str(file.tile[0].args)
        file.load()
    if cut:
        raise UserError(f"{path}: colours of 16 bits; save it as TIFF, which keeps them, or with 8 bits")
    palette = "RGBA" if "transparency" in file.info else "RGB"
    image = file.convert(palette) if file.mode == "P" else file
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I", "F"):
        raise UserError(f"{path}: image mode {image.mode}; convert it to 8-bit grey (L) or RGB")
    pixels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        pixels, alpha = pixels[..., :-1], pixels[..., -1:]
        if (alpha != alpha.flat[0]).any():
            pixels = ((pixels.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
    return pixels


def _size_pillow(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        _check_pixels(page.imagewidth, page.imagelength)
        if NODATA_TAG in page.tags:
            return _read_geotiff(path)
        grey = page.samplesperpixel == 1 and page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        kept = page.dtype in (np.uint8, np.bool_) or (grey and page.dtype in (np.uint16, np.float32))
        plain = grey and page.dtype != np.bool_ and page.compression == tifffile.COMPRESSION.NONE
        if kept and not plain:
            return _read_pillow(path)  # it knows palettes, and more compressions
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            raise UserError(f"{path}: {page.photometric.name} pixels of {page.dtype}; save grey or RGB ones")
        try:
            pixels = page.asarray()
        except ValueError as error:
            if page.compression == tifffile.COMPRESSION.NONE:
                raise  # it is damaged
            raise UserError(f"{path}: cannot be read as an image ({error}); save it without compression") from error
        return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels


def _check_pixels(width: int, height: int) -> None:
    """Refuse what Pillow would refuse: a small file may unpack to any amount of memory."""
    if Image.MAX_IMAGE_PIXELS and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{width} x {height} pixels")


def _size_tiff(path: Path) -> tuple[int, int]:
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        return page.imagewidth, page.imagelength


def _read_geotiff(path: Path) -> np.ndarray:
    """Read a TIFF file that says which value stands for missing pixels."""
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError:
        raise UserError(f"{path}: marks missing pixels, which takes rasterio; install sarsynth[geotiff]") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return np.moveaxis(file.read(masked=True), 0, -1)


def _read_npy(path: Path) -> np.ndarray:
    shape = _load_npy(path, "r").shape  # mapped: nothing is read yet
    plane = shape[:2] if shape[2:] in ((1,), (3,)) else shape
    _check_pixels(math.prod(plane[1:]), math.prod(plane[:1]))
    return _load_npy(path, None)


def _size_npy(path: Path) -> tuple[int, int]:
    height, width = _load_npy(path, "r").shape[:2]
    return width, height


def _load_npy(path: Path, mode: Any) -> np.ndarray:
    pixels = np.load(path, mmap_mode=mode, allow_pickle=False)
    if not isinstance(pixels, np.ndarray):
        raise UserError(f"{path}: an archive of arrays; save one with numpy.save")
    return pixels


def _read_mat(path: Path) -> np.ndarray:
    name, (height, width, *_) = _variable(path)
    _check_pixels(width, height)
    return scipy.io.loadmat(path, variable_names=[name])[name]


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


PILLOW = _Format(_read_pillow, _size_pillow)
_TIFF = _Format(_read_tiff, _size_tiff)
FORMATS = {".tif": _TIFF, ".tiff": _TIFF, ".npy": _Format(_read_npy, _size_npy), ".mat": _Format(_read_mat, _size_mat)}
