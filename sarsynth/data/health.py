"""The health of a set of images: which of them are bad, how large they are, what values they hold. Torch-free.

Every image is opened once (`scan`); all else, `duplicates` too, works on what that noted.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sarsynth.data.file_source import FileSource
from sarsynth.data.records import ImageRecord, Look, Source
from sarsynth.errors import BadImage

THUMB = 64  # px: side of the thumbnails that fine structure is compared on
BINS = 128  # of the histograms
OCTAVES = 32  # values that are not of 8 bits are counted from 2^-32 to 2^32, in equal steps of their logarithm
FORM = 3  # of what a scan notes; with another number, images are opened once more
SCAN, THUMBS, FACTS = "scan.npz", "thumbs.npy", "scan.json"


@dataclass(frozen=True)
class Findings:
    """What a scan notes of one image, as `Scan` says; of a bad one its reason alone."""

    reason: str | None = None
    content: str = ""
    whole: str = ""
    notes: tuple[str, ...] = ()
    dtype: str = ""
    size: tuple[int, int] = (0, 0)
    code: int = 0
    saturated: float = math.nan
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    thumb: np.ndarray = field(default_factory=lambda: np.zeros((THUMB, THUMB), np.uint8))


@dataclass(frozen=True)
class Scan:
    """What is known of every image of a source, in one order."""

    paths: Sequence[str]  # names of the records
    reasons: Sequence[str | None]  # why an image is bad, None for good ones
    contents: Sequence[str]  # hex digests of the pixels, equal for grey in one channel and in three; empty for bad ones
    wholes: Sequence[str]  # the same of images before any crop
    notes: Sequence[Sequence[str]]  # what was done to the pixels of each, in a few words each
    dtypes: Sequence[str]  # NumPy's names of the pixels' types
    sizes: np.ndarray  # height and width in px of what is read, int64 (N, 2)
    codes: np.ndarray  # perceptual hashes of 64 bits of images before any crop, uint64 (N,)
    saturated: np.ndarray  # share of pixels at the upper end of their type's range, float32 (N,); NaN for float types
    histograms: np.ndarray  # pixels by value, int64 (N, BINS); `edges` gives the limits
    thumbs: np.ndarray  # thumbnails of images before any crop, uint8 (N, THUMB, THUMB)

    @cached_property
    def rows(self) -> dict[str, int]:
        """The place of each image, by name."""
        return {path: row for row, path in enumerate(self.paths)}

    @property
    def bad(self) -> dict[str, str]:
        """Why each bad image is bad, by name."""
        return {path: reason for path, reason in zip(self.paths, self.reasons, strict=True) if reason is not None}

    @property
    def noted(self) -> dict[str, list[str]]:
        """What was done to pixels, and the names of the images concerned."""
        noted: dict[str, list[str]] = {}
        for path, notes in zip(self.paths, self.notes, strict=True):
            for note in notes:
                noted.setdefault(note, []).append(path)
        return noted

    def content(self, record: ImageRecord) -> str:
        """Give the digest of an image's pixels; empty for a bad one."""
        return self.contents[self.rows[record.path]]

    def digest(self, records: Sequence[ImageRecord]) -> str:
        """Hex digest of which pictures these are, whatever they are called and in whichever order."""
        return hashlib.sha256("".join(sorted(self.content(record) for record in records)).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write it; thumbnails in a file of their own, which is read only where they are needed."""
        facts = {key: list(getattr(self, key)) for key in ("paths", "reasons", "contents", "wholes", "notes", "dtypes")}
        (folder / FACTS).write_text(json.dumps(facts))
        arrays = {key: getattr(self, key) for key in ("sizes", "codes", "saturated", "histograms")}
        np.savez(folder / SCAN, **arrays)
        np.save(folder / THUMBS, self.thumbs)

    @classmethod
    def load(cls, folder: Path) -> "Scan":
        """Read what `save` wrote."""
        with np.load(folder / SCAN) as arrays:
            facts = json.loads((folder / FACTS).read_text())
            return cls(**facts, **arrays, thumbs=np.load(folder / THUMBS, mmap_mode="r"))


def scan(source: Source, records: Sequence[ImageRecord], advance: Callable[..., None]) -> Scan:
    """Open every image once, several at a time, and call `advance` after each.

    Raises:
        UserError: An image is readable, but not as the source needs it, e.g. in colours where grey is wanted.
    """
    findings = []
    with ThreadPoolExecutor() as pool:
        for finding in pool.map(lambda record: examine(source, record), records):
            findings.append(finding)
            advance()
    return Scan(
        paths=[record.path for record in records],
        reasons=[finding.reason for finding in findings],
        contents=[finding.content for finding in findings],
        wholes=[finding.whole for finding in findings],
        notes=[finding.notes for finding in findings],
        dtypes=[finding.dtype for finding in findings],
        sizes=np.array([finding.size for finding in findings], np.int64).reshape(-1, 2),
        codes=np.array([finding.code for finding in findings], np.uint64),
        saturated=np.array([finding.saturated for finding in findings], np.float32),
        histograms=np.array([finding.histogram for finding in findings], np.int64).reshape(-1, BINS),
        thumbs=np.array([finding.thumb for finding in findings], np.uint8).reshape(-1, THUMB, THUMB),
    )


def examine(source: Source, record: ImageRecord) -> Findings:
    """Open one image and note what it is.

    What it shows is compared as it lies, before any crop: so a crop makes no picture of two, nor two of one.
    """
    try:
        pixels, whole, notes = _look(source, record)
    except BadImage as bad:
        return Findings(bad.reason)
    grey, values = _known(pixels)
    if not values.size:
        return Findings("holds no finite value")
    if values.min() == values.max():
        return Findings(f"constant: every pixel is {values.min():g}")
    shown = grey if whole is pixels else _known(whole)[0]
    content = content_digest(pixels)
    return Findings(
        content=content,
        whole=content if whole is pixels else content_digest(whole),
        notes=notes,
        dtype=pixels.dtype.name,
        size=(int(pixels.shape[0]), int(pixels.shape[1])),
        code=difference_hash(shown),
        saturated=float(np.mean(values == np.iinfo(pixels.dtype).max)) if pixels.dtype.kind == "u" else math.nan,
        histogram=histogram(values, pixels.dtype),
        thumb=thumbnail(shown),
    )


def _look(source: Source, record: ImageRecord) -> Look:
    if isinstance(source, FileSource):
        return source.look(record)
    pixels = source.read(record)
    return Look(pixels, pixels, ())


def _known(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce pixels to their amplitude, (H, W), the least of it where they are missing, and to those not missing."""
    grey = amplitude(pixels)
    known = np.isfinite(grey) if pixels.dtype.kind in "fc" else np.ones(1, bool)
    if known.all():
        return grey, grey
    values = grey[known]
    return np.where(known, grey, values.min(initial=np.inf)), values


# --- One image --------------------------------------------------------------------------------------------------------


def amplitude(pixels: np.ndarray) -> np.ndarray:
    """Reduce pixels, (H, W, C), to the mean magnitude of their channels, (H, W): uint8 from 8 bits, else float32."""
    pixels = np.abs(pixels) if np.iscomplexobj(pixels) else pixels
    if pixels.shape[2] == 1:
        return pixels[..., 0] if pixels.dtype == np.uint8 else pixels[..., 0].astype(np.float32)
    grey = pixels[..., 0].astype(np.float32)
    for channel in range(1, pixels.shape[2]):  # many times faster than `mean` over so short an axis
        grey += pixels[..., channel]
    grey /= np.float32(pixels.shape[2])
    return np.rint(grey).astype(np.uint8) if pixels.dtype == np.uint8 else grey


def content_digest(pixels: np.ndarray) -> str:
    """Hex digest of shape, type and values; of one channel, where all are equal."""
    if all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in range(1, pixels.shape[2])):
        pixels = pixels[..., :1]
    head = f"{pixels.dtype.str} {pixels.shape}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()


