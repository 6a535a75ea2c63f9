"""What the synthetic set of a study is worth before any classifier trains on it, and which of its images may join.

Features of images, traits of real ones and distances among them are artifacts of their own: what the methods of a sweep
share is computed once, and a second evaluation reads it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from sarsynth import pictures
from sarsynth.classification import Classifier, extract_features, predict
from sarsynth.console import console
from sarsynth.data.datamodules import LabelledImages
from sarsynth.data.transforms import load_images, resize, to_channels, to_float, to_uint8
from sarsynth.errors import UserError
from sarsynth.fidelity import fidelity
from sarsynth.filters import Sample
from sarsynth.memorisation import (
    MOST,
    Neighbours,
    diversity,
    evenly,
    memorisation,
    nearest_features,
    nearest_pixels,
)
from sarsynth.realism import Traits, realism, shortcut, traits, without_target
from sarsynth.runs.study import Study
from sarsynth.store import Artifact

FEATURES, TRAITS, NEIGHBOURS, VERDICTS = (
    f"{name}.safetensors" for name in ("features", "traits", "neighbours", "kept")
)
FIGURES = "figures.json"
RELEASE_SIZE = 299  # px, of the paper's release
IN_REALISM = 100  # images of a class, at most
THROUGH_AUTOENCODER = 30  # of those
PAIRS = 3  # nearest neighbours of a class and space that are told and shown
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
            with Image.open(file) as picture:
                pixels = np.asarray(picture)
            pixels = pixels.reshape(*pixels.shape[:2], -1)
            images.append(torch.from_numpy(resize(pixels, size).copy()).permute(2, 0, 1))
            labels.append(label)
            names.append(str(file))
    channels = study.sources["sar"].channels
    stacked = torch.stack(images) if images else torch.empty(0, channels, size, size, dtype=torch.uint8)
    return LabelledImages(stacked, torch.tensor(labels, dtype=torch.int64), names)


def file_name(class_name: str, index: int) -> str:
    """Where an image lies in its set."""
    return f"images/{class_name}/{index:06d}.png"


def everything(study: Study) -> dict[str, range]:
    """All images of the synthetic set."""
    return {name: range(size) for name, size in study.synthetic_sizes.items()}


def _command(study: Study) -> str:
    return study.command("evaluate.py", f"method={study.settings.method.name}")


# --- Features ---------------------------------------------------------------------------------------------------------


def real_features(study: Study, preprocess: str = "normalised") -> Artifact:
    """Features and logits of the real training images, by the study's classifier."""
    return _features(
        study, study.settings.data.name, study.images("train"), lambda: study.labelled("train"), preprocess
    )


def synthetic_features(study: Study, preprocess: str = "normalised") -> Artifact:
    """Features and logits of the whole synthetic set."""

    def images() -> LabelledImages:
        return synthetic_images(study, everything(study))

    return _features(study, study.settings.method.name, study.synthetic(), images, preprocess)


def _features(study: Study, name: str, of: Artifact, images: Callable[[], LabelledImages], preprocess: str) -> Artifact:
    classifier = study.classifier()

    def build(folder: Path) -> None:
        extractor, shown = Classifier.load(classifier.path).to(study.device), images()
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
        save_file({"features": features, "logits": logits, "labels": shown.labels}, folder / FEATURES)

    return study.store.make(
        "cache",
        f"{name}-features",
        {"preprocess": preprocess, "image_size": study.settings.classifier.image_size, "classes": study.classes},
        {"classifier": classifier, "images": of},
        build,
        command=_command(study),
    )


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
            of = load_file(found.path / FEATURES)
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
        (folder / "filter.jsonl").write_text(text, encoding="utf-8")

    return study.store.make(
        "cache",
        f"{study.settings.method.name}-filter-{chosen.name}",
        {"rule": chosen.rule.model_dump(by_alias=True)},
        {"real": ours, "synthetic": theirs, "images": study.images("train"), "set": study.synthetic()},
        build,
        command=_command(study),
    )


def kept(study: Study) -> dict[str, list[int]]:
    """Which images of the synthetic set may be used, by class: those that the filter keeps, in the order of their index."""
    verdict = filtered(study)
    if verdict is None:
        return {name: list(indices) for name, indices in everything(study).items()}
    found = load_file(verdict.path / VERDICTS)
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


