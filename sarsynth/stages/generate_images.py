"""Generate the synthetic set of a method, and write all that the method does for a class as one adapter."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sarsynth import processes
from sarsynth.console import progress
from sarsynth.data.class_names import file_names
from sarsynth.data.transforms import to_channels, to_uint8
from sarsynth.diffusion import prototypes
from sarsynth.diffusion.adapters import folded
from sarsynth.diffusion.sampling import SampleRequest
from sarsynth.report import pictures
from sarsynth.stages.adapt_to_sar import check_method, sar_adapters, tuned_base
from sarsynth.stages.curate_images import classes, counts, source, synthetic_sizes
from sarsynth.stages.describe_images import class_captions, described_by, warn_of_long
from sarsynth.stages.find_prototypes import partition
from sarsynth.stages.follow_contours import guides, write_report
from sarsynth.stages.load_base import (
    base_artifact,
    guidance,
    loaded_adapter,
    sample_batches,
    sampling_base,
    sampling_precision,
    work_of_sampling,
)
from sarsynth.stages.study import Study, once, once_a_cell, once_a_generator
from sarsynth.stages.train_adapters import ors_adapter
from sarsynth.stages.train_controlnet import conditioning
from sarsynth.store.artifacts import Artifact

METADATA = "metadata.jsonl"
STRIP_SCALES = (0.0, 0.5, 1.0)  # of the whole stack, as in the paper's Figure 1b
STRIP_IMAGES = 4  # a class and scale
WRITERS = 2  # threads that write images


@dataclass(frozen=True)
class ImageRecipe:
    """What the images of a method are made with."""

    base: Artifact  # the study's base, or the one that the method tuned
    adapters: Mapping[str, Artifact]  # by name
    scales: Mapping[str, Mapping[str, float]]  # for each class, the scale of each adapter

    @property
    def inputs(self) -> dict[str, Artifact]:
        """All of them, by role."""
        return {"base": self.base, **self.adapters}


@once_a_generator
def image_recipe(study: Study) -> ImageRecipe:
    """What the method's images are made with: its base, its adapters, and for each class their scales."""
    check_method(study)
    method, (w1, w2) = study.settings.method, study.settings.generate.scales
    if method.tunes == "unet":
        return ImageRecipe(tuned_base(study), {}, {name: {} for name in classes(study)})
    below = {"ors": ors_adapter(study)} if method.below else {}
    of_view = dict.fromkeys(below, w1)
    if method.tunes == "nothing":
        return ImageRecipe(base_artifact(study), below, dict.fromkeys(classes(study), of_view))
    assert method.mixing is not None
    division, _ = partition(study)
    modality = sar_adapters(study)
    weights = prototypes.MIXINGS[method.mixing](division.counts)
    by_class = {
        class_name: of_view | {name: w2 * float(weights[label][division.names.index(name)]) for name in modality}
        for label, class_name in enumerate(classes(study))
    }
    return ImageRecipe(base_artifact(study), below | modality, by_class)


@once_a_cell
def sampled(study: Study) -> Artifact:
    """The synthetic set as it is sampled: Hugging Face imagefolder, images/<class>/<index>.png and metadata.jsonl."""
    sizes, method, followed = synthetic_sizes(study), study.settings.method.name, guides(study)
    recipe = image_recipe(study)  # after the contours, which refuse in seconds what would wait for hours of training

    def build(folder: Path) -> None:
        warn_of_long(sampling_base(study, recipe.base), list(class_captions(study).values()), f"method={method}")
        shares = _shares(study, sizes)
        with progress(f"images of {method}", sum(map(len, shares))) as advance:
            for label, share in enumerate(shares):
                _write_images(study, label, share, folder, advance)
        processes.barrier()  # the images of all processes are there
        if processes.rank() == 0:
            write_report(study, folder)
            _write_metadata(study, sizes, folder)

    return study.make(
        "synthetic",
        method,
        _settings(study, recipe) | {"sizes": sizes},
        {**recipe.inputs, **followed.inputs},
        build,
        command=("generate", f"method={method}"),
        precision=sampling_precision(study).name,
        work=work_of_sampling(study, "synthetic", sum(sizes.values())),
        follows=described_by(study, "sar"),
        collective=True,
    )


