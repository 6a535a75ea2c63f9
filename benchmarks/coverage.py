"""What the intervals of sarsynth.evidence.significance are worth: coverage on simulated test sets of known true gains.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py [test sets a world [worlds whose name holds this]]

A world draws test images of five classes and two methods with classifiers of several seeds. A classifier gives an image
a score for each class, the sum of: the true class's lead, what the image looks like to everybody, what it looks like to
this method (`image`), how much this seed likes the class (`seed`), and noise of this seed on this image. The label with
the highest score is predicted. The gain of method over baseline is a greater lead; without one (`control`) all that
differs is chance.

Where methods have generators, those who learned from the images of one generator seed all like each class somewhat more
or less (`generator`), and of one sample seed of it (`sample`), and see each image in a way of their own. Two generators
of one seed have some of their luck in common (`common`), as methods do whose SAR adapters stand on one ORS adapter.
Minutes on one core.
"""

import sys
from dataclasses import dataclass, replace

from sarsynth.console import console
from sarsynth.evidence.design import Design
from sarsynth.evidence.predictions import Predictions, figures
from sarsynth.evidence.significance import Comparison, Gain, compare

import numpy as np
from rich.table import Table

REPLICATES = 500
CLASSES = ("cargo", "other", "fishing", "tanker", "dredger")
MINOR = (2, 3, 4)
DEMO, FUSRS = (200,) * 5, (772, 216, 161, 59, 52)  # test images of each class
TRUTH_SEEDS, TRUTH_IMAGES = 1000, 1000  # a class, from which the true figures are told


@dataclass(frozen=True)
class World:
    """How much chance there is, as standard deviations of scores, and how far a class and a method lead."""

    name: str
    sizes: tuple[int, ...]
    seeds: int
    image: float
    seed: float
    leads: tuple[tuple[float, ...], tuple[float, ...]]
    shared: float = 1.0
    noise: float = 0.5
    generators: int = 0  # seeds of the method's generator; 0: no method has one
    samples: int = 1  # sample seeds of each
    generator: float | tuple[float, ...] = 0.0  # of all classes, or of each
    sample: float = 0.0
    both: bool = False  # whether the baseline has a generator too
    common: float = 0.0  # share of the variance of a generator's luck that both have in common

    def designs(self, seeds: int | None = None) -> tuple[Design, Design]:
        """The seeds of method and baseline, or so many generators of one classifier each."""
        classifiers = range(self.seeds if seeds is None else 1)
        plain = Design(classifiers=classifiers)
        if not self.generators:
            return (Design(classifiers=range(seeds or self.seeds)),) * 2
        generators, samples = range(seeds or self.generators), range(1 if seeds else self.samples)
        made = Design(generators, samples, classifiers)
        return made, made if self.both else replace(plain, classifiers=range(seeds or self.seeds))


SEEN = 0.3  # how an image looks to a generator, of how much it likes a class
UNEVEN = (0.05, 0.05, 0.4, 0.4, 0.4)
WEAK, STRONG = (2.6, 2.2, 1.6, 1.2, 1.4), (2.6, 2.2, 1.9, 1.5, 1.9)
WORLDS = [
    World(f"{kind}, {where}, {seeds} seeds", sizes, seeds, image, seed, leads)
    for where, sizes, seeds in [("5 x 200", DEMO, 3), ("FU-SRS", FUSRS, 5), ("5 x 200", DEMO, 2)]
    for kind, image, seed, leads in [
        ("gain", 0.5, 0.2, (STRONG, WEAK)),
        ("gain, images alone", 0.5, 0.0, (STRONG, WEAK)),
        ("gain, seeds above all", 0.1, 0.6, (STRONG, WEAK)),
        ("control", 0.0, 0.2, (WEAK, WEAK)),
        ("control, images alone", 0.0, 0.0, (WEAK, WEAK)),
    ]
]

CROSSED = [("3 x 1 x 3", 3, 1), ("2 x 1 x 3", 2, 1), ("3 x 2 x 3", 3, 2), ("5 x 1 x 3", 5, 1)]
WORLDS += [
    World(f"{kind}, {seeds}", DEMO, 3, 0.3, 0.2, leads, generators=generators, samples=samples, **luck)
    for seeds, generators, samples in CROSSED
    for kind, leads, luck in [
        ("little luck, over none", (STRONG, WEAK), {"generator": 0.1, "sample": 0.05}),
        ("large luck, over none", (STRONG, WEAK), {"generator": 0.4, "sample": 0.15}),
        ("larger luck, over none", (STRONG, WEAK), {"generator": 0.6, "sample": 0.15}),
        ("extreme luck, over none", (STRONG, WEAK), {"generator": 0.8, "sample": 0.15}),
        ("large luck in minor classes, over none", (STRONG, WEAK), {"generator": UNEVEN, "sample": 0.05}),
        (
            "large luck, over a generator",
            (STRONG, WEAK),
            {"generator": 0.4, "sample": 0.15, "both": True, "common": 0.5},
        ),
        ("control, large luck", (WEAK, WEAK), {"generator": 0.4, "sample": 0.15, "both": True}),
        ("control, large luck in minor classes", (WEAK, WEAK), {"generator": UNEVEN, "sample": 0.05, "both": True}),
        ("control, extreme luck", (WEAK, WEAK), {"generator": 0.8, "sample": 0.15, "both": True}),
        (
            "control, large luck in common",
            (WEAK, WEAK),
            {"generator": 0.4, "sample": 0.15, "both": True, "common": 0.5},
        ),
    ]
]


