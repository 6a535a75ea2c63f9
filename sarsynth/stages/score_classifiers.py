"""The end of a study: classifiers on real + added images over seeds, the quality of the synthetic set, one result."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sarsynth.classifier.checkpoints import CHOICES, Checkpoint, Checkpoints, Chosen
from sarsynth.classifier.classification import ClassifierRecipe, OverSampling, fit_classifier, predict, scores
from sarsynth.classifier.losses import Loss, class_weights
from sarsynth.console import console
from sarsynth.data.datamodules import LabelledImages
from sarsynth.data.records import class_counts, stratified_split
from sarsynth.diffusion.prototypes import Partition
from sarsynth.errors import UserError
from sarsynth.evidence.results import LEAKS, RESULT_VERSION
from sarsynth.report import pictures
from sarsynth.stages import work
from sarsynth.stages.copy_images import COPIES
from sarsynth.stages.describe import samples
from sarsynth.stages.judge_images import filters, joining, synthetic_images
from sarsynth.stages.measure_images import draw_neighbours, quality
from sarsynth.stages.study import Study
from sarsynth.stages.train_adapters import budget
from sarsynth.store.artifacts import CHECKPOINTS, Artifact, Request

FIGURES = ("precision", "recall", "f1", "support")
LARGEST = 5  # classes of a prototype that its picture names


ADDS = {
    "nothing": lambda study, real, sizes: None,
    "synthetic": lambda study, real, sizes: joining(study, sizes),
    **COPIES,
}


def recipe_of(study: Study) -> ClassifierRecipe:
    """The classifier's network and training, as the method changes it; never the number of its steps."""
    method, recipe, chosen = study.settings.method, study.recipe(), study.settings.augment.features
    steps = max(1, round(chosen.steps * recipe.max_steps))
    return replace(
        recipe,
        loss=Loss(**method.loss.model_dump()),
        sampling=method.sampling,
        oversampling=OverSampling(steps, chosen.neighbours) if method.adds == "features" else None,
    )


def parts(study: Study) -> tuple[LabelledImages, LabelledImages | None]:
    """Say what classifiers are trained on, and what their checkpoints are chosen on: None where nothing is chosen.

    Where the data have no validation split, a stratified part of the training images is one, whole groups at a time.
    Only the classifiers of an evaluation go without it; adapters are trained on all training images.

    Raises:
        UserError: A class has no image left to train on.
    """
    real, chosen = study.labelled("train"), study.settings.evaluate
    if chosen.topk == "none":
        return real, None
    if study.sources["sar"].records("val"):
        return real, study.labelled("val")
    held_out = {record.path for record in stratified_split(study.training, [chosen.val], study.settings.seed)[0]}
    apart = torch.tensor([record.path in held_out for record in study.training])
    for label, name in enumerate(study.classes):
        if study.counts[name] and not (real.labels[~apart] == label).any():
            raise UserError(
                f"evaluate.val={chosen.val}: no image of class {name} is left to train on (of {study.counts[name]}); "
                "give data.val, or use evaluate.topk=none"
            )
    return real[~apart], real[apart]


def repetition_warning(study: Study) -> str | None:
    """Say so if features are to lie between those of a class's images, and there is but one; None if all is well."""
    if study.settings.method.adds != "features":
        return None
    real, _ = parts(study)
    counts = zip(study.classes, real.labels.bincount(minlength=len(study.classes)).tolist(), strict=True)
    alone = [name for name, count in counts if count == 1 and study.plan.get(name)]
    if not alone:
        return None
    return (
        f"one training image of class {', '.join(alone)}: nothing lies between it and a neighbour, so that "
        f"method={study.settings.method.name} repeats it as it is"
    )


def protocol(study: Study) -> dict[str, Any]:
    """Say how checkpoints are chosen: what of the settings changes a score."""
    chosen = study.settings.evaluate
    if chosen.topk == "none":
        return {"topk": chosen.topk}
    own = bool(study.sources["sar"].records("val"))
    return {
        **chosen.model_dump(include={"topk", "k", "keep", "every", "after"}),
        "val": "val" if own else chosen.val,
        "seed_of_val": None if own else study.settings.seed,
    }


