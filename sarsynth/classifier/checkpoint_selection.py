"""Which checkpoints of a classifier's training its scores are of.

The last step, which nothing selects; or, as in the paper, the several that do best on validation images; or a vote of
those that do best on the test set itself, as in the authors' release, whose scores are therefore too good.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.nn.functional import one_hot

from sarsynth.classifier.learning import ClassifierTraining
from sarsynth.classifier.network import Classifier, predict
from sarsynth.classifier.scores import scores
from sarsynth.data.labelled_images import LabelledImages


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a classifier knew at one step."""

    step: int  # optimiser steps until then
    validation: float | None  # macro-F1 on the validation images; None if there are none
    logits: Tensor  # of the test images, float32 (N, classes)
    weights: Mapping[str, Tensor]  # the state of the classifier


@dataclass(frozen=True, eq=False)
class Selected:
    """The checkpoints that were selected, and the classes that they predict."""

    checkpoints: list[Checkpoint]  # the best first
    predicted: Tensor  # labels of the test images, int64 (vectors, N); scores are means over the vectors


class CheckpointSelection(Callback):
    """Keep the checkpoints that do best on validation images, as their predictions for the test images.

    The training itself is the same with and without it. Of equally good checkpoints the later is better.

    Args:
        validation: Images that the classifier is not trained on.
        test: Test images, uint8 (N, C, H, W); they are predicted, and select nothing here.
        every: Steps between validations; the last step is always one.
        after: Steps before the first.
        keep: How many checkpoints.
    """

    def __init__(self, validation: LabelledImages, test: Tensor, *, every: int, after: int, keep: int) -> None:
        self.validation, self.test = validation, test
        self.every, self.after, self.keep = every, after, keep
        self.kept: list[Checkpoint] = []  # the best first

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Validate when it is time."""
        step, is_last = trainer.global_step, trainer.global_step == trainer.max_steps
        due = step >= self.after and step % self.every == 0
        if (due or is_last) and all(checkpoint.step < step for checkpoint in self.kept):
            assert isinstance(module, ClassifierTraining)
            self._validate(module.classifier, step)
            module.train()

    def _validate(self, classifier: Classifier, step: int) -> None:
        predicted = predict(classifier, self.validation.images).argmax(dim=1)
        macro_f1 = _macro_f1(predicted, self.validation.labels, classifier.classes)
        if len(self.kept) < self.keep or (macro_f1, step) > _rank(self.kept[-1]):
            checkpoint = Checkpoint(step, macro_f1, predict(classifier, self.test), weights_of(classifier))
            candidates = [*self.kept, checkpoint]
            self.kept = sorted(candidates, key=_rank, reverse=True)[: self.keep]

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed training needs."""
        return {"kept": [asdict(checkpoint) for checkpoint in self.kept]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.kept = [Checkpoint(**checkpoint) for checkpoint in state_dict["kept"]]


def weights_of(classifier: Classifier) -> dict[str, Tensor]:
    """Copy the state of a classifier to the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in classifier.state_dict().items()}


def _macro_f1(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> float:
    return scores(predicted, labels, classes, minor=[])["macro_f1"]


def _rank(checkpoint: Checkpoint) -> tuple[float, int]:
    return checkpoint.validation or 0.0, checkpoint.step


def _predictions(checkpoints: Sequence[Checkpoint]) -> Tensor:
    """Labels of the test images by each checkpoint, int64 (k, N)."""
    return torch.stack([checkpoint.logits.argmax(dim=1) for checkpoint in checkpoints])


def last(kept: Sequence[Checkpoint], labels: Tensor, classes: Sequence[str], k: int) -> Selected:
    """Select the last step."""
    final = [max(kept, key=lambda checkpoint: checkpoint.step)]
    return Selected(final, _predictions(final))


def best(kept: Sequence[Checkpoint], labels: Tensor, classes: Sequence[str], k: int) -> Selected:
    """Select the k best on validation images, each with a vector of its own (the paper's text: their mean F1)."""
    return Selected(list(kept[:k]), _predictions(kept[:k]))


def vote(kept: Sequence[Checkpoint], labels: Tensor, classes: Sequence[str], k: int) -> Selected:
    """Select the k with the best macro-F1 on the **test set**, and the label that most of them give an image.

    Of labels with equally many votes, that of the better checkpoint counts (the authors' release:
    `voting_ensemble_topk.py`).
    """
    by_test = sorted(
        kept, key=lambda checkpoint: _macro_f1(checkpoint.logits.argmax(dim=1), labels, classes), reverse=True
    )[:k]
    return Selected(by_test, majority(_predictions(by_test), len(classes)))


def majority(ballots: Tensor, classes: int) -> Tensor:
    """The label that most ballots, int64 (k, N), the best first, give each image, of so many classes: (1, N)."""
    votes = one_hot(ballots, classes).sum(dim=0)
    has_most = votes.gather(1, ballots.T) == votes.max(dim=1, keepdim=True).values  # (N, k): whether a ballot leads
    first = has_most.int().argmax(dim=1)
    return ballots.gather(0, first[None])


CHOICES: dict[str, Callable[[Sequence[Checkpoint], Tensor, Sequence[str], int], Selected]] = {
    "none": last,
    "mean": best,
    "release_vote": vote,
}
