"""What a Lightning Trainer reads from: a data set in the order of its streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.streams import PackedSampler, Share, Stream, Succession
from sarsynth.errors import UserError


@dataclass(eq=False)
class ByRow(Dataset[Any]):
    """A data set that looks at nothing of a share but its rows."""

    dataset: Dataset[Any]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, share: Share) -> Any:
        return self.dataset[share.rows.flatten()]


class SeededDataModule(LightningDataModule):
    """Serve a data set in the global batches of one or more streams, shared out over the trainer's processes.

    The Trainer must keep this sampler: `use_distributed_sampler=False`. The data set is indexed by a whole `Share` at a
    time; `PackedSampler` describes the other arguments.

    Raises:
        UserError: The batch cannot be shared out evenly (when training begins).
    """

    def __init__(
        self, dataset: Dataset[Any], streams: Sequence[Stream | Succession], *, batch_size: int, micro_batches: int = 1
    ) -> None:
        super().__init__()
        self.dataset, self.streams, self.batch_size, self.micro_batches = dataset, streams, batch_size, micro_batches

    @classmethod
    def whole(cls, dataset: Dataset, *, batch_size: int, max_steps: int, seed: int) -> Self:
        """Serve all of a data set in one stream."""
        return cls(dataset, [Stream(torch.arange(len(dataset)), max_steps, seed)], batch_size=batch_size)  # type: ignore[arg-type]

    def example(self, samples: int) -> Any:
        """Fetch so many samples of each stream, as of a step after the last one."""
        rows = torch.stack([stream.batch(0, samples) for stream in self.streams])
        no_step = max(stream.max_steps for stream in self.streams)
        return self.dataset[Share(no_step, [stream.seed for stream in self.streams], rows, samples, slice(None))]

    def train_dataloader(self) -> DataLoader:
        """Return the loader that begins at the trainer's step, and fetches each share at once.

        For an accelerator, another process reads ahead, into pinned memory for CUDA; on a CPU it would only take turns
        with the training.
        """
        trainer = self.trainer
        assert trainer is not None
        if self.batch_size % (trainer.world_size * self.micro_batches):
            parts = f" in {self.micro_batches} parts each" if self.micro_batches > 1 else ""
            raise UserError(f"batch_size={self.batch_size} is not a multiple of {trainer.world_size} processes{parts}")
        place = {"rank": trainer.global_rank, "world_size": trainer.world_size, "micro_batches": self.micro_batches}
        sampler = PackedSampler(self.streams, self.batch_size, lambda: trainer.global_step, **place)
        device = trainer.strategy.root_device.type
        workers, pinned = int(device != "cpu"), device == "cuda"
        return DataLoader(self.dataset, sampler=sampler, batch_size=None, num_workers=workers, pin_memory=pinned)


def shuffled(training: LabelledImages, order: Stream | Succession, *, batch_size: int) -> SeededDataModule:
    """Serve images, mixed evenly into every batch: ((B, C, H, W), labels int64 (B,), rows int64 (B,)).

    The budget is in steps: more images mean fewer epochs, not a longer training.
    """
    dataset = TensorDataset(training.images, training.labels, torch.arange(len(training)))
    return SeededDataModule(ByRow(dataset), [order], batch_size=batch_size)
