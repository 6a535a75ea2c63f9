"""Predictions of classifiers on a test set, and their scores. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from sarsynth.errors import UserError
from sarsynth.evidence.design import Design

BINS = 15  # of confidence, for the calibration error: torchmetrics' default


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the classifiers of one method took the test images for.

    Raises:
        UserError: A class has fewer than two images, so its spread by chance cannot be estimated.
    """

    # labels, int (classifiers, checkpoints, images), -1 for a class that is not among `classes`; a classifier's figure
    # is the mean over its checkpoints
    predicted: np.ndarray
    labels: np.ndarray  # true labels, int (images,)
    classes: Sequence[str]  # names of the labels 0, 1, …
    # names of the images, in their order; None where it is not known which is which, as in a published table
    images: Sequence[str] | None = None
    # shares of classes, float (classifiers, checkpoints, images, classes), which sum to 1 with that of all classes that
    # are not among `classes`; None where they are unknown
    shares: np.ndarray | None = None
    design: Design | None = None  # their seeds; None: as many classifier seeds as classifiers

    def __post_init__(self) -> None:
        for name, size in zip(self.classes, self.support, strict=True):
            if size < 2:
                images = f"{size or 'no'} image{'' if size == 1 else 's'}"
                raise UserError(
                    f"the test set has {images} of class {name}, and chance is told from two or more; add test images"
                )

    @property
    def seeds(self) -> Design:
        """Seeds of the classifiers."""
        return self.design or Design(classifiers=range(len(self.predicted)))

    @property
    def support(self) -> np.ndarray:
        """Images of each class, int (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @property
    def smallest(self) -> int:
        """Images of the smallest class."""
        return int(min(self.support))

    @classmethod
    def of_some(
        cls,
        predicted: np.ndarray,
        labels: np.ndarray,
        known: Sequence[str],
        classes: Sequence[str],
        images: Sequence[str] | None,
        shares: np.ndarray | None,
        design: Design | None,
    ) -> "Predictions":
        """Predictions for the images of some classes alone, by classifiers that may know more.

        What is taken for another class is wrong, and its share is what is left of 1.

        Args:
            predicted: As above, labels of the classes that are `known`, as all that follow.
            labels: True labels, int (images,).
            known: Names of the classes that the classifiers know.
            classes: Those of them that the test set is of.
            images: As above.
            shares: As above.
            design: As above.
        """
        if list(known) == list(classes):
            return cls(predicted, labels, classes, images, shares, design)
        own = [list(known).index(name) for name in classes]
        places = np.full(len(known), -1)
        places[own] = np.arange(len(own))
        rows = np.flatnonzero(places[labels] >= 0)
        return cls(
            places[predicted[..., rows]],
            places[labels[rows]],
            classes,
            images and [images[int(row)] for row in rows],
            None if shares is None else shares[..., rows, :][..., own],
            design,
        )

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
    """Score counts: F1 of each class, then minor mean (NaN where no class is minor), macro mean, accuracy, balanced.

    Args:
        hits: Images of each class that are recognised, (..., classes).
        predicted: Images that are taken for each class, (..., classes).
        support: Images of each class, (classes,), each > 0.
        minor: Labels of the minor classes.

    Returns:
        Shape (..., classes + 4); balanced accuracy is the mean recall.
    """
    f1 = 2 * hits / (predicted + support)
    minor_f1 = f1[..., list(minor)].mean(axis=-1) if len(minor) else np.full(f1.shape[:-1], np.nan)
    accuracy = hits.sum(axis=-1) / support.sum()
    balanced = (hits / support).mean(axis=-1)
    return np.concatenate([f1, np.stack([minor_f1, f1.mean(axis=-1), accuracy, balanced], axis=-1)], axis=-1)


def precision_areas(shares: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve of each class against all others (average precision).

    Args:
        shares: Of images, (images, classes).
        labels: Their classes, int (images,).
        weights: How often each image counts, whole numbers (replicates, images), of a type that holds their sums.

    Returns:
        Shape (replicates, classes).
    """
    areas = np.empty((len(weights), shares.shape[1]))
    by_image = np.ascontiguousarray(weights.T)  # as `image_weights` lays them out
    for label in range(shares.shape[1]):
        order = np.argsort(-shares[:, label], kind="stable")
        falling = -shares[order, label]
        (places,) = np.nonzero(labels[order] == label)
        ends = np.unique(np.searchsorted(falling, falling[places], side="right"))  # images alike count at once
        every = _sums(by_image, order, ends)
        own = _sums(by_image, order[places], np.searchsorted(places, ends))
        right = own.copy()
        for row in range(1, len(ends)):  # as np.cumsum would down the columns, five times as slowly
            every[row] += every[row - 1]
            right[row] += right[row - 1]
        np.maximum(every, 1, out=every)  # where none is counted yet, none is right
        right, every, own = (sums.astype(np.float32) for sums in (right, every, own))
        areas[:, label] = np.einsum("er,er->r", np.divide(right, every, out=every), own) / right[-1]
    return areas


def _sums(by_image: np.ndarray, order: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sum the weights of images, taken in an order, up to each end from the one before it: (ends, replicates)."""
    begins = np.concatenate([[0], ends])
    ones = np.ones(begins[-1], dtype=by_image.dtype)
    return csr_array((ones, order[: begins[-1]], begins), shape=(len(ends), len(by_image))) @ by_image


def calibration_errors(
    shares: np.ndarray, predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Expected calibration error: how far confidence lies from accuracy, over `BINS` bins of confidence.

    The confidence of an image is the share of the class that it is taken for; of -1, that of all classes that are not
    among these. Guo et al. 2017, arXiv 1706.04599.

    Args:
        shares: Of images, (images, classes).
        predicted: What they are taken for, int (images,).
        labels: Their classes, int (images,).
        weights: How often each image counts, (replicates, images).

    Returns:
        Shape (replicates,).
    """
    whole = np.column_stack([shares, np.clip(1 - shares.sum(axis=1), 0, 1)])  # whose last column is that of -1
    confidence = np.take_along_axis(whole, predicted[:, None], axis=1)[:, 0]
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    apart = ((predicted == labels) - confidence).astype(weights.dtype)  # else all weights are converted, for nothing
    by_bin = csr_array((apart, (bins, np.arange(len(labels)))), shape=(BINS, len(labels))) @ weights.T
    return np.abs(by_bin).sum(axis=0) / weights.sum(axis=1)
