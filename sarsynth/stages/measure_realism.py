"""Measure radar realism: traits of synthetic images beside those of real ones, and what clutter alone gives away."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sarsynth.classifier.network import predict
from sarsynth.data.choosing import evenly
from sarsynth.data.transforms import load_images, resize, to_channels, to_float, to_uint8
from sarsynth.evidence.realism import Traits, realism, traits
from sarsynth.evidence.shortcut import hide_targets, shortcut
from sarsynth.stages.curate_images import classes, counts, records, source, synthetic_sizes, training
from sarsynth.stages.extract_features import evaluation, synthetic_images
from sarsynth.stages.filter_images import filter_inputs, kept
from sarsynth.stages.fit_radiometry import radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.load_base import base, base_artifact, like_of_base
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.measure_fidelity import write_figures
from sarsynth.stages.resize_images import images, labelled
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import classifier, load_classifier, work_of_comparison
from sarsynth.store.artifacts import Artifact
from sarsynth.store.costs import Work

TRAITS = "traits.safetensors"
IN_REALISM = 100  # images of a class, at most
BATCH = 32


def measured_realism(study: Study) -> Artifact:
    """Compare the traits of kept images with those of real ones, as many a class, or as many as there are."""
    real, decoded, made = real_traits(study), autoencoder_traits(study), synthetic(study)

    def build(folder: Path) -> None:
        most = {name: min(IN_REALISM, count) for name, count in counts(study).items()}
        shown = synthetic_images(study, {name: indices[: most[name]] for name, indices in kept(study).items()})
        write_figures(folder, realism(_load(real), traits(shown.images.numpy()), _load(decoded)))

    return study.make(
        "evaluation",
        f"{study.settings.method.name}-realism",
        {"most": IN_REALISM, "classes": classes(study), "image_size": study.settings.classifier.image_size},
        {"real": real, "autoencoder": decoded, "synthetic": made, **filter_inputs(study)},
        build,
        command=evaluation(study),
        work=work_of_comparison(study, "realism", sum(synthetic_sizes(study).values())),
    )


def _reference(study: Study) -> list[int]:
    """Up to `IN_REALISM` real training images of each class, evenly spread over those that there are.

    They are the same in every set that is compared, lest a difference in class shares pass for one in images.
    """
    labels = np.array([record.label for record in training(study, "sar")])
    members = [np.flatnonzero(labels == label) for label in range(len(classes(study)))]
    return [int(row) for rows in members for row in rows[evenly(len(rows), IN_REALISM).numpy()]]


def real_traits(study: Study) -> Artifact:
    """Traits of some real training images, as they are."""

    def build(folder: Path) -> None:
        rows = torch.tensor(_reference(study), dtype=torch.int64)
        _save(traits(labelled(study, "train").images[rows].numpy()), folder)

    return study.make(
        "cache",
        f"{study.settings.data.name}-traits",
        {"most": IN_REALISM, "classes": classes(study)},
        {"images": images(study, "train")},
        build,
        command=evaluation(study),
        work=work_of_comparison(study, "traits", len(_reference(study))),
    )


def autoencoder_traits(study: Study) -> Artifact:
    """Traits of the same ones after a way through the base's autoencoder."""
    size, shown = study.settings.base.image_size, study.settings.classifier.image_size

    def build(folder: Path) -> None:
        sar, levels = source(study, "sar"), radiometry(study, "sar")
        chosen = [training(study, "sar")[row] for row in _reference(study)]
        decoded = []
        for batch in load_images(sar, chosen, size, levels, framing(study, "sar")).split(BATCH):
            latents, _ = base(study).encode(to_float(to_channels(batch, 3)).to(study.device))
            decoded.append(to_uint8(to_channels(base(study).decode(latents), sar.channels)).cpu())
        pixels = [resize(image, shown) for image in torch.cat(decoded).permute(0, 2, 3, 1).numpy()]
        _save(traits(np.stack(pixels).transpose(0, 3, 1, 2)), folder)

    return study.make(
        "cache",
        f"{study.settings.data.name}-autoencoder-traits",
        {"most": IN_REALISM, "classes": classes(study), "image_size": size},
        {"images": images(study, "train"), "base": base_artifact(study)},
        build,
        command=evaluation(study),
        precision=study.precision.name,
        work=Work("autoencoder", "images", len(_reference(study)), like_of_base(study)),
    )


def _save(measured: Traits, folder: Path) -> None:
    save_file({name: torch.from_numpy(rows) for name, rows in measured.rows.items()}, folder / TRAITS)


def _load(artifact: Artifact) -> Traits:
    return Traits({name: rows.numpy() for name, rows in load_file(artifact.path / TRAITS).items()})


def probed(study: Study) -> Artifact:
    """Ask the study's classifier for the classes of test images without their targets."""
    inputs = {"classifier": classifier(study), "images": images(study, "test")}

    def build(folder: Path) -> None:
        network, test = load_classifier(study), labelled(study, "test")
        masked = hide_targets(test.images.numpy())
        figures = None
        if masked is not None:
            whole, without = (
                predict(network, pixels).argmax(dim=1).numpy() for pixels in (test.images, torch.from_numpy(masked))
            )
            figures = shortcut(test.labels.numpy(), whole, without, classes(study))
        write_figures(folder, figures)

    return study.make(
        "evaluation",
        f"{study.settings.data.name}-shortcut",
        {"classes": classes(study)},
        inputs,
        build,
        command=evaluation(study),
        precision=study.precision.name,
        work=work_of_comparison(study, "shortcut", len(records(study, "sar", "test"))),
    )
