"""Latents and text features as the denoiser trains on them: computed once, memory-mapped, served in seeded batches."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

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


def load_encoded(latents: Path, texts: Path) -> dict[str, Tensor]:
    """Memory-map encoded images and their texts, which lie in two folders: other wordings leave images as they are."""
    return load_file(latents / LATENTS) | load_file(texts / TEXTS)


class LatentDataset(Dataset[dict[str, Tensor]]):
    """Encoded images by row; asked for a whole batch of rows at a time.

    Args:
        tensors: `mean`, `deviation` (V, N, C, h, w), and either `text_features` (U, L, D) with `text_index` (N,) or
            `input_ids` (N, L).
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return self.tensors["mean"].shape[1]

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        """Return `mean` and `deviation` (B, V, C, h, w), float32, the text of a batch, and its `row` (B,)."""
        batch = {name: self.tensors[name][:, rows].transpose(0, 1).float() for name in ("mean", "deviation")}
        batch["row"] = rows
        if "input_ids" in self.tensors:
            return batch | {"input_ids": self.tensors["input_ids"][rows]}
        return batch | {"text_features": self.tensors["text_features"][self.tensors["text_index"][rows]]}
