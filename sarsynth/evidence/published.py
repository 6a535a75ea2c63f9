"""The paper's Tables 2 and 3 as figures with intervals. Torch-free.

All that is published stands in `assets/published/tables.csv`, digit by digit. Each precision and recall of Table 3 is,
to all four digits, a quotient of counts over one test set of 1,260 images, so hits and predictions of each class are
known, and with them how far the figures would move with other images. Of Table 2 only F1 of the minor classes is
published; it leaves few counts, of which those nearest to the row of `2lora`, which both tables have, are taken. Which
images they are is not known, nor how many seeds: intervals are over test images alone.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from sarsynth.evidence.predictions import Predictions
from sarsynth.evidence.significance import Estimate, Gain, compare, estimate

PUBLISHED = Path(__file__).parents[1] / "assets/published/tables.csv"
MINOR = ("fishing", "tanker", "dredger")  # classes whose F1 Table 2 has
OPTIONS = ("fusrs", "fu_srs")  # names of `data` under which the paper's set is read
DIGITS = 1.01e-4  # F1 has four, of unrounded or of rounded precision and recall
REPLICATES, SEED = 2000, 0

Key = tuple[str, str]  # method and split


@dataclass(frozen=True)
class PublishedRow:
    """What the paper says of a method, trained on a split; shares of 1."""

    tables: tuple[int, ...]  # in which it stands: 2, 3
    # F1 of each class by its name, and minor_f1; of Table 3 macro_f1 and accuracy too, which follow from its counts
    scores: Mapping[str, Estimate]
    fid: Mapping[str, float]  # by class; of features of its own classifier, of images that were never normalised


@cache
def lines() -> tuple[Mapping[str, str], ...]:
    """All lines of the file."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def table3() -> dict[Key, Predictions]:
    """Read Table 3: predictions of one classifier by (method, split), `deci` or `train`."""
    return {
        key: from_counts(
            [row["class"] for row in of_key],
            *(np.array([int(row[column]) for row in of_key]) for column in ("support", "hits", "predicted")),
        )
        for key, of_key in _by_key(3).items()
    }


def table2() -> dict[Key, Predictions]:
    """Read Table 2: likely predictions of one classifier by (method, split); of classes that are not minor, 2lora's.

    Of the largest class as many are predicted as make the predictions as many as the images.
    """
    images = test_images()
    known = {row["class"]: (int(row["hits"]), int(row["predicted"])) for row in _by_key(3)["2lora", "train"]}
    found = {}
    for key, of_key in _by_key(2).items():
        f1 = {row["class"]: float(row["f1"]) for row in of_key if row["f1"]}
        likely = known | {name: likely_counts(f1[name], images[name], known[name]) for name in MINOR}
        hits, predicted = np.array([likely[name] for name in images]).T
        predicted[0] += sum(images.values()) - predicted.sum()
        found[key] = from_counts(list(images), np.array(list(images.values())), hits, predicted)
    return found


def test_images() -> dict[str, int]:
    """The paper's test images of each class, in the order of Table 3."""
    return {row["class"]: int(row["support"]) for row in _by_key(3)["2lora", "train"]}


def is_fu_srs(data: str, images: Mapping[str, float]) -> bool:
    """Whether a test set is of the paper's data: its classes, with the option's name or as many images of each.

    Args:
        data: Name of the data set.
        images: Test images of each class.
    """
    return images.keys() == test_images().keys() and (data in OPTIONS or dict(images) == test_images())


@cache
def published(method: str, split: str) -> PublishedRow | None:
    """What the paper says of a method; None if it says nothing."""
    tables = tuple(table for table in (2, 3) if (method, split) in _by_key(table))
    if not tables:
        return None
    known = table3().get((method, split)) or table2()[method, split]
    found = estimate(known, MINOR, replicates=REPLICATES, seed=SEED)
    whole = ("minor_f1", "macro_f1", "accuracy") if 3 in tables else ("minor_f1",)
    fid = {row["class"]: float(row["fid"]) for row in _by_key(2).get((method, split), ()) if row["fid"]}
    names = known.classes if 3 in tables else MINOR
    return PublishedRow(tables, {name: found[name] for name in [*names, *whole]}, fid)


@cache
def published_gains(method: str, base: str, split: str) -> Mapping[str, Gain] | None:
    """Gains of a published method over another one, whose images are drawn apart; None if one is not published.

    By the name of a class and as `scores` of a row; of minor classes and their mean alone, where Table 3 lacks one.
    """
    pair = [published(name, split) for name in (method, base)]
    if method == base or not all(pair):
        return None
    known = table2() | table3()
    found = compare(known[method, split], known[base, split], MINOR, replicates=REPLICATES, seed=SEED)
    gains = {**found.per_class, "minor_f1": found.minor_f1, "macro_f1": found.macro_f1, "accuracy": found.accuracy}
    shared = set.intersection(*(set(row.scores) for row in pair if row))
    return {name: gain for name, gain in gains.items() if gain and name in shared}


def likely_counts(f1: float, support: int, near: tuple[int, int]) -> tuple[int, int]:
    """Hits and predictions of a class that make this F1: of several those nearest to others.

    Raises:
        ValueError: None do.
    """
    hits, predicted = np.meshgrid(np.arange(1, support + 1), np.arange(1, 3 * support), indexing="ij")
    fits = (predicted >= hits) & (np.abs(2 * hits / (predicted + support) - f1) <= DIGITS)
    if not fits.any():
        raise ValueError(f"no counts of {support} images make F1 {f1}")
    apart = np.where(fits, np.abs(hits - near[0]) + np.abs(predicted - near[1]), np.iinfo(int).max)
    place = np.unravel_index(apart.argmin(), apart.shape)
    return int(hits[place]), int(predicted[place])


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


def _by_key(table: int) -> dict[Key, list[Mapping[str, str]]]:
    found: dict[Key, list[Mapping[str, str]]] = {}
    for row in lines():
        if int(row["table"]) == table:
            found.setdefault((row["method"], row["split"]), []).append(row)
    return found
