"""In which order a part of a set is trained on: as it comes with the whole, each class as often as any other."""

import torch

from sarsynth.data.streams import part_of_stream

LABELS = torch.tensor([0] * 40 + [1] * 10 + [2] * 4)


def drawn(rows: list[int], steps: int, sampling: str, batch_size: int = 16) -> torch.Tensor:
    part = part_of_stream(LABELS, torch.tensor(rows), steps, 3, sampling)
    return torch.stack([part.batch(step, batch_size) for step in range(steps)])


def test_every_batch_has_each_class_as_often():
    batches = LABELS[drawn(list(range(54)), 50, "balanced")]
    counts = torch.stack([(batches == label).sum(dim=1) for label in range(3)])
    assert (counts - 16 / 3).abs().max() < 1


def test_every_image_of_a_class_comes_as_often():
    counts = drawn(list(range(54)), 600, "balanced").flatten().bincount(minlength=54)
    for label in range(3):
        of_class = counts[label == LABELS].double()
        assert (of_class / of_class.mean() - 1).abs().max() < 4 / of_class.mean().sqrt(), "within chance"
    assert counts.sum() == 600 * 16


def test_a_part_sees_its_images_in_the_proportions_of_the_whole():
    """A class of which it holds one image of ten counts a tenth of one that it holds whole."""
    part = [*range(20), 40, 50, 51, 52, 53]  # a half, a tenth and all of the three classes
    batches = LABELS[drawn(part, 300, "balanced")]
    shares = torch.stack([(batches == label).double().mean() for label in range(3)])
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.1, 1.0]).double() / 1.6, atol=0.01, rtol=0)


def test_a_step_follows_from_seed_and_number_alone():
    once, again = drawn([1, 2, 41, 50], 5, "balanced"), drawn([1, 2, 41, 50], 5, "balanced")
    assert torch.equal(once, again)
    assert len({tuple(batch.tolist()) for batch in once}) == 5


def test_a_uniform_part_is_a_shuffled_stream():
    counts = drawn([3, 5, 50], 3, "uniform").flatten().bincount(minlength=54)
    assert counts[[3, 5, 50]].tolist() == [16, 16, 16]
