"""Encode what a denoiser trains on: images become latents, their captions text features, once for each set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sarsynth import processes
from sarsynth.captions.templates import digest_of
from sarsynth.data.records import digest
from sarsynth.data.transforms import load_images
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.latents import open_encoded, write_latents, write_texts
from sarsynth.diffusion.samples import DenoisingSamples
from sarsynth.stages.curate_images import samples, source, training
from sarsynth.stages.describe_images import captions, described_by, warn_of_cuts, write_captions
from sarsynth.stages.fit_radiometry import fingerprint, radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.load_base import architecture_of_base, base, base_artifact, like_of_base
from sarsynth.stages.open_images import SLOTS, Role, flip, image_settings
from sarsynth.stages.study import Study, once
from sarsynth.store.artifacts import Artifact
from sarsynth.store.costs import Work

TRAINED_BY: dict[Role, str] = {"sar": "sar", "ors": "ors", "regular": "controlnet"}  # the stage that trains on each
HALF = 2  # bytes of a number


def encoded(study: Study, role: Role) -> dict[str, Artifact]:
    """What a denoiser trains on: `latents` of the training images of one set, and `texts`, their captions."""
    return {"latents": latents(study, role), "texts": texts(study, role)}


def denoising_samples(base: Base, encoded: Mapping[str, Artifact], **more: Any) -> DenoisingSamples:
    """What denoisers train on."""
    steps = base.noise_scheduler.config.num_train_timesteps
    latents, texts = open_encoded(encoded["latents"].path, encoded["texts"].path)
    return DenoisingSamples(latents, texts, num_train_timesteps=steps, **more)


@once
def latents(study: Study, role: Role) -> Artifact:
    """Latents of the training images of one set."""
    records, images, axis = training(study, role), source(study, role), flip(study, role)
    size = study.settings.base.image_size

    def build(folder: Path) -> None:
        write_latents(
            base(study),
            lambda rows: load_images(
                images, records[rows.start : rows.stop], size, radiometry(study, role), framing(study, role)
            ),
            len(records),
            folder,
            flip=axis,
            batch_size=study.settings.encode.batch_size,
            title=f"encoding {role.upper()} images",
        )

    return study.make(
        "cache",
        f"{image_settings(study, role).name}-{role}-latents",
        {"source": fingerprint(study, role), "records": digest(records), "image_size": size, "flip": axis},
        {"base": base_artifact(study)},
        build,
        version=2,
        command=("train", f"stage={TRAINED_BY[role]}"),
        precision=study.precision.name,
        samples=samples(study, role, records),
        work=_encoding(study, len(records), views=1 if axis == "none" else 2),
        collective=True,
    )


def _encoding(study: Study, images: int, views: int) -> Work:
    """The work in latents of images, and of their mirror images where there are some."""
    disk = None
    if architecture := architecture_of_base(study):
        _, autoencoder = architecture
        side = study.settings.base.image_size // 2 ** (len(autoencoder["block_out_channels"]) - 1)
        disk = 2 * HALF * views * images * autoencoder["latent_channels"] * side**2  # mean and standard deviation
    return Work("latents", "images", images, like_of_base(study), passes=views, disk_bytes=disk)


@once
def texts(study: Study, role: Role) -> Artifact:
    """Text features of the captions of the training images of one set."""
    records, said, name = training(study, role), captions(study, role), image_settings(study, role).name

    def build(folder: Path) -> None:
        write_texts(base(study), said, folder, batch_size=study.settings.encode.batch_size)
        if processes.rank() == 0:
            write_captions(folder, base(study), records, said)

    artifact = study.make(
        "cache",
        f"{name}-{role}-texts",
        {"records": digest(records), "captions": digest_of(said)},
        {"base": base_artifact(study)},
        build,
        version=2,
        command=("train", f"stage={TRAINED_BY[role]}"),
        precision=study.precision.name,
        samples=samples(study, role, records),
        work=Work("texts", "texts", len(set(said)), {"base": study.settings.base.name}),
        follows=described_by(study, role),
        collective=True,
    )
    if not study.planning:
        warn_of_cuts(artifact.path, f"{SLOTS[role]}={name}")
    return artifact
