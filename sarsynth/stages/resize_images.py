"""Resize SAR images to the classifier's size and keep them as tensors."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.records import ImageRecord, Split, digest
from sarsynth.data.transforms import load_images
from sarsynth.stages.curate_images import records, samples, source, training
from sarsynth.stages.fit_radiometry import fingerprint, radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.open_images import Role, image_settings
from sarsynth.stages.study import Study, once
from sarsynth.store.artifacts import Artifact
from sarsynth.store.costs import Work

IMAGES = "images.safetensors"


@once
def images(study: Study, split: Split, role: Role = "sar") -> Artifact:
    """The SAR images of a split at the classifier's size: `images`, uint8 or float32 (N, C, H, W), and `labels`."""
    chosen, sar, levels = _records(study, split, role), source(study, role), radiometry(study, role)
    size, data = study.settings.classifier.image_size, image_settings(study, role).name

    def build(folder: Path) -> None:
        tensors = {
            "images": load_images(sar, chosen, size, levels, framing(study, role)),
            "labels": torch.tensor([record.label for record in chosen]),
        }
        save_file(tensors, folder / IMAGES)

    return study.make(
        "cache",
        f"{data}-{split}-images",
        {"source": fingerprint(study, role), "records": digest(chosen), "image_size": size},
        {},
        build,
        command=("train", "stage=classifier") if split == "train" else ("evaluate", "method=none"),
        samples=samples(study, role, chosen),
        work=Work(
            "images",
            "images",
            len(chosen),
            {"data": data, "image_size": size},
            disk_bytes=len(chosen) * sar.channels * size**2 * levels.dtype.itemsize,
        ),
    )


def labelled(study: Study, split: Split, role: Role = "sar") -> LabelledImages:
    """The images of `images` in memory; labels are those of the set that they are of."""
    tensors = load_file(images(study, split, role).path / IMAGES)
    names = [record.path for record in _records(study, split, role)]
    return LabelledImages(tensors["images"], tensors["labels"], names)


def _records(study: Study, split: Split, role: Role) -> list[ImageRecord]:
    return training(study, role) if split == "train" else records(study, role, split)
