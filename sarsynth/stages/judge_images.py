"""The synthetic set of a study, once it is made: its images, their features, and which of them may join real ones."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from sarsynth.classifier.network import extract_features, predict
from sarsynth.data.datamodules import LabelledImages
from sarsynth.data.transforms import resize
from sarsynth.errors import UserError
from sarsynth.evidence.results import REASONS
from sarsynth.filters import Sample
from sarsynth.report.pictures import read_png
from sarsynth.stages import work
from sarsynth.stages.study import Study, file_name
from sarsynth.store.artifacts import Artifact

FEATURES, VERDICTS = "features.safetensors", "kept.safetensors"
RELEASE_SIZE = 299  # px, of the paper's release
BATCH = 32

Indices = Mapping[str, Sequence[int]]  # by class, which images of a synthetic set


def synthetic_images(study: Study, indices: Indices) -> LabelledImages:
    """Read images of the method's synthetic set, at the classifier's size.

    Raises:
        UserError: One of them is not there.
    """
    folder, size = study.synthetic().path, study.settings.classifier.image_size
    images, labels, names = [], [], []
    for label, name in enumerate(study.classes):
        for index in indices[name]:
            file = folder / file_name(name, index)
            if not file.is_file():
                raise UserError(f"{file} is missing from the synthetic set; remove {folder} and it is made again")
            pixels = resize(read_png(file).transpose(1, 2, 0), size)
            images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
            labels.append(label)
            names.append(str(file))
    channels = study.sources["sar"].channels
    stacked = torch.stack(images) if images else torch.empty(0, channels, size, size, dtype=torch.uint8)
    return LabelledImages(stacked, torch.tensor(labels, dtype=torch.int64), names)


def everything(study: Study) -> dict[str, range]:
    """All images of the synthetic set."""
    return {name: range(size) for name, size in study.synthetic_sizes.items()}


def made_of(study: Study) -> int:
    """How many images the synthetic set has."""
    return sum(study.synthetic_sizes.values())


def command(study: Study) -> str:
    """What makes any of this: the evaluation of the study's method."""
    return study.command("evaluate.py", f"method={study.settings.method.name}")


# --- Features ---------------------------------------------------------------------------------------------------------


def real_features(study: Study, preprocess: str = "normalised") -> Artifact:
    """Features and logits of the real training images, by the study's classifier."""

    def images() -> LabelledImages:
        return study.labelled("train")

    return _features(study, study.settings.data.name, study.images("train"), images, len(study.training), preprocess)


def synthetic_features(study: Study, preprocess: str = "normalised") -> Artifact:
    """Features and logits of the whole synthetic set."""

    def images() -> LabelledImages:
        return synthetic_images(study, everything(study))

    return _features(study, study.settings.method.name, study.synthetic(), images, made_of(study), preprocess)


def _features(
    study: Study, name: str, of: Artifact, images: Callable[[], LabelledImages], count: int, preprocess: str
) -> Artifact:
    classifier = study.classifier()

    def build(folder: Path) -> None:
        extractor, shown = study.load_classifier(classifier), images()
        pixels = shown.images
        if preprocess == "release":
            # The release showed images in [0, 1] to a network that had learned on normalised ones.
            extractor.mean.zero_()
            extractor.std.fill_(255.0)
            batches = [
                functional.interpolate(batch.float(), RELEASE_SIZE, mode="bilinear") for batch in pixels.split(BATCH)
            ]
            features = torch.cat([extract_features(extractor, batch) for batch in batches])
            logits = torch.cat([predict(extractor, batch) for batch in batches])
        else:
            features, logits = extract_features(extractor, pixels), predict(extractor, pixels)
        if bad := _not_finite(features, logits):
            raise UserError(
                f"features of {bad} of {len(features)} images of {name} are not finite; classifier "
                f"{classifier.path} diverged: lower classifier.learning_rate"
            )
        save_file({"features": features, "logits": logits, "labels": shown.labels}, folder / FEATURES)

    return study.store.make(
        "cache",
        f"{name}-features",
        {"preprocess": preprocess, "image_size": study.settings.classifier.image_size, "classes": study.classes},
        {"classifier": classifier, "images": of},
        build,
        version=1,
        command=command(study),
        precision=study.precision.name,
        work=work.comparison(study, "features", count, preprocess=preprocess),
    )


