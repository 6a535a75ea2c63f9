"""Stage `base`: make a small base from photographs, and measure what it knows."""

from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sarsynth.captions.templates import digest_of
from sarsynth.config.training_sections import BaseTraining
from sarsynth.data.records import digest
from sarsynth.data.transforms import load_images, to_channels
from sarsynth.diffusion.pretraining import AutoencoderRecipe, UNetRecipe, measure_latents, train_autoencoder, train_base
from sarsynth.sim import generic_picture
from sarsynth.stages.curate_images import samples, source, training
from sarsynth.stages.describe_images import captions, described_by
from sarsynth.stages.fit_radiometry import fingerprint, radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.load_base import work_of_tuning
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import CHECKPOINTS, Artifact

SCALE_IMAGES = 1000  # that the latents' scaling factor is measured on


def made_base(study: Study) -> Artifact:
    """Train autoencoder, U-Net and text encoder on the photographs of `regular=`; resumes from its checkpoints.

    The autoencoder also sees generic pictures, half of them grey and speckled, as that of Stable Diffusion has seen
    every kind of picture; the U-Net sees the photographs and the generic pictures in colour.
    """
    recipe, records = study.settings.train.base, training(study, "regular")
    assert recipe is not None
    about = {
        "source": fingerprint(study, "regular"),
        "records": digest(records),
        "captions": digest_of(captions(study, "regular")),
        "image_size": study.settings.base.image_size,
        "recipe": recipe.model_dump(),
        "seed": study.settings.seed,
    }
    return study.make(
        "base",
        study.settings.base.name,
        about,
        {},
        lambda folder: _train(study, recipe, folder),
        command=("train", "stage=base"),
        precision=study.precision.name,
        samples=samples(study, "regular", records),
        work=work_of_tuning(study, "base", recipe.autoencoder, recipe.unet),
        follows=described_by(study, "regular"),
        collective=True,
    )


def _train(study: Study, recipe: BaseTraining, folder: Path) -> None:
    """Train the autoencoder, then the U-Net with its text encoder."""
    size, seed, checkpoints = study.settings.base.image_size, study.settings.seed, folder / CHECKPOINTS
    records, levels = training(study, "regular"), radiometry(study, "regular")
    photographs = load_images(source(study, "regular"), records, size, levels, framing(study, "regular"))
    images = to_channels(photographs, 3)
    vae = train_autoencoder(
        torch.cat([images, _generic(recipe.generic_pictures, size, seed, speckled=True)]),
        AutoencoderRecipe(**recipe.autoencoder.model_dump()),
        seed=seed,
        fitting=study.fitting("autoencoder"),
        checkpoints=checkpoints / "autoencoder",
    )
    vae.register_to_config(scaling_factor=measure_latents(vae, images[:SCALE_IMAGES]))
    shapes = _generic(recipe.generic_pictures // 5, size, seed, speckled=False)
    base = train_base(
        vae,
        torch.cat([images, shapes]),
        captions(study, "regular") + ["a picture of shapes"] * len(shapes),
        UNetRecipe(**recipe.unet.model_dump()),
        seed=seed,
        encode_batch_size=study.settings.encode.batch_size,
        fitting=study.fitting("base"),
        checkpoints=checkpoints / "unet",
    )
    rank_zero_only(base.save)(folder)


def _generic(count: int, size: int, seed: int, speckled: bool) -> Tensor:
    pictures = [torch.from_numpy(generic_picture(seed, i, size, speckled).pixels) for i in range(count)]
    return torch.stack(pictures).permute(0, 3, 1, 2)
