"""What a training step of the study's classifier costs, beside the same network in a plain loop of PyTorch.

    OMP_NUM_THREADS=1 python benchmarks/classifier.py [repetitions] [steps]

The demo's classifier, on its training images. The peer is timm's own network as it comes, in a loop over the same
images with `torch.optim.AdamW`: no views, no Lightning, no look at the loss. They take turns; figures are CPU seconds,
user and system, of this process.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from sarsynth.classifier.learning import fit_classifier
from sarsynth.classifier.network import ClassifierRecipe
from sarsynth.console import console
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.stages.curate_images import classes
from sarsynth.stages.open_images import opened
from sarsynth.stages.train_classifier import recipe
from sarsynth.training.fitting import Fitting

import timm
import torch
from arms import demo, labelled
from rich.table import Table
from torch.nn import functional


def plain(how: ClassifierRecipe, images: LabelledImages, labels: int) -> None:
    """Train timm's network on the images in their order, for the recipe's steps."""
    network = timm.create_model(how.network, in_chans=images.images.shape[1], num_classes=labels, **how.options)
    optimizer = torch.optim.AdamW(network.parameters(), how.learning_rate, weight_decay=how.weight_decay)
    for step in range(how.max_steps):
        rows = torch.arange(step * how.batch_size, (step + 1) * how.batch_size) % len(images)
        loss = functional.cross_entropy(network(images.images[rows] / 255), images.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, user and system."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main(repetitions: int, steps: int) -> None:
    """Print a table."""
    study = demo()
    how, names = replace(recipe(study), max_steps=steps), classes(study)
    images = labelled(opened(study)["sar"], "train")
    ways = {
        "plain loop": lambda: plain(how, images, len(names)),
        "sarsynth": lambda: fit_classifier(images, names, how, seed=0, fitting=Fitting()),
    }
    for way in ways.values():
        way()  # warm up
    times = [{name: cpu_seconds(way) for name, way in ways.items()} for _ in range(repetitions)]
    table = Table(title=f"{steps} steps of {how.batch_size}, median (least to most) of {repetitions} repetitions")
    for column in ("", "CPU seconds", "ms a step", "share of the plain loop"):
        table.add_column(column)
    for name in ways:
        seconds, ratios = [run[name] for run in times], [run[name] / run["plain loop"] for run in times]
        spread = [f"{statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in (seconds, ratios)]
        table.add_row(name, spread[0], f"{1000 * statistics.median(seconds) / steps:.0f}", spread[1])
    console.print(table)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(int(given.get(1, 5)), int(given.get(2, 60)))
