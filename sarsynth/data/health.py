"""The health of a set of images: which of them are bad, which are the same picture, what values they hold. Torch-free.

Every image is opened once (`scan`); all that follows works on what that left.
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
import scipy.fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sarsynth.data.records import ImageRecord, Source
from sarsynth.errors import BadImage

THUMB = 64  # px: side of the small pictures that fine structure is compared on
BINS = 128  # of the histograms
OCTAVES = 32  # values of wide images are counted from 2^-32 to 2^32, in equal steps of their logarithm
BLOCK = 512  # images, or pairs of them, that are compared at a time
REACH = 3  # px of a small picture by which two of one scene may be displaced, counted in halves
STRUCTURE = 2.0  # px: what is coarser than this in a small picture is no proof that two are one
FORM = 2  # of what a look leaves; with another number, images are looked at once more
HASHES = ("brightness", "structure")  # that propose pairs: `difference_hash`, and `structure_hashes`
AGREEMENT = 0.9  # correlation of fine structure from which on two are one; see `agreements`
SCAN, THUMBS, FACTS = "scan.npz", "thumbs.npy", "scan.json"


@dataclass(frozen=True)
class Look:
    """What one image was found to be; `reason` says why it is bad, and then the rest is empty."""

    reason: str | None = None
    content: str = ""
    dtype: str = ""
    size: tuple[int, int] = (0, 0)
    code: int = 0
    saturated: float = math.nan
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    thumb: np.ndarray = field(default_factory=lambda: np.zeros((THUMB, THUMB), np.uint8))


@dataclass(frozen=True)
class Scan:
    """One look at every image of a source, in one order.

    Attributes:
        paths: Names of the records.
        reasons: Why an image is bad, None for good ones.
        contents: Hex digest of the pixels, the same for a grey image in one channel and in three; empty for bad ones.
        dtypes: NumPy's names of the pixels' types.
        sizes: Height and width in px, int64 (N, 2).
        codes: Perceptual hashes of 64 bits, uint64 (N,).
        saturated: Share of the pixels at the end of their type's range, float32 (N,); NaN for types of no such end,
            where a maximum is any image's, saturated or not.
        histograms: Pixels by value, int64 (N, BINS); `edges` gives the limits.
        thumbs: Small pictures, uint8 (N, THUMB, THUMB).
    """

    paths: Sequence[str]
    reasons: Sequence[str | None]
    contents: Sequence[str]
    dtypes: Sequence[str]
    sizes: np.ndarray
    codes: np.ndarray
    saturated: np.ndarray
    histograms: np.ndarray
    thumbs: np.ndarray

    @cached_property
    def rows(self) -> dict[str, int]:
        """The place of each image, by name."""
        return {path: row for row, path in enumerate(self.paths)}

    @property
    def bad(self) -> dict[str, str]:
        """Why each bad image is bad, by name."""
        return {path: reason for path, reason in zip(self.paths, self.reasons, strict=True) if reason is not None}

    def content(self, record: ImageRecord) -> str:
        """Give the digest of an image's pixels; empty for a bad one."""
        return self.contents[self.rows[record.path]]

    def digest(self, records: Sequence[ImageRecord]) -> str:
        """Hex digest of which pictures these are, whatever they are called and in whichever order."""
        return hashlib.sha256("".join(sorted(self.content(record) for record in records)).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write it; small pictures in a file of their own, which is read where it is needed only."""
        facts = {key: list(getattr(self, key)) for key in ("paths", "reasons", "contents", "dtypes")}
        (folder / FACTS).write_text(json.dumps(facts))
        arrays = {key: getattr(self, key) for key in ("sizes", "codes", "saturated", "histograms")}
        np.savez(folder / SCAN, **arrays)
        np.save(folder / THUMBS, self.thumbs)

    @classmethod
    def load(cls, folder: Path) -> "Scan":
        """Read what `save` wrote."""
        with np.load(folder / SCAN) as arrays:
            return cls(
                **json.loads((folder / FACTS).read_text()), **arrays, thumbs=np.load(folder / THUMBS, mmap_mode="r")
            )


def scan(source: Source, records: Sequence[ImageRecord], advance: Callable[..., None]) -> Scan:
    """Open every image once, several at a time.

    Args:
        source: Where they are read from.
        records: Which.
        advance: Called after each image.

    Raises:
        UserError: An image is whole, but not as the source must have it, e.g. of colours where grey is wanted.
    """
    with ThreadPoolExecutor() as pool:
        looks = []
        for one in pool.map(lambda record: look(source, record), records):
            looks.append(one)
            advance()
    return Scan(
        paths=[record.path for record in records],
        reasons=[one.reason for one in looks],
        contents=[one.content for one in looks],
        dtypes=[one.dtype for one in looks],
        sizes=np.array([one.size for one in looks], np.int64).reshape(-1, 2),
        codes=np.array([one.code for one in looks], np.uint64),
        saturated=np.array([one.saturated for one in looks], np.float32),
        histograms=np.array([one.histogram for one in looks], np.int64).reshape(-1, BINS),
        thumbs=np.array([one.thumb for one in looks], np.uint8).reshape(-1, THUMB, THUMB),
    )


def look(source: Source, record: ImageRecord) -> Look:
    """Open one image and note what it is."""
    try:
        pixels = source.read(record)
    except BadImage as bad:
        return Look(bad.reason)
    grey = amplitude(pixels)
    known = np.isfinite(grey) if pixels.dtype.kind in "fc" else np.ones(1, bool)
    values = grey if known.all() else grey[known]
    if not values.size:
        return Look("holds no finite value")
    low, high = values.min(), values.max()
    if low == high:
        return Look(f"constant: every pixel is {low:g}")
    if not known.all():
        grey = np.where(known, grey, low)
    return Look(
        content=content_digest(pixels),
        dtype=pixels.dtype.name,
        size=(int(pixels.shape[0]), int(pixels.shape[1])),
        code=difference_hash(grey),
        saturated=float(np.mean(values == np.iinfo(pixels.dtype).max)) if pixels.dtype.kind == "u" else math.nan,
        histogram=histogram(values, pixels.dtype),
        thumb=thumbnail(grey),
    )


# --- One image --------------------------------------------------------------------------------------------------------


def amplitude(pixels: np.ndarray) -> np.ndarray:
    """Reduce pixels of any number type, (H, W, C), to one value each: magnitude, then the mean of the channels.

    Returns:
        Shape (H, W); uint8 where pixels have 8 bits, else float32.
    """
    values = np.abs(pixels) if np.iscomplexobj(pixels) else pixels
    if values.shape[2] == 1:
        return values[..., 0] if values.dtype == np.uint8 else values[..., 0].astype(np.float32)
    grey = values[..., 0].astype(np.float32)
    for channel in range(1, values.shape[2]):  # many times as fast as a mean over so short an axis
        grey += values[..., channel]
    grey /= np.float32(values.shape[2])
    return np.rint(grey).astype(np.uint8) if values.dtype == np.uint8 else grey


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
    """Shrink or enlarge to uint8 (THUMB, THUMB); wide ranges as their square root between their extremes."""
    small: np.ndarray = grey.astype(np.float32, copy=False)
    if grey.dtype != np.uint8:
        small = np.sqrt(small - small.min())
        small *= 255 / small.max()
    ratio = max(grey.shape) / THUMB
    if ratio > 1:  # so that a displacement by less than a pixel of the result changes nothing but the place
        small = cv2.GaussianBlur(small, (0, 0), ratio / 2)
    small = cv2.resize(small, (THUMB, THUMB), interpolation=cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def edges(dtype: str) -> np.ndarray:
    """Give the limits of the bins that values of a type are counted in, shape (BINS + 1,).

    Those of 8 bits are equally wide. Others grow by half an octave; what is zero or less is in the first.
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


# --- Pairs ------------------------------------------------------------------------------------------------------------


def near_duplicates(scanned: Scan, bits: int) -> list[tuple[int, int, float]]:
    """Find the pairs of good images that show one picture: the same pixels, or compressed, brightened, shifted.

    Hashes of either kind that differ in few bits propose a pair, one for changed values and one for displaced pixels;
    their fine structure, of which speckle and edges are made, decides. It is compared at displacements of up to `REACH`
    px of a small picture, a twentieth of the image. A mirror image is another picture. Of images with the same pixels,
    the first is compared with others.

    Args:
        scanned: The images.
        bits: Hashes of one kind may differ in so many, of 64.

    Returns:
        Rows i < j and the correlation of their fine structure, 1 for the same pixels; sorted.
    """
    firsts: dict[str, int] = {}
    pairs = []
    for row, content in enumerate(scanned.contents):
        if content and firsts.setdefault(content, row) != row:
            pairs.append((firsts[content], row, 1.0))
    rows = np.array(sorted(firsts.values()), np.int64)
    codes = np.column_stack([scanned.codes, structure_hashes(scanned.thumbs)])
    for proposed in _proposals(codes[rows], bits):
        found = rows[proposed]
        alike = agreements(scanned.thumbs, found)
        chosen = alike >= AGREEMENT
        pairs += [(int(i), int(j), round(float(a), 3)) for (i, j), a in zip(found[chosen], alike[chosen], strict=True)]
    return sorted(pairs)


def _proposals(codes: np.ndarray, bits: int) -> list[np.ndarray]:
    """Find pairs i < j of which any hash, codes are (N, hashes), differs in at most so many bits, (K, 2) at a time."""
    batches = []
    for start in range(0, len(codes), BLOCK):
        block, rest = codes[start : start + BLOCK], codes[start:]
        near = [np.bitwise_count(a[:, None] ^ b) <= bits for a, b in zip(block.T, rest.T, strict=True)]
        i, j = np.nonzero(np.logical_or.reduce(near))
        batches.append(np.column_stack([i, j])[i < j] + start)
    joined = np.concatenate(batches) if batches else np.empty((0, 2), np.int64)
    return [joined[start : start + BLOCK] for start in range(0, len(joined), BLOCK)]


def structure_hashes(thumbs: np.ndarray) -> np.ndarray:
    """Hash which of two neighbouring frequencies of the fine structure is the stronger, wherever that structure lies.

    A chip that is cut two pixels further on has another `difference_hash`, but this one hardly changes.

    Args:
        thumbs: uint8 (N, THUMB, THUMB).

    Returns:
        uint64 (N,), of 8 x 8 pairs of frequencies.
    """
    codes = np.empty(len(thumbs), np.uint64)
    down, across = np.arange(-8, 8, 2), np.arange(1, 19, 2)
    for start in range(0, len(thumbs), BLOCK):
        strength = np.abs(_spectra(np.asarray(thumbs[start : start + BLOCK]))[:, down[:, None], across])
        bits = np.ascontiguousarray(strength[..., 1:] > strength[..., :-1])
        codes[start : start + BLOCK] = np.packbits(bits.reshape(len(bits), -1), axis=1).view(np.uint64)[:, 0]
    return codes


def agreements(thumbs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Correlate the fine structure of pairs of small pictures, at the displacement that suits each best.

    Two chips of one kind of ship agree in their coarse structure, often better than a chip and its brightened copy; but
    speckle never comes twice. Of the 5,171 chips of MSTAR, many of one vehicle at almost one azimuth, no two reach 0.9.

    Args:
        thumbs: uint8 (N, THUMB, THUMB).
        pairs: Rows, int (K, 2).

    Returns:
        Correlations, float (K,).
    """
    if not len(pairs):
        return np.empty(0)
    rows, places = np.unique(pairs, return_inverse=True)
    spectra = _spectra(np.asarray(thumbs[rows]))
    one, other = (spectra[column] for column in places.reshape(-1, 2).T)
    cross = one * other.conj()
    shifts = np.arange(-2 * REACH, 2 * REACH + 1) / 2
    down = np.exp(2j * np.pi * shifts[:, None] * np.fft.fftfreq(THUMB)).astype(np.complex64)
    across = np.exp(2j * np.pi * np.fft.rfftfreq(THUMB)[:, None] * shifts).astype(np.complex64)
    across[1:-1] *= 2  # a real image's spectrum is half of it twice
    return (down @ cross @ across).real.max(axis=(1, 2)) / THUMB**2


def _spectra(thumbs: np.ndarray) -> np.ndarray:
    """Spectra of fine structure, of unit energy: complex64 (N, THUMB, THUMB / 2 + 1)."""
    fine = thumbs.astype(np.float32)
    fine -= np.stack([cv2.GaussianBlur(image, (0, 0), STRUCTURE) for image in fine])
    limit = 4 * np.abs(fine).mean(axis=(1, 2), keepdims=True)
    window = np.hanning(THUMB + 2)[1:-1]  # what enters at one border has left at the other
    fine = np.clip(fine, -limit, limit) * np.outer(window, window).astype(np.float32)
    energy = np.linalg.norm(fine, axis=(1, 2), keepdims=True)
    return scipy.fft.rfft2(fine / np.maximum(energy, 1e-6))


def groups(records: Sequence[ImageRecord], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Join the groups of images that show one picture.

    Args:
        records: All images.
        pairs: Names of images that are one.

    Returns:
        By name, the group of each image that is in a joined one: that of its own whose name comes first, else
        `like <path>` of the image whose name does.
    """
    rows = {record.path: row for row, record in enumerate(records)}
    links = [(rows[one], rows[other]) for one, other in pairs]
    firsts: dict[str, int] = {}
    for row, record in enumerate(records):
        if record.group is not None and firsts.setdefault(record.group, row) != row:
            links.append((firsts[record.group], row))
    if not pairs:
        return {}
    i, j = np.array(links).T
    _, components = connected_components(
        coo_array((np.ones(len(i)), (i, j)), shape=(len(records),) * 2), directed=False
    )
    joined = {components[rows[path]] for pair in pairs for path in pair}
    members: dict[int, list[ImageRecord]] = {component: [] for component in joined}
    for record, component in zip(records, components, strict=True):
        if component in members:
            members[component].append(record)
    names: dict[str, str] = {}
    for several in members.values():
        own = [record.group for record in several if record.group is not None]
        name = min(own) if own else f"like {min(record.path for record in several)}"
        names |= {record.path: name for record in several}
    return names


def by_class(records: Sequence[ImageRecord], classes: Sequence[str], scanned: Scan) -> Mapping[str, Mapping[str, Any]]:
    """Sum up what good images of each class are: sizes, saturation, and histograms by type of pixels.

    Returns:
        By class: `images`, `sizes` (by `HxW`), `saturated` (mean share over images whose type has an end of the
        range, None if there are none), `histograms` (by dtype, int64 (BINS,)).
    """
    summary: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(classes):
        rows = [scanned.rows[record.path] for record in records if record.label == label]
        shapes, counts = np.unique(scanned.sizes[rows], axis=0, return_counts=True)
        saturated = scanned.saturated[rows]
        saturated = saturated[np.isfinite(saturated)]
        kinds = sorted({scanned.dtypes[row] for row in rows})
        summary[name] = {
            "images": len(rows),
            "sizes": {f"{h}x{w}": int(count) for (h, w), count in zip(shapes.tolist(), counts, strict=True)},
            "saturated": float(saturated.mean()) if len(saturated) else None,
            "histograms": {
                kind: scanned.histograms[[row for row in rows if scanned.dtypes[row] == kind]].sum(axis=0)
                for kind in kinds
            },
        }
    return summary
