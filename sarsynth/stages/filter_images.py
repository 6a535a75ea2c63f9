"""Filter a synthetic set: which of its images may join the real ones."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.errors import UserError
from sarsynth.evidence.results import REASONS
from sarsynth.filters import Sample
from sarsynth.stages.curate_images import classes, planned, synthetic_sizes
from sarsynth.stages.extract_features import (
    evaluation,
    everything,
    read_features,
    real_features,
    synthetic_features,
    synthetic_images,
)
from sarsynth.stages.generate_images import file_name
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study, once_a_cell
from sarsynth.stages.train_classifier import work_of_comparison
from sarsynth.store.artifacts import Artifact

VERDICTS = "kept.safetensors"


@once_a_cell
def filtered(study: Study) -> Artifact | None:
    """The verdict of the study's filter on every synthetic image: figures, and `filter.jsonl` with a line an image.

    None where there is no filter.
    """
    settings = study.settings.filter
    if settings is None:
        return None
    real, made = real_features(study), synthetic_features(study)

    def build(folder: Path) -> None:
        rule, shown = settings.rule.build(), synthetic_images(study, everything(study))
        samples = []
        for of_side, artifact in ((labelled(study, "train"), real), (shown, made)):
            tensors = read_features(artifact)
            samples.append(Sample(of_side.images, tensors["features"], tensors["logits"], of_side.labels))
        verdict = rule.judge(*samples)
        names = [file_name(study, name, index) for name, indices in everything(study).items() for index in indices]
        verdicts = zip(
            names,
            shown.labels.tolist(),
            verdict.scores.tolist(),
            verdict.limits.tolist(),
            verdict.kept.tolist(),
            strict=True,
        )
        rows = [
            {
                "file_name": name,
                "class_name": classes(study)[label],
                "kept": kept,
                "score": score,
                "reason": None if kept else rule.reason.format(score=score, limit=limit),
            }
            for name, label, score, limit, kept in verdicts
        ]
        save_file({"kept": verdict.kept.clone(), "labels": shown.labels}, folder / VERDICTS)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / REASONS).write_text(text, encoding="utf-8")

    return study.make(
        "cache",
        f"{study.settings.method.name}-filter-{settings.name}",
        {"rule": settings.rule.model_dump(by_alias=True)},
        {"real": real, "synthetic": made, "images": images(study, "train"), "set": synthetic(study)},
        build,
        command=evaluation(study),
        work=work_of_comparison(study, f"filter {settings.name}", sum(synthetic_sizes(study).values())),
    )


def filter_inputs(study: Study) -> dict[str, Artifact]:
    """The filter as an input of what looks at the images that it keeps."""
    verdict = filtered(study)
    return {"filter": verdict} if verdict else {}


def kept(study: Study) -> dict[str, list[int]]:
    """Which images of the synthetic set may be used, by class: those that the filter keeps, in order.

    Raises:
        UserError: It keeps none.
    """
    verdict = filtered(study)
    if verdict is None:
        return {name: list(indices) for name, indices in everything(study).items()}
    tensors = load_file(verdict.path / VERDICTS)
    if not tensors["kept"].any():
        raise UserError(
            f"{verdict.label} keeps none of {len(tensors['kept'])} images; {verdict.path / REASONS} says why; "
            "choose another filter, or loosen it"
        )
    return {
        name: torch.nonzero(tensors["kept"][tensors["labels"] == label])[:, 0].tolist()
        for label, name in enumerate(classes(study))
    }


def joining_images(study: Study) -> LabelledImages:
    """The first images of each class that the filter keeps, as many as planned or as there are."""
    wanted = planned(study)
    return synthetic_images(study, {name: indices[: wanted[name].synthetic] for name, indices in kept(study).items()})


def filter_report(study: Study) -> dict[str, Any]:
    """Say what a filter does to the numbers.

    `name`, and `per_class`: images `made`, `kept`, `planned` to join the real ones, and `joined`, which is fewer where
    too few are kept: in place of a dropped image comes the next of the set, which `generate.per_class` makes larger,
    and after the last of them repeated real images.
    """
    left, settings, wanted = kept(study), study.settings.filter, planned(study)
    return {
        "name": settings.name if settings else "none",
        "per_class": {
            name: {
                "made": made,
                "kept": len(left[name]),
                "planned": wanted[name].synthetic,
                "joined": min(wanted[name].synthetic, len(left[name])),
            }
            for name, made in synthetic_sizes(study).items()
        },
    }
