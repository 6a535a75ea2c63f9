"""Predictions of classifiers on a test set, and their scores. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sarsynth.errors import UserError


@dataclass(frozen=True, eq=False)
class Predictions:
    """The labels that the classifiers of one method gave the test images.

    Raises:
        UserError: A class has fewer than two images, so its spread by chance cannot be estimated.
    """

    predicted: np.ndarray  # labels, int (seeds, checkpoints, images); a seed's figure is the mean over its checkpoints
    labels: np.ndarray  # true labels, int (images,)
    classes: Sequence[str]  # names of the labels 0, 1, …
    # names of the images, in their order; None where it is not known which is which, as in a published table
    images: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, size in zip(self.classes, self.support, strict=True):
            if size < 2:
                images = f"{size or 'no'} image{'' if size == 1 else 's'}"
                raise UserError(
                    f"the test set has {images} of class {name}, and chance is told from two or more; add test images"
                )

    @property
    def support(self) -> np.ndarray:
        """Images of each class, int (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def paired(self, other: "Predictions") -> bool:
        """Whether it is known which image is which for both.

        Raises:
            UserError: They are not the same test images.
        """
        if self.images is not None and other.images is not None:
            if list(self.images) != list(other.images) or not np.array_equal(self.labels, other.labels):
                raise UserError("the test images differ")
            return True
        if list(self.classes) != list(other.classes) or not np.array_equal(self.support, other.support):
            raise UserError("the classes or their numbers of test images differ")
        return False


def figures(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray, minor: Sequence[int]) -> np.ndarray:
    """Score counts: F1 of each class, then minor mean (NaN where no class is minor), macro mean and accuracy.

    Args:
        hits: Images of each class that are recognised, (..., classes).
        predicted: Images that are taken for each class, (..., classes).
        support: Images of each class, (classes,), each > 0.
        minor: Labels of the minor classes.

    Returns:
        Shape (..., classes + 3).
    """
    f1 = 2 * hits / (predicted + support)
    minor_f1 = f1[..., list(minor)].mean(axis=-1) if len(minor) else np.full(f1.shape[:-1], np.nan)
    accuracy = hits.sum(axis=-1) / support.sum()
    return np.concatenate([f1, np.stack([minor_f1, f1.mean(axis=-1), accuracy], axis=-1)], axis=-1)
