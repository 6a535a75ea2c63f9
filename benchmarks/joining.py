"""What are stored synthetic sets worth beside repetition, at equal numbers and equal steps? For trying things out.

    python benchmarks/joining.py SET [SET ...] [--seeds 3] [override ...]

A SET is a folder of the store, `logs/store/synthetic/<label>-<fingerprint>`. Of each, as many images join the minor
classes of the demo's world as `augment` says, and repeated real ones fill up. Choose on a world of another seed
(`data.seed=1`), and look at the demo's own once.
"""

import argparse
import json
from pathlib import Path

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.report.pictures import read_png
from sarsynth.stages.copy_images import repeated_images
from sarsynth.stages.curate_images import classes, joining, planned
from sarsynth.stages.generate_images import METADATA
from sarsynth.stages.open_images import opened
from sarsynth.stages.study import Study

import numpy as np
import torch
from arms import Arm, compare, demo, labelled


def joined(study: Study, folder: Path) -> LabelledImages:
    """The first images of each class of a set, as many as are planned."""
    lines = [json.loads(line) for line in (folder / METADATA).read_text().splitlines()]
    chosen = [
        line
        for name in classes(study)
        for line in [line for line in lines if line["class_name"] == name][: planned(study)[name].synthetic]
    ]
    images = np.stack([read_png(folder / line["file_name"]) for line in chosen])
    return LabelledImages(torch.from_numpy(images), torch.tensor([line["label"] for line in chosen]))


def main(folders: list[Path], seeds: int, overrides: list[str]) -> None:
    """Print the table."""
    study = demo(overrides)
    real = labelled(opened(study)["sar"], "train")
    arms: dict[str, Arm] = {"repeated": (real, repeated_images(study, real, joining(study)))}
    for folder in folders:
        made = joined(study, folder)
        counts = dict(zip(classes(study), made.labels.bincount(minlength=len(classes(study))).tolist(), strict=True))
        left = {name: size - counts[name] for name, size in joining(study).items()}
        arms[folder.name] = (real, made + repeated_images(study, real, left))
    compare(study, arms, seeds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_intermixed_args()
    sets = [Path(argument) for argument in given.arguments if "=" not in argument]
    main(sets, given.seeds, [argument for argument in given.arguments if "=" in argument])
