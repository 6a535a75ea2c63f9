"""How well a classifier does: precision, recall and F1 of each class, and their means."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor


class ClassScores(TypedDict):
    """How well one class is recognised; each in [0, 1], `support` its number of images."""

    precision: float
    recall: float
    f1: float
    support: int


class Scores(TypedDict):
    """How well a classifier does; each in [0, 1]. `minor_f1` is None if no class is minor.

    `confusion` counts images: a row for each true class, a column for each predicted one.
    """

    per_class: dict[str, ClassScores]
    macro_f1: float
    minor_f1: float | None
    accuracy: float
    confusion: list[list[int]]


def scores(predicted: Tensor, labels: Tensor, classes: Sequence[str], minor: Sequence[str]) -> Scores:
    """Score predictions class by class.

    A class that was never predicted has precision 0. Macro-F1 is the mean over the classes that occur in `labels`.

    Args:
        predicted: Predicted labels, (N,).
        labels: True labels, (N,).
        classes: Names of the labels 0, 1, …
        minor: Names of the minor classes.
    """
    true, guessed, known = labels.cpu().numpy(), predicted.cpu().numpy(), range(len(classes))
    columns = precision_recall_fscore_support(true, guessed, labels=known, zero_division=0)
    per_class: dict[str, ClassScores] = {
        name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for name, precision, recall, f1, support in zip(classes, *columns, strict=True)
    }

    def mean_f1(names: Sequence[str]) -> float | None:
        values = [per_class[name]["f1"] for name in names if per_class[name]["support"]]
        return float(np.mean(values)) if values else None

    return {
        "per_class": per_class,
        "macro_f1": mean_f1(classes) or 0.0,
        "minor_f1": mean_f1(minor),
        "accuracy": float((true == guessed).mean()),
        "confusion": confusion_matrix(true, guessed, labels=known).tolist(),
    }