def trained(study: Study, seeds: Sequence[int]) -> list[Artifact]:
    """Train a classifier a seed on real + added images and predict the test set; processes of a job share the seeds.

    Returns:
        For each seed an artifact of two files. `logits.safetensors`: `logits`, float32 (checkpoints, images, classes),
        of the checkpoints that were chosen; `predicted`, int64 (vectors, images), labels whose scores are averaged;
        `labels`, int64 (images,), the true ones; and as metadata, in JSON, `images`, their names, `digests`, the
        beginnings of their pixels' sha256, `classes`, and `steps` of the checkpoints. `scores.json`: what `scores`
        gives.
    """
    requests = {request: seed for seed, request in zip(seeds, _requests(study, seeds), strict=True)}
    made = study.store.make_each(list(requests), lambda request, folder: _train(study, requests[request], folder))
    return list(made.values())


def _requests(study: Study, seeds: Sequence[int]) -> list[Request]:
    recipe, method = recipe_of(study), study.settings.method
    inputs = {"train": study.images("train"), "test": study.images("test")}
    if method.adds == "synthetic":
        inputs |= {"synthetic": study.synthetic(), **filters(study)}
    how = protocol(study)
    if how.get("val") == "val":
        inputs["val"] = study.images("val")
    settings = {
        "recipe": recipe.as_dict(),
        "classes": study.classes,
        "minor": study.minor,
        "adds": method.adds,
        "sizes": _sizes(study),
        # Which real images serve again, and how, follows from the study's seed.
        "seed_of_copies": study.settings.seed if method.adds in COPIES else None,
        "views": study.settings.augment.views.model_dump() if method.adds == "augmented" else None,
        "protocol": how,
    }
    return [
        Request(
            "evaluation",
            f"{method.name}-seed-{seed}",
            settings | {"seed": seed},
            inputs,
            version=1,
            command=study.command("evaluate.py", f"method={method.name}", f"seeds=[{seed - method.seed_offset}]"),
            precision=study.precision.name,
            work=work.classifier(recipe, "evaluation", topk=study.settings.evaluate.topk),
            follows=study.start_of_classifiers,
        )
        for seed in seeds
    ]


def _sizes(study: Study) -> dict[str, int]:
    """Images that join each class; none where the method adds nothing."""
    return study.plan if study.settings.method.adds != "nothing" else {}


def _train(study: Study, seed: int, folder: Path) -> None:
    """Train the classifier of one seed, and write what it says of the test images."""
    recipe, method, chosen = recipe_of(study), study.settings.method, study.settings.evaluate
    real, validation = parts(study)
    test = study.labelled("test")
    looker = None
    if validation is not None:
        looker = Checkpoints(
            validation,
            test.images,
            every=max(1, round(chosen.every * len(study.training) / recipe.batch_size)),
            after=round(chosen.after * recipe.max_steps),
            keep=chosen.keep,
        )
    classifier = fit_classifier(
        real,
        study.classes,
        recipe,
        synthetic=ADDS[method.adds](study, real, _sizes(study)),
        seed=seed,
        fitting=study.fitting(f"seed_{seed}", alone=True),
        precision=study.precision,
        title=f"classifier, {method.name}, seed {seed}",
        checkpoints=folder / CHECKPOINTS,
        checkpoint_every=500,
        callbacks=[] if looker is None else [looker],
    )
    kept = looker.kept if looker else [Checkpoint(recipe.max_steps, None, predict(classifier, test.images))]
    _write(study, CHOICES[chosen.topk](kept, test.labels, study.classes, chosen.k), test, folder)


