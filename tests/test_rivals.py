"""The cheap rivals of synthesis: each does what its row says, at the budget of all the others."""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from sarsynth.data.datamodules import BalancedStream, LabelledImages, PackedSampler, shuffled
from sarsynth.losses import class_weights, focal_losses

COUNTS = torch.tensor([389, 171, 81, 32, 24])


# --- The loss ---------------------------------------------------------------------------------------------------------


def test_class_weights_go_from_none_to_inverse_frequency():
    assert class_weights(COUNTS, 0.0).tolist() == [1.0] * 5
    labels = np.repeat(np.arange(5), COUNTS)
    balanced = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    np.testing.assert_allclose(class_weights(COUNTS, 1.0), balanced, rtol=1e-6)
    np.testing.assert_allclose(class_weights(COUNTS, 1 - 1e-9), balanced, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 1.0])
def test_class_weights_are_those_of_effective_numbers_and_have_mean_one(beta: float):
    weights = class_weights(COUNTS, beta).double()
    assert (weights * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)
    # The effective number is the sum of the powers of beta (Cui et al., proposition 1).
    effective = torch.tensor([sum(beta**power for power in range(count)) for count in COUNTS.tolist()])
    torch.testing.assert_close((weights * effective) / (weights * effective)[0], torch.ones(5).double())


def test_a_class_without_images_has_no_weight():
    assert class_weights(torch.tensor([3, 0, 1]), 1.0).tolist() == pytest.approx([2 / 3, 0, 2])
    assert class_weights(torch.tensor([3, 0, 1]), 0.0).tolist() == [1, 0, 1]


LOGITS = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.arange(50) % 5


def gradient(losses) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    losses(logits).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_focal_loss_without_focus_is_cross_entropy():
    reference = functional.cross_entropy(LOGITS, LABELS, reduction="none")
    assert torch.equal(focal_losses(LOGITS, LABELS, 0.0), reference)
    assert torch.equal(
        gradient(lambda logits: focal_losses(logits, LABELS, 0.0)),
        gradient(lambda logits: functional.cross_entropy(logits, LABELS, reduction="none")),
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_the_papers(gamma: float):
    p = LOGITS.double().softmax(1)[torch.arange(50), LABELS]
    torch.testing.assert_close(focal_losses(LOGITS.double(), LABELS, gamma), -((1 - p) ** gamma) * p.log())
    certain = torch.tensor([[200.0, 0, 0]], requires_grad=True)
    loss = focal_losses(certain, torch.tensor([0]), gamma)
    loss.backward()
    assert loss == 0
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


# --- The order --------------------------------------------------------------------------------------------------------

UNEVEN = torch.tensor([0] * 20 + [1] * 7 + [3] * 2)  # no image of class 2


def test_a_balanced_stream_shows_every_class_alike():
    rows = torch.arange(100, 129)
    stream = BalancedStream(rows, 50, 0, UNEVEN)
    batches = [stream.batch(step, 4) for step in range(50)]
    shown = torch.cat(batches)
    classes = UNEVEN[shown - 100]
    for turn in classes[:198].split(3):
        assert sorted(turn.tolist()) == [0, 1, 3], "each round has every class once"
    assert len({tuple(turn.tolist()) for turn in classes[:198].split(3)}) == 6, "in any order"
    for label, size in ((0, 20), (1, 7), (3, 2)):
        own = shown[classes == label]
        for epoch in own[: len(own) // size * size].split(size):
            assert sorted(epoch.tolist()) == rows[label == UNEVEN].tolist(), "each image once before any comes again"


def test_a_balanced_stream_is_a_function_of_seed_and_step():
    def whole(seed: int, batch_size: int, start: int = 0) -> torch.Tensor:
        stream = BalancedStream(torch.arange(29), 120 // batch_size, seed, UNEVEN)
        return torch.cat(list(PackedSampler([stream], batch_size, start=lambda: start)))

    assert torch.equal(whole(0, 4), whole(0, 10)), "batches are cuts of one stream"
    assert torch.equal(whole(0, 4, start=7), whole(0, 4)[28:]), "a resumed run goes on"
    assert not torch.equal(whole(0, 4), whole(1, 4))


def test_the_classifiers_batches_follow_the_sampling():
    training = LabelledImages(torch.zeros(29, 1, 2, 2, dtype=torch.uint8), UNEVEN)
    shares = {}
    for sampling in ("uniform", "balanced"):
        (stream,) = shuffled(training, batch_size=29, max_steps=9, seed=0, sampling=sampling).streams
        shown = torch.cat([stream.batch(step, 29) for step in range(9)])
        shares[sampling] = Counter(UNEVEN[shown].tolist())
    assert shares == {"uniform": {0: 180, 1: 63, 3: 18}, "balanced": {0: 87, 1: 87, 3: 87}}
