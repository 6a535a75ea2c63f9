"""What would perfect synthetic images be worth, and what is left of it after the base's autoencoder?

    python benchmarks/ceiling.py [seeds]

Unseen real images of the simulated world join its minor classes where synthetic ones would: as they are, after a way
through the autoencoder of `sd-nano`, and with the speckle that they lack then (`generate.speckle=matched`).
"""

import sys
from dataclasses import replace

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.simulated import Simulated
from sarsynth.data.transforms import to_channels, to_float, to_uint8
from sarsynth.evidence.speckle import Speckle, moments
from sarsynth.stages.curate_images import joining
from sarsynth.stages.load_base import base
from sarsynth.stages.open_images import opened
from sarsynth.stages.study import Study

import numpy as np
import torch
from arms import LIKE_FU_SRS, compare, demo, labelled

SEED = 11  # a world of its own: ships that no training or test image shows


def decoded(study: Study, images: LabelledImages) -> LabelledImages:
    """Encode and decode."""
    parts = []
    for batch in images.images.split(32):
        latents, _ = base(study).encode(to_float(to_channels(batch, 3)))
        parts.append(to_uint8(to_channels(base(study).decode(latents), 1)))
    return replace(images, images=torch.cat(parts))


def speckled(images: LabelledImages, real: LabelledImages) -> LabelledImages:
    """Multiply by the speckle that images lack beside real ones."""
    known, found = moments(real.images.numpy()), moments(images.images.numpy())
    assert known is not None
    assert found is not None
    factor = Speckle.missing(known, found)
    assert factor is not None
    print(f"{found.looks:.1f} looks, real images {known.looks:.1f}; the factor has {factor.looks}")
    drawn = [factor.on(image, np.random.default_rng(row)) for row, image in enumerate(images.images.numpy())]
    return replace(images, images=torch.from_numpy(np.stack(drawn)))


def main(seeds: int) -> None:
    """Print the table."""
    study = demo(LIKE_FU_SRS)
    source = opened(study)["sar"]
    real = labelled(source, "train")
    unseen = labelled(Simulated("sar", SEED, joining(study), 0, source.image_size), "train")
    smooth = decoded(study, unseen)
    arms = {
        "real images alone": (real, None),
        "+ unseen real images": (real, unseen),
        "+ the same, through the autoencoder": (real, smooth),
        "+ the same, with the speckle that they lack": (real, speckled(smooth, real)),
    }
    compare(study, arms, seeds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
