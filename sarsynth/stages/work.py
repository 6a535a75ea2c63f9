"""How much work the artifacts of a study are, for their cards and for plans; and what they take of the disk, if known.

What stands under `like` is what the time for one sample, image or text depends on besides the machine.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sarsynth.classifier.classification import ClassifierRecipe
from sarsynth.config.training_sections import Optimisation
from sarsynth.diffusion import adapters
from sarsynth.diffusion.adapters import AdapterSpec
from sarsynth.store.costs import PER_SAMPLE, Work

if TYPE_CHECKING:
    from sarsynth.stages.study import Role, Study

HALF, FULL = 2, 4  # bytes of a number


def looks(study: "Study", role: "Role", task: str, images: int, disk_bytes: int | None = None, **like: Any) -> Work:
    """Look at images of a set as they lie on disk."""
    return Work(task, "images", images, {"data": study.images_of(role).name} | like, disk_bytes=disk_bytes)


def images(study: "Study", count: int) -> Work:
    """Read SAR images at the classifier's size."""
    size, source = study.settings.classifier.image_size, study.sources["sar"]
    disk = count * source.channels * size**2 * study.radiometry["sar"].dtype.itemsize
    return looks(study, "sar", "images", count, disk, image_size=size)


def comparison(study: "Study", task: str, images: int, **like: Any) -> Work:
    """Compare or measure images at the classifier's size."""
    chosen = study.settings.classifier
    return Work(task, "images", images, {"network": chosen.network, "image_size": chosen.image_size} | like)


def latents(study: "Study", role: "Role", images: int) -> Work:
    """Encode images, and their mirror images where there are some."""
    size, views = study.settings.base.image_size, 1 if study.flip(role) == "none" else 2
    disk = None
    if study.architecture:
        _, autoencoder = study.architecture
        side = size // 2 ** (len(autoencoder["block_out_channels"]) - 1)
        values = views * images * autoencoder["latent_channels"] * side**2
        disk = 2 * HALF * values  # mean and deviation
    return Work("latents", "images", images, _of_base(study), passes=views, disk_bytes=disk)


def texts(study: "Study", captions: Sequence[str]) -> Work:
    """Encode each different text once."""
    return Work("texts", "texts", len(set(captions)), {"base": study.settings.base.name})


def classifier(recipe: ClassifierRecipe, task: str, **like: Any) -> Work:
    """Train a classifier."""
    about = {"network": recipe.network, "image_size": recipe.image_size} | like
    return Work(task, PER_SAMPLE, recipe.max_steps * recipe.batch_size, about, batch=recipe.batch_size)


def adapter(study: "Study", spec: AdapterSpec, recipe: Optimisation, steps: int, *, together: int, rough: bool) -> Work:
    """Train an adapter, in one run with others: `together` is how many there are of them.

    It is `rough` as long as nobody knows how the steps are shared out among them.
    """
    disk = None
    if study.architecture:
        unet, _ = study.architecture
        disk = FULL * adapters.parameters(adapters.fresh(unet, spec, 0))
    about = _of_steps(study) | {"targets": study.settings.adapter.targets}
    amount, batch = steps * recipe.batch_size, _at_once(study, together * recipe.batch_size)
    return Work("adapter", PER_SAMPLE, amount, about, batch=batch, disk_bytes=disk, rough=rough)


def training(study: "Study", task: str, *recipes: Optimisation) -> Work:
    """Train a network as large as the base, in as many loops as there are recipes."""
    amount = sum(recipe.max_steps * recipe.batch_size for recipe in recipes)
    largest = max(recipe.batch_size for recipe in recipes)
    return Work(task, PER_SAMPLE, amount, _of_steps(study), batch=_at_once(study, largest))


def sampling(study: "Study", task: str, images: int) -> Work:
    """Make images: a pass through the U-Net for each step, two where guidance asks for an image without a text too."""
    chosen, halves = study.settings.generate, 1 if study.settings.generate.guidance_scale == 1 else 2
    about = _of_base(study) | {"contours": study.settings.contours.wanted}
    passes, batch = chosen.num_inference_steps * halves, chosen.batch_size * halves
    return Work(task, "images", images, about, passes=passes, batch=batch)


def through_autoencoder(study: "Study", images: int) -> Work:
    """Encode images and decode them again."""
    return Work("autoencoder", "images", images, _of_base(study))


def speckle(study: "Study") -> Work:
    """Put speckle on a whole synthetic set."""
    return Work(
        "speckle", "images", sum(study.synthetic_sizes.values()), {"image_size": study.settings.base.image_size}
    )


def _of_steps(study: "Study") -> dict[str, Any]:
    options = study.step_options
    return _of_base(study) | {"compile": options.compile, "gradient_checkpointing": options.gradient_checkpointing}


def _at_once(study: "Study", batch: int) -> int:
    """How many samples of a step's go through the network at once, as far as settings say."""
    most = study.step_options.micro_batch
    return batch if most == "auto" else min(batch, most)


def _of_base(study: "Study") -> dict[str, Any]:
    return {"base": study.settings.base.name, "image_size": study.settings.base.image_size}
