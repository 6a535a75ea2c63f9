"""Latents and text features as the denoiser trains on them: computed once, memory-mapped, served in seeded batches."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsynth.base import Base
from sarsynth.console import progress
from sarsynth.data.transforms import to_channels, to_float

LATENTS, TEXTS = "latents.safetensors", "texts.safetensors"
FLIPS = {"none": None, "horizontal": 3, "vertical": 2}
BATCH = 64


def encode_images(base: Base, images: Tensor, *, flip: str = "none", title: str = "encoding") -> dict[str, Tensor]:
    """Run the frozen autoencoder once over images and, where flips are wanted, over their mirror images.

    Args:
        base: Whose autoencoder.
        images: In 0..255, uint8 or float32, shape (N, C, H, W).
        flip: `none`, `horizontal` or `vertical`.
        title: What the progress bar says.

    Returns:
        `mean` and `deviation` of the scaled latents, float16, shape (V, N, C, h, w) with V = 2 views (as it is and
        mirrored) or 1.
    """
    views = [None] if FLIPS[flip] is None else [None, FLIPS[flip]]
    kept: dict[str, list[Tensor]] = {"mean": [], "deviation": []}
    with progress(title, len(views) * len(images)) as advance:
        for axis in views:
            for chunk in images.split(BATCH):
                pixels = to_float(to_channels(chunk if axis is None else chunk.flip(axis), 3))
                for name, part in zip(kept, base.encode(pixels.to(base.vae.device)), strict=True):
                    kept[name].append(part.half().cpu())
                advance(len(chunk))
    return {name: torch.cat(parts).unflatten(0, (len(views), len(images))) for name, parts in kept.items()}


def encode_texts(base: Base, texts: list[str]) -> dict[str, Tensor]:
    """Encode each different text once.

    Returns:
        `text_features`, float32 (U, L, D), and `text_index`, int64 (N,), which text belongs to which image.
    """
    unique = sorted(set(texts))
    place = {text: index for index, text in enumerate(unique)}
    features = torch.cat([base.encode_text(unique[i : i + BATCH]).cpu() for i in range(0, len(unique), BATCH)])
    return {"text_features": features, "text_index": torch.tensor([place[text] for text in texts])}


def save_encoded(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write encoded images or texts."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


class Latents:
    """Encoded images by row.

    Args:
        mean: Shape (V, N, C, h, w).
        deviation: Same shape.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        self._mean, self._deviation = mean, deviation

    def __len__(self) -> int:
        return self._mean.shape[1]

    @property
    def views(self) -> int:
        """Views of each image: as it is, and mirrored."""
        return len(self._mean)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's latents, (C, h, w)."""
        return tuple(self._mean.shape[2:])

    def read(self, rows: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of some views, float32 (B, C, h, w)."""
        return self._mean[view, rows].float(), self._deviation[view, rows].float()


class Texts:
    """Text features by row.

    Args:
        features: Of the different texts, (U, L, D).
        index: Which of them is an image's, int64 (N,).
    """

    def __init__(self, features: Tensor, index: Tensor) -> None:
        self._features, self._index = features, index

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The different texts of some images, float32 (U, L, D), and whose they are, int64 (B,)."""
        texts, index = self._index[rows].unique(return_inverse=True)
        return self._features[texts], index


def open_encoded(latents: Path, texts: Path) -> tuple[Latents, Texts]:
    """Open what lies in the folders of encoded images and of their texts."""
    images, words = load_file(latents / LATENTS), load_file(texts / TEXTS)
    return Latents(images["mean"], images["deviation"]), Texts(words["text_features"], words["text_index"])
