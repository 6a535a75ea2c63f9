"""sarsynth from Python, for notebooks: the stages of a study as functions, without a command line.

A *study* holds the settings; functions take it and return what its stages make: adapters, images, scores. They are the
stages of the three scripts, on the same store, so what one has made the other uses again. docs/python.md shows them at
work.

    study = api.open_study("my_sar_images", aerial="my_aerial_images", method="2lora")
    ors, sar = api.train_ors(study), api.train_sar(study)["sar"]
    with api.fold(study, [(ors, 0.9), (sar, 1.0)]):
        images = api.sample(study, "tanker", 4)
    print(api.score_gain(study, "resample").minor_f1)

All that a user can mend is a `UserError` with one line that names the key and the remedy.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sarsynth.commands import exporting, generate, preflight
from sarsynth.commands.session import quieten
from sarsynth.config.composition import settings_of
from sarsynth.config.hydra_internals import as_override
from sarsynth.data.transforms import to_channels, to_uint8
from sarsynth.diffusion.adapters import Adapter, folded
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.contours import unpack
from sarsynth.diffusion.sampling import SampleRequest
from sarsynth.errors import UserError, nearest
from sarsynth.evidence.comparison import SEED, ScoredJob, read_predictions
from sarsynth.evidence.significance import Comparison, compare
from sarsynth.stages.adapt_to_sar import sar_adapters
from sarsynth.stages.curate_images import classes, source, training
from sarsynth.stages.describe_images import class_captions
from sarsynth.stages.find_contours import contours, read_contours
from sarsynth.stages.generate_images import image_recipe, negative_prompts
from sarsynth.stages.load_base import base, loaded_adapter, sample_batches
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.study import Study
from sarsynth.stages.sum_up import result
from sarsynth.stages.train_adapters import ors_adapter
from sarsynth.stages.train_controlnet import conditioning
from sarsynth.tracking import Tracker

__all__ = [
    "class_contours",
    "export",
    "fold",
    "load_base",
    "make_images",
    "open_study",
    "sample",
    "scales",
    "score",
    "score_gain",
    "train_ors",
    "train_sar",
]


def open_study(
    images: str | Path | None = None,
    *,
    aerial: str | Path | None = None,
    method: str = "2lora",
    base: str = "sd-nano",
    store: str | Path = "logs/store",
    settings: Mapping[str, Any] | None = None,
) -> Study:
    """Say what a study is of; nothing is computed yet.

    Args:
        images: Folder of SAR images, a folder per class; None for the simulated ones.
        aerial: Folder of aerial images, a folder per class, from which the ORS adapter learns; None for simulated ones.
        method: A row of `sarsynth/conf/method/`.
        base: `sd-nano`, the embedded one, or `sd15`.
        store: Where artifacts lie, and are found again.
        settings: All else, by the dotted keys of the command line, e.g. `{"data.test": 0.2, "train.sar.max_steps": 300,
            "contours": "real", "trainer": "gpu"}`.

    Raises:
        UserError: A key, option, value or folder is unknown, or the trainer asks for several processes.
    """
    said: dict[str, Any] = {"method": method, "base": base, "paths.store": str(store)}
    for slot, folder in (("data", images), ("ors", aerial)):
        if folder is not None:
            said |= {slot: "imagefolder", f"{slot}.root": str(folder)}
    return _open([as_override(key, value) for key, value in (said | dict(settings or {})).items()])


def _open(overrides: list[str]) -> Study:
    quieten()
    settings = settings_of("evaluate", overrides)
    study = Study(settings, Tracker(None), overrides)
    if study.compute.processes > 1:
        raise UserError(
            f"trainer.devices={settings.trainer.devices}: several processes are started by the scripts alone; say "
            "trainer.devices=1 here"
        )
    study.compute.enter()
    preflight.rehearse(settings)
    return study


# --- Base and adapters ------------------------------------------------------------------------------------------------


def load_base(study: Study) -> Base:
    """The frozen base in memory, on the study's device: `unet`, `vae`, `text_encoder`, `tokenizer` of diffusers.

    Raises:
        UserError: It is not on this machine, and the hub does not give it.
    """
    return base(study)


def train_ors(study: Study) -> Adapter:
    """Train the adapter of the view on the aerial images, or read it if the store has it.

    Returns:
        By name of each adapted layer its two factors: A (rank, inputs) and B (outputs, rank).
    """
    return loaded_adapter(study, ors_adapter(study))


def train_sar(study: Study) -> dict[str, Adapter]:
    """Train the SAR adapters of the method, or read those that the store has.

    Returns:
        The adapters by name: `sar` of `lora` and `2lora`; `prototype_0` and so on of `plora`.

    Raises:
        UserError: The method has no adapters.
    """
    if study.settings.method.tunes != "adapter":
        raise UserError(f"method={study.settings.method.name} has no adapters; choose another method")
    return {name: loaded_adapter(study, artifact) for name, artifact in sar_adapters(study).items()}


def scales(study: Study, class_name: str) -> dict[str, float]:
    """The scale of each adapter as the method makes images of a class (paper Eq. 4 for `plora`); `ors` among them."""
    return dict(image_recipe(study).scales[_known(study, class_name)])


def fold(study: Study, stack: Sequence[tuple[Adapter, float]]) -> AbstractContextManager[None]:
    """Compute with adapters added to the base's weights inside the block: W + sum_j scale_j B_j A_j.

    Any stack costs what none costs. The base's own weights come back at the end of the block, bit for bit.

    Args:
        study: Whose base.
        stack: Adapters and their scales.
    """
    return folded(base(study).unet, stack)


# --- Images -----------------------------------------------------------------------------------------------------------


def class_contours(study: Study, class_name: str) -> Tensor:
    """The Canny contours of the training images of a class, uint8 (N, H, W), 255 on edges."""
    label = classes(study).index(_known(study, class_name))
    packed = read_contours(contours(study, "sar", "train", "stage=controlnet"))["packed"].numpy()
    rows = [row for row, record in enumerate(training(study, "sar")) if record.label == label]
    return torch.stack([torch.from_numpy(unpack(packed[row])) for row in rows])


def sample(
    study: Study,
    class_name: str,
    count: int = 4,
    *,
    prompt: str | None = None,
    contours: Sequence[Tensor] | None = None,
    seed: int = 0,
) -> Tensor:
    """Make images of a class with the base as it is now: inside of `fold`, with those adapters.

    Image i depends on the seed and i alone, however many are made.

    Args:
        study: Its settings say steps, guidance and sampler.
        class_name: Whose caption they follow.
        count: How many.
        prompt: Another caption.
        contours: What they follow, uint8 (H, W) each, 255 on edges, one after the other and again from the first; needs
            a study with a ControlNet: `contours="real"` in its settings.
        seed: Of the noise.

    Returns:
        uint8 (count, C, H, W), of as many channels as the SAR images have.

    Raises:
        UserError: There is no such class, or the study has no ControlNet for contours.
    """
    settings, label = study.settings, classes(study).index(_known(study, class_name))
    _check_contours(study, contours)
    caption, negative = prompt or class_captions(study)[class_name], negative_prompts(study)[class_name]
    followed = [contours[index % len(contours)] if contours is not None else None for index in range(count)]
    requests = [SampleRequest(caption, (seed, label, i), contour, negative) for i, contour in enumerate(followed)]
    model = base(study)
    batches = sample_batches(study, model, requests, conditioning(study, model) if contours is not None else None)
    channels = source(study, "sar").channels
    made = [to_uint8(to_channels(images, channels)).cpu() for images in batches]
    size = settings.base.image_size
    return torch.cat(made) if made else torch.empty(0, channels, size, size, dtype=torch.uint8)


def _check_contours(study: Study, contours: Sequence[Tensor] | None) -> None:
    """Refuse contours that nothing follows, and none at all."""
    if contours is not None and not study.settings.contours.wanted:
        raise UserError("contours are followed by a ControlNet, which this study has not; say contours=real")
    if contours is not None and not len(contours):
        raise UserError("contours: there are none; give one or more, or None")


def make_images(study: Study) -> Path:
    """Make the method's whole synthetic set, or find it in the store.

    Returns:
        Its folder, a Hugging Face imagefolder: `images/<class>/<index>.png` and `metadata.jsonl`.

    Raises:
        UserError: The method makes no images.
    """
    generate.check(study.settings)
    return synthetic(study).path


def export(
    study: Study, class_name: str, target: str | Path, *, export_format: Literal["diffusers", "kohya"] = "diffusers"
) -> Path:
    """Write all that the method does for a class as one LoRA file, for use at strength 1, and a card beside it.

    Args:
        study: Of a method with adapters.
        class_name: Whose scales.
        target: A `.safetensors` file, or a folder to put `<method>-<class>.safetensors` in.
        export_format: `diffusers`, or `kohya` for A1111 and ComfyUI.

    Returns:
        The file.

    Raises:
        UserError: The method has no adapters, or the file cannot be written.
    """
    said = {"export": str(target), "class_name": _known(study, class_name), "export_format": export_format}
    asked = Study(study.settings.model_copy(update=said), study.tracker, study.overrides)
    asked.known = study.known  # these settings change nothing that was computed: base and adapters stay in memory
    exporting.run(asked, Path())
    return exporting.file_of_class(study, class_name, Path(target).expanduser())


# --- Scores -----------------------------------------------------------------------------------------------------------


def score(study: Study) -> dict[str, Any]:
    """Train the classifiers of the study, one a seed, on real and synthetic images, and score them on the test images.

    Returns:
        The content of `result.json`: `classifier` with F1 by class, `minor_f1`, `macro_f1`; fidelity; what it rests on.
    """
    return result(study)


def score_gain(study: Study, baseline: str = "resample") -> Comparison:
    """Score the study's method and a baseline under the same settings, and compare them.

    Args:
        study: The method's.
        baseline: Another method.

    Returns:
        Gains in F1 of each class, of the mean over minor classes and over all, and in accuracy: `delta` in [-1, 1], its
        95 % interval `low` to `high`, `p`, and whether it is `significant`.

    Raises:
        UserError: The baseline is unknown or the method itself, or there are too few test images to tell chance.
    """
    if baseline == study.settings.method.name:
        raise UserError(f"baseline={baseline} is the method itself; name another method")
    kept = [line for line in study.overrides if line.partition("=")[0] != "method"]
    other = _open([*kept, as_override("method", baseline)])
    results = [result(study), result(other)]
    ours, theirs = (read_predictions(ScoredJob("", "", scored), study.store.root) for scored in results)
    return compare(ours, theirs, results[0]["minor"], replicates=study.settings.evaluate.replicates, seed=SEED)


def _known(study: Study, class_name: str) -> str:
    if class_name not in classes(study):
        raise UserError(f"class_name={class_name}: {nearest(class_name, classes(study))}")
    return class_name
