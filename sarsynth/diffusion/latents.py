"""Latents and text features for training a denoiser: computed once, kept in shards, read by row."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsynth import processes
from sarsynth.console import progress
from sarsynth.data.shards import Shards, missing, write_shards
from sarsynth.data.transforms import to_channels, to_float
from sarsynth.diffusion.base import Base
from sarsynth.errors import UserError

FLIPS = {"none": None, "horizontal": 3, "vertical": 2}
MOMENTS, FEATURES = "moments", "text_features"  # tensors in shards
INDEX = "text_index.safetensors"
AT_A_TIME = 256  # images, where all are read


def encode_images(base: Base, images: Tensor, *, flip: str = "none", batch_size: int) -> Tensor:
    """Run the frozen autoencoder over images and, where flips are wanted, over their mirror images.

    Args:
        base: Has the autoencoder.
        images: In 0..255, uint8 or float32, shape (N, C, H, W).
        flip: `none`, `horizontal` or `vertical`.
        batch_size: Images at a time.

    Returns:
        Mean and standard deviation of the scaled latents, float16 (N, V, 2, C, h, w) with V = 2 views (as it is and
        mirrored) or 1.
    """
    with _enough_memory(batch_size):
        return torch.cat([_moments(base, batch, flip) for batch in images.split(batch_size)])


def _moments(base: Base, images: Tensor, flip: str) -> Tensor:
    """Encode one batch as `encode_images` does."""
    axis = FLIPS[flip]
    views = [images] if axis is None else [images, images.flip(axis)]
    encoded = [base.encode(to_float(to_channels(view, 3)).to(base.vae.device)) for view in views]
    return torch.stack([torch.stack(moments, dim=1).half().cpu() for moments in encoded], dim=1)


def write_latents(
    base: Base,
    read: Callable[[range], Tensor],
    count: int,
    folder: Path,
    *,
    flip: str,
    batch_size: int,
    title: str = "encoding",
) -> None:
    """Encode images into shards of `moments`, a batch in memory at a time; all processes of a job share the work.

    Args:
        base: Has the autoencoder.
        read: Gives images by their numbers, as `encode_images` takes them.
        count: Number of images.
        folder: For the shards; those that are there are not made again.
        flip: As in `encode_images`.
        batch_size: Images at a time.
        title: Of the progress bar.

    Raises:
        UserError: A batch does not fit the memory of the device.
    """
    with progress(title, sum(len(rows) for _, rows in missing(folder, MOMENTS, count))) as advance:

        def make(rows: range) -> Tensor:
            parts = []
            for first in rows[::batch_size]:
                batch = range(first, min(first + batch_size, rows.stop))
                parts.append(_moments(base, read(batch), flip))
                advance(len(batch))
            return torch.cat(parts)

        with _enough_memory(batch_size):
            write_shards(folder, MOMENTS, count, make)
    processes.barrier()


def write_texts(base: Base, texts: list[str], folder: Path, *, batch_size: int) -> None:
    """Encode each different text once, into shards of `text_features`; all processes of a job share the work.

    Beside them lies `text_index`, int64 (N,): which text belongs to which image.

    Raises:
        UserError: A batch does not fit the memory of the device.
    """
    unique = sorted(set(texts))

    def make(rows: range) -> Tensor:
        batches = [unique[first : min(first + batch_size, rows.stop)] for first in rows[::batch_size]]
        return torch.cat([base.encode_text(batch).cpu() for batch in batches])

    with _enough_memory(batch_size):
        write_shards(folder, FEATURES, len(unique), make)
    if processes.rank() == 0:
        place = {text: index for index, text in enumerate(unique)}
        save_file({"text_index": torch.tensor([place[text] for text in texts])}, folder / INDEX)
    processes.barrier()


@contextmanager
def _enough_memory(batch_size: int) -> Iterator[None]:
    """Name the setting to lower if a batch does not fit the card."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"encode.batch_size={batch_size}: the card has too little memory for that; lower it") from error


class Latents:
    """Encoded images by row.

    Args:
        moments: Mean and standard deviation, shape (N, V, 2, C, h, w), on disk or in memory.
    """

    def __init__(self, moments: Shards | Tensor) -> None:
        self._moments = moments

    @classmethod
    def open(cls, folder: Path) -> "Latents":
        """Open what `write_latents` wrote.

        Raises:
            UserError: A shard is missing or damaged.
        """
        return cls(Shards(folder, MOMENTS))

    def __len__(self) -> int:
        return len(self._moments)

    @property
    def views(self) -> int:
        """Views of each image: as it is, and mirrored."""
        return self._moments.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's latents, (C, h, w)."""
        return tuple(self._moments.shape[3:])

    def read(self, rows: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of some views, float32 (B, C, h, w)."""
        mean, std = self._moments[rows, view].unbind(1)
        return mean.float(), std.float()

    def means(self) -> Tensor:
        """Means of all images, not mirrored, flattened, float32 (N, C x h x w)."""
        means = torch.empty(len(self), math.prod(self.shape))
        for rows in torch.arange(len(self)).split(AT_A_TIME):
            means[rows] = self.read(rows, torch.zeros_like(rows))[0].flatten(1)
        return means


class Texts:
    """Text features by row.

    Args:
        features: Of the different texts, float32 (U, L, D), on disk or in memory.
        index: Of each image, which of them is its text, int64 (N,).
    """

    def __init__(self, features: Shards | Tensor, index: Tensor) -> None:
        self._features, self._index = features, index

    @classmethod
    def open(cls, folder: Path) -> "Texts":
        """Open what `write_texts` wrote.

        Raises:
            UserError: A shard is missing or damaged.
        """
        return cls(Shards(folder, FEATURES), load_file(folder / INDEX)["text_index"])

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The different texts of some images, float32 (U, L, D), and which of them each image has, int64 (B,)."""
        place: dict[int, int] = {}
        index = [place.setdefault(text, len(place)) for text in self._index[rows].tolist()]
        return self._features[torch.tensor(list(place))], torch.tensor(index)


def open_encoded(latents: Path, texts: Path) -> tuple[Latents, Texts]:
    """Open the folders of encoded images and of their texts: apart, so that new captions leave the images encoded."""
    return Latents.open(latents), Texts.open(texts)
