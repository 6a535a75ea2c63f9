"""Adapt the base to SAR images as the method says: adapters, a whole U-Net, or somebody else's LoRA (stage `sar`)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from sarsynth import hashes
from sarsynth.config.training_sections import Tuning
from sarsynth.data.datamodules import SeededDataModule
from sarsynth.data.seeds import step_seed
from sarsynth.diffusion import adapter_files, layouts, prototypes
from sarsynth.diffusion.adapter_forms import BadAdapter
from sarsynth.diffusion.base import Base, place_network
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.errors import UserError, one_line
from sarsynth.stages.check_sizes import check_batch, check_images_of_base, check_numbers
from sarsynth.stages.curate_images import source, training
from sarsynth.stages.describe_images import class_captions
from sarsynth.stages.encode_images import denoising_samples, encoded
from sarsynth.stages.fit_radiometry import radiometry
from sarsynth.stages.load_base import (
    architecture_of_base,
    base_artifact,
    loaded_adapter,
    read_adapter,
    weights_of,
    work_of_tuning,
)
from sarsynth.stages.study import Study, once, once_a_generator
from sarsynth.stages.train_adapters import check_ors, check_sar, ors_training, sar_trainings, train
from sarsynth.store.artifacts import CARD, CHECKPOINTS, UNKNOWN, Artifact
from sarsynth.training.fitting import MovingAverage


def tuned(study: Study) -> list[Artifact]:
    """What stage `sar` of the method makes: its adapters, or a base of its own.

    Raises:
        UserError: The method tunes nothing.
    """
    match study.settings.method.tunes:
        case "adapter":
            return [adapter for cell in study.generators for adapter in sar_adapters(cell).values()]
        case "unet":
            return [tuned_base(cell) for cell in study.generators]
    raise UserError(f"method={study.settings.method.name} tunes nothing; choose another method")


@once_a_generator
def sar_adapters(study: Study) -> dict[str, Artifact]:
    """The modality: the method's SAR adapters by name, one for each part of its partition that holds images."""
    check_method(study)
    if study.settings.adapter.path is not None:
        return {"sar": imported(study, Path(study.settings.adapter.path))}
    return trained_together(study)[study.generator_seed]


@once
def trained_together(study: Study) -> dict[int, dict[str, Artifact]]:
    """The modality of each generator seed."""
    trainings = {cell.generator_seed: sar_trainings(cell) for cell in study.generators}
    made = train(training for of_seed in trainings.values() for training in of_seed)
    return {
        seed: {training.part.name: made[training.request.fingerprint] for training in of_seed}
        for seed, of_seed in trainings.items()
    }


@once_a_generator
def check_method(study: Study) -> None:
    """Refuse now what the last stage would refuse after hours of training the first ones."""
    class_captions(study)
    first = training(study, "sar")[0]
    radiometry(study, "sar").levels(source(study, "sar").read(first), first.path)
    if study.settings.adapter.path is not None and study.settings.method.tunes == "adapter":
        own = imported(study, Path(study.settings.adapter.path))
        if not study.planning:
            loaded_adapter(study, own)
        elif architecture := architecture_of_base(study):
            read_adapter(study, own, architecture[0])
    if study.settings.method.below or "ors" in study.settings.contours.sources:
        training(study, "ors")
    if study.settings.method.partition == "prototypes":
        prototypes.check_k(study.settings.prototypes.k, len(training(study, "sar")))
    _check_sizes(study)


def _check_sizes(study: Study) -> None:
    """Refuse sizes of what the method trains and makes that could not work."""
    method, images = study.settings.method, len(training(study, "sar"))
    check_numbers(study)
    check_images_of_base(study, "sar")
    if method.below:
        check_ors(study)
    if method.tunes == "unet":
        recipe = "finetune" if method.start == "base" else "scratch"
        check_batch(study, f"train.{recipe}.batch_size", _tuning(study).batch_size, images)
    elif method.tunes == "adapter" and study.settings.adapter.path is None:
        check_sar(study)


