"""The paper's Table 3 as predictions. Torch-free.

Each precision and recall of it is, to all four digits, a quotient of counts over one test set of 1,260 images, so hits
and predictions of each class are known (`assets/published/table3.csv`, whose precision, recall and F1 are the paper's).
Which images they are is not.
"""

import csv
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from sarsynth.evidence.predictions import Predictions

TABLE3 = Path(__file__).parents[1] / "assets/published/table3.csv"


def table3() -> dict[tuple[str, str], Predictions]:
    """Read the table: predictions of one classifier by (method, split), `deci` or `train`."""
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    with TABLE3.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["method"], row["split"]), []).append(row)
    return {
        key: from_counts(
            [row["class"] for row in lines],
            *(np.array([int(row[column]) for row in lines]) for column in ("support", "hits", "predicted")),
        )
        for key, lines in rows.items()
    }


def from_counts(classes: list[str], support: np.ndarray, hits: np.ndarray, predicted: np.ndarray) -> Predictions:
    """Make predictions with these counts of each class: one way of several in which the errors may fall.

    `hits` are images of each class that are recognised, `predicted` those that are taken for it.

    Raises:
        ValueError: No predictions have these counts.
    """
    labels = np.arange(len(classes))
    missed, wrong = np.repeat(labels, support - hits), np.repeat(labels, predicted - hits)
    if len(missed) != len(wrong):
        raise ValueError(f"{predicted.sum()} predictions of {support.sum()} images")
    # A missed image may be taken for any class but its own.
    own = missed[:, None] == wrong[None, :]
    rows, columns = linear_sum_assignment(own)
    if own[rows, columns].any():
        raise ValueError("errors cannot be shared out among other classes")
    named = np.concatenate([np.repeat(labels, hits), wrong[columns]])
    true = np.concatenate([np.repeat(labels, hits), missed[rows]])
    return Predictions(named[None, None], true, classes)
