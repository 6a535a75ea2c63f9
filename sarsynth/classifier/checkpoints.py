"""Which steps of a classifier's training a score is of.

The last one, which nothing chooses; or, as in the paper, several that do best on validation images; or a vote of those
that do best on the test set itself, as the authors' release takes them, whose scores are too good.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.nn.functional import one_hot

from sarsynth.classifier.classification import Classifier, predict, scores
from sarsynth.data.labelled_images import LabelledImages


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a classifier knew at one step.

    Attributes:
        step: Optimiser steps until then.
        validation: Macro-F1 on the validation images; None if there are none.
        logits: Of the test images, float32 (N, classes).
    """

    step: int
    validation: float | None
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Chosen:
    """The checkpoints that were chosen, and what they say.

    Attributes:
        checkpoints: In the order of their rank.
        predicted: Labels of the test images, int64 (vectors, N); scores are means over the vectors.
    """

    checkpoints: list[Checkpoint]
    predicted: Tensor


class Checkpoints(Callback):
    """Keep the checkpoints that do best on validation images, as what they say of the test images.

    Training goes on as if nobody looked. Of equal ones the later is better.

    Args:
        validation: Images that the classifier is not trained on.
        test: Test images, uint8 (N, C, H, W); looked at, and used for no choice here.
        every: Steps between validations; the last step is always one.
        after: Steps before the first.
        keep: How many.
    """

    def __init__(self, validation: LabelledImages, test: Tensor, *, every: int, after: int, keep: int) -> None:
        self.validation, self.test = validation, test
        self.every, self.after, self.keep = every, after, keep
        self.kept: list[Checkpoint] = []  # the best first

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Validate when it is time."""
        step, last = trainer.global_step, trainer.global_step == trainer.max_steps
        due = step >= self.after and step % self.every == 0
        if (due or last) and all(one.step < step for one in self.kept):
            assert isinstance(module, Classifier)
            self._add(module, step)
            module.train()

    def _add(self, classifier: Classifier, step: int) -> None:
        said = predict(classifier, self.validation.images).argmax(dim=1)
        figure = scores(said, self.validation.labels, classifier.classes, [])["macro_f1"]
        if len(self.kept) < self.keep or (figure, step) > _rank(self.kept[-1]):
            found = [*self.kept, Checkpoint(step, figure, predict(classifier, self.test))]
            self.kept = sorted(found, key=_rank, reverse=True)[: self.keep]

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed training needs."""
        return {"kept": [asdict(one) for one in self.kept]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.kept = [Checkpoint(**one) for one in state_dict["kept"]]


def _rank(checkpoint: Checkpoint) -> tuple[float, int]:
    return checkpoint.validation or 0.0, checkpoint.step


def last(kept: Sequence[Checkpoint], labels: Tensor, classes: Sequence[str], k: int) -> Chosen:
    """Take the last step."""
    final = max(kept, key=lambda one: one.step)
    return Chosen([final], final.logits.argmax(dim=1)[None])


def best(kept: Sequence[Checkpoint], labels: Tensor, classes: Sequence[str], k: int) -> Chosen:
    """Take the k best on validation images, each with a vector of its own (the paper's text: their mean F1)."""
    chosen = list(kept[:k])
    return Chosen(chosen, torch.stack([one.logits.argmax(dim=1) for one in chosen]))


def vote(kept: Sequence[Checkpoint], labels: Tensor, classes: Sequence[str], k: int) -> Chosen:
    """Take the k that have the best macro-F1 on the **test set**, and the label that most of them give an image.

    Of labels with equally many votes, that of the better checkpoint counts (the authors' release:
    `voting_ensemble_topk.py`).
    """
    ranked = sorted(
        kept, key=lambda one: scores(one.logits.argmax(dim=1), labels, classes, [])["macro_f1"], reverse=True
    )[:k]
    ballots = torch.stack([one.logits.argmax(dim=1) for one in ranked])  # (k, N)
    votes = one_hot(ballots, len(classes)).sum(dim=0)
    leading = (
        votes.gather(1, ballots.T) == votes.max(dim=1, keepdim=True).values
    )  # (N, k): ballots for a label in the lead
    first = leading.int().argmax(dim=1)
    return Chosen(ranked, ballots.gather(0, first[None]))


CHOICES: dict[str, Callable[[Sequence[Checkpoint], Tensor, Sequence[str], int], Chosen]] = {
    "none": last,
    "mean": best,
    "release_vote": vote,
}
