"""A contest: the same work done by this package and by a named peer, in turns, so that both meet the same machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from measuring import synchronize

Step = Callable[[], object]


@dataclass(frozen=True)
class Lap:
    """What one turn took, in seconds."""

    wall: float
    cpu: float  # of all threads of this process, user and system

    @classmethod
    def of(cls, step: Step) -> "Lap":
        """Time one call."""
        begin = Mark()
        step()
        return begin.lap()


class Mark:
    """A moment, from which a lap is measured."""

    def __init__(self) -> None:
        synchronize()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self) -> Lap:
        """The time since then."""
        synchronize()
        return Lap(time.perf_counter() - self._wall, time.process_time() - self._cpu)


@dataclass(frozen=True)
class Rival:
    """How somebody else does the work.

    Attributes:
        name: The package, its version and what of it.
        step: One turn.
        times: Turns that make up one of ours: 4 where ours does the work of four.
    """

    name: str
    step: Step
    times: int = 1


@dataclass
class Laps:
    """The laps of both sides of a contest, turn by turn."""

    ours: list[Lap] = field(default_factory=list)
    rivals: dict[str, list[Lap]] = field(default_factory=dict)  # scaled to one of our turns


def take_turns(ours: Step, rivals: Sequence[Rival], rounds: int, warmup: int = 2) -> Laps:
    """Let both sides work in turns; who comes first alternates."""
    laps = Laps(rivals={rival.name: [] for rival in rivals})
    for step in (ours, *(rival.step for rival in rivals)):
        for _ in range(warmup):
            step()
    for number in range(rounds):
        turns: list[tuple[list[Lap], Step, int]] = [(laps.ours, ours, 1)]
        turns += [(laps.rivals[rival.name], rival.step, rival.times) for rival in rivals]
        for kept, step, times in turns if number % 2 == 0 else reversed(turns):
            lap = Lap.of(step)
            kept.append(Lap(lap.wall * times, lap.cpu * times))
    return laps


class Beside(Callback):
    """Let rivals take a turn after each step of one of our trainings, whose lap is all that Lightning does for it."""

    def __init__(self, rivals: Sequence[Rival], warmup: int = 2) -> None:
        self.rivals, self.warmup, self._turn, self._mark = rivals, warmup, 0, Mark()
        self.laps = Laps(rivals={rival.name: [] for rival in rivals})

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Note our lap, then those of the others."""
        own = self._mark.lap()
        others = {rival.name: Lap.of(rival.step) for rival in self.rivals}
        self._turn += 1
        if self._turn > self.warmup:
            self.laps.ours.append(own)
            for rival in self.rivals:
                lap = others[rival.name]
                self.laps.rivals[rival.name].append(Lap(lap.wall * rival.times, lap.cpu * rival.times))
        self._mark = Mark()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        claim: What was done.
        unit: Of the medians.
        ours: Median CPU seconds of a turn, on a card wall seconds.
        theirs: Of the fastest rival; None without one.
        peer: That rival.
        ratio: Median over turns of the rival's time to ours: more than 1 is quicker; by what `ours` is measured in.
        low: Its lowest quarter.
        high: Its highest quarter.
        wall_ratio: The same of wall time.
        turns: How many.
        goal: What the project set itself: a ratio, without a rival seconds; None for none.
        memory: Peak of ours and of the rival alone in a process, bytes; None where it was not measured.
    """

    claim: str
    peer: str
    ours: float
    theirs: float | None
    ratio: float | None
    low: float | None
    high: float | None
    wall_ratio: float | None
    turns: int
    goal: float | None = None
    memory: tuple[float, float] | None = None
    unit: str = "s"

    @property
    def reached(self) -> bool | None:
        """Whether the goal was; None without one."""
        if self.goal is None:
            return None
        return self.ours <= self.goal if self.ratio is None else self.ratio >= self.goal


def judged(claim: str, laps: Laps, *, goal: float | None = None, by: str = "cpu") -> Row:
    """Sum up a contest against the fastest of its rivals.

    Args:
        claim: What was done.
        laps: Of both sides.
        goal: A ratio; without a rival seconds.
        by: `cpu` or `wall`: which time decides.
    """
    own = [getattr(lap, by) for lap in laps.ours]
    if not laps.rivals:
        return Row(claim, "", statistics.median(own), None, None, None, None, None, len(own), goal)
    medians = {name: statistics.median(getattr(lap, by) for lap in kept) for name, kept in laps.rivals.items()}
    peer = min(medians, key=lambda name: medians[name])
    ratios = ratios_of(laps, peer, by)
    quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Row(
        claim,
        peer,
        statistics.median(own),
        medians[peer],
        statistics.median(ratios),
        quarters[0],
        quarters[2],
        statistics.median(ratios_of(laps, peer, "wall")),
        len(own),
        goal,
    )


def ratios_of(laps: Laps, peer: str, by: str) -> list[float]:
    """A rival's time to ours, turn by turn."""
    return [getattr(theirs, by) / getattr(own, by) for own, theirs in zip(laps.ours, laps.rivals[peer], strict=True)]


def rows_of(found: Mapping[str, Any]) -> list[Row]:
    """The rows of a record."""
    return [Row(**row) for row in found["rows"]]