def strips(study: Study) -> Artifact:
    """For each class, a few seeds over the scale of the whole stack (paper Figure 1b), as a PNG.

    What the stack makes at its full scale is in the synthetic set, and what the base makes without it is the same for
    every stack, so that images between the two alone are made here.
    """
    recipe, method, sizes = image_recipe(study), study.settings.method.name, _in_strips(study)
    ends = {0.0: _unadapted(study), 1.0: sampled(study)}

    def build(folder: Path) -> None:
        with progress("scale strips", sum(sizes.values())) as advance:
            for label, (class_name, size) in enumerate(sizes.items()):
                names = [file_name(study, class_name, index) for index in range(size)]
                columns = []
                for scale in STRIP_SCALES:
                    if scale in ends:
                        columns.append(np.stack([pictures.read_png(ends[scale].path / name) for name in names]))
                    else:
                        scaled = {name: scale * value for name, value in recipe.scales[class_name].items()}
                        columns.append(torch.stack(list(_sample(study, scaled, label, range(size)))).numpy())
                images = np.stack(columns, axis=1)  # (seeds, scales, C, H, W)
                strip = pictures.strip(images, STRIP_SCALES, title=f"{method}: {class_name}")
                strip.save(folder / strip_name(study, class_name))
                advance(size)

    return study.make(
        "cache",
        f"{method}-strips",
        _settings(study, recipe) | {"strip_scales": STRIP_SCALES, "sizes": sizes},
        {**recipe.inputs, **guides(study).inputs, "unadapted": ends[0.0], "synthetic": ends[1.0]},
        build,
        version=2,
        command=("evaluate", f"method={method}"),
        precision=sampling_precision(study).name,
        work=work_of_sampling(study, "strips", sum(sizes.values())),
        follows=described_by(study, "sar"),
    )


def _in_strips(study: Study) -> dict[str, int]:
    """Images of each class in strips: a few, of as many as the synthetic set has."""
    return {name: min(STRIP_IMAGES, size) for name, size in synthetic_sizes(study).items()}


def _unadapted(study: Study) -> Artifact:
    """What the base makes of the same texts, seeds and contours without any adapter, for strips of every method."""
    sizes, alone = _in_strips(study), ImageRecipe(base_artifact(study), {}, {name: {} for name in classes(study)})

    def build(folder: Path) -> None:
        for label, (class_name, size) in enumerate(sizes.items()):
            (folder / file_name(study, class_name, 0)).parent.mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(_sample(study, {}, label, range(size))):
                pictures.save_png(image.numpy(), folder / file_name(study, class_name, index))

    return study.make(
        "cache",
        f"{study.settings.base.name}-unadapted",
        _settings(study, alone) | {"sizes": sizes},
        {**alone.inputs, **guides(study).inputs},
        build,
        command=("evaluate", f"method={study.settings.method.name}"),
        precision=sampling_precision(study).name,
        work=work_of_sampling(study, "strips", sum(sizes.values())),
        follows=described_by(study, "sar"),
    )


def _settings(study: Study, recipe: ImageRecipe) -> dict[str, Any]:
    """What decides the images beside adapters, base and contours."""
    settings = study.settings
    return {
        "scales": recipe.scales,
        "classes": classes(study),
        "channels": source(study, "sar").channels,
        "captions": class_captions(study),
        "image_size": settings.base.image_size,
        "guidance_scale": settings.generate.guidance_scale,
        **_led(study),
        "num_inference_steps": settings.generate.num_inference_steps,
        "sampler": settings.sampler.model_dump(by_alias=True),
        "contours": guides(study).recipe,
        "seed": study.sample_seed,
        **({} if all(name == stem for name, stem in stems(study).items()) else {"files": stems(study)}),
    }


def _led(study: Study) -> dict[str, Any]:
    """Name negative prompts and the interval of guidance where they are not what older sets had without a word."""
    prompts, leading = negative_prompts(study), guidance(study)
    led = {"negative_prompts": prompts} if any(prompts.values()) else {}
    return led | ({} if leading.throughout else {"guidance_interval": list(leading.interval)})


