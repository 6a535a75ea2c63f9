"""Read synthetic images, and extract features and logits of real and synthetic ones by the study's classifier."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from sarsynth.classifier.network import Classifier, extract_features, predict
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.transforms import resize
from sarsynth.errors import UserError
from sarsynth.report.pictures import read_png
from sarsynth.stages.curate_images import classes, source, synthetic_sizes, training
from sarsynth.stages.generate_images import file_name
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import classifier, load_classifier, work_of_comparison
from sarsynth.store.artifacts import Artifact

FEATURES = "features.safetensors"
RELEASE_SIZE = 299  # px, of the paper's release
BATCH = 32

Indices = Mapping[str, Sequence[int]]  # by class, which images of a synthetic set


def synthetic_images(study: Study, indices: Indices) -> LabelledImages:
    """Read images of the method's synthetic set, at the classifier's size.

    Raises:
        UserError: One of them is not there.
    """
    folder, size = synthetic(study).path, study.settings.classifier.image_size
    tensors, labels, names = [], [], []
    for label, class_name in enumerate(classes(study)):
        for index in indices[class_name]:
            file = folder / file_name(study, class_name, index)
            if not file.is_file():
                raise UserError(f"{file} is missing from the synthetic set; remove {folder} and it is made again")
            pixels = resize(read_png(file).transpose(1, 2, 0), size)
            tensors.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
            labels.append(label)
            names.append(str(file))
    channels = source(study, "sar").channels
    stacked = torch.stack(tensors) if tensors else torch.empty(0, channels, size, size, dtype=torch.uint8)
    return LabelledImages(stacked, torch.tensor(labels, dtype=torch.int64), names)


def everything(study: Study) -> dict[str, range]:
    """All images of the synthetic set."""
    return {name: range(size) for name, size in synthetic_sizes(study).items()}


def evaluation(study: Study) -> tuple[str, str]:
    """The command that makes all that is measured of a synthetic set."""
    return "evaluate", f"method={study.settings.method.name}"


def real_features(study: Study, preprocess: str = "normalised") -> Artifact:
    """Features and logits of the real training images, by the study's classifier."""

    def read() -> LabelledImages:
        return labelled(study, "train")

    count = len(training(study, "sar"))
    return _features(study, study.settings.data.name, images(study, "train"), read, count, preprocess)


def synthetic_features(study: Study, preprocess: str = "normalised") -> Artifact:
    """Features and logits of the whole synthetic set."""

    def read() -> LabelledImages:
        return synthetic_images(study, everything(study))

    count = sum(synthetic_sizes(study).values())
    return _features(study, study.settings.method.name, synthetic(study), read, count, preprocess)


def _features(
    study: Study, name: str, images: Artifact, read: Callable[[], LabelledImages], count: int, preprocess: str
) -> Artifact:
    extractor = classifier(study)

    def build(folder: Path) -> None:
        shown = read()
        describe = _describe_as_release if preprocess == "release" else _describe
        features, logits = describe(load_classifier(study), shown.images)
        if bad := _not_finite(features, logits):
            raise UserError(
                f"features of {bad} of {len(features)} images of {name} are not finite; classifier "
                f"{extractor.path} diverged: lower classifier.learning_rate"
            )
        save_file({"features": features, "logits": logits, "labels": shown.labels}, folder / FEATURES)

    return study.make(
        "cache",
        f"{name}-features",
        {"preprocess": preprocess, "image_size": study.settings.classifier.image_size, "classes": classes(study)},
        {"classifier": extractor, "images": images},
        build,
        command=evaluation(study),
        precision=study.precision.name,
        work=work_of_comparison(study, "features", count, preprocess=preprocess),
    )


def _describe(network: Classifier, pixels: Tensor) -> tuple[Tensor, Tensor]:
    return extract_features(network, pixels), predict(network, pixels)


def _describe_as_release(network: Classifier, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """As the paper's release does: images in [0, 1] for a network that had learned on normalised ones."""
    network.mean.zero_()
    network.std.fill_(255.0)
    batches = [functional.interpolate(batch.float(), RELEASE_SIZE, mode="bilinear") for batch in pixels.split(BATCH)]
    features = torch.cat([extract_features(network, batch) for batch in batches])
    return features, torch.cat([predict(network, batch) for batch in batches])


def read_features(artifact: Artifact) -> dict[str, Tensor]:
    """Read `features`, `logits` and `labels` of images.

    Raises:
        UserError: The file is damaged, or holds what is not finite.
    """
    file = artifact.path / FEATURES
    again = f"remove {artifact.path} and it is made again"
    try:
        tensors = load_file(file)
        bad = _not_finite(tensors["features"], tensors["logits"])
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{file}: cannot be read ({error}); {again}") from error
    if bad:
        raise UserError(f"{file}: features of {bad} of {len(tensors['features'])} images are not finite; {again}")
    return tensors


def _not_finite(*rows: Tensor) -> int:
    """How many images have a value that is not finite in any of these, (N, F) each."""
    return int((~torch.stack([values.isfinite().all(dim=1) for values in rows]).all(dim=0)).sum())
