"""How time and memory grow with the size of a data set, with the number of adapters K, and with the cells of a sweep.

    OMP_NUM_THREADS=1 python benchmarks/growth.py [--sizes 1000 10000] [--adapters 1 2 4 8] [--cells 10 100] [--record]

Every figure is of a process of its own, which finds in the store what it needs, and makes one thing: its CPU seconds,
and its peak memory beyond what the libraries take. The images are simulated
(`data=sim`), so that a scan draws them too. The slope is that of log cost over log size between the last two sizes: 1
is linear, 0 is no growth. `--record` writes docs/growth.json, and the table between the marks of docs/speed.md.
"""

import argparse
import math
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sarsynth.commands import evaluate
from sarsynth.commands.session import quieten
from sarsynth.config.composition import settings_of
from sarsynth.console import console
from sarsynth.evidence.fidelity import fidelity
from sarsynth.files import write_json, write_text
from sarsynth.report.closing import sum_up
from sarsynth.stages import encode_images, find_prototypes, generate_images, open_images, train_adapters
from sarsynth.stages.study import Study
from sarsynth.tracking import Tracker

import torch
import yaml
from measuring import machine
from recording import between_marks

MARKS = "<!-- figures of growth.py -->", "<!-- end of figures of growth.py -->"
DOCS = Path(__file__).parents[1] / "docs"
HEADS = ("what", "over", "CPU time", "slope", "peak memory beyond the libraries", "slope")
STEPS = 8, 24  # of trainings, whose difference is what steps cost; the rest is the start
SHARE = 50  # one synthetic image of each minor class for so many real ones
WIDTH = 192  # of a feature of the demo's classifier
CELLS = "resample", "lora"  # the row that the others are compared with, and the others
CELL = ("experiment=smoke", "data.test=200", "seeds=[0,1,2,3,4]", "evaluate.replicates=2000")
NEGLIGIBLE = 0.5, 32e6  # seconds and bytes below which a slope says nothing


@dataclass(frozen=True)
class Point:
    """One measurement: what it took at a size."""

    size: int
    seconds: float  # CPU
    memory: float  # bytes beyond the beginning


@dataclass(frozen=True)
class Row:
    """What is made, over what it grows, and what it took."""

    what: str
    over: str
    points: Sequence[Point]
    note: str = ""

    def slope(self, key: str) -> float | None:
        """That of log cost over log size between the last two sizes; None where costs are too small to tell."""
        if len(self.points) < 2:
            return None
        (first, last), least = self.points[-2:], NEGLIGIBLE[key == "memory"]
        costs = [max(getattr(point, key), least) for point in (first, last)]
        return math.log(costs[1] / costs[0]) / math.log(last.size / first.size)


# --- In a process of its own ------------------------------------------------------------------------------------------


def overrides(size: int, adapters: int, steps: int, scratch: Path) -> list[str]:
    """A study of so many training images, whose SAR adapters stand on the base alone."""
    each = ", ".join(f"{name}: {size // 5}" for name in ("cargo", "other", "fishing", "tanker", "dredger"))
    return [
        *("method=plora", "stage2_on=base", "prototypes.features=base", f"prototypes.k={adapters}", "method.rank=8"),
        *(f"data.train={{{each}}}", "data.test=1", "data.minor=[tanker,dredger]", "ors.train=2", "ors.test=1"),
        *("train.micro_batch=64", f"train.sar.max_steps={steps * adapters}", "train.sar.batch_size=8"),
        *("train.ors.max_steps=2", "train.ors.warmup_steps=1", "train.ors.batch_size=4"),
        *(f"generate.per_class={max(2, size // SHARE)}", "generate.num_inference_steps=2"),
        f"paths.store={scratch / 'store'}",
    ]


def prepared(stage: str, size: int, adapters: int, steps: int, scratch: Path) -> Callable[[], Any]:
    """What is to be measured; all that comes before has been asked for, and is in the store."""
    if stage == "fidelity":
        return _fidelity(size)
    if stage == "report":
        return sweep_of(size, scratch)
    if stage in CELLS:
        return lambda: _cell(stage, scratch)
    study = Study(settings_of("evaluate", overrides(size, adapters, steps, scratch / str(size))), Tracker(None))
    study.compute.enter()
    if stage == "scan":
        return lambda: (open_images.scanned(study, "sar"), open_images.paired(study, "sar"))
    if stage == "encode":
        return lambda: encode_images.encoded(study, "sar")
    encode_images.encoded(study, "sar")
    if stage == "cluster":
        return lambda: find_prototypes.prototypes(study)
    trainings = train_adapters.sar_trainings(study)
    if stage == "adapters":
        return lambda: train_adapters.train(trainings)
    train_adapters.train(trainings)
    train_adapters.ors_adapter(study)
    return lambda: generate_images.sampled(study)


def _fidelity(size: int) -> Callable[[], Any]:
    """Real and synthetic features, as many of each, of five classes."""
    draw = torch.Generator().manual_seed(0)
    real, synthetic = (torch.randn(size, WIDTH, generator=draw) * scale for scale in (1.0, 1.1))
    labels = torch.arange(size) % 5
    return lambda: fidelity(real, labels, synthetic, labels, ["cargo", "other", "fishing", "tanker", "dredger"])


def _cell(method: str, scratch: Path) -> None:
    """Run a cell for the sweeps."""
    said = [*CELL, f"method={method}", f"paths.store={scratch / 'store'}"]
    record = scratch / method / ".hydra" / "overrides.yaml"
    record.parent.mkdir(parents=True)
    write_text(record, yaml.safe_dump(said))
    evaluate.run(settings_of("evaluate", said), scratch / method, said)


