"""In which order a training sees its samples: a function of (seed, step), so that a resumed one sees the same."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from sarsynth.data.seeds import step_seed

Sampling = Literal["uniform", "balanced"]


@dataclass(frozen=True, eq=False)
class Stream:
    """The samples of one training, step by step: a function of (seed, step) and of nothing else.

    Epoch after epoch is one endless shuffled stream, cut into batches of equal size; an epoch's order follows from
    (seed, epoch). A batch may span two epochs, so there are no short batches, and a set smaller than a batch repeats.
    """

    rows: Tensor  # which samples of the data set, int64 (N,), N >= 1
    max_steps: int  # batches in all
    seed: int  # of the shuffling

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Rows of one step, int64 (batch_size,)."""
        return self.between(step * batch_size, (step + 1) * batch_size)

    def between(self, first: int, last: int) -> Tensor:
        """Samples `first` to `last` - 1 of the stream, int64 (last - first,)."""
        size = len(self.rows)
        epochs = range(first // size, (last - 1) // size + 1)
        stream = np.concatenate([np.random.default_rng([self.seed, epoch]).permutation(size) for epoch in epochs])
        offset = first - epochs[0] * size
        return self.rows[torch.from_numpy(stream[offset : offset + last - first])]


@dataclass(frozen=True, eq=False)
class BalancedStream(Stream):
    """A stream in which every class comes as often as any other (Shen, Lin and Huang, arXiv:1512.05830, section 3.2).

    It is made of rounds, each with one sample of every class in shuffled order. A class's own samples are a stream
    too: none comes a second time before all have come once.
    """

    labels: Tensor  # of the rows, int64 (N,)

    def between(self, first: int, last: int) -> Tensor:
        """Samples `first` to `last` - 1 of the stream, int64 (last - first,)."""
        classes = self.labels.unique()
        size = len(classes)
        begin, end = first // size, -(-last // size)  # rounds
        turns = Stream(torch.arange(size), self.max_steps, self.seed).between(begin * size, end * size).view(-1, size)
        by_class = [
            Stream(self.rows[self.labels == label], self.max_steps, step_seed(self.seed, int(label)))
            for label in classes
        ]
        drawn = torch.stack([stream.between(begin, end) for stream in by_class], dim=1)
        return drawn.gather(1, turns).flatten()[first - begin * size :][: last - first]


@dataclass(frozen=True, eq=False)
class WeightedStream(Stream):
    """A stream in which some samples come more often than others: systematic sampling (Kish, Survey Sampling, 1965).

    A batch takes equal strides through the samples laid out by weight, class after class, from a random start. So each
    class has its share of every batch, to the nearest sample; which samples of a class follow each other is shuffled.
    """

    weights: Tensor  # of the rows, float64 (N,), positive
    labels: Tensor  # of the rows, int64 (N,)

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Rows of one step, int64 (batch_size,)."""
        rng = np.random.default_rng([self.seed, step])
        order = rng.permutation(len(self.rows))
        order = order[np.argsort(self.labels.numpy()[order], kind="stable")]
        ends = np.cumsum(self.weights.numpy()[order])
        strides = (rng.random() + np.arange(batch_size)) * ends[-1] / batch_size
        drawn = order[np.minimum(np.searchsorted(ends, strides, side="right"), len(order) - 1)]
        return self.rows[torch.from_numpy(rng.permutation(drawn))]


@dataclass(frozen=True, eq=False)
class Succession:
    """One stream, and from some step on another."""

    first: Stream
    then: Stream  # its own step 0 is step `begin`
    begin: int

    @property
    def max_steps(self) -> int:
        """Batches in all."""
        return self.begin + self.then.max_steps

    @property
    def seed(self) -> int:
        """Of the first stream; it stands for the training."""
        return self.first.seed

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Rows of one step, int64 (batch_size,)."""
        if step < self.begin:
            return self.first.batch(step, batch_size)
        return self.then.batch(step - self.begin, batch_size)


def stream(labels: Tensor, max_steps: int, seed: int, sampling: Sampling) -> Stream:
    """Order all images of some labels: each comes as often as any other (`uniform`), or each class (`balanced`)."""
    rows = torch.arange(len(labels))
    balanced = sampling == "balanced"
    return BalancedStream(rows, max_steps, seed, labels) if balanced else Stream(rows, max_steps, seed)


def part_of_stream(labels: Tensor, rows: Tensor, max_steps: int, seed: int, sampling: Sampling) -> Stream:
    """Order the images of a part of a set as they would come with the whole of it.

    Args:
        labels: Of all images of the set, int64 (N,).
        rows: Which are of the part, int64 (M,).
        max_steps: Batches in all.
        seed: Of the shuffling.
        sampling: What comes equally often in the whole set.
    """
    if sampling == "uniform":
        return Stream(rows, max_steps, seed)
    return WeightedStream(rows, max_steps, seed, image_weights(labels, sampling)[rows], labels[rows])


def image_weights(labels: Tensor, sampling: Sampling) -> Tensor:
    """How often each image of a set comes, float64 (N,): equally often, or by one over the images of its class."""
    if sampling == "uniform":
        return torch.ones(len(labels), dtype=torch.float64)
    return 1 / labels.bincount().double()[labels]


# --- Streams side by side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Share:
    """What one process gets of a training step at once: equally many samples of every stream that has not ended."""

    step: int  # of the training
    seeds: Sequence[int]  # of those streams
    rows: Tensor  # their samples, int64 (streams, n)
    total: int  # samples of the whole step, of one stream, over all processes
    places: slice  # which of these the n are


@dataclass(eq=False)
class PackedSampler(Sampler[Share]):
    """Yield the shares of each training step: the batches of all streams that have not ended, side by side."""

    streams: Sequence[Stream | Succession]  # one for each training that shares the run
    batch_size: int  # samples a step of each, over all processes
    start: Callable[[], int] = lambda: 0  # the step to begin with, asked anew each time: a resumed run goes on
    rank: int = 0  # this process among all; it takes every world_size-th sample of a batch
    world_size: int = 1  # number of processes
    micro_batches: int = 1  # in how many equal parts a process gets its samples of a step

    def __len__(self) -> int:
        return max(stream.max_steps for stream in self.streams) * self.micro_batches

    def __iter__(self) -> Iterator[Share]:
        every = self.world_size * self.micro_batches
        for step in range(self.start(), len(self) // self.micro_batches):
            active = [stream for stream in self.streams if step < stream.max_steps]
            batches = torch.stack([stream.batch(step, self.batch_size) for stream in active])
            seeds = [stream.seed for stream in active]
            for part in range(self.micro_batches):
                places = slice(self.rank + part * self.world_size, None, every)
                yield Share(step, seeds, batches[:, places], self.batch_size, places)