def _write(study: Study, found: Chosen, test: LabelledImages, folder: Path) -> None:
    tensors = {
        "logits": torch.stack([one.logits for one in found.checkpoints]),
        "predicted": found.predicted,
        "labels": test.labels,
    }
    about_them = {
        "images": [test.name(row) for row in range(len(test))],
        "digests": [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in test.images],
        "classes": study.classes,
        "steps": [one.step for one in found.checkpoints],
    }
    metadata = {key: json.dumps(value) for key, value in about_them.items()}
    save_file(tensors, folder / "logits.safetensors", metadata)
    figures = averaged([scores(said, test.labels, study.classes, study.minor) for said in found.predicted])
    (folder / "scores.json").write_text(json.dumps(figures, indent=2) + "\n")


def averaged(figures: Sequence[Any]) -> Any:
    """Average what is built alike, number by number; None stays None, and one alone stays as it is."""
    first = figures[0]
    if len(figures) == 1 or first is None:
        return first
    if isinstance(first, Mapping):
        return {key: averaged([one[key] for one in figures]) for key in first}
    if isinstance(first, Sequence):
        return [averaged(column) for column in zip(*figures, strict=True)]
    return float(np.mean(figures))


def about(study: Study) -> dict[str, Any]:
    """Say what a study is of: what `result.json` begins with, whichever script writes it."""
    settings = study.settings
    return {
        "version": RESULT_VERSION,
        "method": settings.method.name,
        "base": settings.base.name,
        "data": settings.data.name,
        "split": settings.data.split,
        "radiometry": study.radiometry["sar"].plain,
        "minor": study.minor,
        "classes": study.classes,
        "counts": study.counts,
        "leaks": study.leaks,
        "near_duplicates_across_splits": study.crossing,
    }


def check_tested(study: Study) -> None:
    """Refuse to score a class of which there is no test image.

    Raises:
        UserError: There is one.
    """
    tested = class_counts(study.records("sar", "test"), study.classes)
    if empty := [name for name, count in tested.items() if not count]:
        raise UserError(f"data: no test image of class {empty[0]}, so it cannot be scored; add some, or leave it out")


def seeds_of(study: Study) -> list[int]:
    """Seeds of the method's classifiers."""
    return [seed + study.settings.method.seed_offset for seed in study.settings.seeds]


def result(study: Study) -> dict[str, Any]:
    """Evaluate the method of a study.

    Returns:
        What `result.json` holds (see README): per-class scores as mean, standard deviation and values over the seeds,
        what `quality` says of the synthetic images, and the fingerprints of everything that it rests on.

    Raises:
        UserError: A class has no test image.
    """
    chosen = study.settings.evaluate
    check_tested(study)
    if warning := repetition_warning(study):
        console.print(f"[yellow]warning:[/] {warning}")
    seeds = seeds_of(study)
    made = trained(study, seeds)
    runs = [json.loads((artifact.path / "scores.json").read_text()) for artifact in made]
    measured, rests_on = quality(study)
    return about(study) | {
        "captions": samples(study),
        "added": _sizes(study) or dict.fromkeys(study.classes, 0),
        "seeds": seeds,
        "learning": learning(study),
        "protocol": protocol(study)
        | {"leaks": LEAKS.get(chosen.topk), "baseline": chosen.baseline, "replicates": chosen.replicates},
        "training": budget(study),
        "classifier": {
            "per_class": {
                name: {figure: spread([run["per_class"][name][figure] for run in runs]) for figure in FIGURES}
                for name in study.classes
            },
            **{figure: spread([run[figure] for run in runs]) for figure in ("macro_f1", "minor_f1", "accuracy")},
            "confusion": {
                "mean": averaged([run["confusion"] for run in runs]),
                "values": [run["confusion"] for run in runs],
            },
        },
        **measured,
        "inputs": {f"seed_{seed}": artifact.fingerprint for seed, artifact in zip(seeds, made, strict=True)} | rests_on,
    }


