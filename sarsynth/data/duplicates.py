"""Images that show one picture: proposed by hashes, decided by their fine structure, joined to groups. Torch-free."""

from collections.abc import Sequence

import cv2
import numpy as np
import scipy.fft
from scipy.cluster.hierarchy import DisjointSet

from sarsynth.data.health import THUMB, Scan
from sarsynth.data.records import ImageRecord

BLOCK = 512  # images, or pairs of them, that are compared at a time
REACH = 3  # px of a thumbnail by which two images of one scene may be displaced, tried in steps of half a pixel
STRUCTURE = 2.0  # px of a thumbnail: the standard deviation of the blur that takes coarse structure away
HASHES = ("brightness", "structure")  # that propose pairs: `health.difference_hash`, and `structure_hashes`
AGREEMENT = 0.9  # correlation of fine structure from which on two are one picture; see `agreements`


def near_duplicates(scanned: Scan, bits: int) -> list[tuple[int, int, float]]:
    """Find the pairs of good images that show one picture: the same pixels, or compressed, brightened, shifted.

    Hashes of either kind that differ in few bits propose a pair, one for changed values and one for displaced pixels;
    the correlation of their fine structure (speckle, edges) decides, at displacements of up to `REACH` px of a
    thumbnail, a twentieth of the image. A mirror image is another picture. Images are compared as they lie; a crop only
    adds pairs, of those that it makes the same. Of images with the same pixels, the first alone is compared with
    others. Hashes of one kind may differ in up to `bits` of their 64 bits.

    A pair is two rows i < j and the correlation of their fine structure, 1 for the same pixels; pairs are sorted.
    """
    firsts, found = _same(scanned.wholes)
    found |= _same(scanned.contents)[1]
    pairs = dict.fromkeys(found, 1.0)
    rows = np.array(firsts, np.int64)
    codes = np.column_stack([scanned.codes, structure_hashes(scanned.thumbs)])
    for batch in _proposals(codes[rows], bits):
        proposed = rows[batch]
        correlations = agreements(scanned.thumbs, proposed)
        same = correlations >= AGREEMENT
        joined = zip(proposed[same].tolist(), correlations[same].tolist(), strict=True)
        for (i, j), correlation in joined:
            pairs.setdefault((i, j), round(correlation, 3))
    return sorted((i, j, agreement) for (i, j), agreement in pairs.items())


def _same(digests: Sequence[str]) -> tuple[list[int], set[tuple[int, int]]]:
    """Find the first row of each digest that is not empty, and pair every other row of it with that."""
    firsts: dict[str, int] = {}
    pairs = {(firsts.setdefault(digest, row), row) for row, digest in enumerate(digests) if digest}
    return sorted(firsts.values()), {(first, row) for first, row in pairs if first != row}


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

    A chip that is cut two pixels further on has another `difference_hash`, but this one hardly changes. Thumbnails are
    uint8 (N, THUMB, THUMB), hashes uint64 (N,), of 8 x 8 pairs of frequencies.
    """
    codes = np.empty(len(thumbs), np.uint64)
    down, across = np.arange(-8, 8, 2), np.arange(1, 19, 2)
    for start in range(0, len(thumbs), BLOCK):
        strength = np.abs(_spectra(np.asarray(thumbs[start : start + BLOCK]))[:, down[:, None], across])
        bits = np.ascontiguousarray(strength[..., 1:] > strength[..., :-1])
        codes[start : start + BLOCK] = np.packbits(bits.reshape(len(bits), -1), axis=1).view(np.uint64)[:, 0]
    return codes


def agreements(thumbs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Correlate the fine structure of pairs of thumbnails, at the displacement that suits each best.

    Two chips of one kind of ship agree in their coarse structure, often better than a chip and its brightened copy; but
    speckle never comes twice. Of the 5,171 chips of MSTAR, many of one vehicle at almost one azimuth, no two reach 0.9.
    Thumbnails are uint8 (N, THUMB, THUMB), pairs are rows of them, int (K, 2), correlations float (K,).
    """
    if not len(pairs):
        return np.empty(0)
    rows, places = np.unique(pairs, return_inverse=True)
    spectra = _spectra(np.asarray(thumbs[rows]))
    first, second = (spectra[column] for column in places.reshape(-1, 2).T)
    cross = first * second.conj()
    shifts = np.arange(-2 * REACH, 2 * REACH + 1) / 2
    down = np.exp(2j * np.pi * shifts[:, None] * np.fft.fftfreq(THUMB)).astype(np.complex64)
    across = np.exp(2j * np.pi * np.fft.rfftfreq(THUMB)[:, None] * shifts).astype(np.complex64)
    across[1:-1] *= 2  # of a real image's spectrum, one half is kept
    return (down @ cross @ across).real.max(axis=(1, 2)) / THUMB**2


def _spectra(thumbs: np.ndarray) -> np.ndarray:
    """Spectra of fine structure, of unit energy: complex64 (N, THUMB, THUMB / 2 + 1)."""
    fine = thumbs.astype(np.float32)
    fine -= np.stack([cv2.GaussianBlur(image, (0, 0), STRUCTURE) for image in fine])
    limit = 4 * np.abs(fine).mean(axis=(1, 2), keepdims=True)
    window = np.hanning(THUMB + 2)[1:-1]  # weakens the borders, where displaced images differ
    fine = np.clip(fine, -limit, limit) * np.outer(window, window).astype(np.float32)
    energy = np.linalg.norm(fine, axis=(1, 2), keepdims=True)
    return scipy.fft.rfft2(fine / np.maximum(energy, 1e-6))


def groups(records: Sequence[ImageRecord], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Join the groups of images that show one picture, which `pairs` name: by name, the group of each image concerned.

    A joined group is called like the first in the alphabet of those that it is made of, or `like <path>` after its
    first image where none of its images had a group.
    """
    sets = DisjointSet(record.path for record in records)
    own = {record.path: record.group for record in records}
    firsts: dict[str, str] = {}
    for path, group in own.items():
        if group is not None:
            sets.merge(firsts.setdefault(group, path), path)
    for first, second in pairs:
        sets.merge(first, second)
    names: dict[str, str] = {}
    for root in sorted({sets[first] for first, _ in pairs}):
        joined = sets.subset(root)
        known = [group for path in joined if (group := own[path]) is not None]
        names |= dict.fromkeys(joined, min(known) if known else f"like {min(joined)}")
    return names
