"""How a benchmark measures: rates between synchronised marks, time limits, peak memory, and what machine this is."""

import gc
import importlib.metadata
import os
import platform
import resource
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

from sarsynth.diffusion.denoising import Denoiser

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

PACKAGES = ("lightning", "diffusers", "transformers", "timm")


class EnoughError(Exception):
    """A training has been measured and need not go on."""


class TooLongError(Exception):
    """A case took longer than it may."""


@dataclass(frozen=True)
class Effort:
    """How long a case is measured.

    Attributes:
        warmup: Steps that do not count: kernels are compiled and chosen, memory is taken.
        window: Steps between two marks.
        windows: Marks after the first, which is how often a rate is measured.
        limit: Seconds after which no further window begins.
    """

    warmup: int
    window: int
    windows: int
    limit: float

    @property
    def steps(self) -> int:
        """All steps of a measured training."""
        return self.warmup + self.window * self.windows


@dataclass(frozen=True)
class Figure:
    """One number: the median of `repeats` values between `low` and `high`."""

    what: str
    unit: str
    value: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, what: str, unit: str, values: Sequence[float]) -> Self:
        """Sum up repeated values, at least one."""
        return cls(what, unit, statistics.median(values), min(values), max(values), len(values))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, rounded to four digits."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


class Clock(Callback):
    """Time the steps of a training in windows; end it once they are full or the time is up.

    The card is waited for at the marks alone, so that steps overlap as in any training.
    """

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self.marks: list[float] = []
        self.samples = 0  # a step, of all adapters that train together
        self.parts = 1  # of a step, where memory does not hold it as a whole
        self.step = 0

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Take a mark where a window ends."""
        if trainer.global_step == self.step:
            return  # an optimiser step may take several batches
        self.step = trainer.global_step
        if self.step < self.effort.warmup or (self.step - self.effort.warmup) % self.effort.window:
            return
        runs = sum(self.step <= group.max_steps for group in module.groups) if isinstance(module, Denoiser) else 1
        self.samples = trainer.datamodule.batch_size * runs  # type: ignore[attr-defined]
        self.parts = trainer.accumulate_grad_batches  # type: ignore[assignment]
        synchronize()
        self.marks.append(time.perf_counter())
        full = len(self.marks) > self.effort.windows
        late = self.marks[-1] - self.marks[0] > self.effort.limit
        if (full or late) and self.step < trainer.max_steps:
            raise EnoughError

    def figures(self) -> list[Figure]:
        """Rates of the windows.

        Raises:
            TooLongError: No window was completed.
        """
        seconds = [end - begin for begin, end in zip(self.marks, self.marks[1:], strict=False)]
        if not seconds:
            raise TooLongError(f"{self.step} steps in {self.effort.limit:.0f} s")
        steps = [self.effort.window / each for each in seconds]
        figures = [
            Figure.of("samples a second", "1/s", [self.samples * rate for rate in steps]),
            Figure.of("steps a second", "1/s", steps),
        ]
        at_once = Figure.of("samples at once", "", [self.samples / self.parts])
        return [*figures, at_once] if self.parts > 1 else figures


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, as soon as it is back in Python.

    Raises:
        TooLongError: It did.
    """

    def interrupt(*_: Any) -> None:
        raise TooLongError(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def synchronize() -> None:
    """Wait until the card has done all it was given; nothing without a card."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def release() -> None:
    """Give back the memory of the last case, and measure the peak anew."""
    gc.collect()  # a trainer and its module hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> list[Figure]:
    """Most memory in use: of the card since `release`, elsewhere of this process in its whole life."""
    if device != "cuda":
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return [Figure.of("peak memory, process", "GB", [kilobytes * 1024 / 1e9])]
    return [
        Figure.of("peak memory", "GB", [torch.cuda.max_memory_allocated() / 1e9]),
        Figure.of("peak memory, reserved", "GB", [torch.cuda.max_memory_reserved() / 1e9]),
    ]


def machine() -> dict[str, Any]:
    """Say what these figures were measured on."""
    processor = torch.cpu.get_capabilities().get("cpu_name")
    facts: dict[str, Any] = {"card": "none", "processor": processor, "processors": os.cpu_count()}
    facts |= {"python": platform.python_version()}
    facts |= {name: importlib.metadata.version(name) for name in PACKAGES}
    facts |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "card": card.name,
            "cards": torch.cuda.device_count(),
            "capability": f"{card.major}.{card.minor}",
            "memory_gb": _rounded(card.total_memory / 1e9),
            "driver": _driver(),
        }
    return facts


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        return told.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def missing_cuda() -> str | None:
    """Say in one line what is missing for work on a CUDA card; None if nothing is."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install the build of requirements.txt (make install)"
    try:
        torch.cuda.init()
        if not torch.cuda.device_count():
            return "torch sees no CUDA card; see nvidia-smi and CUDA_VISIBLE_DEVICES"
        torch.ones(1, device="cuda").add_(1).item()
    except Exception as error:  # no driver, one too old, a card that this build has no kernels for
        reason = str(error).strip().split("\n")[0]
        return f"no usable CUDA card: {reason} (torch {torch.__version__}, CUDA {torch.version.cuda})"
    return None
