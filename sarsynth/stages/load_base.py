"""Load the frozen base: as files with a hash, in memory, or without weights for a plan; and adapters on top of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from sarsynth.config.section import PassPrecision
from sarsynth.config.training_sections import Optimisation
from sarsynth.console import console
from sarsynth.diffusion import adapter_files
from sarsynth.diffusion.adapter_forms import BadAdapter
from sarsynth.diffusion.adapters import Adapter
from sarsynth.diffusion.base import Base, architecture, resolve
from sarsynth.diffusion.controlnet import ContourConditioning
from sarsynth.diffusion.sampling import Guidance, SampleRequest, sample
from sarsynth.diffusion.step_interval import StepInterval
from sarsynth.errors import UserError
from sarsynth.stages.open_images import Role
from sarsynth.stages.study import Study, first, once
from sarsynth.store.artifacts import Artifact
from sarsynth.store.costs import PER_SAMPLE, Work
from sarsynth.training.precision import Precision, bfloat16_gain, choose_for_pass

GAINS = ".bfloat16.json"  # in the store: what CPUs gain by it
SD_FACTOR = 8  # pixels of a side that a latent cell spans, of Stable Diffusion v1
SD_WIDTH = 320  # channels of the first level of its U-Net


@once
def base_artifact(study: Study) -> Artifact:
    """The frozen base: not of our making, so its fingerprint is a hash of its files."""
    settings = study.settings.base
    return study.fetch("base", lambda fetch: resolve(settings.path, settings.config, fetch=fetch))


@once
def base(study: Study) -> Base:
    """The frozen base in memory, on the device of this run, in the precision of the trainer."""
    return _placed(study, base_artifact(study), study.precision)


def sampling_base(study: Study, artifact: Artifact) -> Base:
    """A base in memory, the study's own or one that a method tuned, in the precision in which images are drawn."""
    precision, asked = sampling_precision(study), study.settings.generate.precision
    if precision != study.precision and first(study, "generate.precision"):
        console.print(f"  images are drawn in {precision.words} (generate.precision={asked})")
    return _placed(study, artifact, precision)


def learning_base(study: Study, role: Role) -> Base:
    """The frozen base in memory, in the precision in which adapters of a stage learn."""
    precision, asked = adapter_precision(study, role), study.settings.adapter.precision
    if precision != study.precision and first(study, "adapter.precision"):
        console.print(f"  adapters learn in {precision.words} (adapter.precision={asked})")
    return _placed(study, base_artifact(study), precision)


@once
def _placed(study: Study, artifact: Artifact, precision: Precision) -> Base:
    config = study.settings.base.config if artifact == base_artifact(study) else None
    return Base.load(artifact.path, config).place(study.device, precision)


def guidance(study: Study) -> Guidance:
    """How far, and in which steps, guidance leads images."""
    generate = study.settings.generate
    return Guidance(generate.guidance_scale, StepInterval(*generate.guidance_interval))


@once
def sampling_precision(study: Study) -> Precision:
    """In which precision images are drawn; it is part of the fingerprint of what is drawn."""
    generate, most = study.settings.generate, guidance(study).passes_at_once
    return _precision_of_passes(study, "generate.precision", generate.precision, generate.batch_size * most)


@once
def adapter_precision(study: Study, role: Role) -> Precision:
    """In which precision adapters of a stage learn; it is part of their fingerprint."""
    train = study.settings.train
    recipe = train.ors if role == "ors" else train.sar
    return _precision_of_passes(study, "adapter.precision", study.settings.adapter.precision, recipe.batch_size)