def read_features(found: Artifact) -> dict[str, Tensor]:
    """Read `features`, `logits` and `labels` of images.

    Raises:
        UserError: The file is damaged, or holds what is not finite.
    """
    file = found.path / FEATURES
    again = f"remove {found.path} and it is made again"
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
    return int((~torch.stack([one.isfinite().all(dim=1) for one in rows]).all(dim=0)).sum())


# --- Filters ----------------------------------------------------------------------------------------------------------


def filtered(study: Study) -> Artifact | None:
    """Judge every image of the synthetic set by the study's filter: figures, and `filter.jsonl` with a line an image.

    None where there is no filter.
    """
    chosen = study.settings.filter
    if chosen is None:
        return None
    ours, theirs = real_features(study), synthetic_features(study)

    def build(folder: Path) -> None:
        rule = chosen.rule.build()
        real, made = study.labelled("train"), synthetic_images(study, everything(study))
        samples = []
        for images, found in ((real, ours), (made, theirs)):
            of = read_features(found)
            samples.append(Sample(images.images, of["features"], of["logits"], images.labels))
        verdict = rule.judge(*samples)
        rows = []
        for row, (score, limit, kept) in enumerate(
            zip(verdict.scores.tolist(), verdict.limits.tolist(), verdict.kept.tolist(), strict=True)
        ):
            reason = None if kept else rule.reason.format(score=score, limit=limit)
            name = study.classes[made.labels[row]]
            file = file_name(name, int((made.labels[:row] == made.labels[row]).sum()))
            rows.append({"file_name": file, "class_name": name, "kept": kept, "score": score, "reason": reason})
        save_file({"kept": verdict.kept.clone(), "labels": made.labels}, folder / VERDICTS)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / REASONS).write_text(text, encoding="utf-8")

    return study.store.make(
        "cache",
        f"{study.settings.method.name}-filter-{chosen.name}",
        {"rule": chosen.rule.model_dump(by_alias=True)},
        {"real": ours, "synthetic": theirs, "images": study.images("train"), "set": study.synthetic()},
        build,
        version=1,
        command=command(study),
        work=work.comparison(study, f"filter {chosen.name}", made_of(study)),
    )


def kept(study: Study) -> dict[str, list[int]]:
    """Which images of the synthetic set may be used, by class: those that the filter keeps, in order.

    Raises:
        UserError: It keeps none.
    """
    verdict = filtered(study)
    if verdict is None:
        return {name: list(indices) for name, indices in everything(study).items()}
    found = load_file(verdict.path / VERDICTS)
    if not found["kept"].any():
        raise UserError(
            f"{verdict.label} keeps none of {len(found['kept'])} images; {verdict.path / REASONS} says why; "
            "choose another filter, or loosen it"
        )
    return {
        name: torch.nonzero(found["kept"][found["labels"] == label])[:, 0].tolist()
        for label, name in enumerate(study.classes)
    }


def joining(study: Study, sizes: Mapping[str, int]) -> LabelledImages:
    """The first images of each class that the filter keeps, as many as planned or as there are."""
    return synthetic_images(study, {name: indices[: sizes[name]] for name, indices in kept(study).items()})


def filter_report(study: Study) -> dict[str, Any]:
    """Say what a filter does to the numbers.

    `name`, and `per_class`: images `made`, `kept`, `planned` to join the real ones, and `joined`, which is fewer where
    too few are kept: nothing takes the place of a dropped image but the next of the set, which `generate.per_class`
    makes larger.
    """
    left, chosen = kept(study), study.settings.filter
    return {
        "name": chosen.name if chosen else "none",
        "per_class": {
            name: {
                "made": study.synthetic_sizes[name],
                "kept": len(left[name]),
                "planned": study.plan[name],
                "joined": min(study.plan[name], len(left[name])),
            }
            for name in study.classes
        },
    }


def filters(study: Study) -> dict[str, Artifact]:
    """The filter as an input of what looks at the images that it keeps."""
    verdict = filtered(study)
    return {"filter": verdict} if verdict else {}
