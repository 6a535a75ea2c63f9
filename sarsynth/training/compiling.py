"""Train with compiled networks, and report from which step on that pays."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ModelMixin
from lightning.pytorch import Callback, LightningModule, Trainer

from sarsynth.console import console

WARM_UP = 2  # steps that are not timed, before and after compilation, at least 2
TIMED = 5  # steps of either kind


@contextmanager
def compiling(
    networks: Sequence[ModelMixin], title: str, variants: int, backend: str = "inductor"
) -> Iterator[Callback]:
    """Give a callback that compiles networks a few steps into a training; afterwards they are what they were.

    Only their `forward` is replaced, so weights, their names and checkpoints stay the same.

    Args:
        networks: What is compiled.
        title: Of the training, for the line that says what was gained.
        variants: How many different computations there are, as when some adapters of a run end before the others.
        backend: Of `torch.compile`.
    """
    try:
        yield _Compiling(networks, title, variants, backend)
    finally:
        for network in networks:
            network.__dict__.pop("forward", None)


class _Compiling(Callback):
    """Times steps as they are, compiles, and times steps again."""

    def __init__(self, networks: Sequence[ModelMixin], title: str, variants: int, backend: str) -> None:
        self.networks, self.title, self.variants, self.backend = networks, title, variants, backend
        self.ends: list[float] = []  # times at which timed steps ended, see `verdict`

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self.step = self.began = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Take the time at the end of a step that is timed; compile after the first of them."""
        if trainer.global_step == self.step:
            return  # a part of a step
        self.step = trainer.global_step
        done = self.step - self.began
        before, after = (WARM_UP, WARM_UP + TIMED), (2 * WARM_UP + TIMED, 2 * WARM_UP + 2 * TIMED)
        if done in (*before, before[1] + 1, *after):
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize(trainer.strategy.root_device)
            self.ends.append(time.perf_counter())
        if done == before[1]:
            for network in self.networks:
                network.forward = torch.compile(  # type: ignore[call-overload]  # torch's stubs lack the limit
                    network.forward, dynamic=False, backend=self.backend, recompile_limit=self.variants + 8
                )
        if done == after[1] and trainer.is_global_zero:
            console.print(f"  {self.title}: {verdict(self.ends, self.began)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report that there were too few steps to tell."""
        if len(self.ends) < 5 and trainer.is_global_zero:
            needed = 2 * (WARM_UP + TIMED)
            console.print(f"  {self.title}: too short to say whether train.compile pays ({needed} steps tell)")


def verdict(ends: Sequence[float], began: int) -> str:
    """Report what compilation cost and what it gains.

    Args:
        ends: In seconds: the first and last end of TIMED steps before it, the end of the step that it took place in,
            and the first and last end of TIMED steps after it.
        began: The step that the training began with.
    """
    before, after = (ends[1] - ends[0]) / TIMED, (ends[4] - ends[3]) / TIMED
    cost, gain = max(0.0, ends[2] - ends[1] - after), before - after
    summary = f"compiled in {cost:.0f} s; a step takes {after:.3f} s, {before:.3f} s without"
    if gain <= 0:
        return f"{summary}; it does not pay, set train.compile=false"
    return f"{summary}; it pays from step {began + WARM_UP + TIMED + int(cost / gain) + 1} on"
