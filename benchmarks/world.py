"""Does the simulated world leave room for synthesis? F1 on imbalanced, resampled and balanced training data.

python benchmarks/world.py [seeds]
"""

import sys

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.simulated import Simulated
from sarsynth.stages.copy_images import repeated_images
from sarsynth.stages.curate_images import counts, joining
from sarsynth.stages.open_images import opened

from arms import LIKE_FU_SRS, compare, demo, labelled


def main(seeds: int) -> None:
    """Print the table."""
    study = demo(LIKE_FU_SRS)
    source = opened(study)["sar"]
    classes = source.classes
    real = labelled(source, "train")
    total, most = len(real), max(counts(study).values())

    def balanced(size: int) -> LabelledImages:
        return labelled(Simulated("sar", source.seed, size, 0, source.image_size), "train")

    arms = {
        f"imbalanced, {total} images": (real, None),
        "the same, minor classes doubled": (real, repeated_images(study, real, joining(study))),
        f"balanced, {total // len(classes)} a class": (balanced(total // len(classes)), None),
        f"balanced, {most} a class": (balanced(most), None),
    }
    compare(study, arms, seeds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
