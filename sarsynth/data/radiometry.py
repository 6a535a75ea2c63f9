"""From the pixels of a file to grey levels: one mapping for all images of a set, whatever split they belong to.

A study chooses a rule (`Linear`, `Log`, `MeanSigma`). Fitted to its training images alone, that becomes `Levels`, which
map every image. `EightBit` has nothing to fit. Grey levels are in 0..255, uint8 where files have 8 bits, else float32,
so that no level of a finer file is lost. Torch-free.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import reduce
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np

from sarsynth.console import progress
from sarsynth.data.records import ImageRecord, Source
from sarsynth.errors import UserError

WHITE = 255.0
HALF = 1 << 16  # values of half of a float32's bits

T = TypeVar("T")
Scale = Literal["linear", "log"]


class Radiometry(Protocol):
    """How the pixels of a set become grey levels."""

    @property
    def dtype(self) -> np.dtype:
        """The type of the grey levels, uint8 or float32."""

    @property
    def plain(self) -> dict[str, Any]:
        """All of it in JSON's types, for a fingerprint."""

    def levels(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Map an image (H, W, C) to grey levels in 0..255; a `UserError` names an image that it cannot map."""


@dataclass(frozen=True)
class EightBit:
    """Images of 8 bits, unchanged, and no others."""

    dtype = np.dtype(np.uint8)
    plain: ClassVar[dict[str, Any]] = {"name": "eight_bit"}

    def levels(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Return an image unchanged, and raise a `UserError` if it is not of 8 bits."""
        if pixels.dtype != np.uint8:
            raise UserError(
                f"{name}: {pixels.dtype} pixels, which are no grey levels of 8 bits; say how they become some: "
                "radiometry=linear, log or mean_sigma for SAR images; convert others to 8 bits"
            )
        return pixels


@dataclass(frozen=True)
class Levels:
    """A fitted rule."""

    rule: dict[str, Any]  # its name and keys
    scale: Scale  # grey levels rise from `low` to `high` with amplitude, or with its logarithm
    low: float  # the amplitude that is black, as are those below and missing pixels (NaN)
    high: float  # the amplitude that is white, as are those above
    below: float  # share of the training images' pixels below `low`
    above: float  # share of them above `high`
    dtype = np.dtype(np.float32)

    @property
    def plain(self) -> dict[str, Any]:
        """The rule and what was fitted."""
        return asdict(self)

    def levels(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Map an image (H, W, C) of any real type to float32 grey levels; a `UserError` for logarithms of negatives."""
        pixels = pixels.astype(np.float32, copy=False)
        if self.scale == "log":
            if (pixels < 0).any():
                raise UserError(
                    f"{name}: negative pixels, of which radiometry=log takes the logarithm; "
                    "if they are in dB already, use radiometry=linear"
                )
            with np.errstate(divide="ignore"):  # minus infinity, which is black
                height, span = np.log(pixels / np.float32(self.low)), math.log(self.high / self.low)
        else:
            height, span = pixels - np.float32(self.low), self.high - self.low
        return np.fmin(np.fmax(height * np.float32(WHITE / span), 0), WHITE)  # NaN becomes 0


# --- Rules ------------------------------------------------------------------------------------------------------------


class Training:
    """The pixels of the training images (`records` of `source`), read image by image as often as a rule needs them."""

    def __init__(self, source: Source, records: Sequence[ImageRecord]) -> None:
        self.source, self.records = source, records

    def each(self, use: Callable[[np.ndarray], T]) -> Iterator[T]:
        """Apply a function to every image's pixels that are not missing, float32 (n,); in the order of the images."""

        def read(record: ImageRecord) -> T:
            pixels = self.source.read(record).astype(np.float32, copy=False)
            return use(pixels[~np.isnan(pixels)])

        with progress("radiometry of the training images", len(self.records)) as advance, ThreadPoolExecutor() as pool:
            for result in pool.map(read, self.records):
                yield result
                advance()

    def total(self, count: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Sum what a function counts in every image."""
        return reduce(np.add, self.each(count))


class Rule(Protocol):
    """How a study's grey levels are found. The constructors raise a `UserError` if a value is out of range."""

    def fit(self, training: Training) -> Levels:
        """Find the grey levels that fit the training images; a `UserError` if there are none."""


class Linear:
    """Grey levels that rise with amplitude, between two percentiles (0 to 100) of the training images' pixels."""

    def __init__(self, percentiles: Sequence[float]) -> None:
        self.low, self.high = _rising("percentiles", percentiles)
        if not 0 <= self.low < self.high <= 100:
            raise UserError(f"percentiles={list(percentiles)}: use two rising numbers from 0 to 100")

    def fit(self, training: Training) -> Levels:
        """Find both percentiles."""
        low, high = exact_percentiles(training, [self.low, self.high])
        return _levels(training, {"name": "linear", "percentiles": [self.low, self.high]}, "linear", low, high)


class Log:
    """Grey levels that rise with the amplitude in dB, 20 log10(A / reference), between two limits in dB.

    The reference is an amplitude above 0, or None for the median of the training images' pixels.
    """

    def __init__(self, limits: Sequence[float], reference: float | None) -> None:
        self.limits, self.reference = _rising("limits", limits), reference
        if reference is not None and reference <= 0:
            raise UserError(
                f"reference={reference:g}: use an amplitude above 0, or null for that of the training images"
            )

    def fit(self, training: Training) -> Levels:
        """Find the amplitudes of both limits."""
        reference = exact_percentiles(training, [50])[0] if self.reference is None else self.reference
        if reference <= 0:
            raise UserError(
                f"radiometry=log: the training images' median is {reference:g}, which cannot be 0 dB; "
                "set radiometry.reference"
            )
        low, high = (reference * 10 ** (limit / 20) for limit in self.limits)
        rule = {"name": "log", "limits": list(self.limits), "reference": self.reference}
        return _levels(training, rule, "log", low, high)


class MeanSigma:
    """Grey levels that rise with amplitude: black is 0, white mu + sigmas * sigma of the training images' pixels.

    `sigmas`, >= 0, are standard deviations above the mean.
    """

    def __init__(self, sigmas: float) -> None:
        if sigmas < 0:
            raise UserError(f"sigmas={sigmas:g}: use 0 or more")
        self.sigmas = sigmas

    def fit(self, training: Training) -> Levels:
        """Find mean and standard deviation."""
        mu, sigma = mean_sigma(training)
        return _levels(training, {"name": "mean_sigma", "sigmas": self.sigmas}, "linear", 0.0, mu + self.sigmas * sigma)


def _rising(key: str, values: Sequence[float]) -> tuple[float, float]:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(values) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise UserError(f"{key}={list(values)}: use two rising numbers")
    return float(numbers[0]), float(numbers[1])


def _levels(training: Training, rule: dict[str, Any], scale: Scale, low: float, high: float) -> Levels:
    if not np.float32(low) < np.float32(high):
        raise UserError(
            f"radiometry={rule['name']}: black would be {low:g} and white {high:g}; are the training images constant?"
        )
    return Levels(rule, scale, low, high, *clipped(training, low, high))


# --- Statistics -------------------------------------------------------------------------------------------------------


def exact_percentiles(training: Training, wanted: Sequence[float]) -> list[float]:
    """Find exact percentiles of all pixels (NumPy's `inverted_cdf`) without holding them in memory.

    The bits of float32 numbers, with their signs turned (`_keys`), rise as the numbers do. So a first pass counts the
    upper halves of the bits, which tells where each percentile lies, and a second one counts the lower halves there.
    """
    upper = training.total(lambda pixels: np.bincount(_keys(pixels) >> 16, minlength=HALF))
    total = _counted(int(upper.sum()))
    ranks = [max(1, math.ceil(Fraction(str(percent)) * total / 100)) for percent in wanted]
    uppers = np.searchsorted(np.cumsum(upper), ranks)

    def lower(pixels: np.ndarray) -> np.ndarray:
        keys = _keys(pixels)
        return np.stack([np.bincount(keys[keys >> 16 == half] & (HALF - 1), minlength=HALF) for half in uppers])

    below = np.cumsum(upper)[uppers] - upper[uppers]  # pixels whose upper half is smaller
    counts = np.cumsum(training.total(lower), axis=1)
    lowers = [np.searchsorted(row, rank - less) for row, rank, less in zip(counts, ranks, below, strict=True)]
    return [_number(int(half) << 16 | int(rest)) for half, rest in zip(uppers, lowers, strict=True)]


def mean_sigma(training: Training) -> tuple[float, float]:
    """Find mean and standard deviation of all pixels, in float64, from those of each image."""

    def moments(pixels: np.ndarray) -> tuple[float, float, float]:
        return (len(pixels), pixels.mean(dtype=np.float64), pixels.var(dtype=np.float64)) if len(pixels) else (0, 0, 0)

    counts, means, variances = np.array(list(training.each(moments))).T
    shares = counts / _counted(counts.sum())
    mu = (shares * means).sum()
    return float(mu), math.sqrt((shares * (variances + (means - mu) ** 2)).sum())


def clipped(training: Training, low: float, high: float) -> tuple[float, float]:
    """Find the shares of all pixels that lie below one amplitude and above another."""

    def count(pixels: np.ndarray) -> np.ndarray:
        below, above = np.count_nonzero(pixels < np.float32(low)), np.count_nonzero(pixels > np.float32(high))
        return np.array([len(pixels), below, above])

    total, below, above = training.total(count).tolist()
    return below / _counted(total), above / total


def _counted(pixels: Any) -> Any:
    """Return a number of pixels; raise a `UserError` if it is 0."""
    if not pixels:
        raise UserError("radiometry: every pixel of the training images is missing")
    return pixels


def _keys(pixels: np.ndarray) -> np.ndarray:
    """Turn float32 numbers into unsigned integers of the same order; both zeros are one."""
    bits = (pixels + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _number(key: int) -> float:
    """Turn an integer of `_keys` back into its float32 number."""
    bits = key ^ 1 << 31 if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.array(bits, np.uint32).view(np.float32))
