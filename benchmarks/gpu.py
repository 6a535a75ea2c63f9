"""What a CUDA card makes of this package: rates, memory, agreement with the CPU, the GPU-hours of the paper's Table 3.

    python benchmarks/gpu.py [--minutes 8]
    python benchmarks/gpu.py --check
    python benchmarks/gpu.py --device cpu --size sd-nano --record FOLDER

The stages that users run, at the size of Stable Diffusion v1.5 with random weights: no network, 3 GB of scratch space.
Prints tables, writes docs/gpu.json, and puts its figures between the marks of docs/gpu.md and of the README; a run of
another size, or of some cases alone, is recorded where `--record` says. `--check` says in one line whether there is a
card. `--size sd-nano` is the same in miniature, to try it. What does not fit in memory or time is a row that says so;
what fails is one, and exit code 1.
"""

import argparse
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs the hub

from sarsynth import __version__
from sarsynth.commands.session import quieten
from sarsynth.console import console
from sarsynth.errors import UserError, one_line

import torch
from agreement import agreement
from measured import Bench, controlled, encoding, generation, training
from measuring import Effort, Figure, TooLongError, machine, missing_cuda, peak_memory, release, time_limit
from recording import print_tables, record
from sd15 import save_random
from table3 import OVERRIDES, PUBLISHED, jobs_of, works

PRECISIONS = ("bf16-mixed", "16-mixed", "32-true")
DOCS = Path(__file__).parents[1] / "docs"
CASE_LIMIT = 150.0  # seconds, loading of the base included
COMPILE_LIMIT = 300.0  # of a case that compiles


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        key: What the table of costs calls its rate.
        name: For people.
        run: Measures it.
        overrides: Of the settings, as on a command line.
        lower: Overrides that are tried where it does not fit.
        lacks: Says what there is not that it needs; None where nothing is amiss.
        limit: Seconds that it may take.
    """

    key: str
    name: str
    run: Callable[[Bench, tuple[str, ...]], list[Figure]]
    overrides: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    lacks: Callable[[Bench], str | None] = lambda bench: None
    limit: float = CASE_LIMIT


@dataclass
class Outcome:
    """What became of a case: `measured`, `does not fit`, `skipped` or `failed`."""

    key: str
    name: str
    status: str
    overrides: tuple[str, ...] = ()
    precision: str | None = None
    note: str = ""
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {key: value for key, value in vars(self).items() if key != "figures"}
        figures = [figure.as_dict() for figure in self.figures]
        return plain | {"overrides": [*self.overrides], "seconds": round(self.seconds, 1), "figures": figures}


def _no_card(bench: Bench) -> str | None:
    return None if bench.device == "cuda" else "a CUDA card"


def _no_compiler(bench: Bench) -> str | None:
    return _no_card(bench) or (None if shutil.which("cc") or shutil.which("gcc") else "a C compiler")


def cases(small: int, large: int) -> list[Case]:
    """What is measured, what matters most first, at two sizes of images in px."""
    sar, at, wide = "stage=sar", f"base.image_size={small}", f"base.image_size={large}"
    lora, micro = (sar, "method=lora"), ("train.micro_batch=8",)
    plora = (sar, "method=plora", "stage2_on=base", "prototypes.features=base", "prototypes.k=4", at)
    contours = ("stage=controlnet", "controlnet.on=sar", "controlnet.init=unet", at)
    return [
        Case("classifier", "classifier", training, ("stage=classifier",)),
        Case("lora", f"LoRA, {small} px", training, (*lora, at), micro),
        Case("generation", f"generation, {small} px", generation, (at,)),
        *(
            Case(
                f"agreement, {precision}",
                f"agreement with the CPU, {precision}",
                agreement,
                (f"trainer.precision={precision}",),
                lacks=_no_card if precision != "bf16-mixed" else Case.lacks,
            )
            for precision in PRECISIONS
        ),
        Case("plora", f"plora, K = 4, {small} px", training, plora, micro),
        Case("finetune", f"whole U-Net, {small} px", training, (sar, "method=finetune", at), micro),
        Case("controlnet", f"ControlNet, {small} px", training, contours, micro),
        Case("encoding", f"encoding, {small} px", encoding, (at,)),
        Case("generation, contours", f"generation with a ControlNet, {small} px", controlled, (at,)),
        Case("lora, large", f"LoRA, {large} px", training, (*lora, wide), micro),
        Case("generation, large", f"generation, {large} px", generation, (wide,)),
        *(
            Case(
                f"lora, {precision}",
                f"LoRA, {small} px, {precision}",
                training,
                (*lora, at, f"trainer.precision={precision}"),
                micro,
                lacks=_no_card,
            )
            for precision in PRECISIONS[1:]
        ),
        Case(
            "lora, checkpointing",
            f"LoRA, {large} px, activations computed again",
            training,
            (*lora, wide, "train.gradient_checkpointing=true"),
            micro,
        ),
        Case(
            "lora, compiled",
            f"LoRA, {small} px, compiled",
            training,
            (*lora, at, "train.compile=true"),
            micro,
            lacks=_no_compiler,
            limit=COMPILE_LIMIT,
        ),
    ]


def measure(bench: Bench, case: Case, until: float) -> Outcome:
    """Run one case, with less memory where it does not fit; whatever happens, it is an outcome."""
    outcome = _attempt(bench, case, case.overrides, until)
    if outcome.status == "does not fit" and case.lower:
        again = _attempt(bench, case, (*case.overrides, *case.lower), until)
        again.note = f"only with {' '.join(case.lower)}. {again.note}".strip()
        return again if again.status == "measured" else outcome
    return outcome


def _attempt(bench: Bench, case: Case, overrides: tuple[str, ...], until: float) -> Outcome:
    left, began, bench.precision = until - time.monotonic(), time.monotonic(), None
    outcome = Outcome(case.key, case.name, "skipped", overrides)
    if lacking := case.lacks(bench):
        outcome.note = f"needs {lacking}"
    elif left < 10:
        outcome.note = "the time was up"
    else:
        try:
            with _quietly(), time_limit(min(case.limit, left)):
                outcome.figures = case.run(bench, overrides)
            outcome.figures += peak_memory(bench.device)
            outcome.status = "measured"
        except TooLongError as error:
            outcome.note = str(error)
        except Exception as error:  # one case must not take the others with it
            outcome.status, outcome.note = _told(error)
        outcome.precision, outcome.seconds = bench.precision, time.monotonic() - began
    release()
    return outcome


def _told(error: Exception) -> tuple[str, str]:
    """Say whether memory was too small, or what else went wrong; a defect leaves its traceback on the screen."""
    counted = isinstance(error, UserError) and "memory" in str(error)  # found too small before it was asked for
    if counted or any(isinstance(one, torch.OutOfMemoryError) for one in _chain(error)):
        return "does not fit", one_line(error)
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    return "failed", f"{type(error).__name__}: {one_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the lines of the stages off the screen."""
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = False