def difference_hash(grey: np.ndarray) -> int:
    """Hash how brightness rises from left to right over a grid of 8 x 9 cells: a bit for each neighbouring pair.

    That is dHash. The better known pHash keeps the signs of the lowest cosine frequencies, which are the same for every
    bright target in the middle of a dark chip.
    """
    cells = cv2.resize(grey.astype(np.float32, copy=False), (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """Scale to uint8 (THUMB, THUMB); what is not of 8 bits as square roots, from its minimum to its maximum."""
    small: np.ndarray = grey.astype(np.float32, copy=False)
    if grey.dtype != np.uint8:
        small = np.sqrt(small - small.min())
        small *= 255 / small.max()
    ratio = max(grey.shape) / THUMB
    if ratio > 1:  # so that a displacement by less than a pixel of the result moves its content and does no more
        small = cv2.GaussianBlur(small, (0, 0), ratio / 2)
    small = cv2.resize(small, (THUMB, THUMB), interpolation=cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def edges(dtype: str) -> np.ndarray:
    """Give the limits of the bins that values of a type are counted in, shape (BINS + 1,).

    Bins of 8-bit values are equally wide. The others grow by half an octave each; zero and less count in the first.
    """
    if dtype == "uint8":
        return np.linspace(0, 256, BINS + 1)
    return 2.0 ** np.linspace(-OCTAVES, OCTAVES, BINS + 1)


def histogram(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Count values in the bins of `edges`; int64 (BINS,)."""
    flat = values.ravel()
    if dtype == np.uint8:
        return np.bincount(flat.astype(np.uint8), minlength=256).reshape(BINS, -1).sum(axis=1)
    exponents = np.log2(np.maximum(flat, 2.0**-OCTAVES))
    places = ((exponents + OCTAVES) * (BINS / (2 * OCTAVES))).astype(np.int64)
    return np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)


# --- A set of images -------------------------------------------------------------------------------------------------


def by_class(records: Sequence[ImageRecord], classes: Sequence[str], scanned: Scan) -> Mapping[str, Mapping[str, Any]]:
    """Sum up what good images of each class are: sizes, saturation, and histograms by type of pixels.

    A class has `images`, `sizes` (by `HxW`), `saturated` (mean share over images whose type has an end of the range,
    None if there are none) and `histograms` (by dtype, int64 (BINS,)).
    """
    summary: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(classes):
        rows = [scanned.rows[record.path] for record in records if record.label == label]
        shapes, counts = np.unique(scanned.sizes[rows], axis=0, return_counts=True)
        saturated = scanned.saturated[rows]
        saturated = saturated[np.isfinite(saturated)]
        kinds = np.array([scanned.dtypes[row] for row in rows])
        summary[name] = {
            "images": len(rows),
            "sizes": {f"{h}x{w}": int(count) for (h, w), count in zip(shapes.tolist(), counts, strict=True)},
            "saturated": float(saturated.mean()) if len(saturated) else None,
            "histograms": {str(k): scanned.histograms[rows][kinds == k].sum(axis=0) for k in np.unique(kinds)},
        }
    return summary
