"""What a Trainer reads from: images in memory, in an order that is a function of (seed, step)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from sarsynth.errors import UserError

Sampling = Literal["uniform", "balanced"]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in 0..255, uint8 or float32 (N, C, H, W), with their labels, int64 (N,), and names, if known."""

    images: Tensor
    labels: Tensor
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: Tensor | slice) -> "LabelledImages":
        """Choose images by indices (which may repeat), a mask or a slice."""
        rows = np.arange(len(self))[chosen if isinstance(chosen, slice) else chosen.numpy()]
        return LabelledImages(self.images[chosen], self.labels[chosen], [self.name(row) for row in rows])

    def __add__(self, other: "LabelledImages") -> "LabelledImages":
        """Join two sets of equal image shape, this one first."""
        names = [each.name(row) for each in (self, other) for row in range(len(each))]
        return LabelledImages(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]), names)

    def name(self, row: int) -> str:
        """Name an image for people."""
        return self.names[row] if self.names else f"image {row}"


def step_seed(*numbers: int) -> int:
    """Mix non-negative integers, such as (seed, step), into one well-spread 63-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


@dataclass(frozen=True, eq=False)
class Stream:
    """The samples of one training, step by step: a function of (seed, step) and of nothing else.

    Epoch after epoch is one endless shuffled stream, cut into batches of equal size; an epoch's order follows from
    (seed, epoch). A batch may span two epochs, so there are no short batches, and a set smaller than a batch repeats.

    Attributes:
        rows: Which samples of the data set, int64 (N,), N >= 1.
        max_steps: Batches in all.
        seed: Of the shuffling.
    """

    rows: Tensor
    max_steps: int
    seed: int

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

    Attributes:
        labels: Of the rows, int64 (N,).
    """

    labels: Tensor

    def between(self, first: int, last: int) -> Tensor:
        """Samples `first` to `last` - 1 of the stream, int64 (last - first,)."""
        classes = self.labels.unique()
        size = len(classes)
        begin, end = first // size, -(-last // size)  # rounds
        turns = Stream(torch.arange(size), self.max_steps, self.seed).between(begin * size, end * size).view(-1, size)
        own = [
            Stream(self.rows[self.labels == label], self.max_steps, step_seed(self.seed, int(label)))
            for label in classes
        ]
        drawn = torch.stack([stream.between(begin, end) for stream in own], dim=1)
        return drawn.gather(1, turns).flatten()[first - begin * size :][: last - first]


@dataclass(frozen=True, eq=False)
class Succession:
    """One stream, and from some step on another.

    Attributes:
        first: Until then.
        then: From then on; its own step 0 is that one.
        begin: Which step.
    """

    first: Stream
    then: Stream
    begin: int

    @property
    def max_steps(self) -> int:
        """Batches in all."""
        return self.begin + self.then.max_steps

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.first.seed

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Rows of one step, int64 (batch_size,)."""
        if step < self.begin:
            return self.first.batch(step, batch_size)
        return self.then.batch(step - self.begin, batch_size)


@dataclass(frozen=True, eq=False)
class Share:
    """What one process gets of a training step at once: equally many samples of every stream that has not ended.

    Attributes:
        step: Of the training.
        seeds: Of those streams.
        rows: Their samples, int64 (streams, n).
        total: Samples of the whole step, of one stream, over all processes.
        places: Which of these the n are.
    """

    step: int
    seeds: Sequence[int]
    rows: Tensor
    total: int
    places: slice


class PackedSampler(Sampler[Share]):
    """Yield the shares of each training step: the batches of all streams that have not ended, side by side.

    Args:
        streams: One for each training that shares the run.
        batch_size: Samples a step of each, over all processes.
        start: Gives the step to begin with when iteration begins: a resumed run goes on where it stopped.
        rank: This process among `world_size`; each takes every world_size-th sample of a batch.
        world_size: Number of processes.
        micro_batches: In how many equal parts a process gets its samples of a step.
    """

    def __init__(
        self,
        streams: Sequence[Stream | Succession],
        batch_size: int,
        start: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
    ) -> None:
        self.streams, self.batch_size = streams, batch_size
        self.start, self.rank, self.world_size, self.micro_batches = start, rank, world_size, micro_batches

    def __len__(self) -> int:
        return max(stream.max_steps for stream in self.streams) * self.micro_batches

    def __iter__(self) -> Iterator[Share]:
        every = self.world_size * self.micro_batches
        for step in range(self.start(), len(self) // self.micro_batches):
            active = [stream for stream in self.streams if step < stream.max_steps]
            batches = torch.stack([stream.batch(step, self.batch_size) for stream in active])
            for part in range(self.micro_batches):
                places = slice(self.rank + part * self.world_size, None, every)
                seeds = [stream.seed for stream in active]
                yield Share(step, seeds, batches[:, places], self.batch_size, places)


class ByRow(Dataset[Any]):
    """A data set that needs of a share no more than its rows."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, share: Share) -> Any:
        return self.dataset[share.rows.flatten()]


