"""Scores that are kept: the same bits, only for the same predictions, and nothing that a lost file could hurt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sarsynth.evidence import kept_scores
from sarsynth.evidence.design import Design
from sarsynth.evidence.kept_scores import KEPT, kept_or_scored
from sarsynth.evidence.predictions import Predictions
from sarsynth.evidence.significance import score

CLASSES, MINOR = ["cargo", "tanker", "dredger"], ["tanker", "dredger"]
LABELS = np.repeat([0, 1, 2], [30, 20, 10])
BOOTSTRAP = {"replicates": 50, "seed": 0}


@pytest.fixture
def predictions() -> Predictions:
    """Of four classifiers, with shares."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), (4, 1, len(LABELS)))
    return Predictions(shares.argmax(axis=-1), LABELS, CLASSES, None, shares, Design((0, 1), (), (0, 1)))


def files(store: Path) -> list[Path]:
    return sorted((store / KEPT).iterdir())


def test_what_is_read_has_the_bits_of_what_was_computed(
    predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = score(predictions, MINOR, **BOOTSTRAP)
    first = kept_or_scored(predictions, MINOR, tmp_path, **BOOTSTRAP)
    monkeypatch.setattr(kept_scores, "score", None)  # the second time nothing is computed
    for found in (first, kept_or_scored(predictions, MINOR, tmp_path, **BOOTSTRAP)):
        np.testing.assert_array_equal(found.grid, expected.grid)
        np.testing.assert_array_equal(found.resampled, expected.resampled)
        assert (found.design, found.classes, found.smallest) == (expected.design, expected.classes, expected.smallest)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, predicted=one.predicted[:, :, ::-1].copy()),
        lambda one: replace(one, labels=one.labels[::-1].copy()),
        lambda one: replace(one, shares=np.ascontiguousarray(one.shares[..., ::-1])),
        lambda one: replace(one, shares=None),
        lambda one: replace(one, classes=["cargo", "dredger", "tanker"]),
        lambda one: replace(one, design=Design((), (), (0, 1, 2, 3))),
    ],
    ids=["predicted", "labels", "shares", "no shares", "classes", "design"],
)
def test_other_predictions_are_scored_anew(predictions: Predictions, tmp_path: Path, change):
    kept_or_scored(predictions, MINOR, tmp_path, **BOOTSTRAP)
    other = change(predictions)
    found, expected = kept_or_scored(other, MINOR, tmp_path, **BOOTSTRAP), score(other, MINOR, **BOOTSTRAP)
    np.testing.assert_array_equal(found.resampled, expected.resampled)
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(("minor", "bootstrap"), [([], {}), (MINOR, {"replicates": 60}), (MINOR, {"seed": 1})])
def test_another_bootstrap_or_other_minor_classes_are_scored_anew(
    predictions: Predictions, tmp_path: Path, minor: list[str], bootstrap: dict[str, int]
):
    kept_or_scored(predictions, MINOR, tmp_path, **BOOTSTRAP)
    found = kept_or_scored(predictions, minor, tmp_path, **BOOTSTRAP | bootstrap)
    np.testing.assert_array_equal(found.resampled, score(predictions, minor, **BOOTSTRAP | bootstrap).resampled)
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    "content", [b"", b"no safetensors", b"\x02\0\0\0\0\0\0\0{}"], ids=["empty", "other", "no arrays"]
)
def test_a_damaged_file_is_made_anew(predictions: Predictions, tmp_path: Path, content: bytes):
    kept_or_scored(predictions, MINOR, tmp_path, **BOOTSTRAP)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(content)
    found = kept_or_scored(predictions, MINOR, tmp_path, **BOOTSTRAP)
    np.testing.assert_array_equal(found.resampled, score(predictions, MINOR, **BOOTSTRAP).resampled)
    assert file.read_bytes() == whole


def test_a_store_that_cannot_be_written_keeps_none(predictions: Predictions, tmp_path: Path):
    store = tmp_path / "store"
    store.write_text("a file where the folder should be")  # as read-only as it gets, for root too
    found = kept_or_scored(predictions, MINOR, store, **BOOTSTRAP)
    np.testing.assert_array_equal(found.resampled, score(predictions, MINOR, **BOOTSTRAP).resampled)
    assert not (tmp_path / "missing").exists()
    kept_or_scored(predictions, MINOR, tmp_path / "missing", **BOOTSTRAP)
    assert not (tmp_path / "missing").exists(), "a store that is not there is not begun by a report"