def imported(study: Study, path: Path) -> Artifact:
    """Stand for an adapter that was trained elsewhere; its fingerprint is that of the content of its files.

    Raises:
        UserError: There is no such file, or a card beside it says that it belongs to another base or ORS adapter.
    """
    try:
        file = adapter_files.find(path.expanduser())
        parts = adapter_files.parts(file)
        content = hashes.of_file(file) if parts == [file] else layouts.digest(parts)
    except BadAdapter as error:
        raise UserError(f"adapter.path={error}") from error
    except OSError as error:
        raise UserError(f"adapter.path={path}: cannot be read ({error.strerror}); name one safetensors file") from error
    if (known := _made_on(file)) is not None:
        on_ors = study.settings.method.below and study.settings.stage2_on == "ors"
        below = {
            "base": base_artifact(study).fingerprint,
            "ors": ors_training(study).request.fingerprint if on_ors else None,
        }
        for role, fingerprint in below.items():
            if known.get(role) != fingerprint and not str(fingerprint).startswith(UNKNOWN):
                raise UserError(
                    f"adapter.path={file}: made on {role} {known.get(role) or 'none'}, but this study has "
                    f"{fingerprint or 'none'} below it; choose the method and settings that it was made with"
                )
    return Artifact("adapter", file.stem, content[:16], file)


def _made_on(file: Path) -> Mapping[str, Any] | None:
    """What the card beside an adapter says that it was made from, by role; None where no card lies.

    Raises:
        UserError: The card cannot be read, or is none.
    """
    card = file.with_name(CARD)
    try:
        made_on = json.loads(card.read_bytes())["inputs"]
        if not isinstance(made_on, dict):
            raise TypeError("its inputs are no mapping")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        why = "no inputs" if isinstance(error, KeyError) else one_line(error)[:100]
        raise UserError(
            f"adapter.path={file}: {card} beside it, which says what it was made on, is no card of an adapter ({why}); "
            "copy both once more, or move the adapter to a folder of its own"
        ) from error
    return made_on


def tuned_base(study: Study) -> Artifact:
    """Tune the whole U-Net, from the base's weights or from random ones; what comes out is a base of its own."""
    method, settings, recipe, images = study.settings.method, study.settings, _tuning(study), encoded(study, "sar")
    seed = study.generator_seed

    def build(folder: Path) -> None:
        base = Base.load(base_artifact(study).path, settings.base.config)
        if method.start == "random":
            # Not the seed itself: the embedded base may have begun with the very weights that it gives.
            base.forget_unet(step_seed(seed, 1))
        place_network(base.unet.requires_grad_(True), study.device, torch.float32)
        group = TrainableGroup(
            method.name,
            list(base.unet.parameters()),
            recipe.learning_rate,
            recipe.warmup_steps,
            recipe.max_steps,
            recipe.weight_decay,
            recipe.decay,
        )
        names = [record.path for record in training(study, "sar")]
        study.fitting(method.name).fit(
            Denoiser(base.unet, base.noise_scheduler, [group], names=names).train(),
            SeededDataModule.whole(
                denoising_samples(base, images), batch_size=recipe.batch_size, max_steps=recipe.max_steps, seed=seed
            ),
            title=f"U-Net, {method.name}",
            max_steps=recipe.max_steps,
            checkpoints=folder / CHECKPOINTS,
            checkpoint_every=recipe.checkpoint_every,
            max_grad_norm=recipe.max_grad_norm,
            callbacks=[MovingAverage(recipe.ema_decay)],
        )
        rank_zero_only(base.save)(folder)

    return study.make(
        "base",
        f"{settings.base.name}-{method.name}",
        {"start": method.start, "recipe": recipe.model_dump(exclude={"checkpoint_every"}), "seed": seed},
        {"base": base_artifact(study), **images},
        build,
        command=("train", "stage=sar", f"method={method.name}"),
        precision=study.precision.name,
        work=work_of_tuning(study, method.name, recipe),
        collective=True,
    )


def _tuning(study: Study) -> Tuning:
    """How the method tunes a whole U-Net."""
    train = study.settings.train
    return train.finetune if study.settings.method.start == "base" else train.scratch


def budget(study: Study) -> dict[str, int | str]:
    """What a method tunes on SAR images, with each generator seed: its trainable parameters, samples seen, and how."""
    parameters = samples = 0
    how: dict[str, str] = {}
    match study.settings.method.tunes:
        case "unet":
            parameters = adapter_files.count(tuned_base(study).path / "unet" / "diffusion_pytorch_model.safetensors")
            samples = _tuning(study).max_steps * _tuning(study).batch_size
        case "adapter" if study.settings.adapter.path is None:
            parameters = sum(adapter_files.count(weights_of(adapter)) for adapter in sar_adapters(study).values())
            trainings = sar_trainings(study)
            samples = sum(adapter.part.steps * adapter.recipe.batch_size for adapter in trainings)
            how = {"contours": "frozen" if trainings[0].steering else "none", "sampling": trainings[0].sampling}
    return {"trainable_parameters": parameters, "samples_seen": samples, **how}
