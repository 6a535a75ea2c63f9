"""Check sizes before anything is computed: ranks, batches, images and numbers of images that no machine could hold.

What is estimated is the least: the arrays that one layer reads and writes, and sets that are held in memory as a whole.
What needs more than the machine has is refused; what needs more than is free just now, or is of no use, is warned of.
"""

import shutil
from pathlib import Path

import psutil
import torch
from rich.markup import escape

from sarsynth.console import console
from sarsynth.diffusion import adapters
from sarsynth.errors import UserError
from sarsynth.stages.curate_images import classes, counts, joining, source, synthetic_sizes, training
from sarsynth.stages.load_base import guidance, sampling_precision, shapes_of_base
from sarsynth.stages.open_images import Role
from sarsynth.stages.study import Study, first, once
from sarsynth.training.memory import free_memory

BOTH = 2  # what a layer reads and what it writes
ROW = 24  # bytes at least by which a step knows one of its samples
PNG = 4  # pixels of speckle that a byte of PNG holds, at most
REPEATED = 10  # times that a step sees an image, from which on it is hardly meant


def check_rank(study: Study, key: str, rank: int, adapters_of_it: int = 1) -> None:
    """Refuse a rank that no layer can have, and warn of one that only some can.

    Args:
        study: Whose base and targets.
        key: The setting, for messages.
        rank: Its value.
        adapters_of_it: How many share it equally.

    Raises:
        UserError: Each of them has a higher rank than the width of any layer: an update B A has none.
    """
    if (shapes := shapes_of_base(study)) is None or not rank:
        return
    widths = adapters.widths(shapes[0], study.settings.adapter.target_modules).values()
    each = -(-rank // adapters_of_it)
    shared = f", {each} for each of {adapters_of_it} adapters," if adapters_of_it > 1 else ""
    if each > max(widths):
        raise UserError(
            f"{key}={rank}{shared} is above the width of every layer that is adapted (at most {max(widths)}), and no "
            f"update has a higher rank than that; lower it to {max(widths) * adapters_of_it} or less"
        )
    if (narrow := sum(width < each for width in widths)) and first(study, "rank", key):
        _warn(
            f"{key}={rank}{shared} is above the width of {narrow} of {len(widths)} layers (the narrowest: "
            f"{min(widths)}), where it takes memory and adds nothing"
        )


@once
def check_images_of_base(study: Study, role: Role) -> None:
    """Refuse images or batches for the base of which not even the largest layers fit.

    Raises:
        UserError: They do not.
    """
    if (shapes := shapes_of_base(study)) is None:
        return
    unet, autoencoder = shapes
    size, settings, drawn = study.settings.base.image_size, study.settings, sampling_precision(study)
    blocks = autoencoder["block_out_channels"]
    coded, decoded = (
        BOTH * precision.autoencoder.itemsize * blocks[0] * size**2 for precision in (study.precision, drawn)
    )
    side = size // 2 ** (len(blocks) - 1)
    denoised = BOTH * drawn.compute.itemsize * unet.config["block_out_channels"][0] * side**2
    images, made = len(training(study, role)), max(synthetic_sizes(study).values())
    encoding, making = min(settings.encode.batch_size, images), min(settings.generate.batch_size, made)
    _check(study, f"base.image_size={size}", "one image", coded, "lower it")
    _check(study, f"encode.batch_size={settings.encode.batch_size}", f"{encoding} images", encoding * coded)
    if settings.method.adds == "synthetic":
        least = max(making * decoded, making * guidance(study).passes_at_once * denoised)
        _check(study, f"generate.batch_size={settings.generate.batch_size}", f"{making} images", least)


def check_batch(study: Study, key: str, batch_size: int, images: int) -> None:
    """Refuse a training batch that a step could not even list, and warn of one that is many times the set.

    Raises:
        UserError: It cannot.
    """
    _check(study, f"{key}={batch_size}", f"a list of {batch_size} samples", ROW * batch_size)
    if batch_size >= REPEATED * images and first(study, "batch", key):
        _warn(f"{key}={batch_size} is more than the {images} images: a step sees each {batch_size // images} times")


@once
def check_numbers(study: Study) -> None:
    """Refuse more images a class than memory holds for a classifier, or the disk of the store for a synthetic set.

    Raises:
        UserError: There is no room for them.
    """
    settings, channels = study.settings, source(study, "sar").channels
    adds = settings.method.adds
    joined = joining(study) if adds != "nothing" else {}
    total = sum(counts(study).values()) + sum(joined.values())
    chosen, pixels = settings.classifier, channels * settings.classifier.image_size**2
    largest = max(joined, key=lambda name: joined[name], default=classes(study)[0])
    plan = f"augment.plan adds {sum(joined.values())} images, most to {largest}" if joined else "data"
    _check(study, plan, f"{total} images of classifier.image_size={chosen.image_size}", total * pixels, "lower either")
    batch = BOTH * torch.float32.itemsize * chosen.batch_size * pixels
    key = f"classifier.batch_size={chosen.batch_size}"
    _check(study, key, f"images of classifier.image_size={chosen.image_size}", batch, "lower either")
    if adds == "synthetic":
        images = sum(synthetic_sizes(study).values())
        _check_disk(study, images, images * channels * settings.base.image_size**2 // PNG)


def _check_disk(study: Study, images: int, need: int) -> None:
    """Refuse a synthetic set that the disk of the store has no room for; a plan may be for another machine."""
    if study.planning:
        return
    store = Path(study.settings.paths.store).absolute()
    free = shutil.disk_usage(next(folder for folder in (store, *store.parents) if folder.exists())).free
    if need > free:
        raise UserError(
            f"generate.per_class={study.settings.generate.per_class}: {images} synthetic images take at least "
            f"{need / 1e9:.1f} GB, and the disk of paths.store={store} has {free / 1e9:.1f} GB left; lower it (and "
            "augment.plan), or choose another store"
        )


def _check(study: Study, key: str, what: str, need: int, remedy: str = "lower it, or base.image_size") -> None:
    """Refuse what takes more than all memory of the device, and warn once of what takes more than is free.

    A plan may be for another machine.
    """
    if study.planning:
        return
    if study.device.type == "cuda":
        device, memory = "this card", torch.cuda.get_device_properties(study.device).total_memory
    else:
        device, memory = "this machine", psutil.virtual_memory().total
    if need > memory:
        raise UserError(
            f"{key}: {what} take at least {need / 1e9:.1f} GB of memory, and {device} has {memory / 1e9:.1f} GB; "
            f"{remedy}"
        )
    if need > (free := free_memory(study.device)) and first(study, "memory", key):
        _warn(f"{key}: {what} take at least {need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free")


def _warn(message: str) -> None:
    console.print(f"[yellow]warning:[/] {escape(message)}")