def sweep_of(size: int, scratch: Path) -> Callable[[], Any]:
    """A sweep of so many cells: a row to compare with, and the others, which differ in a setting."""
    sweep = scratch / f"sweep_{size}"
    for number in range(size):
        method = CELLS[number > 0]
        shutil.copytree(scratch / method, sweep / str(number))
        write_text(
            sweep / str(number) / ".hydra" / "overrides.yaml",
            yaml.safe_dump([*CELL, f"method={method}", f"train.sar.max_steps={number}"]),
        )
    return lambda: sum_up(sweep, scratch / "store")


def alone(stage: str, size: int, adapters: int, steps: int, scratch: Path) -> Point:
    """Measure one thing."""
    console.quiet = True
    work = prepared(stage, size, adapters, steps, scratch)
    memory, begun = _memory("VmRSS"), time.process_time()
    work()
    return Point(size, time.process_time() - begun, max(0, _memory("VmHWM") - memory))


def _memory(key: str) -> int:
    """Of this process in bytes: now (VmRSS), or at its peak (VmHWM)."""
    (kilobytes,) = re.findall(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(kilobytes) * 1024


# --- All of them ------------------------------------------------------------------------------------------------------


def measured(stage: str, size: int, scratch: Path, adapters: int = 2, steps: int = STEPS[0]) -> Point:
    """Measure one thing in a process of its own, which has the libraries of this one."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(alone, (stage, size, adapters, steps, scratch))


def rows(sizes: Sequence[int], adapters: Sequence[int], cells: Sequence[int], scratch: Path) -> Iterator[Row]:
    """Measure everything, a row after the other."""
    yield Row(f"fidelity, as many synthetic as real, {WIDTH} wide", "images", _over("fidelity", sizes, scratch))
    for method in CELLS:
        measured(method, 0, scratch)
    yield Row("report and tables of a sweep", "cells", _over("report", cells, scratch), _page(cells[-1], scratch))
    yield Row("scan: each image drawn and hashed, near-duplicates", "images", _over("scan", sizes, scratch))
    yield Row("latents of both views", "images", _over("encode", sizes, scratch))
    yield Row("clusters", "images", _over("cluster", sizes, scratch))
    yield from _adapters("images", [(size, 2) for size in sizes], scratch)
    yield Row(f"2 x 1/{SHARE} as many images, 2 steps each", "images", _over("generate", sizes, scratch))
    apart = scratch / "adapters"  # where none has been trained yet
    for number in adapters:
        measured("cluster", sizes[0], apart, number)
    yield from _adapters("adapters", [(sizes[0], number) for number in adapters], apart)


def _over(stage: str, sizes: Sequence[int], scratch: Path) -> list[Point]:
    return [measured(stage, size, scratch) for size in sizes]


def _adapters(over: str, cases: Sequence[tuple[int, int]], scratch: Path) -> list[Row]:
    """Trainings of few and of more steps: what is left of no steps, and what ten of them cost."""
    start, ten = [], []
    for size, adapters in cases:
        few, more = (measured("adapters", size, scratch, adapters, steps) for steps in STEPS)
        step = max(0.0, more.seconds - few.seconds) / (STEPS[1] - STEPS[0])
        place = adapters if over == "adapters" else size
        start.append(Point(place, max(0.0, few.seconds - STEPS[0] * step), few.memory))
        ten.append(Point(place, 10 * step, more.memory))
    of = "K = 2" if over == "images" else f"{cases[0][0]:,} images"
    return [
        Row(f"start of adapters' training, {of}", over, start),
        Row(f"ten steps of it, 8 images an adapter, {of}", over, ten),
    ]


def _page(cells: int, scratch: Path) -> str:
    size = (scratch / f"sweep_{cells}" / "report.html").stat().st_size
    return f"; the page of {cells} has {size / 1e6:.1f} MB"


def cells_of(row: Row) -> list[str]:
    """A row as text."""
    sizes = ", ".join(f"{point.size:,}" for point in row.points)
    slopes = [row.slope(key) for key in ("seconds", "memory")]
    told = ["" if slope is None else f"{slope:.2f}" for slope in slopes]
    seconds = ", ".join(f"{point.seconds:.2f}" for point in row.points)
    memory = ", ".join(f"{point.memory / 1e6:.0f}" for point in row.points)
    return [row.what + row.note, f"{sizes} {row.over}", f"{seconds} s", told[0], f"{memory} MB", told[1]]


def markdown(found: Sequence[Row], about: str) -> str:
    """The table, below what it was measured on."""
    lines = [list(HEADS), ["---"] * 2 + ["---:"] * 4, *map(cells_of, found)]
    return f"{about}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def record(found: Sequence[Row], docs: Path = DOCS) -> None:
    """Write the record, and put the table into the page."""
    facts = ", ".join(f"{key} {value}" for key, value in machine().items() if value is not None)
    about = f"`python benchmarks/growth.py`, one thread beside other work: {facts}."
    write_json(docs / "growth.json", {"machine": machine(), "rows": [asdict(row) for row in found]})
    page = docs / "speed.md"
    if page.is_file():
        write_text(page, between_marks(page.read_text(encoding="utf-8"), markdown(found, about), MARKS))


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10_000], help="training images, in order")
    parser.add_argument("--adapters", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--cells", nargs="+", type=int, default=[10, 100], help="of a sweep")
    parser.add_argument("--record", action="store_true", help="row by row, so that a run that is ended has a record")
    asked = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    found: list[Row] = []
    with TemporaryDirectory() as scratch:
        for row in rows(asked.sizes, asked.adapters, asked.cells, Path(scratch)):
            found.append(row)
            console.print("; ".join(filter(None, cells_of(row))), highlight=False, markup=False, soft_wrap=True)
            if asked.record:
                record(found)


if __name__ == "__main__":
    main()
