"""Measure copies: how near synthetic images come to single real ones, and how much they differ among themselves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsynth.data.choosing import evenly
from sarsynth.evidence.memorisation import MOST, Neighbours, diversity, memorisation, nearest_features, nearest_pixels
from sarsynth.report import pictures
from sarsynth.stages.curate_images import classes, synthetic_sizes, training
from sarsynth.stages.extract_features import (
    Indices,
    evaluation,
    everything,
    read_features,
    real_features,
    synthetic_features,
    synthetic_images,
)
from sarsynth.stages.filter_images import filter_inputs, kept
from sarsynth.stages.generate_images import file_name
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.measure_fidelity import read_figures, write_figures
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import work_of_comparison
from sarsynth.store.artifacts import Artifact

NEIGHBOURS = "neighbours.safetensors"
NEAREST = 3  # nearest neighbours of a class and space that are told and shown


def real_neighbours(study: Study) -> Artifact:
    """The nearest other real training image of each, or of an even choice of them, in every space."""
    of_real = real_features(study)

    def build(folder: Path) -> None:
        pixels, features = labelled(study, "train").images, read_features(of_real)["features"]
        rows = evenly(len(pixels), MOST)
        neighbours = {
            "features": nearest_features(features[rows], features, same=True),
            "pixels": nearest_pixels(pixels[rows], pixels, same=True),
        }
        _save(neighbours, folder)

    return study.make(
        "cache",
        f"{study.settings.data.name}-neighbours",
        {"most": MOST},
        {"features": of_real, "images": images(study, "train")},
        build,
        command=evaluation(study),
        work=work_of_comparison(study, "neighbours", len(training(study, "sar"))),
    )


def measured_memorisation(study: Study, *, whole: bool = False) -> Artifact:
    """Find the nearest real image of each kept one, or of each at all; of many, of an even choice of them.

    The nearest pairs are told.
    """
    ours, theirs, among = real_features(study), synthetic_features(study), real_neighbours(study)

    return study.make(
        "evaluation",
        f"{study.settings.method.name}-memorisation",
        {"most": MOST, "pairs": NEAREST, "classes": classes(study)},
        {
            "real": ours,
            "synthetic": theirs,
            "set": synthetic(study),
            "among": among,
            **({} if whole else filter_inputs(study)),
        },
        lambda folder: _measure(study, (everything if whole else kept)(study), folder),
        command=evaluation(study),
        work=work_of_comparison(study, "memorisation", sum(synthetic_sizes(study).values())),
    )


def _measure(study: Study, images_of: Indices, folder: Path) -> None:
    """Measure synthetic images, given by class, and write figures, neighbours and the files that they are of."""
    names, real = classes(study), labelled(study, "train")
    # One row an image, class after class, as the set's features lie: its class, its number, its row among features.
    starts = torch.tensor([0, *synthetic_sizes(study).values()]).cumsum(0).tolist()
    every = [
        (name, index, start + index)
        for (name, indices), start in zip(images_of.items(), starts, strict=False)
        for index in indices
    ]
    table = [every[row] for row in evenly(len(every), MOST).tolist()]
    made = synthetic_images(study, {name: [index for of, index, _ in table if of == name] for name in names})
    rows = torch.tensor([row for *_, row in table], dtype=torch.int64)
    features, of_real = read_features(synthetic_features(study))["features"][rows], read_features(real_features(study))
    neighbours = {
        "features": nearest_features(features, of_real["features"]),
        "pixels": nearest_pixels(made.images, real.images),
    }
    figures = memorisation(neighbours, _load(real_neighbours(study)), made.labels, names)
    for label, name in enumerate(names):
        if name in figures["per_class"]:
            figures["per_class"][name]["diversity"] = {
                "real": diversity(of_real["features"][of_real["labels"] == label][:MOST]),
                "synthetic": diversity(features[made.labels == label]),
            }
    files = [file_name(study, name, index) for name, index, _ in table]
    figures["pairs"] = [
        {
            "class": name,
            "space": space,
            "synthetic": files[row],
            "real": real.name(int(nearest.rows[row])),
            "real_row": int(nearest.rows[row]),
            "distance": float(nearest.distances[row]),
        }
        for label, name in enumerate(names)
        for space, nearest in neighbours.items()
        for row in _nearest(nearest, made.labels == label)
    ]
    _save(neighbours, folder)
    (folder / "files.json").write_text(json.dumps(files) + "\n")
    write_figures(folder, figures)


def _nearest(neighbours: Neighbours, members: Tensor) -> list[int]:
    """The members whose neighbours are nearest, a few."""
    distances = torch.where(members, neighbours.distances, torch.inf)
    return distances.argsort(stable=True)[: min(NEAREST, int(members.sum()))].tolist()


def _save(neighbours: Mapping[str, Neighbours], folder: Path) -> None:
    tensors = {f"{space}_rows": nearest.rows for space, nearest in neighbours.items()}
    tensors |= {f"{space}_distances": nearest.distances for space, nearest in neighbours.items()}
    save_file(tensors, folder / NEIGHBOURS)


def _load(artifact: Artifact) -> dict[str, Neighbours]:
    tensors = load_file(artifact.path / NEIGHBOURS)
    spaces = [name.removesuffix("_rows") for name in tensors if name.endswith("_rows")]
    return {space: Neighbours(tensors[f"{space}_rows"], tensors[f"{space}_distances"]) for space in spaces}


def draw_neighbours(study: Study, folder: Path) -> Path:
    """Show the synthetic images nearest to real ones, each beside its neighbour."""
    pairs, real = read_figures(measured_memorisation(study))["pairs"], labelled(study, "train")
    groups = []
    for space in dict.fromkeys(pair["space"] for pair in pairs):
        rows = [
            _beside(study, real.images, [pair for pair in pairs if (pair["class"], pair["space"]) == (name, space)])
            for name in classes(study)
        ]
        groups.append((f"by {space}: synthetic, real, …", rows))
    file = folder / "nearest_neighbours.png"
    title = f"{study.settings.method.name}: nearest real training images"
    pictures.compose(groups, classes(study), title).save(file)
    return file


def _beside(study: Study, real: Tensor, pairs: list[dict[str, Any]]) -> list[Any]:
    """The images of pairs of one class, synthetic and real in turn."""
    indices: dict[str, list[int]] = {name: [] for name in classes(study)}
    for pair in pairs:
        indices[pair["class"]].append(int(Path(pair["synthetic"]).stem))
    made = synthetic_images(study, indices).images
    return [image.numpy() for row, pair in enumerate(pairs) for image in (made[row], real[pair["real_row"]])]
