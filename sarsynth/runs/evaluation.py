"""The end of a study: classifiers on real + added images over seeds, fidelity of the synthetic set, one result."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from sarsynth import pictures
from sarsynth.classification import (
    Classifier,
    ClassifierRecipe,
    OverSampling,
    extract_features,
    fit_classifier,
    predict,
    scores,
)
from sarsynth.data.datamodules import LabelledImages
from sarsynth.data.transforms import resize
from sarsynth.fidelity import ClassFidelity, fidelity
from sarsynth.losses import Loss, class_weights
from sarsynth.partitions import Partition
from sarsynth.runs.adapters import budget
from sarsynth.runs.copies import COPIES
from sarsynth.runs.study import Study
from sarsynth.store import Artifact

FIGURES = ("precision", "recall", "f1", "support")
LARGEST = 5  # classes of a prototype that its picture names


def synthetic_images(study: Study, sizes: Mapping[str, int]) -> LabelledImages:
    """Read the first images of each class from the method's synthetic set, at the classifier's size."""
    folder, size = study.synthetic().path, study.settings.classifier.image_size
    images, labels, names = [], [], []
    for label, name in enumerate(study.classes):
        for index in range(sizes[name]):
            file = folder / "images" / name / f"{index:06d}.png"
            with Image.open(file) as picture:
                pixels = np.asarray(picture)
            pixels = pixels.reshape(*pixels.shape[:2], -1)
            images.append(torch.from_numpy(resize(pixels, size).copy()).permute(2, 0, 1))
            labels.append(label)
            names.append(str(file))
    channels = study.sources["sar"].channels
    stacked = torch.stack(images) if images else torch.empty(0, channels, size, size, dtype=torch.uint8)
    return LabelledImages(stacked, torch.tensor(labels, dtype=torch.int64), names)


ADDS = {
    "nothing": lambda study, real, sizes: None,
    "synthetic": lambda study, real, sizes: synthetic_images(study, sizes),
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


def trained(study: Study, seed: int) -> Artifact:
    """Train one classifier on real + added images and predict the test set: logits.safetensors and scores.json."""
    recipe, method = recipe_of(study), study.settings.method
    inputs = {"train": study.images("train"), "test": study.images("test")}
    if method.adds == "synthetic":
        inputs["synthetic"] = study.synthetic()
    sizes = study.plan if method.adds != "nothing" else {}

    def build(folder: Path) -> None:
        real = study.labelled("train")
        classifier = fit_classifier(
            real,
            study.classes,
            recipe,
            synthetic=ADDS[method.adds](study, real, sizes),
            seed=seed,
            fitting=study.fitting(f"seed_{seed}"),
            title=f"classifier, {method.name}, seed {seed}",
            checkpoints=folder / "checkpoints",
            checkpoint_every=500,
        )
        if classifier.global_rank:
            return  # rank 0 predicts and writes
        test = study.labelled("test")
        logits = predict(classifier, test.images)
        save_file({"logits": logits, "labels": test.labels}, folder / "logits.safetensors")
        figures = scores(logits, test.labels, study.classes, study.minor)
        (folder / "scores.json").write_text(json.dumps(figures, indent=2) + "\n")

    return study.store.make(
        "evaluation",
        f"{method.name}-seed-{seed}",
        {
            "recipe": recipe.as_dict(),
            "classes": study.classes,
            "minor": study.minor,
            "adds": method.adds,
            "sizes": sizes,
            # Which real images serve again, and how, follows from the study's seed.
            "seed_of_copies": study.settings.seed if method.adds in COPIES else None,
            "views": study.settings.augment.views.model_dump() if method.adds == "augmented" else None,
            "seed": seed,
        },
        inputs,
        build,
        command=study.command("evaluate.py", f"method={method.name}", f"seeds=[{seed}]"),
        collective=True,
    )


def measured(study: Study) -> Artifact:
    """Compare the synthetic set with the real training images in the study's own feature space: fidelity.json.

    Where images follow the contours of real ones, the first of each class follow one real image each, in their order;
    then these pairs are compared, as in the paper, and nothing else.
    """
    classifier, made, real = study.classifier(), study.synthetic(), study.images("train")
    paired = "data" in study.settings.contours.sources
    sizes = study.synthetic_sizes
    if paired:
        sizes = {name: min(size, study.counts[name]) for name, size in sizes.items()}

    def build(folder: Path) -> None:
        extractor = Classifier.load(classifier.path)
        ours, theirs = study.labelled("train"), synthetic_images(study, sizes)
        if paired:
            of_class = [torch.nonzero(ours.labels == label)[:, 0] for label in range(len(study.classes))]
            ours = ours[torch.cat([rows[: sizes[name]] for rows, name in zip(of_class, study.classes, strict=True)])]
        features = [extract_features(extractor, images) for images in (ours.images, theirs.images)]
        figures = fidelity(features[0], ours.labels, features[1], theirs.labels, study.classes)
        (folder / "fidelity.json").write_text(json.dumps(figures, indent=2) + "\n")

    return study.store.make(
        "evaluation",
        f"{study.settings.method.name}-fidelity",
        {"classes": study.classes, "sizes": sizes, "paired": paired},
        {"classifier": classifier, "synthetic": made, "images": real},
        build,
        command=study.command("evaluate.py", f"method={study.settings.method.name}"),
    )


def about(study: Study) -> dict[str, Any]:
    """Say what a study is of: what `result.json` begins with, whichever script writes it."""
    settings = study.settings
    return {
        "method": settings.method.name,
        "base": settings.base.name,
        "data": settings.data.name,
        "split": settings.data.split,
        "minor": study.minor,
        "classes": study.classes,
        "counts": study.counts,
    }


def result(study: Study) -> dict[str, Any]:
    """Evaluate the method of a study.

    Returns:
        What `result.json` holds (see README): per-class scores as mean, standard deviation and values over the seeds,
        fidelity per class, and the fingerprints of everything that it rests on.
    """
    settings, inputs = study.settings, {}
    runs = []
    for seed in settings.seeds:
        artifact = trained(study, seed)
        inputs[f"seed_{seed}"] = artifact.fingerprint
        runs.append(json.loads((artifact.path / "scores.json").read_text()))
    figures: dict[str, ClassFidelity] = {}
    if settings.method.adds == "synthetic":
        made, artifact = study.synthetic(), measured(study)
        figures = json.loads((artifact.path / "fidelity.json").read_text())
        inputs |= {"synthetic": made.fingerprint, "fidelity": artifact.fingerprint}
    return about(study) | {
        "added": study.plan if settings.method.adds != "nothing" else dict.fromkeys(study.classes, 0),
        "seeds": list(settings.seeds),
        "learning": learning(study),
        "training": budget(study),
        "classifier": {
            "per_class": {
                name: {figure: spread([run["per_class"][name][figure] for run in runs]) for figure in FIGURES}
                for name in study.classes
            },
            **{figure: spread([run[figure] for run in runs]) for figure in ("macro_f1", "minor_f1", "accuracy")},
        },
        "fidelity": {"per_class": figures},
        "inputs": inputs,
    }


def learning(study: Study) -> dict[str, Any]:
    """Say what the classifiers learn from, and how: where methods differ that generate nothing."""
    recipe, added = recipe_of(study), study.plan if study.settings.method.adds != "nothing" else {}
    samples = {name: count + added.get(name, 0) for name, count in study.counts.items()}
    weights = class_weights(torch.tensor(list(samples.values())), recipe.loss.beta).tolist()
    return {
        "adds": study.settings.method.adds,
        "samples": samples,
        "steps": recipe.max_steps,
        "steps_of_last_layer_alone": recipe.max_steps - recipe.whole_steps,
        "batch_size": recipe.batch_size,
        "sampling": recipe.sampling,
        "loss": asdict(recipe.loss) | {"class_weights": dict(zip(samples, weights, strict=True))},
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Summarise one figure over the seeds: mean, sample standard deviation (0 for one seed) and the values."""
    known = [value for value in values if value is not None]
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"mean": float(np.mean(known)) if known else None, "std": deviation, "values": list(values)}


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
    sizes = {class_name: min(pictures.COLUMNS, size) for class_name, size in study.synthetic_sizes.items()}
    made = synthetic_images(study, sizes)
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
