"""Scores on bootstrap replicates, kept in the store: a row that is in another table again is not scored again.

They follow from predictions, by whose content they are named, and may be removed at any time. Torch-free.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sarsynth.evidence.chance import Scores
from sarsynth.evidence.predictions import Predictions
from sarsynth.evidence.significance import score
from sarsynth.files import staged

KEPT = ".scores"  # in the store
VERSION = 1  # raised whenever a change of the code changes what is kept
ARRAYS = {"grid", "resampled"}


def kept_or_scored(
    predictions: Predictions, minor: Sequence[str], store: Path, *, replicates: int, seed: int
) -> Scores:
    """Score predictions as `sarsynth.evidence.significance.score` does, or read what that came to, the same bits.

    Scores are kept in the store, unless it cannot be written; a file that is damaged is as good as none.
    """
    about = {"minor": list(minor), "replicates": replicates, "seed": seed, "version": VERSION}
    file = store / KEPT / f"{_digest(predictions, about)}.safetensors"
    with suppress(OSError, SafetensorError):
        if (kept := load_file(file)).keys() == ARRAYS:
            return Scores(predictions.seeds, classes=predictions.classes, smallest=predictions.smallest, **kept)
    scores = score(predictions, minor, replicates=replicates, seed=seed)
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        with staged(file, durable=False) as draft:
            save_file({name: np.ascontiguousarray(getattr(scores, name)) for name in ARRAYS}, draft)
    return scores


def _digest(predictions: Predictions, about: dict[str, object]) -> str:
    """Hash all that scores follow from."""
    arrays = (predictions.predicted, predictions.labels, predictions.shares)
    parts = [np.ascontiguousarray(array) for array in arrays if array is not None]
    forms = [(part.dtype.str, part.shape) for part in parts]
    known = {"classes": list(predictions.classes), "seeds": predictions.seeds.seeds, "arrays": forms, **about}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=list).encode())
    for part in parts:
        digest.update(part.data)
    return digest.hexdigest()[:16]
