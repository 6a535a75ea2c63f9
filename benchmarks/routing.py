"""What one pass for K adapters saves: adapters x samples a second, together and one after the other.

    python benchmarks/routing.py [sd-nano|sd15] [repetitions] [most]

`sd15` is the true architecture at random weights, at 256 px. One after the other is the same code with K = 1, K times.
Batches of more than `most` samples, which memory may not hold, are left out.
"""

import statistics
import sys
import time
from collections.abc import Callable

from sarsynth.cli import CONF
from sarsynth.config.checks import check
from sarsynth.console import console
from sarsynth.diffusion.adapters import AdapterSpec, fresh
from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.routing import routed

import hydra
import torch
from diffusers import UNet2DConditionModel
from rich.table import Table
from sd15 import sd15_unet

RANK = 4  # of each adapter


def seconds(step: Callable[[], None], repetitions: int) -> float:
    """Median time of a training step, after one to warm up."""
    step()
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def step_time(unet: UNet2DConditionModel, pattern: str, adapters: int, each: int, side: int, repetitions: int) -> float:
    """Forward and backward of `adapters` x `each` samples through routed adapters."""
    rows, config = adapters * each, unet.config
    latents = torch.randn(rows, config.in_channels, side, side)
    timesteps, text = torch.randint(1000, (rows,)), torch.randn(rows, 40, config.cross_attention_dim)
    begun = [fresh(unet, AdapterSpec(RANK, pattern), seed) for seed in range(adapters)]
    with routed(unet, begun):
        return seconds(lambda: unet(latents, timesteps, text).sample.square().mean().backward(), repetitions)


def main(base: str, repetitions: int, most: int) -> None:
    """Print the table."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        pattern = check(hydra.compose("evaluate", [f"base={base}"])).adapter.target_modules
    unet = (Base.load(NANO).unet if base == "sd-nano" else sd15_unet()).requires_grad_(False)
    side = 16 if base == "sd-nano" else 32
    table = Table(title=f"{base}, {torch.get_num_threads()} threads, median of {repetitions}: adapters x samples / s")
    for column in ("samples an adapter", "adapters", "together", "one after the other", "ratio"):
        table.add_column(column, justify="right")
    for each in (1, 4, 8):
        alone = step_time(unet, pattern, 1, each, side, repetitions)
        for adapters in (k for k in (1, 2, 4, 8) if k * each <= most):
            together = alone if adapters == 1 else step_time(unet, pattern, adapters, each, side, repetitions)
            row = (adapters * each / together, each / alone, adapters * alone / together)
            table.add_row(str(each), str(adapters), *(f"{figure:.2f}" for figure in row))
    console.print(table)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(given.get(1, "sd-nano"), int(given.get(2, 5)), int(given.get(3, 64)))