class SeededDataModule(LightningDataModule):
    """Serve a data set in the global batches of one or more streams, shared out over the trainer's processes.

    The Trainer must not put a sampler of its own in place of ours: `use_distributed_sampler=False`.

    Args:
        dataset: Indexed by a whole `Share` at a time.
        streams: One for each training that shares the run.
        batch_size: Samples a step of each stream, over all processes.
        micro_batches: In how many equal parts a process gets its samples of a step.

    Raises:
        UserError: The batch cannot be shared out evenly (when training begins).
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        streams: Sequence[Stream | Succession],
        *,
        batch_size: int,
        micro_batches: int = 1,
    ) -> None:
        super().__init__()
        self.dataset, self.streams, self.batch_size = dataset, streams, batch_size
        self.micro_batches = micro_batches

    @classmethod
    def whole(cls, dataset: Dataset, *, batch_size: int, max_steps: int, seed: int) -> Self:
        """Serve all of a data set in one stream."""
        return cls(dataset, [Stream(torch.arange(len(dataset)), max_steps, seed)], batch_size=batch_size)  # type: ignore[arg-type]

    def example(self, samples: int) -> Any:
        """Look at what so many samples of each stream are; they belong to no step."""
        rows = torch.stack([stream.batch(0, samples) for stream in self.streams])
        never = max(stream.max_steps for stream in self.streams)
        return self.dataset[Share(never, [stream.seed for stream in self.streams], rows, samples, slice(None))]

    def train_dataloader(self) -> DataLoader:
        """Return the loader that begins where the trainer stands, and fetches each share at once.

        For an accelerator a process of its own reads and draws ahead, into memory from which copies wait for nobody; on
        a CPU it would only take turns with the training.
        """
        trainer = self.trainer
        assert trainer is not None
        if self.batch_size % (trainer.world_size * self.micro_batches):
            parts = f" in {self.micro_batches} parts each" if self.micro_batches > 1 else ""
            raise UserError(f"batch_size={self.batch_size} is not a multiple of {trainer.world_size} processes{parts}")
        sampler = PackedSampler(
            self.streams,
            self.batch_size,
            start=lambda: trainer.global_step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            micro_batches=self.micro_batches,
        )
        ahead = trainer.strategy.root_device.type != "cpu"
        return DataLoader(
            self.dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=int(ahead),
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )


def stream(labels: Tensor, max_steps: int, seed: int, sampling: Sampling) -> Stream:
    """Order all images of some labels: each comes as often as any other (`uniform`), or each class (`balanced`)."""
    rows = torch.arange(len(labels))
    if sampling == "balanced":
        return BalancedStream(rows, max_steps, seed, labels)
    return Stream(rows, max_steps, seed)


def shuffled(training: LabelledImages, order: Stream | Succession, *, batch_size: int) -> SeededDataModule:
    """Serve images, mixed evenly into every batch: ((B, C, H, W), labels int64 (B,), rows int64 (B,)).

    The budget is in steps: more images mean fewer epochs, not a longer training.
    """
    dataset = TensorDataset(training.images, training.labels, torch.arange(len(training)))
    return SeededDataModule(ByRow(dataset), [order], batch_size=batch_size)
