"""Which seeds the classifiers of a method have, and how far apart their figures lie by each of them. Torch-free.

A method's classifiers are one for each generator seed, sample seed and classifier seed, crossed. How far the mean of
all would move with other seeds follows from mean squares, as in any crossed layout of random effects (Searle, Casella
and McCulloch, Variance Components, 1992, chapter 4). With MS_L the mean square of a set L of factors and N the number
of classifiers, the part of the variance of the mean that is due to the factors K together, and to no fewer, is

    c_K = sum over L that contain K of (-1)^(|L| - |K|) MS_L / N

and all of it is the sum of c_K over the sets of factors that have two seeds or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

GENERATOR, SAMPLE, CLASSIFIER = FACTORS = ("generator", "sample", "classifier")
Factors = frozenset[str]


@dataclass(frozen=True)
class Design:
    """The seeds of a method's classifiers, in the order of `FACTORS`; the last one changes first.

    A method without a generator has no generator seeds, one without synthetic images no sample seeds either.
    """

    generators: Sequence[int] = ()
    samples: Sequence[int] = ()
    classifiers: Sequence[int] = field(default=(0,))

    @property
    def seeds(self) -> dict[str, Sequence[int]]:
        """By factor; empty where the method has none of its kind."""
        return dict(zip(FACTORS, (self.generators, self.samples, self.classifiers), strict=True))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Seeds of each factor, 1 where the method has none."""
        return max(1, len(self.generators)), max(1, len(self.samples)), len(self.classifiers)

    @property
    def counts(self) -> dict[str, int]:
        """The same by factor."""
        return dict(zip(FACTORS, self.shape, strict=True))

    def shares_images_with(self, other: "Design") -> bool:
        """Whether what the two were made by can be paired: their generator and sample seeds are the same, or none."""
        pairs = ((self.generators, other.generators), (self.samples, other.samples))
        return all(not own or not theirs or list(own) == list(theirs) for own, theirs in pairs)


def subsets(factors: Sequence[str]) -> list[Factors]:
    """All sets of factors but the empty one."""
    return [frozenset(chosen) for size in range(1, len(factors) + 1) for chosen in combinations(factors, size)]


def freedom(factors: Factors, counts: Mapping[str, np.ndarray | int]) -> np.ndarray:
    """Degrees of freedom of a mean square: the product of the numbers of seeds, each less one."""
    return np.prod(np.broadcast_arrays(*(np.maximum(1, np.asarray(counts[name]) - 1) for name in factors)), axis=0)


def components(grid: np.ndarray) -> dict[Factors, np.ndarray]:
    """Split the variance of the mean over a grid of figures, (…, generators, samples, classifiers, figures).

    Returns:
        For each set of factors that have two seeds or more, its part of the variance: (…, figures). An estimate, which
        may by chance be below 0.
    """
    sizes = dict(zip(FACTORS, grid.shape[-4:-1], strict=True))
    active = [name for name in FACTORS if sizes[name] > 1]
    squares = {chosen: _mean_square(grid, chosen, sizes) for chosen in subsets(active)}
    total = np.prod(list(sizes.values()))
    return {
        chosen: sum(
            (-1) ** (len(larger) - len(chosen)) * square / total
            for larger, square in squares.items()
            if larger >= chosen
        )
        for chosen in squares
    }


def _mean_square(grid: np.ndarray, chosen: Factors, sizes: Mapping[str, int]) -> np.ndarray:
    """The mean square of a set of factors: of what they do together, beyond what fewer of them do."""
    axes = {name: grid.ndim - 4 + place for place, name in enumerate(FACTORS)}
    effect = grid
    for name, axis in axes.items():
        if sizes[name] == 1:  # its mean is itself
            continue
        mean = effect.mean(axis=axis, keepdims=True)
        effect = effect - mean if name in chosen else mean
    repeated = np.prod([sizes[name] for name in FACTORS if name not in chosen])
    squares = (effect**2).sum(axis=tuple(axes.values()))
    return repeated * squares / np.prod([sizes[name] - 1 for name in chosen])
