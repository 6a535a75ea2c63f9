"""What a Trainer reads from: images in memory, in an order that is a function of (seed, step)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from sarsynth.errors import UserError


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images that belong together with their labels: uint8 (N, C, H, W) and int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: Tensor | slice) -> "LabelledImages":
        """Choose images by indices (which may repeat), a mask or a slice."""
        return LabelledImages(self.images[chosen], self.labels[chosen])

    def __add__(self, other: "LabelledImages") -> "LabelledImages":
        """Join two sets of equal image shape, this one first."""
        return LabelledImages(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))


def step_seed(*numbers: int) -> int:
    """Mix non-negative integers, such as (seed, step), into one well-spread 63-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


class StepSampler(Sampler[Tensor]):
    """Yield the indices of each training step's batch, a function of (seed, step) and of nothing else.

    Epoch after epoch is one endless shuffled stream, cut into batches of equal size; an epoch's order follows from
    (seed, epoch). A batch may span two epochs, so there are no short batches, and a set smaller than a batch repeats.

    Args:
        size: Number of images, at least 1.
        batch_size: Images a step, over all processes.
        max_steps: Steps in all; also the length of the sampler, whatever it starts from.
        seed: Of the shuffling.
        start: Gives the step to begin with when iteration begins: a resumed run goes on where it stopped.
        rank: This process among `world_size`; each takes every world_size-th image of a batch.
        world_size: Number of processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        max_steps: int,
        seed: int,
        start: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.size, self.batch_size, self.max_steps, self.seed = size, batch_size, max_steps, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    def __len__(self) -> int:
        return self.max_steps

    def __iter__(self) -> Iterator[Tensor]:
        for step in range(self.start(), self.max_steps):
            yield self.batch(step)[self.rank :: self.world_size]

    def batch(self, step: int) -> Tensor:
        """Indices of all images of one step, int64 (batch_size,)."""
        first, last = step * self.batch_size, (step + 1) * self.batch_size
        epochs = range(first // self.size, (last - 1) // self.size + 1)
        stream = np.concatenate([np.random.default_rng([self.seed, epoch]).permutation(self.size) for epoch in epochs])
        offset = first - epochs[0] * self.size
        return torch.from_numpy(stream[offset : offset + self.batch_size])


class SeededDataModule(LightningDataModule):
    """Serve a data set in the global batches of a `StepSampler`, shared out over the trainer's processes.

    The Trainer must not put a sampler of its own in place of ours: `use_distributed_sampler=False`.

    Args:
        dataset: Indexed by a whole batch of indices at a time, int64 (B,).
        batch_size: Samples a step, over all processes.
        max_steps: Batches in all.
        seed: Of the sample order.

    Raises:
        UserError: The batch cannot be shared out evenly (when training begins).
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, max_steps: int, seed: int) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.max_steps, self.seed = dataset, batch_size, max_steps, seed

    def train_dataloader(self) -> DataLoader:
        """Return the loader that begins where the trainer stands, and fetches each batch at once."""
        trainer = self.trainer
        assert trainer is not None
        if self.batch_size % trainer.world_size:
            raise UserError(f"batch_size={self.batch_size} is not a multiple of {trainer.world_size} processes")
        sampler = StepSampler(
            len(self.dataset),  # type: ignore[arg-type]
            self.batch_size,
            self.max_steps,
            self.seed,
            start=lambda: trainer.global_step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return DataLoader(self.dataset, sampler=sampler, batch_size=None)


class ClassificationDataModule(SeededDataModule):
    """Real images and the synthetic ones that join them, mixed evenly into every training batch.

    Batches are (uint8 (B, C, H, W), int64 (B,)).

    Args:
        real: The real training images; normalisation statistics come from these alone.
        synthetic: Images that join them, or None. Repeated real images do as well.
        batch_size: Images a step, over all processes.
        max_steps: The budget; more images mean fewer epochs, not a longer training.
        seed: Of the sample order.
    """

    def __init__(
        self, real: LabelledImages, synthetic: LabelledImages | None, *, batch_size: int, max_steps: int, seed: int
    ) -> None:
        self.training = real if synthetic is None else real + synthetic
        dataset = TensorDataset(self.training.images, self.training.labels)
        super().__init__(dataset, batch_size=batch_size, max_steps=max_steps, seed=seed)
