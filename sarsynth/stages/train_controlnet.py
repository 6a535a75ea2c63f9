"""Train a ControlNet on a study's own contours (stage `controlnet`), or take the base's; and have it in memory."""

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from sarsynth.data.datamodules import SeededDataModule
from sarsynth.diffusion.base import Base, place_network
from sarsynth.diffusion.controlnet import (
    ContourConditioning,
    check_controlnet,
    load_controlnet,
    new_controlnet,
    resolve_controlnet,
    save_controlnet,
)
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.samples import Contours
from sarsynth.diffusion.step_interval import StepInterval
from sarsynth.stages.curate_images import training
from sarsynth.stages.encode_images import denoising_samples, encoded
from sarsynth.stages.find_contours import contours, read_contours
from sarsynth.stages.load_base import base, base_artifact, work_of_tuning
from sarsynth.stages.open_images import flip
from sarsynth.stages.study import Study, once
from sarsynth.store.artifacts import CHECKPOINTS, Artifact

COMMAND = ("train", "stage=controlnet")


@once
def controlnet(study: Study) -> Artifact:
    """The ControlNet that images are made with."""
    return USES[study.settings.controlnet.use](study)


def base_controlnet(study: Study) -> Artifact:
    """The base's ControlNet: not of our making, so its fingerprint is a hash of its files."""
    path = study.settings.base.controlnet
    artifact = study.fetch("controlnet", lambda fetch: resolve_controlnet(path, fetch=fetch))
    check_controlnet(artifact.path, base_artifact(study).path)
    return artifact


def trained_controlnet(study: Study) -> Artifact:
    """A ControlNet trained on contours, images and captions of one set, on the plain base."""
    settings, role, recipe = study.settings, study.settings.controlnet.on, study.settings.train.controlnet
    images, followed = encoded(study, role), contours(study, role, *COMMAND)
    start = base_controlnet(study) if settings.controlnet.init == "shipped" else None
    about = {"recipe": recipe.model_dump(exclude={"checkpoint_every"}), "init": settings.controlnet.init}
    return study.make(
        "controlnet",
        f"{settings.base.name}-{role}",
        about | {"seed": settings.seed},
        {"base": base_artifact(study), **images, "contours": followed} | ({"init": start} if start else {}),
        lambda folder: _train(study, images, followed, start, folder),
        command=COMMAND,
        precision=study.precision.name,
        work=work_of_tuning(study, "controlnet", recipe),
        collective=True,
    )


def _train(
    study: Study, images: Mapping[str, Artifact], followed: Artifact, start: Artifact | None, folder: Path
) -> None:
    """Train it from `start`, or from a copy of the U-Net's way down."""
    role, recipe, seed = study.settings.controlnet.on, study.settings.train.controlnet, study.settings.seed
    frozen = base(study)
    network = load_controlnet(start.path, frozen) if start else new_controlnet(frozen, seed)
    place_network(network, study.device, torch.float32)
    group = TrainableGroup(
        "controlnet",
        list(network.requires_grad_(True).parameters()),
        recipe.learning_rate,
        recipe.warmup_steps,
        recipe.max_steps,
        recipe.weight_decay,
    )
    task = Denoiser(
        frozen.unet,
        frozen.noise_scheduler,
        [group],
        names=[record.path for record in training(study, role)],
        conditioning=ContourConditioning(network),
        no_text=frozen.encode_text([""])[0],
    )
    maps = Contours(read_contours(followed)["packed"], flip(study, role))
    samples = denoising_samples(frozen, images, caption_dropout=recipe.caption_dropout, contours=maps)
    steps, batch_size = recipe.max_steps, recipe.batch_size
    study.fitting("controlnet").fit(
        task,
        SeededDataModule.whole(samples, batch_size=batch_size, max_steps=steps, seed=seed),
        title="ControlNet",
        max_steps=steps,
        checkpoints=folder / CHECKPOINTS,
        checkpoint_every=recipe.checkpoint_every,
        max_grad_norm=recipe.max_grad_norm,
    )
    rank_zero_only(save_controlnet)(network, folder)


USES = {"base": base_controlnet, "trained": trained_controlnet}


@once
def conditioning(study: Study, model: Base) -> ContourConditioning | None:
    """The ControlNet of a base in memory, with the settings of its use; None if images follow no contours."""
    settings = study.settings.contours
    if not settings.wanted:
        return None
    network = load_controlnet(controlnet(study).path, model)
    place_network(network, study.device, model.unet.dtype)
    return ContourConditioning(network, settings.conditioning_scale, StepInterval(*settings.guidance_interval))
