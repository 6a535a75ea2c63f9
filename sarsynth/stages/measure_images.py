"""What the synthetic set of a study is worth before any classifier trains on it.

Features of images, traits of real ones and distances among them are artifacts of their own: what the methods of a sweep
share is computed once, and a second evaluation reads it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsynth.classifier.network import predict
from sarsynth.console import console
from sarsynth.data.choosing import evenly
from sarsynth.data.transforms import load_images, resize, to_channels, to_float, to_uint8
from sarsynth.evidence.fidelity import fidelity
from sarsynth.evidence.memorisation import (
    MOST,
    Neighbours,
    diversity,
    memorisation,
    nearest_features,
    nearest_pixels,
)
from sarsynth.evidence.realism import Traits, realism, traits
from sarsynth.evidence.shortcut import hide_targets, shortcut
from sarsynth.report import pictures
from sarsynth.stages import work
from sarsynth.stages.judge_images import (
    command,
    everything,
    filter_report,
    filters,
    kept,
    made_of,
    read_features,
    real_features,
    synthetic_features,
    synthetic_images,
)
from sarsynth.stages.study import Study, file_name
from sarsynth.store.artifacts import Artifact

TRAITS, NEIGHBOURS, FIGURES = "traits.safetensors", "neighbours.safetensors", "figures.json"
IN_REALISM = 100  # images of a class, at most
PAIRS = 3  # nearest neighbours of a class and space that are told and shown
BATCH = 32

# --- Figures ----------------------------------------------------------------------------------------------------------


def measured_fidelity(study: Study, *, whole: bool = False) -> Artifact:
    """Compare the kept images, or the whole set, with the real training images in the study's own feature space.

    Where images follow the contours of real ones, the first of each class follow one real image each, in their order;
    then these pairs are compared, as in the paper, and nothing else.
    """
    preprocess = study.settings.fid.preprocess
    ours, theirs = real_features(study, preprocess), synthetic_features(study, preprocess)
    paired = "data" in study.settings.contours.sources

    def build(folder: Path) -> None:
        real, made = (read_features(found) for found in (ours, theirs))
        rows: tuple[list[Tensor], list[Tensor]] = ([], [])
        for label, indices in enumerate((everything if whole else kept)(study).values()):
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
        {"real": ours, "synthetic": theirs, **({} if whole else filters(study))},
        build,
        version=1,
        command=command(study),
        work=work.comparison(study, "fidelity", made_of(study)),
    )


def _reference(study: Study) -> list[int]:
    """Up to `IN_REALISM` real training images of each class, evenly spread over those that there are.

    They are the same in every set that is compared, lest a difference in class shares pass for one in images.
    """
    labels = np.array([record.label for record in study.training])
    members = [np.flatnonzero(labels == label) for label in range(len(study.classes))]
    return [int(row) for rows in members for row in rows[evenly(len(rows), IN_REALISM).numpy()]]


def real_traits(study: Study) -> Artifact:
    """Traits of some real training images, as they are."""

    def build(folder: Path) -> None:
        chosen = torch.tensor(_reference(study), dtype=torch.int64)
        _save_traits(traits(study.labelled("train").images[chosen].numpy()), folder)

    return study.store.make(
        "cache",
        f"{study.settings.data.name}-traits",
        {"most": IN_REALISM, "classes": study.classes},
        {"images": study.images("train")},
        build,
        version=1,
        command=command(study),
        work=work.comparison(study, "traits", len(_reference(study))),
    )


def autoencoder_traits(study: Study) -> Artifact:
    """Traits of the same ones after a way through the base's autoencoder."""
    size = study.settings.base.image_size

    def build(folder: Path) -> None:
        source, shown = study.sources["sar"], study.settings.classifier.image_size
        records = [study.training[row] for row in _reference(study)]
        decoded = []
        for batch in load_images(source, records, size, study.radiometry["sar"]).split(BATCH):
            latents, _ = study.base.encode(to_float(to_channels(batch, 3)).to(study.device))
            decoded.append(to_uint8(to_channels(study.base.decode(latents), source.channels)).cpu())
        images = [resize(image, shown) for image in torch.cat(decoded).permute(0, 2, 3, 1).numpy()]
        _save_traits(traits(np.stack(images).transpose(0, 3, 1, 2)), folder)

    return study.store.make(
        "cache",
        f"{study.settings.data.name}-autoencoder-traits",
        {"most": IN_REALISM, "classes": study.classes, "image_size": size},
        {"images": study.images("train"), "base": study.base_artifact},
        build,
        version=1,
        command=command(study),
        precision=study.precision.name,
        work=work.through_autoencoder(study, len(_reference(study))),
    )


def _save_traits(found: Traits, folder: Path) -> None:
    save_file({name: torch.from_numpy(rows) for name, rows in found.rows.items()}, folder / TRAITS)


def _load_traits(made: Artifact) -> Traits:
    return Traits({name: rows.numpy() for name, rows in load_file(made.path / TRAITS).items()})