def _precision_of_passes(study: Study, key: str, asked: PassPrecision, samples: int) -> Precision:
    if asked == "trainer":
        return study.precision
    shapes = shapes_of_base(study)
    factor = 2 ** (len(shapes[1]["block_out_channels"]) - 1) if shapes else SD_FACTOR
    width = shapes[0].config.block_out_channels[0] if shapes else SD_WIDTH
    activations = samples * (study.settings.base.image_size // factor) ** 2 * width
    return choose_for_pass(
        asked, study.precision, study.device, activations, key=key, gain=lambda: bfloat16_gain(study.store.root / GAINS)
    )


@once
def shapes_of_base(study: Study) -> tuple[UNet2DConditionModel, Mapping[str, Any]] | None:
    """The base without its weights; None where its configurations are not here."""
    return architecture(base_artifact(study).path)


@once
def architecture_of_base(study: Study) -> tuple[UNet2DConditionModel, Mapping[str, Any]] | None:
    """The same, from which a plan tells sizes; None in a run, which has the base itself."""
    return shapes_of_base(study) if study.planning else None


def weights_of(adapter: Artifact) -> Path:
    """The file of an adapter: inside an artifact of the store, or what `adapter.path` names."""
    return adapter.path if adapter.path.is_file() else adapter.path / adapter_files.WEIGHTS


@once
def loaded_adapter(study: Study, artifact: Artifact, model: Base | None = None) -> Adapter:
    """An adapter in memory, fit for a base; None is that in the precision of the trainer."""
    return read_adapter(study, artifact, (model or base(study)).unet)


def read_adapter(study: Study, artifact: Artifact, unet: UNet2DConditionModel) -> Adapter:
    """Read an adapter of a U-Net, onto its device.

    Raises:
        UserError: It does not fit; names `adapter.path`, or the artifact whose removal mends it.
    """
    elsewhere = artifact.path.is_file()
    of_text = study.settings.adapter.text_encoder if elsewhere else "refuse"
    try:
        return adapter_files.load(unet, weights_of(artifact), of_text=of_text)
    except BadAdapter as error:
        if elsewhere:
            raise UserError(f"adapter.path={error}") from error
        raise UserError(f"{error.file}: {error.reason}; remove {artifact.path} to train it again") from error


def like_of_base(study: Study) -> dict[str, Any]:
    """What the time of any work with the base depends on."""
    return {"base": study.settings.base.name, "image_size": study.settings.base.image_size}


def like_of_steps(study: Study) -> dict[str, Any]:
    """What the time of a training with the base depends on."""
    options = study.step_options
    return like_of_base(study) | {"compile": options.compile, "gradient_checkpointing": options.gradient_checkpointing}


def at_once(study: Study, batch: int) -> int:
    """How many samples of a step go through the network at once, as far as settings say."""
    most = study.step_options.micro_batch
    return batch if most == "auto" else min(batch, most)


def work_of_tuning(study: Study, task: str, *recipes: Optimisation) -> Work:
    """The work in a network as large as the base, trained in as many loops as there are recipes."""
    amount = sum(recipe.max_steps * recipe.batch_size for recipe in recipes)
    largest = max(recipe.batch_size for recipe in recipes)
    return Work(task, PER_SAMPLE, amount, like_of_steps(study), batch=at_once(study, largest))


def work_of_sampling(study: Study, task: str, images: int) -> Work:
    """The work in making images: a pass for each step, two where guidance leads."""
    settings, leading = study.settings.generate, guidance(study)
    like = like_of_base(study) | {"contours": study.settings.contours.wanted}
    passes, batch = leading.passes(settings.num_inference_steps), settings.batch_size * leading.passes_at_once
    return Work(task, "images", images, like, passes=passes, batch=batch)


def scheduler(study: Study, model: Base) -> Any:
    """The sampler of the settings, as a diffusers scheduler fit for a base."""
    return study.settings.sampler.from_config(model.noise_scheduler.config)


def sample_batches(
    study: Study, model: Base, requests: Sequence[SampleRequest], conditioning: ContourConditioning | None
) -> Iterator[Tensor]:
    """Make images with a base as it is now, by the sampler, steps and guidance of the settings; see `sample`."""
    chosen = study.settings.generate
    return sample(
        model,
        scheduler(study, model),
        requests,
        image_size=study.settings.base.image_size,
        guidance=guidance(study),
        num_inference_steps=chosen.num_inference_steps,
        batch_size=chosen.batch_size,
        conditioning=conditioning,
    )
