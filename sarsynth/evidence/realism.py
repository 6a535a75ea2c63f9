"""How much synthetic images look like radar: speckle, texture, contrast, shadow and edges, against real ones.

For relative use only: chips of eight bits, resized and stretched for display, keep no calibrated intensity, so looks
and fits are not those of the sensor. What counts is how far a set lies from real images, beside two floors: how far two
halves of the real images lie from each other, and how far real images lie from themselves once the base's autoencoder
has encoded and decoded them, whose marks every synthetic image bears.

A grey value is taken for an amplitude, its square for an intensity. Torch-free: images are arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import ndimage, stats
from skimage.feature import graycomatrix, graycoprops
from skimage.filters import sobel

from sarsynth.data.clutter import BLOCKS, FRAME, equivalent_looks, fit_clutter_models, target_masks
from sarsynth.errors import UserError

NOTE = "relative use only: 8-bit chips, resized and stretched for display, are not calibrated"
GREY_LEVELS = 32  # of co-occurrences
TEXTURES = ("contrast", "homogeneity", "energy", "correlation")
SHADOW = 0.25  # of the clutter's mean intensity: darker is shadow
DRAWN = 64  # clutter pixels of each image, for distributions

# The unit of each measure's distance, by measure; the first three are the headline.
UNITS = {
    "texture": "standard deviations of real images, mean over four co-occurrence properties (Wasserstein)",
    "clutter": "Kolmogorov-Smirnov distance of clutter intensities, each over the mean of its image's clutter",
    "contrast": "dB of target-to-clutter ratio (Wasserstein)",
    "looks": "natural logarithm of the equivalent number of looks (Wasserstein)",
    "grey": "grey levels (Wasserstein)",
    "shadow": "share of the pixels around the target (Wasserstein)",
    "edges": "mean gradient over mean grey value (Wasserstein)",
}
HEADLINE = 3
SHAPES = {"texture": (len(TEXTURES),), "clutter": (DRAWN,), "grey": (256,)}  # of an image; the others are numbers


# --- What is measured of each image -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Traits:
    """What is measured of N images, by name: arrays of N rows, NaN where an image does not have it.

    `texture` (N, 4), `clutter` (N, 64) intensities, `contrast` in dB, `looks` (logarithm), `grey` (N, 256) counts,
    `shadow`, `edges`.
    """

    rows: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rows["grey"])

    def __getitem__(self, index: slice | np.ndarray) -> Self:
        """Choose images."""
        return type(self)({name: values[index] for name, values in self.rows.items()})

    def known(self, name: str) -> np.ndarray:
        """Rows of one measure, without those of the images that do not have it."""
        rows = self.rows[name]
        return rows[np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))]

    def median(self, name: str) -> float | None:
        """Median over the images that have it of a measure that is one number an image."""
        known = self.known(name)
        return float(np.median(known)) if len(known) else None

    @property
    def constant(self) -> int:
        """How many images have one grey value: they have no other traits."""
        return int(((self.rows["grey"] > 0).sum(axis=1) == 1).sum())


def traits(images: np.ndarray, seed: int = 0) -> Traits:
    """Measure images, uint8 (N, C, H, W), H and W at least 16; channels are averaged, clutter pixels drawn by `seed`.

    Raises:
        UserError: Images are too small.
    """
    grey = images.astype(np.float32).mean(axis=1)
    if len(grey) and min(grey.shape[1:]) < 2 * BLOCKS:
        raise UserError(
            f"classifier.image_size={grey.shape[1]}: speckle and texture need images of {2 * BLOCKS} px and more"
        )
    masks = target_masks(images) if len(images) else np.zeros(grey.shape, bool)
    pairs = enumerate(zip(grey, masks, strict=True))
    measured = [_traits_of(*pair, np.random.default_rng([seed, index])) for index, pair in pairs]
    rows = {name: np.array([values[name] for values in measured], np.float32) for name in UNITS}
    return Traits({name: values.reshape(len(grey), *SHAPES.get(name, ())) for name, values in rows.items()})


def _traits_of(grey: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Measure one image, float32 (H, W), whose target is marked, bool (H, W)."""
    values: dict[str, Any] = {name: np.full(SHAPES.get(name, ()), np.nan) for name in UNITS}
    values["grey"] = np.bincount(grey.round().astype(int).ravel(), minlength=256)
    if grey.min() == grey.max():
        return values
    levels = (grey * (GREY_LEVELS / 256)).astype(np.uint8)
    pairs = graycomatrix(levels, [1, 2], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], GREY_LEVELS, True, True)
    values["texture"] = [graycoprops(pairs, name).mean() for name in TEXTURES]
    values["edges"] = sobel(grey).mean() / grey.mean()
    intensity, clutter = grey.astype(float) ** 2, ~target
    level = intensity[clutter].mean() if clutter.any() else 0.0
    if level == 0:
        return values
    values["clutter"] = rng.choice(intensity[clutter], DRAWN) / level
    values["looks"] = np.log(equivalent_looks(intensity, clutter))
    if target.any():
        values["contrast"] = 10 * np.log10(intensity[target].mean() / level)
        near = ndimage.distance_transform_edt(clutter) <= FRAME * len(grey)
        values["shadow"] = (ndimage.uniform_filter(intensity, 3)[near & clutter] < SHADOW * level).mean()
    return values


