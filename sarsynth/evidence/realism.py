"""How much synthetic images look like radar: speckle, texture, contrast, shadow and edges, against real ones.

For relative use only: chips of eight bits, resized and stretched for display, keep no calibrated intensity, so looks
and fits are not those of the sensor. What counts is how far a set lies from real images beside two floors: how far two
halves of the real images lie from each other, and how far real images lie from themselves after a way through the
base's autoencoder, whose marks every synthetic image bears.

A grey value is taken for an amplitude, its square for an intensity. Torch-free: images are arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import ndimage, stats
from scipy.special import gammainc
from skimage.feature import graycomatrix, graycoprops
from skimage.filters import sobel

from sarsynth.errors import UserError

NOTE = "relative use only: 8-bit chips, resized and stretched for display, are not calibrated"
FRAME = 0.125  # its width, of the image's side; nothing bright in it alone is a target
EDGE_OF_TARGET = 4.0  # how many deviations above the clutter's median it begins
GROWN = 2  # px by which a target's mask is grown, for its sidelobes
BLOCKS = 8  # along a side, in which clutter is taken to be homogeneous
TRIMMED = 0.1  # of the blocks, at each end of their means: wakes, other ships, land
GREY_LEVELS = 32  # of co-occurrences
TEXTURES = ("contrast", "homogeneity", "energy", "correlation")
SHADOW = 0.25  # of the clutter's mean intensity: darker is shadow
DRAWN = 64  # clutter pixels of each image, for distributions
QUADRATURE = 64  # points over the texture of K-distributed clutter

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


def target_masks(images: np.ndarray) -> np.ndarray:
    """Say where the target of each image is, by one rule for real and synthetic images alike, without boxes.

    Most of the frame of an image, an eighth of its side wide, is clutter. Bright is where the image, smoothed over
    about 3 px, lies more than four deviations (1.48 x the median absolute one) above the frame's median. What is bright
    inside the frame is target, with all that is bright and touches it; the mask is grown by 2 px, and may be empty.

    Args:
        images: uint8 or floating, shape (N, C, H, W).

    Returns:
        bool, shape (N, H, W).
    """
    grey = images.mean(axis=1)
    smooth = ndimage.gaussian_filter(grey, (0, 1, 1))
    height, width = grey.shape[1:]
    top, left = round(FRAME * height), round(FRAME * width)
    inside = np.zeros((height, width), bool)
    inside[top : height - top, left : width - left] = True
    frame = smooth[:, ~inside]
    middle = np.median(frame, axis=1)
    deviation = 1.4826 * np.median(np.abs(frame - middle[:, None]), axis=1)
    bright = smooth > (middle + EDGE_OF_TARGET * np.maximum(deviation, 1))[:, None, None]
    target = ndimage.binary_propagation(bright & inside, np.ones((1, 3, 3), bool), mask=bright)
    return ndimage.binary_dilation(target, np.ones((1, 2 * GROWN + 1, 2 * GROWN + 1), bool))


def clutter_blocks(intensity: np.ndarray, clutter: np.ndarray | None = None) -> np.ndarray:
    """Cut an image into square blocks, an eighth of its side each, and keep those whose clutter counts as homogeneous.

    Those are the blocks without a target and without the tenths of largest and least mean. (Oliver and Quegan,
    Understanding SAR Images, 2004, on measuring speckle.)

    Args:
        intensity: >= 0, shape (H, W).
        clutter: bool, same shape; None is all of it.

    Returns:
        float64, shape (blocks, H // 8, W // 8); there may be none.
    """
    height, width = (side // BLOCKS for side in intensity.shape)

    def blocks(image: np.ndarray) -> np.ndarray:
        cut = image[: BLOCKS * height, : BLOCKS * width].reshape(BLOCKS, height, BLOCKS, width)
        return cut.transpose(0, 2, 1, 3).reshape(-1, height, width)

    values = blocks(intensity.astype(float))
    if clutter is not None:
        values = values[blocks(clutter).all(axis=(1, 2))]
    if not len(values):
        return values
    means = values.mean(axis=(1, 2))
    low, high = np.quantile(means, [TRIMMED, 1 - TRIMMED])
    return values[(low <= means) & (means <= high)]


def equivalent_looks(intensity: np.ndarray, clutter: np.ndarray | None = None) -> float:
    """Equivalent number of looks of an image's clutter: mean² / variance of intensity (Oliver and Quegan, 2004).

    Over `clutter_blocks`: the sum of their squared means over the sum of their variances, so that a slope across the
    image counts little.

    Args:
        intensity: >= 0, shape (H, W).
        clutter: bool, same shape; None is all of it.

    Returns:
        NaN if no block is clutter alone, or all are constant.
    """
    values = clutter_blocks(intensity, clutter)
    if not len(values) or values[0].size < 2:
        return np.nan
    total = values.var(axis=(1, 2), ddof=1).sum()
    return float((values.mean(axis=(1, 2)) ** 2).sum() / total) if total > 0 else np.nan


# --- Distributions of clutter -----------------------------------------------------------------------------------------


def fits(intensities: np.ndarray, looks: float) -> dict[str, dict[str, float]]:
    """Fit the usual models of clutter by moments, each with its Kolmogorov-Smirnov distance from the sample.

    * `gamma`: fully developed speckle over even clutter (Goodman); `looks` = 1 / normalised variance.
    * `k`: speckle of `looks` looks times a gamma texture of parameter `shape` (Jakeman and Pusey,
      doi:10.1109/TAP.1976.1141451): normalised variance = (1 + 1 / looks) (1 + 1 / shape) - 1; `gamma` has infinite
      shape.
    * `lognormal`: `mu` and `sigma` of the logarithm.

    Args:
        intensities: >= 0, of mean about 1, shape (N,).
        looks: Of the speckle alone, e.g. `equivalent_looks`.
    """
    values = np.maximum(np.asarray(intensities, float), 1e-6)  # black pixels have no logarithm
    values = values / values.mean()
    variance = float(values.var()) or 1e-12
    own = 1 / variance
    texture = (1 + variance) / (1 + 1 / looks) - 1
    shape = min(1 / texture, 1e6) if texture > 0 else 1e6
    mu, sigma = float(np.log(values).mean()), float(np.log(values).std()) or 1e-6
    models: dict[str, tuple[dict[str, float], Callable[[np.ndarray], np.ndarray]]] = {
        "gamma": ({"looks": own}, lambda x: gammainc(own, own * x)),
        "k": ({"looks": looks, "shape": shape}, lambda x: k_distribution(x, looks, shape)),
        "lognormal": ({"mu": mu, "sigma": sigma}, stats.lognorm(sigma, scale=np.exp(mu)).cdf),
    }
    return {
        name: {**parameters, "ks": float(stats.ks_1samp(values, cdf, method="asymp").statistic)}
        for name, (parameters, cdf) in models.items()
    }


def k_distribution(intensities: np.ndarray, looks: float, shape: float) -> np.ndarray:
    """Cumulative distribution of K-distributed intensity of mean 1: gamma distributions, averaged over the texture."""
    texture = stats.gamma.ppf((np.arange(QUADRATURE) + 0.5) / QUADRATURE, shape, scale=1 / shape)
    return gammainc(looks, looks * np.asarray(intensities)[..., None] / np.maximum(texture, 1e-12)).mean(axis=-1)


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

    def __getitem__(self, chosen: slice | np.ndarray) -> Self:
        """Choose images."""
        return type(self)({name: values[chosen] for name, values in self.rows.items()})

    @property
    def constant(self) -> int:
        """How many images have one grey value: they have no other traits."""
        return int(((self.rows["grey"] > 0).sum(axis=1) == 1).sum())


def traits(images: np.ndarray, seed: int = 0) -> Traits:
    """Measure images.

    Args:
        images: uint8, shape (N, C, H, W), H and W at least 16; channels are averaged.
        seed: Of the draw of clutter pixels.

    Raises:
        UserError: Images are too small.
    """
    grey = images.astype(np.float32).mean(axis=1)
    if len(grey) and min(grey.shape[1:]) < 2 * BLOCKS:
        raise UserError(
            f"classifier.image_size={grey.shape[1]}: speckle and texture need images of {2 * BLOCKS} px and more"
        )
    masks = target_masks(images) if len(images) else np.zeros(grey.shape, bool)
    measured = [
        _traits(*pair, np.random.default_rng([seed, i])) for i, pair in enumerate(zip(grey, masks, strict=True))
    ]
    empty = {"texture": (4,), "clutter": (DRAWN,), "grey": (256,)}
    return Traits(
        {
            name: np.array([one[name] for one in measured], dtype=np.float32).reshape(len(grey), *empty.get(name, ()))
            for name in UNITS
        }
    )


def _traits(grey: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    counts = np.bincount(grey.round().astype(int).ravel(), minlength=256)
    found: dict[str, Any] = dict.fromkeys(UNITS, np.nan)
    found |= {"texture": np.full(4, np.nan), "clutter": np.full(DRAWN, np.nan), "grey": counts}
    if grey.min() == grey.max():
        return found
    levels = (grey * (GREY_LEVELS / 256)).astype(np.uint8)
    pairs = graycomatrix(levels, [1, 2], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], GREY_LEVELS, True, True)
    found["texture"] = [graycoprops(pairs, name).mean() for name in TEXTURES]
    found["edges"] = sobel(grey).mean() / grey.mean()
    intensity, clutter = grey.astype(float) ** 2, ~target
    level = intensity[clutter].mean() if clutter.any() else 0.0
    if level == 0:
        return found
    found["clutter"] = rng.choice(intensity[clutter], DRAWN) / level
    found["looks"] = np.log(equivalent_looks(intensity, clutter))
    if target.any():
        found["contrast"] = 10 * np.log10(intensity[target].mean() / level)
        near = ndimage.distance_transform_edt(clutter) <= FRAME * len(grey)
        found["shadow"] = (ndimage.uniform_filter(intensity, 3)[near & clutter] < SHADOW * level).mean()
    return found


# --- Sets of images against each other --------------------------------------------------------------------------------


def distances(one: Traits, other: Traits) -> dict[str, float | None]:
    """Say how far two sets lie apart in each measure, in its unit (`UNITS`); None where either set has nothing."""

    def known(name: str) -> tuple[np.ndarray, np.ndarray]:
        pair = (each.rows[name] for each in (one, other))
        a, b = (rows[np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))] for rows in pair)
        return a, b

    found: dict[str, float | None] = {}
    for name in UNITS:
        a, b = known(name)
        found[name] = float(_DISTANCES.get(name, stats.wasserstein_distance)(a, b)) if len(a) and len(b) else None
    return found


def _texture_distance(one: np.ndarray, other: np.ndarray) -> float:
    scale = np.maximum(one.std(axis=0), 1e-6)
    apart = [stats.wasserstein_distance(a, b) for a, b in zip((one / scale).T, (other / scale).T, strict=True)]
    return float(np.mean(apart))


def _grey_distance(one: np.ndarray, other: np.ndarray) -> float:
    return stats.wasserstein_distance(np.arange(256), np.arange(256), one.sum(axis=0), other.sum(axis=0))


_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "texture": _texture_distance,
    "clutter": lambda one, other: stats.ks_2samp(one.ravel(), other.ravel(), method="asymp").statistic,
    "grey": _grey_distance,
}


def realism(real: Traits, synthetic: Traits, autoencoder: Traits) -> dict[str, Any]:
    """Set synthetic images against real ones, with two floors beside.

    Args:
        real: Of real training images.
        synthetic: Of synthetic ones, in about the same class shares.
        autoencoder: Of the same real ones after a way through the base's autoencoder.

    Returns:
        * `note`: how to take the figures;
        * `n`: images of each of `real`, `synthetic`, `autoencoder` and of each of the `halves`;
        * `constant`: `real` and `synthetic` images of one grey value, which only the measure `grey` counts;
        * `measures`: by name (`UNITS`), with `unit`, `headline` (whether it is one of three to look at first), `median`
          of each set where a measure is one number an image, and `distance` from real images: of `synthetic`, of one
          half of the real images from the other (`halves`), of `autoencoder`;
        * `fits`: of the models of clutter (`fits`), to each set.
    """
    sets = {"real": real, "synthetic": synthetic, "autoencoder": autoencoder}
    halves = real[0::2], real[1::2]
    apart = {
        "synthetic": distances(real, synthetic),
        "halves": distances(*halves),
        "autoencoder": distances(real, autoencoder),
    }
    return {
        "note": NOTE,
        "n": {name: len(each) for name, each in sets.items()} | {"halves": len(halves[1])},
        "constant": {"real": real.constant, "synthetic": synthetic.constant},
        "measures": {
            name: {
                "unit": unit,
                "headline": index < 3,
                "median": {key: _median(each.rows[name]) for key, each in sets.items()} if _plain(real, name) else None,
                "distance": {key: figures[name] for key, figures in apart.items()},
            }
            for index, (name, unit) in enumerate(UNITS.items())
        },
        "fits": {key: clutter_fits(each) for key, each in sets.items()},
    }


def clutter_fits(measured: Traits) -> dict[str, dict[str, float]] | None:
    """Fit the models of clutter to all images of a set, with their median number of looks."""
    clutter, looks = measured.rows["clutter"], _median(measured.rows["looks"])
    clutter = clutter[np.isfinite(clutter).all(axis=1)]
    return fits(clutter.ravel(), float(np.exp(looks))) if len(clutter) and looks is not None else None


def _plain(measured: Traits, name: str) -> bool:
    return measured.rows[name].ndim == 1


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


# --- The clutter shortcut ---------------------------------------------------------------------------------------------


def without_target(images: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Put clutter where targets are, at the same place in all images, lest the shape of a mask tell the class.

    That place is where more than one image in a hundred has its target (`target_masks`). Pixels of each image's own
    clutter are drawn into it, and into what its target has outside of it: grey values stay, the target goes.

    Args:
        images: uint8, shape (N, C, H, W).
        seed: Of the draw.

    Returns:
        The images, None if targets leave no clutter in one of them.
    """
    targets = target_masks(images)
    place = targets.mean(axis=0) > 0.01
    masked = images.copy()
    for index, target in enumerate(targets):
        hidden = place | target
        if hidden.all():
            return None
        clutter = images[index][:, ~hidden]  # (C, pixels)
        rng = np.random.default_rng([seed, index])
        masked[index][:, hidden] = clutter[:, rng.integers(clutter.shape[1], size=int(hidden.sum()))]
    return masked


def shortcut(labels: np.ndarray, whole: np.ndarray, masked: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Say what a classifier still recognises without targets: above chance, it is the clutter that gives classes away.

    Args:
        labels: True ones of test images, (N,).
        whole: Predicted ones, (N,).
        masked: Predicted ones of the same images after `without_target`.
        classes: Names of the labels.

    Returns:
        `accuracy`, `masked_accuracy` and `chance`, all of them means over the classes that occur, whatever their sizes,
        and `interval`, 95 %, of the second.
    """
    present = [label for label in range(len(classes)) if (labels == label).any()]
    recalls = [(masked == label)[labels == label] for label in present]
    error = np.sqrt(sum(np.var(hit) / len(hit) for hit in recalls)) / len(present)
    found = float(np.mean([hit.mean() for hit in recalls]))
    return {
        "accuracy": float(np.mean([(whole == label)[labels == label].mean() for label in present])),
        "masked_accuracy": found,
        "chance": 1 / len(present),
        "interval": [max(0.0, found - 1.96 * error), min(1.0, found + 1.96 * error)],
        "n": len(labels),
        "meaning": "accuracy of the study's classifier on test images whose targets are replaced by clutter; "
        "well above chance, clutter gives classes away, and gains may come from it",
    }