def _filters(study: Study) -> dict[str, Artifact]:
    """The filter as an input of what looks at the images that it keeps."""
    verdict = filtered(study)
    return {"filter": verdict} if verdict else {}


# --- Figures ----------------------------------------------------------------------------------------------------------


def measured_fidelity(study: Study) -> Artifact:
    """Compare the kept images with the real training images in the study's own feature space.

    Where images follow the contours of real ones, the first of each class follow one real image each, in their order;
    then these pairs are compared, as in the paper, and nothing else.
    """
    preprocess = study.settings.fid.preprocess
    ours, theirs = real_features(study, preprocess), synthetic_features(study, preprocess)
    paired = "data" in study.settings.contours.sources

    def build(folder: Path) -> None:
        real, made = (load_file(found.path / FEATURES) for found in (ours, theirs))
        rows: tuple[list[Tensor], list[Tensor]] = ([], [])
        for label, indices in enumerate(kept(study).values()):
            of_class = [torch.nonzero(one["labels"] == label)[:, 0] for one in (real, made)]
            chosen = torch.tensor(indices, dtype=torch.int64)
            if paired:
                chosen = chosen[chosen < len(of_class[0])]
                of_class[0] = of_class[0][chosen]
            rows[0].append(of_class[0])
            rows[1].append(of_class[1][chosen])
        real_rows, made_rows = (torch.cat(one) for one in rows)
        figures = fidelity(
            real["features"][real_rows],
            real["labels"][real_rows],
            made["features"][made_rows],
            made["labels"][made_rows],
            study.classes,
        )
        _write(folder, {"preprocess": preprocess, **figures})

    return study.store.make(
        "evaluation",
        f"{study.settings.method.name}-fidelity",
        {"classes": study.classes, "paired": paired, "preprocess": preprocess},
        {"real": ours, "synthetic": theirs, **_filters(study)},
        build,
        command=_command(study),
    )


def _reference(study: Study, most: int) -> list[int]:
    """Up to `most` real training images of each class, evenly spread over those that there are."""
    labels = np.array([record.label for record in study.training])
    members = [np.flatnonzero(labels == label) for label in range(len(study.classes))]
    return [int(row) for rows in members for row in rows[evenly(len(rows), most).numpy()]]


def real_traits(study: Study) -> Artifact:
    """Traits of some real training images, as they are."""

    def build(folder: Path) -> None:
        chosen = torch.tensor(_reference(study, IN_REALISM), dtype=torch.int64)
        _save_traits(traits(study.labelled("train").images[chosen].numpy()), folder)

    return study.store.make(
        "cache",
        f"{study.settings.data.name}-traits",
        {"most": IN_REALISM, "classes": study.classes},
        {"images": study.images("train")},
        build,
        command=_command(study),
    )


def autoencoder_traits(study: Study) -> Artifact:
    """Traits of some of them after a way through the base's autoencoder."""
    size = study.settings.base.image_size

    def build(folder: Path) -> None:
        source, shown = study.sources["sar"], study.settings.classifier.image_size
        records = [study.training[row] for row in _reference(study, THROUGH_AUTOENCODER)]
        decoded = []
        for batch in load_images(source, records, size).split(BATCH):
            latents, _ = study.base.encode(to_float(to_channels(batch, 3)).to(study.device))
            decoded.append(to_uint8(to_channels(study.base.decode(latents), source.channels)).cpu())
        images = [resize(image, shown) for image in torch.cat(decoded).permute(0, 2, 3, 1).numpy()]
        _save_traits(traits(np.stack(images).transpose(0, 3, 1, 2)), folder)

    return study.store.make(
        "cache",
        f"{study.settings.data.name}-autoencoder-traits",
        {"most": THROUGH_AUTOENCODER, "classes": study.classes, "image_size": size},
        {"images": study.images("train"), "base": study.base_artifact},
        build,
        command=_command(study),
    )


def _save_traits(found: Traits, folder: Path) -> None:
    save_file({name: torch.from_numpy(rows) for name, rows in found.rows.items()}, folder / TRAITS)


def _load_traits(made: Artifact) -> Traits:
    return Traits({name: rows.numpy() for name, rows in load_file(made.path / TRAITS).items()})


