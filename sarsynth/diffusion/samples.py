"""The samples of a denoising step: a view of each image, noise, time steps and text, drawn from (seed, step)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sarsynth.data.seeds import step_seed
from sarsynth.data.streams import Share
from sarsynth.diffusion.contours import unpack
from sarsynth.diffusion.latents import FLIPS, Latents, Texts


class Draws:
    """Random numbers of one training step, drawn for the whole global batch, of which each process takes its share.

    So a run gives the same result however its batch is split over processes or parts, and wherever it resumes.

    Args:
        seed: Of the training.
        step: Of the training.
        total: Samples of the step, over all processes.
    """

    def __init__(self, seed: int, step: int, total: int) -> None:
        self.generator, self.total = torch.Generator().manual_seed(step_seed(seed, step)), total

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, shape (total, *shape)."""
        return torch.randn(self.total, *shape, generator=self.generator)

    def uniform(self) -> Tensor:
        """Numbers in [0, 1), shape (total,)."""
        return torch.rand(self.total, generator=self.generator)

    def integers(self, below: int) -> Tensor:
        """Integers in [0, below), shape (total,)."""
        return torch.randint(below, (self.total,), generator=self.generator)


@dataclass(frozen=True, eq=False)
class Contours:
    """Contours of the images, not mirrored, packed, uint8 (N, H, W / 8), and how the second view mirrors them."""

    packed: Tensor
    flip: str

    def read(self, rows: Tensor, view: Tensor) -> Tensor:
        """Contours of some views, uint8 (B, H, W)."""
        contours = torch.from_numpy(unpack(self.packed[rows].numpy()))
        axis = FLIPS[self.flip]
        if axis is None:
            return contours
        return torch.where((view == 1)[:, None, None], contours.flip(axis - 1), contours)


class DenoisingSamples(Dataset[dict[str, Tensor]]):
    """Encoded images with the random numbers of a step; read by the share of a process in a step.

    Args:
        latents: Of the images.
        text: Text features of their captions, or their token ids, int64 (N, L), where the text encoder trains too.
        num_train_timesteps: Of the base's noise schedule.
        caption_dropout: Share of the samples that see the empty caption.
        contours: Of the images, where a ControlNet trains.
    """

    def __init__(
        self,
        latents: Latents,
        text: Texts | Tensor,
        *,
        num_train_timesteps: int,
        caption_dropout: float = 0.0,
        contours: Contours | None = None,
    ) -> None:
        self.latents, self.text = latents, text
        self.num_train_timesteps, self.caption_dropout = num_train_timesteps, caption_dropout
        self.contours = contours
        self._of, self._drawn = (-1, 0), dict[int, tuple[Tensor, ...]]()

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, share: Share) -> dict[str, Tensor]:
        """Return a share, the samples of one stream after those of the other.

        `latents` and `noise`, float32 (B, C, h, w); `timesteps` and `row`, int64 (B,); `text_features` of the different
        texts, float32 (U, L, D), with `text_index`, int64 (B,), or `input_ids`, int64 (B, L); where captions are
        dropped `dropped`, bool (B,); where there are contours `contour`, uint8 (B, H, W).
        """
        rows = share.rows.flatten()
        drawn = [self._draw(seed, share.step, share.total) for seed in share.seeds]
        view, jitter, noise, timesteps, uniform = (
            torch.cat([part[share.places] for part in parts]) for parts in zip(*drawn, strict=True)
        )
        mean, std = self.latents.read(rows, view)
        batch = {"latents": mean + std * jitter, "noise": noise, "timesteps": timesteps, "row": rows}
        if isinstance(self.text, Tensor):
            batch["input_ids"] = self.text[rows]
        else:
            batch["text_features"], batch["text_index"] = self.text.read(rows)
        if self.caption_dropout:
            batch["dropped"] = uniform < self.caption_dropout
        if self.contours is not None:
            batch["contour"] = self.contours.read(rows, view)
        return batch

    def _draw(self, seed: int, step: int, total: int) -> tuple[Tensor, ...]:
        """View, normal numbers for latents and noise, time steps and dropout of one stream's whole step."""
        if (step, total) != self._of:
            self._of, self._drawn = (step, total), {}  # kept while a step is done in parts
        if seed not in self._drawn:
            draw, shape = Draws(seed, step, total), self.latents.shape
            view = draw.integers(self.latents.views)
            jitter, noise = draw.normal(shape), draw.normal(shape)
            self._drawn[seed] = view, jitter, noise, draw.integers(self.num_train_timesteps), draw.uniform()
        return self._drawn[seed]