def predicted(world: World, labels: np.ndarray, rng: np.random.Generator, seeds: int | None = None) -> list[np.ndarray]:
    """Draw what the classifiers of method and baseline say of one test set: int (classifiers, 1, images) each."""
    count, classes = len(labels), len(CLASSES)
    shared = rng.normal(0, world.shared, (count, classes)).astype(np.float32)
    designs, said = world.designs(seeds), []
    common = [rng.standard_normal((*designs[0].shape[:2], 1, 1, classes)) for _ in range(2)]
    for leads, design in zip(world.leads, designs, strict=True):
        generators, samples, classifiers = design.shape
        look = shared + world.image * rng.standard_normal((count, classes), dtype=np.float32)
        look[np.arange(count), labels] += np.asarray(leads, dtype=np.float32)[labels]
        likes = world.seed * rng.standard_normal((generators, samples, classifiers, 1, classes), dtype=np.float32)
        shape = (generators, samples, classifiers, count, classes)
        scores = look + likes + world.noise * rng.standard_normal(shape, dtype=np.float32)
        if design.generators:
            scores += _luck(world, design, common, count, rng)
        said.append(scores.argmax(axis=-1).reshape(-1, 1, count))
    return said


def _luck(world: World, design: Design, common: list[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """What a generator and its sampling add to scores: (generators, samples, 1, images, classes)."""
    generators, samples, classes = *design.shape[:2], len(CLASSES)

    def drawn(size: float | tuple[float, ...], shape: tuple[int, ...], part: np.ndarray) -> np.ndarray:
        own = rng.standard_normal((*shape, 1, 1, classes))
        in_view = rng.standard_normal((*shape, 1, count, classes), dtype=np.float32)
        return np.asarray(size) * (np.sqrt(world.common) * part + np.sqrt(1 - world.common) * own + SEEN * in_view)

    of_generators = drawn(world.generator, (generators, 1), common[0][:, :1])
    return (of_generators + drawn(world.sample, (generators, samples), common[1])).astype(np.float32)


def truth(world: World, rng: np.random.Generator) -> np.ndarray:
    """Tell the true gain in each figure, for a test set without end whose classes have the world's shares."""
    totals = np.zeros((2, len(CLASSES) + 4))
    labels = np.repeat(np.arange(len(CLASSES)), TRUTH_IMAGES)
    shares = np.asarray(world.sizes, dtype=float)
    for _ in range(TRUTH_SEEDS):  # fresh images for every seed
        for arm, said in enumerate(predicted(world, labels, rng, seeds=1)):
            table = np.zeros((len(CLASSES), len(CLASSES)))
            np.add.at(table, (labels, said[0, 0]), 1)
            table *= shares[:, None] / TRUTH_IMAGES
            totals[arm] += figures(table.diagonal(), table.sum(axis=0), shares, MINOR)
    return (totals[0] - totals[1]) / TRUTH_SEEDS


def gains(comparison: Comparison) -> list[Gain]:
    """The gains of a comparison, in the order of `figures`, but for the last of these."""
    means = (comparison.minor_f1, comparison.macro_f1, comparison.accuracy)
    return [*comparison.per_class.values(), *(gain for gain in means if gain)]


def main(sets: int, chosen: str) -> None:
    """Print the table."""
    table = Table(title=f"{sets} test sets a world, {REPLICATES} replicates; in %")
    for column in (
        "world",
        "coverage: classes",
        "minor",
        "macro",
        "accuracy",
        "called: any class",
        "minor",
        "macro",
        "accuracy",
        "McNemar",
    ):
        table.add_column(column, justify="left" if column == "world" else "right")
    minor = [CLASSES[label] for label in MINOR]
    for number, world in enumerate(WORLDS):
        if chosen not in world.name:
            continue
        rng = np.random.default_rng(number)
        # Control arms gain nothing, exactly.
        gain = truth(world, rng)[:-1] if world.leads[0] != world.leads[1] else np.zeros(len(CLASSES) + 3)
        labels = np.repeat(np.arange(len(CLASSES)), world.sizes)
        names = [str(row) for row in range(len(labels))]
        covered, called = np.zeros((sets, len(gain))), np.zeros((sets, 5))
        for one in range(sets):
            said = zip(predicted(world, labels, rng), world.designs(), strict=True)
            arms = [Predictions(labels_said, labels, CLASSES, names, design=seeds) for labels_said, seeds in said]
            found = compare(*arms, minor, replicates=REPLICATES, seed=one)
            every = gains(found)
            covered[one] = [g.low <= true <= g.high for g, true in zip(every, gain, strict=True)]
            called[one] = [
                any(g.significant for g in every[:-3]),
                *(g.significant for g in every[-3:]),
                found.mcnemar.p < 0.05,
            ]
        shares = [covered[:, :-3].mean(), *covered[:, -3:].mean(axis=0), *called.mean(axis=0)]
        table.add_row(world.name, *(f"{100 * share:.1f}" for share in shares))
        console.print(f"{number + 1} of {len(WORLDS)}: {world.name}: coverage of classes {100 * shares[0]:.1f} %")
    console.print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500, sys.argv[2] if len(sys.argv) > 2 else "")
