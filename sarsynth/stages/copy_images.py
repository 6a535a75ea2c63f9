"""What joins the real training images without a generator: real ones again, their views, their targets elsewhere."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sarsynth.classifier import pasting
from sarsynth.classifier.augmentation import Augmentation, augment
from sarsynth.console import console
from sarsynth.data.clutter import cutout_mask
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.seeds import step_seed
from sarsynth.errors import UserError
from sarsynth.stages.curate_images import classes
from sarsynth.stages.study import Study

BATCH = 256  # images whose views are drawn at once


def repeated_images(study: Study, real: LabelledImages, sizes: Mapping[str, int]) -> LabelledImages:
    """Draw real training images of each class again: each once before any is drawn a second time."""
    chosen: list[int] = []
    for label, name in enumerate(classes(study)):
        members = np.flatnonzero(real.labels.numpy() == label)
        chosen += _in_rounds(members, sizes[name], np.random.default_rng(step_seed(study.settings.seed, label)))
    return real[torch.tensor(chosen, dtype=torch.int64)]


def augmented_images(study: Study, real: LabelledImages, sizes: Mapping[str, int]) -> LabelledImages:
    """Draw the images of `repeated_images`, each mirrored as the data allow, shifted and speckled once."""
    views, copies = study.settings.augment.views, repeated_images(study, real, sizes)
    how = Augmentation(
        flip=study.settings.data.flip,
        shift=round(views.shift * study.settings.classifier.image_size),
        looks=views.looks,
    )
    generator = torch.Generator().manual_seed(step_seed(study.settings.seed, len(classes(study))))
    images = torch.empty_like(copies.images)
    for first in range(0, len(images), BATCH):
        batch = slice(first, first + BATCH)
        drawn = augment(copies.images[batch], how, generator)
        images[batch] = drawn if images.is_floating_point() else drawn.round().to(images.dtype)
    return LabelledImages(images, copies.labels, copies.names)


def pasted_images(study: Study, real: LabelledImages, sizes: Mapping[str, int]) -> LabelledImages:
    """Put the targets of each class onto the clutter of other training images, of any class.

    Each target that can be cut out serves once before any serves a second time.

    Raises:
        UserError: No target of a class, or no clutter, can be told from the rest of its image.
    """
    images: list[Tensor] = []
    labels, names = [], []
    for label, name in enumerate(classes(study)):
        rng = np.random.default_rng(step_seed(study.settings.seed, label))
        members = np.flatnonzero(real.labels.numpy() == label)[: None if sizes[name] else 0]
        masks = {int(row): mask for row in members if (mask := cutout_mask(real.images[row].numpy())) is not None}
        if sizes[name] and not masks:
            raise UserError(
                f"copy-paste: no target of class {name} stands out from its clutter; "
                "choose method=resample, or leave the class out of augment.plan"
            )
        if len(masks) < len(members):
            found = f"{len(masks)} of {len(members)} targets stand out from their clutter"
            console.print(f"copy-paste: of {name}, {found}", markup=False)
        for row in _in_rounds(np.array(list(masks)), sizes[name], rng):
            other, clutter = _clutter(real, row, rng)
            images.append(torch.from_numpy(pasting.paste(real.images[row].numpy(), masks[row], clutter)))
            labels.append(label)
            names.append(f"{real.name(row)} on {real.name(other)}")
    stacked = torch.stack(images) if images else real.images[:0]
    return LabelledImages(stacked, torch.tensor(labels, dtype=torch.int64), names)


COPIES = {
    "real": repeated_images,
    "augmented": augmented_images,
    "pasted": pasted_images,
    "features": repeated_images,  # each stands for a point near its features
}


def _in_rounds(members: np.ndarray, size: int, rng: np.random.Generator) -> list[int]:
    rounds = [rng.permutation(members) for _ in range(math.ceil(size / max(1, len(members))))]
    return np.concatenate([*rounds, members[:0]])[:size].tolist()


def _clutter(real: LabelledImages, row: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Draw another image, and take its target out."""
    others: Sequence[int] = rng.permutation(len(real)).tolist()
    for other in others:
        if other != row and (clutter := pasting.background(real.images[other].numpy())) is not None:
            return other, clutter
    raise UserError("copy-paste: no training image has clutter of its own; choose method=resample")
