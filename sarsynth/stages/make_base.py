"""Stage `base`: make a small base from photographs, and measure what it knows."""

from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sarsynth.captions.templates import digest_of
from sarsynth.data.records import digest
from sarsynth.data.transforms import load_images, to_channels
from sarsynth.diffusion.pretraining import AutoencoderRecipe, UNetRecipe, measure_latents, train_autoencoder, train_base
from sarsynth.sim import generic_picture
from sarsynth.stages import work
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact

SCALE_IMAGES = 1000  # that the latents' scaling factor is measured on


def make_base(study: Study) -> Artifact:
    """Train autoencoder, U-Net and text encoder on the photographs of `regular=`; resumes from its checkpoints.

    The autoencoder also sees generic pictures, half of them grey and speckled, as that of Stable Diffusion has seen
    every kind of picture; the U-Net sees the photographs and the generic pictures in colour.
    """
    settings = study.settings
    recipe, size, seed = settings.train.base, settings.base.image_size, settings.seed
    assert recipe is not None
    source, records = study.sources["regular"], study.training_records("regular")
    captions = study.captions["regular"]

    def build(folder: Path) -> None:
        checkpoints = folder / "checkpoints"
        photographs = to_channels(load_images(source, records, size, study.radiometry["regular"]), 3)
        fitting = study.fitting("autoencoder")
        vae = train_autoencoder(
            torch.cat([photographs, _generic(recipe.generic_pictures, size, seed, speckled=True)]),
            AutoencoderRecipe(**recipe.autoencoder.model_dump()),
            seed=seed,
            fitting=fitting,
            checkpoints=checkpoints / "autoencoder",
        )
        vae.register_to_config(scaling_factor=measure_latents(vae, photographs[:SCALE_IMAGES]))
        shapes = _generic(recipe.generic_pictures // 5, size, seed, speckled=False)
        images, texts = torch.cat([photographs, shapes]), captions + ["a picture of shapes"] * len(shapes)
        base = train_base(
            vae,
            images,
            texts,
            UNetRecipe(**recipe.unet.model_dump()),
            seed=seed,
            encode_batch_size=settings.encode.batch_size,
            fitting=study.fitting("base"),
            checkpoints=checkpoints / "unet",
        )
        rank_zero_only(base.save)(folder)

    return study.store.make(
        "base",
        settings.base.name,
        {
            "source": study.fingerprints["regular"],
            "records": digest(records),
            "captions": digest_of(captions),
            "image_size": size,
            "recipe": recipe.model_dump(),
            "seed": seed,
        },
        {},
        build,
        version=1,
        command=study.command("train.py", "stage=base"),
        precision=study.precision.name,
        samples=study.samples("regular", records),
        work=work.training(study, "base", recipe.autoencoder, recipe.unet),
        follows=study.wording_of("regular"),
        collective=True,
    )


def _generic(count: int, size: int, seed: int, speckled: bool) -> Tensor:
    pictures = [torch.from_numpy(generic_picture(seed, i, size, speckled).pixels) for i in range(count)]
    return torch.stack(pictures).permute(0, 3, 1, 2)
