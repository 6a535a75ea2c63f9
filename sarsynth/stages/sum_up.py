"""Sum a method up in one result: scores over seeds, the quality of its images, and what it all rests on."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from rich.markup import escape

from sarsynth.classifier.losses import class_weights
from sarsynth.console import console
from sarsynth.evidence.results import FIGURES, LEAKS, RESULT_VERSION
from sarsynth.stages.adapt_to_sar import budget
from sarsynth.stages.curate_images import classes, counts, joining, minor
from sarsynth.stages.describe_images import caption_samples
from sarsynth.stages.fit_radiometry import radiometry
from sarsynth.stages.measure_images import quality
from sarsynth.stages.score_classifiers import (
    SCORES,
    averaged,
    check_tested,
    drawn_by,
    every_trained,
    joined_synthetic,
    learning_and_validation,
    protocol,
    recipe_of_method,
    role,
    seeds_of,
    sizes,
)
from sarsynth.stages.study import Study
from sarsynth.stages.transfer_classifiers import (
    check_second_set,
    classes_in_common,
    every_transferred,
    learnt_line,
    name_of_second_set,
)
from sarsynth.store.artifacts import Artifact


def about(study: Study) -> dict[str, Any]:
    """Say what a study is of: what `result.json` begins with, whichever script writes it."""
    settings = study.settings
    return {
        "version": RESULT_VERSION,
        "notice": settings.notice,
        "method": settings.method.name,
        "base": settings.base.name,
        "data": settings.data.name,
        "split": settings.data.split,
        "radiometry": radiometry(study, "sar").plain,
        "minor": minor(study),
        "classes": classes(study),
        "counts": counts(study),
        "leaks": study.leaks,
        "dropped": study.dropped,
        "near_duplicates_across_splits": study.crossing,
    }


def result(study: Study) -> dict[str, Any]:
    """Evaluate the method of a study.

    Returns:
        What `result.json` holds (see README): per-class scores as mean, standard deviation and values over all
        classifiers (of each generator seed, sample seed and classifier seed, the last changing first), what `quality`
        says of the synthetic images of the first generator and sample seed, and the fingerprints of everything that it
        rests on.

    Raises:
        UserError: A class has no test image.
    """
    settings, seeds = study.settings.evaluate, seeds_of(study)
    check_tested(study)
    check_second_set(study)
    if warning := repetition_warning(study):
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    artifacts = every_trained(study)
    evaluations = evaluations_of(study, [artifact.fingerprint for artifact in artifacts])
    measured, rests_on = quality(study)
    return about(study) | {
        "captions": caption_samples(study),
        "added": sizes(study) or dict.fromkeys(classes(study), 0),
        **of_cells(study),
        "seeds": seeds,
        "evaluations": evaluations,
        "learning": learning(study),
        "protocol": protocol(study)
        | {"leaks": LEAKS.get(settings.topk), "baseline": settings.baseline, "replicates": settings.replicates},
        "training": budget(study),
        "classifier": scored(artifacts, classes(study)),
        **measured,
        "also": also(study, artifacts),
        "inputs": {role(one, evaluations[0]): one["fingerprint"] for one in evaluations} | rests_on,
    }


def scored(artifacts: Sequence[Artifact], names: Sequence[str]) -> dict[str, Any]:
    """Scores of the classes of these names, and their means, over all evaluations."""
    runs = [json.loads((artifact.path / SCORES).read_text()) for artifact in artifacts]
    return {
        "per_class": {
            name: {figure: spread([run["per_class"][name][figure] for run in runs]) for figure in FIGURES}
            for name in names
        },
        **{figure: spread([run[figure] for run in runs]) for figure in ("macro_f1", "minor_f1", "accuracy")},
        "confusion": {
            "mean": averaged([run["confusion"] for run in runs]),
            "values": [run["confusion"] for run in runs],
        },
    }


def also(study: Study, artifacts: Sequence[Artifact]) -> dict[str, Any] | None:
    """Say how the same classifiers do on the second test set; None without one.

    Args:
        study: Of which they are.
        artifacts: What `every_trained` gave.
    """
    if study.settings.evaluate.also is None:
        return None
    common, found = classes_in_common(study), every_transferred(study, artifacts)
    return {
        "name": name_of_second_set(study),
        "classes": common.shared,
        "minor": [name for name in common.shared if name in minor(study)],
        "without_images": common.without_images,
        "unknown": common.unknown,
        "leaks": learnt_line(study),
        "classifier": scored(found, common.shared),
        "evaluations": evaluations_of(study, [artifact.fingerprint for artifact in found]),
    }


def of_cells(study: Study) -> dict[str, list[int]]:
    """Say which generator and sample seeds a result is of: none of a method that has no use for them."""
    settings = study.settings
    return {
        "generator_seeds": list(settings.generator_seeds) if settings.has_generator else [],
        "sample_seeds": list(settings.sample_seeds) if settings.has_samples else [],
    }


def evaluations_of(study: Study, fingerprints: Sequence[str]) -> list[dict[str, Any]]:
    """Say of each evaluation, in the order of `every_trained`, which seeds it is of."""
    seeds = [drawn_by(cell, seed) for cell in study.cells for seed in seeds_of(cell)]
    return [of_one | {"fingerprint": one} for of_one, one in zip(seeds, fingerprints, strict=True)]


def learning(study: Study) -> dict[str, Any]:
    """Say what the classifiers learn from, and how: where methods differ that generate nothing."""
    how, added = recipe_of_method(study), sizes(study)
    real, _ = learning_and_validation(study)
    samples = real.labels.bincount(minlength=len(classes(study)))
    samples += torch.tensor([added.get(name, 0) for name in classes(study)])
    weights = class_weights(samples, how.loss.beta).tolist()
    return {
        "adds": study.settings.method.adds,
        "samples": dict(zip(classes(study), samples.tolist(), strict=True)),
        "synthetic": joined_synthetic(study),
        "steps": how.max_steps,
        "steps_of_last_layer_alone": how.max_steps - how.whole_steps,
        "batch_size": how.batch_size,
        "pretrained": {"name": start.name, "sha256": start.sha256} if (start := how.pretrained) else False,
        "sampling": how.sampling,
        "loss": asdict(how.loss) | {"class_weights": dict(zip(classes(study), weights, strict=True))},
    }


def repetition_warning(study: Study) -> str | None:
    """Warn of classes of a single image, which has no neighbour to make features between; None if there are none."""
    if study.settings.method.adds != "features":
        return None
    real, _ = learning_and_validation(study)
    of_class = zip(classes(study), real.labels.bincount(minlength=len(classes(study))).tolist(), strict=True)
    single = [name for name, count in of_class if count == 1 and joining(study).get(name)]
    if not single:
        return None
    return (
        f"one training image of class {', '.join(single)}: nothing lies between it and a neighbour, so that "
        f"method={study.settings.method.name} repeats it as it is"
    )


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Summarise one figure over the seeds: mean, sample standard deviation (0 for one seed) and the values."""
    known = [value for value in values if value is not None]
    std = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"mean": float(np.mean(known)) if known else None, "std": std, "values": list(values)}