def costs(outcomes: list[Outcome], images: dict[str, int]) -> list[dict[str, Any]]:
    """What the jobs of Table 3 would cost at the measured rates: a row for each kind of work."""
    rates = {one.key: one.figures[0].value for one in outcomes if one.status == "measured"}
    rows = []
    for work in works(jobs_of(*OVERRIDES), images):
        hours = work.hours(rates)
        rows.append(vars(work) | {"rate": rates.get(work.rate), "case": work.rate, "hours": hours})
    return rows


def run(bench: Bench, chosen: list[Case], minutes: float, images: dict[str, int]) -> dict[str, Any]:
    """Measure all cases and return what `gpu.json` holds."""
    began = time.monotonic()
    outcomes = []
    for case in chosen:
        console.print(f"  {case.name} …")
        outcomes.append(measure(bench, case, began + 60 * minutes))
        first = outcomes[-1].figures[0] if outcomes[-1].figures else None
        told = f"{first.value:.4g} {first.what}" if first else outcomes[-1].note
        console.print(f"  {case.name}: {outcomes[-1].status}, {told} ({outcomes[-1].seconds:.0f} s)", markup=False)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sarsynth": __version__,
        "size": bench.size,
        "device": bench.device,
        "machine": machine(),
        "seconds": round(time.monotonic() - began, 1),
        "cases": [outcome.as_dict() for outcome in outcomes],
        "table3": {"command": f"python evaluate.py -m {' '.join(OVERRIDES)}", "rows": costs(outcomes, images)},
    }


def main(arguments: list[str] | None = None) -> int:
    """Check, measure, print, record; returns the exit code."""
    asked = _arguments(arguments)
    if (asked.check or asked.device == "cuda") and (lacking := missing_cuda()):
        print(f"error: {lacking}", file=sys.stderr)
        return 1
    if asked.check:
        return 0
    quieten()
    with TemporaryDirectory() as scratch:
        os.environ["SARSYNTH_CACHE"] = scratch  # hashes of what is gone afterwards are no business of the user's
        true = asked.size == "sd15"
        effort = Effort(5, 10, 3, 40.0) if true else Effort(1, 1, 2, 40.0)
        base = Path(asked.base) if asked.base else save_random(Path(scratch) / "sd15") if true else None
        bench = Bench(asked.device, asked.size, Path(scratch), base, effort)
        chosen = cases(256, 512) if true else cases(32, 64)
        if asked.only:
            chosen = [case for case in chosen if case.key in asked.only]
        found = run(bench, chosen, asked.minutes, {"sar": asked.sar, "ors": asked.ors})
    print_tables(found)
    whole = asked.device == "cuda" and true and not asked.only
    if asked.record or whole:
        record(found, Path(asked.record or DOCS))
    return int(any(case["status"] == "failed" for case in found["cases"]))


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="say whether there is a CUDA card, and stop")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=["sd15", "sd-nano"], default="sd15", help="of the base")
    parser.add_argument("--base", help="folder of a base of that size, instead of random weights")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no further case begins")
    parser.add_argument("--only", nargs="*", help="keys of cases, e.g. lora generation")
    parser.add_argument("--sar", type=int, default=PUBLISHED["sar"], help="training images of the SAR set of Table 3")
    parser.add_argument("--ors", type=int, default=PUBLISHED["ors"], help="training images of its ORS set")
    parser.add_argument("--record", help="folder for gpu.json, whose gpu.md takes the figures too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