def probed(study: Study) -> Artifact:
    """Ask the study's classifier for the classes of test images without their targets."""
    classifier, test = study.classifier(), study.images("test")

    def build(folder: Path) -> None:
        network, images = study.load_classifier(classifier), study.labelled("test")
        masked = hide_targets(images.images.numpy())
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
        version=1,
        command=command(study),
        precision=study.precision.name,
        work=work.comparison(study, "shortcut", len(study.records("sar", "test"))),
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
        {"real": ours, "autoencoder": passed, "synthetic": made, **filters(study)},
        build,
        version=1,
        command=command(study),
        work=work.comparison(study, "realism", made_of(study)),
    )


def real_neighbours(study: Study) -> Artifact:
    """The nearest other real training image of each, or of an even choice of them, in every space."""
    found = real_features(study)

    def build(folder: Path) -> None:
        images, features = study.labelled("train").images, read_features(found)["features"]
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
        version=1,
        command=command(study),
        work=work.comparison(study, "neighbours", len(study.training)),
    )


def measured_memorisation(study: Study, *, whole: bool = False) -> Artifact:
    """Find the nearest real image of each kept one, or of each at all; of many, of an even choice of them.

    The nearest pairs are told.
    """
    ours, theirs, among = real_features(study), synthetic_features(study), real_neighbours(study)

    def build(folder: Path) -> None:
        left = (everything if whole else kept)(study)
        of_set = read_features(theirs)
        real, real_images = read_features(ours), study.labelled("train")
        every = [(name, index) for name, indices in left.items() for index in indices]
        chosen = [every[row] for row in evenly(len(every), MOST).tolist()]
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
        {
            "real": ours,
            "synthetic": theirs,
            "set": study.synthetic(),
            "among": among,
            **({} if whole else filters(study)),
        },
        build,
        version=1,
        command=command(study),
        work=work.comparison(study, "memorisation", made_of(study)),
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


def measured(study: Study) -> dict[str, Artifact]:
    """The artifacts that `quality` reads, by what they are of; none without synthetic images."""
    if study.settings.method.adds != "synthetic":
        return {}
    made = {
        "fidelity": measured_fidelity(study),
        "realism": measured_realism(study),
        "shortcut": probed(study),
        "memorisation": measured_memorisation(study),
    }
    if filters(study):
        made["fidelity_before"] = measured_fidelity(study, whole=True)
        made["memorisation_before"] = measured_memorisation(study, whole=True)
    return made


def quality(study: Study) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure the synthetic set of a study.

    Returns:
        Four parts of `result.json`, and the fingerprints of what they rest on by role:

        * `fidelity`: `preprocess`, and what `fidelity.fidelity` returns (`width`, `pooled`, `per_class`);
        * `realism`: what `realism.realism` returns, and `shortcut` (`shortcut.shortcut`), None where targets leave no
          clutter;
        * `memorisation`: what `memorisation.memorisation` returns, in `per_class` also `diversity` (mean distance of
          two images of the class in features, `real` and `synthetic`), and `pairs`: the nearest few of each class and
          space, each with `class`, `space`, `synthetic` (a file of the set), `real` (its path), `real_row`, `distance`;
        * `filter`: what `filter_report` returns, and `before`: `fidelity` and `memorisation` (its `n`, `spaces`) of the
          whole set, for the parts above are of what a filter keeps; None without one.

        Without synthetic images there are no fidelities, and the others are None.
    """
    if study.settings.method.adds != "synthetic":
        preprocess = study.settings.fid.preprocess
        nothing: dict[str, Any] = {"preprocess": preprocess, "width": None, "pooled": None, "per_class": {}}
        return {"fidelity": nothing, "realism": None, "memorisation": None, "filter": None}, {}
    made = measured(study)
    figures = {name: _read(made[name]) for name in ("fidelity", "realism", "shortcut", "memorisation")}
    figures["realism"]["shortcut"] = figures.pop("shortcut")
    for kind, constant in figures["realism"]["constant"].items():
        if constant:
            console.print(
                f"[yellow]warning:[/] {constant} of {figures['realism']['n'][kind]} {kind} images have one grey value "
                f"all over, of method={study.settings.method.name} data={study.settings.data.name}; look at them"
            )
    told = filter_report(study)
    for name, counts in told["per_class"].items():
        if counts["joined"] < counts["planned"]:
            console.print(
                f"[yellow]warning:[/] filter={told['name']} leaves {counts['joined']} of {counts['planned']} images "
                f"that were to join class {name}; raise generate.per_class, or loosen the filter"
            )
    told["before"] = None
    if filters(study):
        before = {name: _read(made[f"{name}_before"]) for name in ("fidelity", "memorisation")}
        before["memorisation"] = {key: before["memorisation"][key] for key in ("n", "spaces")}
        told["before"] = before
    inputs = {"synthetic": study.synthetic(), **made, **filters(study)}
    return figures | {"filter": told}, {role: artifact.fingerprint for role, artifact in inputs.items()}


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