def negative_prompts(study: Study) -> dict[str, str]:
    """The text that guidance leads away from, for each class."""
    generate, sizes = study.settings.generate, counts(study)
    if generate.negative_prompt == "empty" or generate.guidance_scale == 1:
        return dict.fromkeys(classes(study), "")
    largest = max(classes(study), key=sizes.__getitem__)  # itself passes for no larger one
    return {name: "" if name == largest else class_captions(study)[largest] for name in classes(study)}


def _shares(study: Study, sizes: Mapping[str, int]) -> list[list[int]]:
    """Which images of each class, by label, this process makes.

    Processes share whole batches, so that an image comes from the same batch however many they are.
    """
    step = study.settings.generate.batch_size
    batches = [
        (label, range(start, min(start + step, sizes[class_name])))
        for label, class_name in enumerate(classes(study))
        for start in range(0, sizes[class_name], step)
    ]
    shares: list[list[int]] = [[] for _ in classes(study)]
    for label, batch in processes.mine(batches):
        shares[label] += batch
    return shares


def _write_images(
    study: Study, label: int, indices: Sequence[int], folder: Path, advance: Callable[[int], None]
) -> None:
    """Make the images of one class that are not there yet."""
    class_name = classes(study)[label]
    files = {index: folder / file_name(study, class_name, index) for index in indices}
    # A file is written whole or not at all, so that one that is there needs no second making.
    missing = [index for index, file in files.items() if not file.exists()]
    advance(len(files) - len(missing))
    (folder / file_name(study, class_name, 0)).parent.mkdir(parents=True, exist_ok=True)
    images = _sample(study, image_recipe(study).scales[class_name], label, missing)
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(WRITERS) as writers:  # a batch is compressed while the next one is made
        for index, image in zip(missing, images, strict=True):
            waiting.append(writers.submit(pictures.save_png, image.numpy(), files[index]))
            if len(waiting) > 2 * study.settings.generate.batch_size:
                waiting.popleft().result()
            advance(1)
        for written in waiting:
            written.result()


def _sample(study: Study, by_name: Mapping[str, float], label: int, indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield uint8 images (C, H, W) of one class, by index, with the stack of adapters at the given scales."""
    recipe = image_recipe(study)
    model, class_name = sampling_base(study, recipe.base), classes(study)[label]
    caption, negative = class_captions(study)[class_name], negative_prompts(study)[class_name]
    stack = [(loaded_adapter(study, recipe.adapters[name], model), scale) for name, scale in by_name.items() if scale]
    with folded(model.unet, stack):
        requests = [
            SampleRequest(caption, (study.sample_seed, label, index), guides(study).contour(label, index), negative)
            for index in indices
        ]
        for images in sample_batches(study, model, requests, conditioning(study, model)):
            yield from to_uint8(to_channels(images, source(study, "sar").channels)).cpu()


def _write_metadata(study: Study, sizes: Mapping[str, int], folder: Path) -> None:
    """Write a line for each image of the set."""
    settings, recipe = study.settings, image_recipe(study)
    rows = [
        {
            "file_name": file_name(study, class_name, index),
            "text": class_captions(study)[class_name],
            "label": label,
            "class_name": class_name,
            "seed": study.sample_seed,
            "method": settings.method.name,
            "scales": recipe.scales[class_name],
            "contour": guides(study).name(label, index),
        }
        for label, class_name in enumerate(classes(study))
        for index in range(sizes[class_name])
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # A file name that is not UTF-8 becomes an escape of JSON's.
    (folder / METADATA).write_text(text, encoding="utf-8", errors="backslashreplace")


def file_name(study: Study, class_name: str, index: int) -> str:
    """Name the file of one image of a synthetic set."""
    return f"images/{stems(study)[class_name]}/{index:06d}.png"


@once
def stems(study: Study) -> dict[str, str]:
    """What files of each class are called."""
    return file_names(classes(study))


def strip_name(study: Study, class_name: str) -> str:
    """Name the file of a class's strip."""
    return f"{stems(study)[class_name]}.png"
