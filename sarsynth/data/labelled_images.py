"""Images in memory with what belongs to each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in 0..255, uint8 or float32 (N, C, H, W), with their labels, int64 (N,), and names, if known."""

    images: Tensor
    labels: Tensor
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> "LabelledImages":
        """Select images by indices (which may repeat), a mask or a slice."""
        rows = np.arange(len(self))[index if isinstance(index, slice) else index.numpy()]
        return LabelledImages(self.images[index], self.labels[index], [self.name(row) for row in rows])

    def __add__(self, other: "LabelledImages") -> "LabelledImages":
        """Join two sets of equal image shape, this one first."""
        names = [each.name(row) for each in (self, other) for row in range(len(each))]
        return LabelledImages(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]), names)

    def name(self, row: int) -> str:
        """Name an image for people."""
        return self.names[row] if self.names else f"image {row}"
