"""What bfloat16 gains on this CPU: passes that draw images, and steps in which an adapter learns, beside float32.

    python benchmarks/precision.py [rounds]

`sd-nano`, one thread, CPU time; both precisions take turns. The first line is what `auto` of `generate.precision` and
`adapter.precision` goes by.
"""

import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from sarsynth.cli import CONF
from sarsynth.commands.session import quieten
from sarsynth.config.checks import check
from sarsynth.console import console
from sarsynth.diffusion.adapters import AdapterSpec, fresh
from sarsynth.diffusion.attention import quick_to_learn_through
from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.routing import routed
from sarsynth.training.precision import FULL, Precision, measured_gain

import hydra
import torch
from contests import Rival, ratios_of, take_turns
from rich.table import Table

RANK = 16
SAMPLES = (1, 2, 4, 8, 16, 32)  # of 16 x 16 latent cells
CPU, HALF = torch.device("cpu"), Precision("bf16-mixed")


def work(
    precision: Precision, samples: int, target_modules: str, learns: bool, opened: ExitStack
) -> Callable[[], object]:
    """A pass through the U-Net, or a step forward and back through an adapter on it."""
    unet = Base.load(NANO).requires_grad_(False).place(CPU, precision).unet
    noisy = torch.randn(samples, unet.config.in_channels, 16, 16, dtype=unet.dtype)
    text = torch.randn(samples, 40, unet.config.cross_attention_dim, dtype=unet.dtype)
    steps = torch.randint(1000, (samples,))
    if learns:
        opened.enter_context(routed(unet, [fresh(unet, AdapterSpec(RANK, target_modules), 0)]))
        opened.enter_context(quick_to_learn_through(unet))

    def step() -> None:
        with precision.autocast(CPU):
            predicted = unet(noisy, steps, text).sample
        predicted.float().square().mean().backward()

    return step if learns else torch.no_grad()(partial(unet, noisy, steps, text))


def main(rounds: int) -> None:
    """Print the table."""
    quieten()
    torch.set_num_threads(1)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        target_modules = check(hydra.compose("evaluate")).adapter.target_modules
    console.print(f"a convolution in bfloat16 is {measured_gain():.2f} times as fast")
    table = Table(title=f"float32's CPU time to bfloat16's, median of {rounds} turns, its middle half; ms in bfloat16")
    for column in ("samples", "a pass", "", "a step of an adapter", ""):
        table.add_column(column, justify="right")
    for samples in SAMPLES:
        cells = []
        for learns in (False, True):
            with ExitStack() as opened:
                half, full = (work(of, samples, target_modules, learns, opened) for of in (HALF, FULL))
                laps = take_turns(half, [Rival("float32", full)], rounds)
            ratios = ratios_of(laps, "float32", "cpu")
            low, _, high = statistics.quantiles(ratios, n=4)
            cells.append(f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
            cells.append(f"{1000 * statistics.median(lap.cpu for lap in laps.ours):.0f}")
        table.add_row(str(samples), *cells)
    console.print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
