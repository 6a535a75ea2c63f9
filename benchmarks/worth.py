"""How often the interval of sarsynth.evidence.worth holds the truth: simulated learning curves whose answer is known.

    OMP_NUM_THREADS=1 python benchmarks/worth.py [studies a world]

Classifiers score the images of five classes as in benchmarks/coverage.py. How far a minor class leads rises with the
logarithm of its number of real images; a method that has `HAS` of them leads as far as without it as many as the world
says, and its generator likes classes by luck. One minute of a core for each hundred studies.
"""

import sys
from dataclasses import dataclass

from sarsynth.console import console
from sarsynth.evidence.design import Design
from sarsynth.evidence.predictions import Predictions, figures
from sarsynth.evidence.significance import score
from sarsynth.evidence.worth import Worth, crossings, worth

import numpy as np
from rich.table import Table

CLASSES, MINOR = ("cargo", "other", "fishing", "tanker", "dredger"), (2, 3, 4)
COUNTS, HAS, IMAGES, REPLICATES = (3, 6, 12, 24, 48), 6, 100, 300
TRUTH_SEEDS, TRUTH_IMAGES = 200, 300  # a class, from which the truth is told
LEAD, AT_FIRST, RISE = 2.4, 0.6, 0.4  # of large classes; of minor ones at the first count, and for each factor of e


@dataclass(frozen=True)
class World:
    """What a method's images are worth, and how much chance there is, as standard deviations of scores."""

    name: str
    reaches: float  # the number of real images that the method's score is that of
    seed: float = 0.2  # how much a classifier seed likes a class
    generator: float = 0.0  # and a generator seed
    generators: int = 0  # seeds; 0: the method has no generator
    seeds: int = 3


WORLDS = [
    World("no generator, at 12", 12),
    World("no generator, at 17", 17),
    World("no generator, images alone, at 12", 12, seed=0.0),
    World("no generator, seeds above all, at 12", 12, seed=0.6),
    World("3 generators, large luck, at 12", 12, generator=0.4, generators=3),
    World("3 generators, large luck, at 6: worth nothing", 6, generator=0.4, generators=3),
    World("beyond the curve, at 96", 96),
]


def predicted(
    world: World, labels: np.ndarray, images: float, look: np.ndarray, design: Design, rng: np.random.Generator
) -> Predictions:
    """Draw what classifiers say that lead as far as so many real images make them."""
    leads = np.full(len(CLASSES), LEAD)
    leads[list(MINOR)] = AT_FIRST + RISE * np.log(images / COUNTS[0])
    generators, _, classifiers = design.shape
    scores = look + 0.4 * rng.standard_normal(look.shape)
    scores[np.arange(len(labels)), labels] += leads[labels]
    luck = (world.generator if design.generators else 0.0) * rng.standard_normal((generators, 1, 1, len(CLASSES)))
    likes = world.seed * rng.standard_normal((generators, classifiers, 1, len(CLASSES)))
    scores = scores + luck + likes + 0.5 * rng.standard_normal((generators, classifiers, *look.shape))
    said = scores.argmax(axis=-1).reshape(-1, 1, len(labels))
    return Predictions(said, labels, CLASSES, [str(row) for row in range(len(labels))], design=design)


def truth(world: World) -> float:
    """Tell the number of images that is sought, of means over many seeds and images; a lucky generator helps no F1."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(len(CLASSES)), TRUTH_IMAGES)
    one = Design(classifiers=[0])
    made = Design([0], [0], [0]) if world.generators else one
    means = np.zeros(len(COUNTS) + 1)
    for _ in range(TRUTH_SEEDS):
        look = rng.standard_normal((len(labels), len(CLASSES)))
        arms = [predicted(world, labels, count, look, one, rng) for count in COUNTS]
        for row, arm in enumerate([*arms, predicted(world, labels, world.reaches, look, made, rng)]):
            said = arm.predicted[0, 0]
            hits = np.bincount(labels[said == labels], minlength=len(CLASSES))
            named = np.bincount(said, minlength=len(CLASSES))
            means[row] += figures(hits, named, arm.support, MINOR)[len(CLASSES)] / TRUTH_SEEDS
    return float(crossings(means[None, -1:] - means[None, :-1], COUNTS)[0])


def study(world: World, seed: int) -> Worth:
    """Draw one study, and read the worth of its method off its curve."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(len(CLASSES)), IMAGES)
    look = rng.standard_normal((len(labels), len(CLASSES)))
    plain = Design(classifiers=range(world.seeds))
    made = Design(range(world.generators), [0], plain.classifiers) if world.generators else plain
    arms = {count: predicted(world, labels, count, look, plain, rng) for count in COUNTS}
    method = predicted(world, labels, world.reaches, look, made, rng)
    minor = [CLASSES[label] for label in MINOR]
    scores = {count: score(arm, minor, replicates=REPLICATES, seed=0) for count, arm in arms.items()}
    found = worth(score(method, minor, replicates=REPLICATES, seed=0), HAS, scores, seed=seed)
    assert found is not None
    return found


def main(studies: int) -> None:
    """Print the table."""
    table = Table(title=f"{studies} studies a world")
    for column in ("world", "truth", "interval holds it, %", "median", "median interval", "at the curve's end, %"):
        table.add_column(column, justify="left" if column == "world" else "right")
    for world in WORLDS:
        found = [study(world, seed) for seed in range(studies)]
        true = truth(world)
        held = np.mean([one.low <= true <= one.high for one in found])
        value, low, high = (np.median([getattr(one, name) for one in found]) for name in ("reaches", "low", "high"))
        end = np.mean([one.high == one.last for one in found])
        table.add_row(
            world.name, f"{true:.1f}", f"{100 * held:.1f}", f"{value:.1f}", f"{low:.1f}…{high:.1f}", f"{100 * end:.0f}"
        )
    console.print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
