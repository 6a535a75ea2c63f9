"""Which checkpoints a score is of: chosen on validation images alone, whatever is looked at on the way."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from known import a_study_that_knows
from test_classifier import CLASSES, TEST, bright_half, fit, same_weights
from torch import Tensor

from sarsynth.classifier.checkpoint_selection import CHOICES, Checkpoint, CheckpointSelection
from sarsynth.classifier.network import Classifier, predict
from sarsynth.classifier.scores import scores
from sarsynth.config.classifier_sections import Evaluate
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.records import ImageRecord
from sarsynth.errors import UserError
from sarsynth.stages import score_classifiers, sum_up
from sarsynth.stages.copy_images import repeated_images
from sarsynth.stages.curate_images import counts, source, training
from sarsynth.stages.score_classifiers import averaged, learning_and_validation, protocol

VALIDATION = bright_half(20, seed=2)


def selection(**more: Any) -> CheckpointSelection:
    return CheckpointSelection(VALIDATION, TEST.images, **{"every": 2, "after": 3, "keep": 2} | more)


# --- Keeping ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return fit()


def test_looking_changes_nothing_and_the_best_by_validation_are_kept(classifier: Classifier):
    every = selection(keep=9)
    assert same_weights(fit(callbacks=[every]), classifier)
    assert sorted(one.step for one in every.kept) == [4, 6, 8, 10, 12]
    ranks = [(one.validation, one.step) for one in every.kept]
    assert ranks == sorted(ranks, reverse=True), "the later of equal ones first"
    final = next(one for one in every.kept if one.step == 12)
    assert torch.equal(final.logits, predict(classifier, TEST.images))
    said = predict(classifier, VALIDATION.images).argmax(dim=1)
    assert final.validation == scores(said, VALIDATION.labels, CLASSES, [])["macro_f1"]
    two = selection()
    fit(callbacks=[two])
    assert [(one.step, one.validation) for one in two.kept] == [(one.step, one.validation) for one in every.kept[:2]]


def test_the_last_step_is_always_looked_at(classifier: Classifier):
    late = selection(every=5, after=100)
    fit(callbacks=[late])
    assert [one.step for one in late.kept] == [12]


def test_a_resumed_training_keeps_what_an_undisturbed_one_does(tmp_path: Path):
    class Killed(CheckpointSelection):
        def on_train_batch_end(self, trainer, module, *rest):
            super().on_train_batch_end(trainer, module, *rest)
            if trainer.global_step == 9:
                raise KeyboardInterrupt

    undisturbed = selection(keep=3)
    fit(callbacks=[undisturbed])
    options: dict[str, Any] = {"checkpoints": tmp_path, "checkpoint_every": 8}
    Killed.__qualname__ = "CheckpointSelection"  # the name under which a checkpoint holds a callback's state
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(callbacks=[Killed(VALIDATION, TEST.images, every=2, after=3, keep=3)], **options)
    assert (tmp_path / "last.ckpt").exists()
    resumed = selection(keep=3)
    fit(callbacks=[resumed], **options)
    assert [one.step for one in resumed.kept] == [one.step for one in undisturbed.kept]
    for one, other in zip(resumed.kept, undisturbed.kept, strict=True):
        assert torch.equal(one.logits, other.logits)


# --- Choosing ---------------------------------------------------------------------------------------------------------


def checkpoint(step: int, validation: float, said: list[int]) -> Checkpoint:
    return Checkpoint(step, validation, torch.eye(3)[said], {})


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
KEPT = [
    checkpoint(40, 0.9, [1, 1, 1, 1, 1, 1]),  # best by validation, worst on the test set
    checkpoint(20, 0.8, [0, 1, 0, 0, 2, 2]),
    checkpoint(10, 0.7, [0, 1, 2, 0, 0, 1]),
    checkpoint(50, 0.6, [1, 1, 2, 0, 1, 2]),
]


def choose(topk: str, k: int) -> tuple[list[int], Tensor]:
    found = CHOICES[topk](KEPT, LABELS, ["a", "b", "c"], k)
    return [one.step for one in found.checkpoints], found.predicted


def test_none_is_the_last_step():
    steps, predicted = choose("none", 3)
    assert steps == [50]
    assert predicted.tolist() == [[1, 1, 2, 0, 1, 2]]


def test_mean_is_of_the_best_by_validation_and_blind_to_the_test_set():
    steps, predicted = choose("mean", 2)
    assert steps == [40, 20]
    assert predicted.tolist() == [[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 2, 2]]


def test_release_vote_ranks_on_the_test_set_and_ties_go_to_the_better():
    steps, predicted = choose("release_vote", 3)
    assert steps == [50, 20, 10], "macro-F1 on the test set 0.82, 0.66, 0.66; of equal ones the better by validation"
    # Votes for the first image: 1, 0, 0; for the fifth, one each: 1, 2, 0.
    assert predicted.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert choose("release_vote", 2)[1].tolist() == [[1, 1, 2, 0, 1, 2]], "of two each has one vote everywhere"


def test_scores_are_averaged_leaf_by_leaf():
    one, other = (scores(said, LABELS, ["a", "b", "c"], []) for said in choose("mean", 2)[1])
    both = averaged([one, other])
    assert both["per_class"]["b"]["f1"] == pytest.approx(
        (one["per_class"]["b"]["f1"] + other["per_class"]["b"]["f1"]) / 2
    )
    assert both["per_class"]["b"]["support"] == 2
    assert both["minor_f1"] is None
    assert both["confusion"][0] == [1.0, 1.0, 0.0]
    assert averaged([one]) is one


# --- Validation images ------------------------------------------------------------------------------------------------

EVALUATE = {
    "k": 5,
    "keep": 10,
    "every": 1,
    "after": 0.4,
    "val": 0.25,
    "thresholds": "none",
    "baseline": "none",
    "replicates": 200,
}


def a_study(topk: str, groups: bool = False, val: bool = False, smallest: int = 4) -> Any:
    """Two classes, the second of few images; a group is two of a class."""
    labels = [0] * 12 + [1] * smallest
    records = [
        ImageRecord(f"{row:02d}.png", label, "train", group=f"scene {row // 2}" if groups else None)
        for row, label in enumerate(labels)
    ]
    images = torch.arange(len(records), dtype=torch.uint8).view(-1, 1, 1, 1)
    real = LabelledImages(images, torch.tensor(labels), [record.path for record in records])
    own = LabelledImages(images[:3] + 100, torch.tensor([0, 0, 1]), ["a.png", "b.png", "c.png"])
    sar = SimpleNamespace(records=lambda split: ["some"] if val else [], classes=["cargo", "tanker"])
    return a_study_that_knows(
        (source, ("sar",), sar),
        (training, ("sar",), records),
        (counts, (), {"cargo": 12, "tanker": smallest}),
        settings=SimpleNamespace(evaluate=Evaluate(topk=topk, **EVALUATE), seed=0),  # type: ignore[arg-type]
        labelled={"train": real, "val": own},
    )


@pytest.fixture(autouse=True)
def labelled(monkeypatch):
    monkeypatch.setattr(score_classifiers, "labelled", lambda study, split: study.labelled[split])


def test_where_nothing_is_chosen_all_images_are_trained_on():
    real, validation = learning_and_validation(a_study("none"))
    assert (len(real), validation) == (16, None)
    assert protocol(a_study("none")) == {"topk": "none"}, "no other key changes a score, or its fingerprint"


@pytest.mark.parametrize("groups", [False, True])
def test_a_stratified_part_of_train_is_validation_and_is_not_trained_on(groups: bool):
    real, validation = learning_and_validation(a_study("mean", groups))
    assert validation is not None
    assert set(real.names or []) | set(validation.names or []) == {f"{row:02d}.png" for row in range(16)}
    assert not set(real.names or []) & set(validation.names or [])
    assert torch.bincount(validation.labels).tolist() == ([2, 2] if groups else [3, 1])
    if groups:
        scenes = [{int(name[:2]) // 2 for name in one.names or []} for one in (real, validation)]
        assert not scenes[0] & scenes[1]
    again = learning_and_validation(a_study("release_vote", groups))[1]
    assert again is not None and again.names == validation.names, "the same whoever is compared"


def test_the_datas_own_validation_images_come_first():
    study = a_study("mean", val=True)
    real, validation = learning_and_validation(study)
    assert len(real) == 16 and validation is not None and validation.names == ["a.png", "b.png", "c.png"]
    assert protocol(study)["val"] == "val" and protocol(a_study("mean"))["val"] == 0.25


def test_repeated_images_are_none_of_validation():
    study = a_study("mean")
    _, validation = learning_and_validation(study)
    assert validation is not None
    repeated = repeated_images(study, learning_and_validation(study)[0], {"cargo": 20, "tanker": 10})
    assert torch.bincount(repeated.labels).tolist() == [20, 10]
    assert not set(repeated.names or []) & set(validation.names or [])


def test_one_image_of_a_class_leaves_none_to_train_on():
    with pytest.raises(UserError, match=r"evaluate\.val=0\.25: no image of class tanker is left .*evaluate\.topk=none"):
        learning_and_validation(a_study("mean", smallest=1))
    assert len(learning_and_validation(a_study("none", smallest=1))[0]) == 13


def test_a_class_without_test_images_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(sum_up, "every_trained", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(score_classifiers, "records", lambda *_: [ImageRecord("a.png", 0, "test")])
    settings = SimpleNamespace(evaluate=None, seeds=[0], method=SimpleNamespace(seed_offset=0))
    study = a_study_that_knows((source, ("sar",), SimpleNamespace(classes=["cargo", "tanker"])), settings=settings)
    with pytest.raises(UserError, match="data: no test image of class tanker, so it cannot be scored"):
        sum_up.result(study)