def learning(study: Study) -> dict[str, Any]:
    """Say what the classifiers learn from, and how: where methods differ that generate nothing."""
    recipe, added = recipe_of(study), _sizes(study)
    real, _ = parts(study)
    counts = real.labels.bincount(minlength=len(study.classes))
    counts += torch.tensor([added.get(name, 0) for name in study.classes])
    weights = class_weights(counts, recipe.loss.beta).tolist()
    return {
        "adds": study.settings.method.adds,
        "samples": dict(zip(study.classes, counts.tolist(), strict=True)),
        "steps": recipe.max_steps,
        "steps_of_last_layer_alone": recipe.max_steps - recipe.whole_steps,
        "batch_size": recipe.batch_size,
        "pretrained": {"name": start.name, "sha256": start.sha256} if (start := recipe.pretrained) else False,
        "sampling": recipe.sampling,
        "loss": asdict(recipe.loss) | {"class_weights": dict(zip(study.classes, weights, strict=True))},
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Summarise one figure over the seeds: mean, sample standard deviation (0 for one seed) and the values."""
    known = [value for value in values if value is not None]
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"mean": float(np.mean(known)) if known else None, "std": deviation, "values": list(values)}


def drawn(study: Study) -> list[Artifact]:
    """The artifacts that `draw` shows."""
    method = study.settings.method
    if method.adds not in ("synthetic", "augmented", "pasted"):
        return []
    return [study.images("train"), *([study.strips()] if method.tunes == "adapter" else [])]


def draw(study: Study, folder: Path) -> list[Path]:
    """Put a method's pictures beside its result: real | added images; of a stack strips and prototypes."""
    adds, name = study.settings.method.adds, study.settings.method.name
    if adds not in ("synthetic", "augmented", "pasted"):
        return []
    real = study.labelled("train")
    if adds != "synthetic":
        copies = COPIES[adds](study, real, study.plan)
        shown = (real.images, real.labels, copies.images, copies.labels)
        title = f"{name}: real and added"
        grid = pictures.real_vs_synthetic_grid(*shown, study.classes, title=title, heading=adds)
        grid.save(folder / "real_vs_added.png")
        return [folder / "real_vs_added.png"]
    first = {class_name: range(min(pictures.COLUMNS, size)) for class_name, size in study.synthetic_sizes.items()}
    made = synthetic_images(study, first)
    grid = pictures.real_vs_synthetic_grid(
        real.images, real.labels, made.images, made.labels, study.classes, title=f"{name}: real and synthetic"
    )
    files = [folder / "real_vs_synthetic.png"]
    grid.save(files[0])
    if study.settings.method.tunes == "adapter":
        strips = study.strips()
        for class_name in study.classes:
            files.append(folder / f"strip_{class_name}.png")
            files[-1].write_bytes((strips.path / f"{class_name}.png").read_bytes())
    if study.settings.method.partition == "prototypes":
        files.append(draw_prototypes(study, folder))
    return files


def draw_quality(study: Study, folder: Path) -> list[Path]:
    """Put pictures of what was measured of a synthetic method beside its result: nearest neighbours."""
    return [draw_neighbours(study, folder)] if study.settings.method.adds == "synthetic" else []


def draw_prototypes(study: Study, folder: Path) -> Path:
    """Show real images of each prototype, a row each, and its largest classes (the paper's Figure A1)."""
    partition, real = Partition.load(study.prototypes().path / "partition.json"), study.labelled("train")
    names = []
    for part, counts in enumerate(partition.counts.T):
        largest = sorted(zip(counts.tolist(), partition.classes, strict=True), key=lambda pair: -pair[0])[:LARGEST]
        names.append("\n".join([f"prototype {part}", *(f"{name} {count}" for count, name in largest if count)]))
    file = folder / "prototypes.png"
    title = f"real images of each prototype (normalised mutual information with the classes: {partition.nmi:.2f})"
    pictures.sample_grid(real.images, partition.assignments, names, title=title, columns=2 * pictures.COLUMNS).save(
        file
    )
    return file
