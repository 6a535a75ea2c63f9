"""What are unseen real images worth beside repeated ones, where a minor class has this few of them?

    python benchmarks/headroom.py [seeds] [override ...]

The demo's world, or another by overrides (`data=sim`, `data.seed=1`): minor classes as they are, with the images that
`augment.plan` asks for as copies, and as images of ships that no training or test image shows. Equal numbers, equal
steps; the last row is what a perfect generator would reach.
"""

from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.simulated import Simulated
from sarsynth.stages.copy_images import repeated_images
from sarsynth.stages.curate_images import joining, planned
from sarsynth.stages.open_images import opened

from arms import compare, demo, labelled, said

UNSEEN = 11  # seed of a world of its own


def main(seeds: int, overrides: list[str]) -> None:
    """Print the table."""
    study = demo(overrides)
    source = opened(study)["sar"]
    real, wanted = labelled(source, "train"), joining(study)
    synthetic = {name: added.synthetic for name, added in planned(study).items()}
    left = {name: wanted[name] - size for name, size in synthetic.items()}

    def unseen(sizes: dict[str, int]) -> LabelledImages:
        return labelled(Simulated("sar", UNSEEN, sizes, 0, source.image_size), "train")

    arms = {
        "as it is": (real, None),
        "repeated": (real, repeated_images(study, real, wanted)),
        "repeated and unseen, as the demo mixes": (real, unseen(synthetic) + repeated_images(study, real, left)),
        "unseen real images": (real, unseen(wanted)),
    }
    compare(study, arms, seeds)


if __name__ == "__main__":
    main(*said())