def probed(study: Study) -> Artifact:
    """Ask the study's classifier for the classes of test images without their targets."""
    classifier, test = study.classifier(), study.images("test")

    def build(folder: Path) -> None:
        network, images = Classifier.load(classifier.path).to(study.device), study.labelled("test")
        masked = without_target(images.images.numpy())
        figures = None
        if masked is not None:
            whole, without = (
                predict(network, pixels).argmax(dim=1).numpy() for pixels in (images.images, torch.from_numpy(masked))
            )
            figures = shortcut(images.labels.numpy(), whole, without, study.classes)
        _write(folder, figures)

    return study.store.make(
        "evaluation",
        f"{study.settings.data.name}-shortcut",
        {"classes": study.classes},
        {"classifier": classifier, "images": test},
        build,
        command=_command(study),
    )


def measured_realism(study: Study) -> Artifact:
    """Compare the traits of kept images with those of real ones, as many a class, or as many as there are."""
    ours, passed, made = real_traits(study), autoencoder_traits(study), study.synthetic()

    def build(folder: Path) -> None:
        most = {name: min(IN_REALISM, count) for name, count in study.counts.items()}
        images = synthetic_images(study, {name: indices[: most[name]] for name, indices in kept(study).items()})
        _write(folder, realism(_load_traits(ours), traits(images.images.numpy()), _load_traits(passed)))

    return study.store.make(
        "evaluation",
        f"{study.settings.method.name}-realism",
        {"most": IN_REALISM, "classes": study.classes, "image_size": study.settings.classifier.image_size},
        {"real": ours, "autoencoder": passed, "synthetic": made, **_filters(study)},
        build,
        command=_command(study),
    )


def real_neighbours(study: Study) -> Artifact:
    """The nearest other real training image of each, or of an even choice of them, in every space."""
    found = real_features(study)

    def build(folder: Path) -> None:
        images, features = study.labelled("train").images, load_file(found.path / FEATURES)["features"]
        rows = evenly(len(images), MOST)
        _save_neighbours(
            {
                "features": nearest_features(features[rows], features, same=True),
                "pixels": nearest_pixels(images[rows], images, same=True),
            },
            folder,
        )

    return study.store.make(
        "cache",
        f"{study.settings.data.name}-neighbours",
        {"most": MOST},
        {"features": found, "images": study.images("train")},
        build,
        command=_command(study),
    )


def measured_memorisation(study: Study) -> Artifact:
    """Find the nearest real image of each kept one, or of an even choice of them; the nearest pairs are told."""
    ours, theirs, among = real_features(study), synthetic_features(study), real_neighbours(study)

    def build(folder: Path) -> None:
        left = kept(study)
        of_set = load_file(theirs.path / FEATURES)
        real, real_images = load_file(ours.path / FEATURES), study.labelled("train")
        whole = [(name, index) for name, indices in left.items() for index in indices]
        chosen = [whole[row] for row in evenly(len(whole), MOST).tolist()]
        indices = {name: [index for of, index in chosen if of == name] for name in study.classes}
        made = synthetic_images(study, indices)
        starts = np.cumsum([0, *study.synthetic_sizes.values()])
        rows = [int(starts[label]) + i for label, name in enumerate(study.classes) for i in indices[name]]
        features = of_set["features"][torch.tensor(rows, dtype=torch.int64)]
        found = {
            "features": nearest_features(features, real["features"]),
            "pixels": nearest_pixels(made.images, real_images.images),
        }
        figures = memorisation(found, _load_neighbours(among), made.labels, study.classes)
        for label, name in enumerate(study.classes):
            if name in figures["per_class"]:
                figures["per_class"][name]["diversity"] = {
                    "real": diversity(real["features"][real["labels"] == label][:MOST]),
                    "synthetic": diversity(features[made.labels == label]),
                }
        files = [file_name(name, i) for name in study.classes for i in indices[name]]
        figures["pairs"] = [
            {
                "class": name,
                "space": space,
                "synthetic": files[row],
                "real": real_images.name(int(neighbours.rows[row])),
                "real_row": int(neighbours.rows[row]),
                "distance": float(neighbours.distances[row]),
            }
            for label, name in enumerate(study.classes)
            for space, neighbours in found.items()
            for row in _nearest(neighbours, made.labels == label)
        ]
        _save_neighbours(found, folder)
        (folder / "files.json").write_text(json.dumps(files) + "\n")
        _write(folder, figures)

    return study.store.make(
        "evaluation",
        f"{study.settings.method.name}-memorisation",
        {"most": MOST, "pairs": PAIRS, "classes": study.classes},
        {"real": ours, "synthetic": theirs, "set": study.synthetic(), "among": among, **_filters(study)},
        build,
        command=_command(study),
    )