# --- Sets of images against each other --------------------------------------------------------------------------------


def distances(reference: Traits, other: Traits) -> dict[str, float | None]:
    """Say how far two sets lie apart in each measure, in its unit (`UNITS`); None where either set has nothing."""
    return {name: _distance(name, reference.known(name), other.known(name)) for name in UNITS}


def _distance(name: str, reference: np.ndarray, other: np.ndarray) -> float | None:
    if not len(reference) or not len(other):
        return None
    return float(_DISTANCES.get(name, stats.wasserstein_distance)(reference, other))


def _texture_distance(reference: np.ndarray, other: np.ndarray) -> float:
    std = np.maximum(reference.std(axis=0), 1e-6)
    columns = zip((reference / std).T, (other / std).T, strict=True)
    return float(np.mean([stats.wasserstein_distance(*pair) for pair in columns]))


def _clutter_distance(reference: np.ndarray, other: np.ndarray) -> float:
    return stats.ks_2samp(reference.ravel(), other.ravel(), method="asymp").statistic


def _grey_distance(reference: np.ndarray, other: np.ndarray) -> float:
    levels = np.arange(256)
    return stats.wasserstein_distance(levels, levels, reference.sum(axis=0), other.sum(axis=0))


_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "texture": _texture_distance,
    "clutter": _clutter_distance,
    "grey": _grey_distance,
}


def realism(real: Traits, synthetic: Traits, autoencoder: Traits) -> dict[str, Any]:
    """Set synthetic images against real ones, with two floors beside.

    Args:
        real: Of real training images.
        synthetic: Of synthetic ones, in about the same class shares.
        autoencoder: Of the same real ones, encoded and decoded by the base's autoencoder.

    Returns:
        * `note`: how to take the figures;
        * `n`: images of each of `real`, `synthetic`, `autoencoder` and of each of the `halves`;
        * `constant`: `real` and `synthetic` images of one grey value, which only the measure `grey` counts;
        * `measures`: by name (`UNITS`), with `unit`, `headline` (whether it is one of three to look at first), `median`
          of each set where a measure is one number an image, and `distance` from real images: of `synthetic`, of one
          half of the real images from the other (`halves`), of `autoencoder`;
        * `fits`: of the models of clutter (`fit_clutter_models`), to each set.
    """
    sets = {"real": real, "synthetic": synthetic, "autoencoder": autoencoder}
    halves = real[0::2], real[1::2]
    compared = {"synthetic": (real, synthetic), "halves": halves, "autoencoder": (real, autoencoder)}
    apart = {key: distances(*pair) for key, pair in compared.items()}
    return {
        "note": NOTE,
        "n": {key: len(measured) for key, measured in sets.items()} | {"halves": len(halves[1])},
        "constant": {"real": real.constant, "synthetic": synthetic.constant},
        "measures": {
            name: {
                "unit": unit,
                "headline": index < HEADLINE,
                "median": None if name in SHAPES else {key: measured.median(name) for key, measured in sets.items()},
                "distance": {key: figures[name] for key, figures in apart.items()},
            }
            for index, (name, unit) in enumerate(UNITS.items())
        },
        "fits": {key: _clutter_fits(measured) for key, measured in sets.items()},
    }


def _clutter_fits(measured: Traits) -> dict[str, dict[str, float]] | None:
    """Fit the models of clutter to all images of a set, with their median number of looks."""
    clutter, looks = measured.known("clutter"), measured.median("looks")
    return fit_clutter_models(clutter.ravel(), float(np.exp(looks))) if len(clutter) and looks is not None else None
