"""What would perfect synthetic images be worth, and what is left of it after the base's autoencoder?

    python benchmarks/ceiling.py [seeds] [override ...]

Unseen real images join the minor classes of the demo's world in the place of the synthetic ones, beside repeats, as the
demo mixes: as they are, after a way through the autoencoder of `sd-nano`, and with the speckle that they lack then
(`generate.speckle=matched`). The first row is what they have to beat, repeats alone. Another world, or mixture, by
overrides (`data.seed=1`, `augment.share=1`).
"""

from dataclasses import replace

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.simulated import Simulated
from sarsynth.data.transforms import to_channels, to_float, to_uint8
from sarsynth.evidence.speckle import Speckle, moments
from sarsynth.stages.copy_images import repeated_images
from sarsynth.stages.curate_images import joining, planned
from sarsynth.stages.load_base import base
from sarsynth.stages.open_images import opened
from sarsynth.stages.study import Study

import numpy as np
import torch
from arms import compare, demo, labelled, said

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


def main(seeds: int, overrides: list[str]) -> None:
    """Print the table."""
    study = demo(overrides)
    source = opened(study)["sar"]
    real, wanted = labelled(source, "train"), joining(study)
    synthetic = {name: added.synthetic for name, added in planned(study).items()}
    unseen = labelled(Simulated("sar", SEED, synthetic, 0, source.image_size), "train")
    repeats = repeated_images(study, real, {name: wanted[name] - size for name, size in synthetic.items()})
    smooth = decoded(study, unseen)
    arms = {
        "repeated": (real, repeated_images(study, real, wanted)),
        "repeated, and unseen real images": (real, unseen + repeats),
        "the same, these through the autoencoder": (real, smooth + repeats),
        "the same, with the speckle that they lack": (real, speckled(smooth, real) + repeats),
    }
    compare(study, arms, seeds)


if __name__ == "__main__":
    main(*said())
