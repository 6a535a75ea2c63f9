"""Over-sampling of a class in feature space: points between neighbours. Torch-free."""

from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors


@dataclass(frozen=True)
class OverSampling:
    """The last steps of a training, in which the last layer alone learns, from features.

    First the whole network learns from the real images. Then the features of all images are computed once, and in place
    of each added image stands a point between its features and those of a neighbour of its class (Dablain et al.,
    Efficient Augmentation for Imbalanced Deep Learning, doi:10.1109/ICDE55515.2023.00114, with SMOTE).
    """

    steps: int  # their learning rate starts at the peak and falls as a cosine
    neighbours: int  # nearest ones, of which one is drawn


def between_neighbours(bases: np.ndarray, samples: np.ndarray, neighbours: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a point between each of some samples of a class and one of its nearest neighbours.

    Chawla et al., SMOTE, doi:10.1613/jair.953. Which neighbour, and where on the way to it, are uniformly random.

    Args:
        bases: Samples to start from, shape (M, F), each of them one of `samples`; they may repeat.
        samples: All of the class, shape (N, F).
        neighbours: Of how many nearest neighbours one is drawn; fewer where the class has fewer. A sample that is alone
            in its class stays where it is.
        rng: Source of randomness.

    Returns:
        Shape (M, F).
    """
    count = min(neighbours, len(samples) - 1)
    if not count or not len(bases):
        return bases
    nearest = NearestNeighbors(n_neighbors=count + 1).fit(samples).kneighbors(bases, return_distance=False)
    drawn = rng.integers(1, count + 1, size=len(bases))  # the nearest of all is the sample itself
    others = samples[nearest[np.arange(len(bases)), drawn]]
    return bases + rng.random((len(bases), 1), dtype=np.float32) * (others - bases)
