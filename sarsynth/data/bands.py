"""Which bands of a file are read, and what its last one is: alpha, or a band that only looks like it. Torch-free."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sarsynth.data.decoded import Decoded
from sarsynth.errors import UserError

Bands = Sequence[int] | Literal["iq"] | None  # numbers from 1; or the amplitude of two; None for all, if that is clear
SOFT = 0.1  # share of an alpha channel's pixels that may be half transparent: the edges of what it cuts out
TAKEN_BY = "a key of data=imagefolder and manifest"


def check_bands(bands: Any, channels: int) -> None:
    """Refuse what names no bands, or more of them than images have channels."""
    if bands is None or bands == "iq":
        return
    numbers = bands if isinstance(bands, list | tuple) else ()
    if len(numbers) not in (1, 3) or not all(type(number) is int and number > 0 for number in numbers):
        raise UserError(
            f"bands={bands}: name one band or three, e.g. [1] or [3,2,1], counted from 1; or iq, for the amplitude of "
            "two; or null"
        )
    if len(numbers) > channels:
        raise UserError(f"bands={list(numbers)}: three bands, but channels={channels}; name one, or set channels=3")


def choose_bands(decoded: Decoded, bands: Bands, path: Path) -> Decoded:
    """Choose the bands that are wanted; of an image without a choice, take alpha for what it is.

    An alpha channel that is the same everywhere is left out, even at 0 (in BMP files, the fourth byte may be unused).
    Where it is nothing, the pixel is missing, and where it is in between, as at soft edges, laid on black.

    Returns:
        Pixels (H, W, bands), masked where they are missing.

    Raises:
        UserError: The bands are not there, or there are more than grey or colours and none are named, or the last is
            marked as alpha and holds what no alpha channel does.
    """
    pixels, notes = decoded.pixels, decoded.notes
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3:
        raise UserError(f"{path}: pixels of shape {_shape(pixels)}; save rows x columns, or rows x columns x bands")
    count = pixels.shape[2]
    if bands == "iq":
        return Decoded(_amplitude(pixels, path), None, (*notes, "the amplitude of its two bands, I and Q"))
    if bands is not None:
        if max(bands) > count:
            raise UserError(f"{path}: bands={list(bands)}, but it has {count}")
        said = () if list(bands) == list(range(1, count + 1)) else (f"of its {count} bands, {_listed(bands)}",)
        return Decoded(pixels[..., [band - 1 for band in bands]], None, notes + said)
    if decoded.alpha and count in (2, 4):
        pixels, said_of_alpha = _without_alpha(pixels, decoded.alpha == "known", path)
        return Decoded(pixels, None, (*notes, said_of_alpha))
    if count in (1, 3):
        return Decoded(pixels, None, notes)
    remedy = (
        "bands=[1] or [2] for one of them (VV or VH), or bands=iq for the amplitude of I and Q"
        if count == 2
        else "e.g. bands=[1,2,3] for colours or bands=[1] for one"
    )
    raise UserError(f"{path}: pixels of shape {_shape(pixels)}: {count} bands; say which, {remedy} ({TAKEN_BY})")


def _without_alpha(pixels: np.ndarray, known: bool, path: Path) -> tuple[np.ndarray, str]:
    """Take an alpha channel, the last band, for what it is; and say in a few words what was done."""
    colours, alpha = pixels[..., :-1], np.ma.getdata(pixels[..., -1:])
    if (alpha == alpha.flat[0]).all():
        return colours, "an alpha channel that is the same everywhere was left out"
    whole = alpha.dtype.kind == "u"
    most = np.iinfo(alpha.dtype).max if whole else 0
    partial = np.mean((alpha != 0) & (alpha != most))
    if whole and not partial:
        missing = np.ma.getmaskarray(colours) | (alpha == 0)
        return np.ma.array(np.ma.getdata(colours), mask=missing), "pixels that are transparent are black"
    if known and alpha.dtype == np.uint8 and partial <= SOFT:
        laid = ((colours.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
        return laid, "pixels that are transparent, or half so, were laid on black"
    count = pixels.shape[2]
    raise UserError(
        f"{path}: its last band of {count} is marked as alpha, but holds values of its own, as near infrared does; say "
        f"bands=[{'1,2,3' if count == 4 else '1'}] to leave it out ({TAKEN_BY}), or save the image without it"
    )


def _amplitude(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.shape[2] != 2 or pixels.dtype.kind not in "iuf":
        raise UserError(
            f"{path}: bands=iq takes two bands of real numbers, I and Q; found {pixels.shape[2]} of {pixels.dtype}"
        )
    parts = pixels.astype(np.float64)
    return np.ma.hypot(parts[..., :1], parts[..., 1:]) if np.ma.is_masked(parts) else np.hypot(*np.split(parts, 2, 2))


def _shape(pixels: np.ndarray) -> str:
    return " x ".join(map(str, pixels.shape))


def _listed(bands: Sequence[int]) -> str:
    return ", ".join(map(str, bands))