def _nearest(neighbours: Neighbours, members: Tensor) -> list[int]:
    """The members whose neighbours are nearest, a few."""
    distances = torch.where(members, neighbours.distances, torch.inf)
    return distances.argsort(stable=True)[: min(PAIRS, int(members.sum()))].tolist()


def _save_neighbours(found: Mapping[str, Neighbours], folder: Path) -> None:
    tensors = {f"{space}_rows": one.rows for space, one in found.items()}
    tensors |= {f"{space}_distances": one.distances for space, one in found.items()}
    save_file(tensors, folder / NEIGHBOURS)


def _load_neighbours(made: Artifact) -> dict[str, Neighbours]:
    tensors = load_file(made.path / NEIGHBOURS)
    spaces = [name.removesuffix("_rows") for name in tensors if name.endswith("_rows")]
    return {space: Neighbours(tensors[f"{space}_rows"], tensors[f"{space}_distances"]) for space in spaces}


def _write(folder: Path, figures: Any) -> None:
    (folder / FIGURES).write_text(json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _read(made: Artifact) -> Any:
    return json.loads((made.path / FIGURES).read_text())


# --- What a result says -----------------------------------------------------------------------------------------------


def quality(study: Study) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure the synthetic set of a study.

    Returns:
        Four parts of `result.json`, and the fingerprints of what they rest on by role:

        * `fidelity`: `preprocess`, and what `fidelity.fidelity` returns (`width`, `pooled`, `per_class`);
        * `realism`: what `realism.realism` returns, and `shortcut`: what `realism.shortcut` does, None if targets leave
          no clutter;
        * `memorisation`: what `memorisation.memorisation` returns, in `per_class` also `diversity` (mean distance of two
          images of the class in features, `real` and `synthetic`), and `pairs`: the nearest few of each class and
          space, each with `class`, `space`, `synthetic` (a file of the set), `real` (its path), `real_row`, `distance`;
        * `filter`: what `filter_report` returns.

        Without synthetic images there are no fidelities, and the others are None.
    """
    if study.settings.method.adds != "synthetic":
        empty = {"preprocess": study.settings.fid.preprocess, "width": None, "pooled": None, "per_class": {}}
        return {"fidelity": empty, "realism": None, "memorisation": None, "filter": None}, {}
    filters = filter_report(study)
    if not any(one["kept"] for one in filters["per_class"].values()):
        raise UserError(f"filter={filters['name']} keeps no image of method={study.settings.method.name}; loosen it")
    made = {
        "fidelity": measured_fidelity(study),
        "realism": measured_realism(study),
        "shortcut": probed(study),
        "memorisation": measured_memorisation(study),
    }
    figures = {name: _read(artifact) for name, artifact in made.items()}
    figures["realism"]["shortcut"] = figures.pop("shortcut")
    if constant := figures["realism"]["constant"]:
        console.print(
            f"[yellow]warning:[/] {constant} of {figures['realism']['n']['synthetic']} synthetic images of "
            f"method={study.settings.method.name} have one grey value all over; look at {study.synthetic().path}"
        )
    inputs = {"synthetic": study.synthetic(), **made, **_filters(study)}
    return figures | {"filter": filters}, {role: artifact.fingerprint for role, artifact in inputs.items()}


def draw_neighbours(study: Study, folder: Path) -> Path:
    """Show the synthetic images nearest to real ones, each beside its neighbour."""
    pairs, real = _read(measured_memorisation(study))["pairs"], study.labelled("train")
    groups = []
    for space in dict.fromkeys(pair["space"] for pair in pairs):
        rows = []
        for name in study.classes:
            ours = [pair for pair in pairs if (pair["class"], pair["space"]) == (name, space)]
            indices = {
                other: [int(Path(p["synthetic"]).stem) for p in ours if other == name] for other in study.classes
            }
            made = synthetic_images(study, indices)
            rows.append(
                [
                    image.numpy()
                    for row, pair in enumerate(ours)
                    for image in (made.images[row], real.images[pair["real_row"]])
                ]
            )
        groups.append((f"by {space}: synthetic, real, …", rows))
    file = folder / "nearest_neighbours.png"
    title = f"{study.settings.method.name}: nearest real training images"
    pictures.compose(groups, study.classes, title).save(file)
    return file
