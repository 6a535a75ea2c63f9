"""Measure fidelity: the distances of a synthetic set from real training images in the study's own feature space."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sarsynth.evidence.fidelity import fidelity
from sarsynth.stages.curate_images import classes, synthetic_sizes
from sarsynth.stages.extract_features import evaluation, everything, read_features, real_features, synthetic_features
from sarsynth.stages.filter_images import filter_inputs, kept
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import work_of_comparison
from sarsynth.store.artifacts import Artifact

FIGURES = "figures.json"


def measured_fidelity(study: Study, *, whole: bool = False) -> Artifact:
    """Compare the kept images, or the whole set, with the real training images.

    Where images follow the contours of real ones, the first of each class follow one real image each, in their order;
    then these pairs are compared, as in the paper, and nothing else.
    """
    preprocess = study.settings.fid.preprocess
    ours, theirs = real_features(study, preprocess), synthetic_features(study, preprocess)
    paired = "data" in study.settings.contours.sources

    def build(folder: Path) -> None:
        real, synthetic = read_features(ours), read_features(theirs)
        real_rows: list[Tensor] = []
        synthetic_rows: list[Tensor] = []
        for label, indices in enumerate((everything if whole else kept)(study).values()):
            of_real, of_synthetic = (torch.nonzero(side["labels"] == label)[:, 0] for side in (real, synthetic))
            chosen = torch.tensor(indices, dtype=torch.int64)
            if paired:
                chosen = chosen[chosen < len(of_real)]
                of_real = of_real[chosen]
            real_rows.append(of_real)
            synthetic_rows.append(of_synthetic[chosen])
        rows = torch.cat(real_rows), torch.cat(synthetic_rows)
        figures = fidelity(
            real["features"][rows[0]],
            real["labels"][rows[0]],
            synthetic["features"][rows[1]],
            synthetic["labels"][rows[1]],
            classes(study),
        )
        write_figures(folder, {"preprocess": preprocess, **figures})

    return study.make(
        "evaluation",
        f"{study.settings.method.name}-fidelity",
        {"classes": classes(study), "paired": paired, "preprocess": preprocess},
        {"real": ours, "synthetic": theirs, **({} if whole else filter_inputs(study))},
        build,
        command=evaluation(study),
        work=work_of_comparison(study, "fidelity", sum(synthetic_sizes(study).values())),
    )


def write_figures(folder: Path, figures: Any) -> None:
    """Write what a measure found."""
    text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / FIGURES).write_text(text + "\n", encoding="utf-8")


def read_figures(artifact: Artifact) -> Any:
    """Read what a measure found."""
    return json.loads((artifact.path / FIGURES).read_text(encoding="utf-8"))
