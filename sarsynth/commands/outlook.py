"""What is still to be made of a sweep, and how long that will take by the cards of the store. Torch-free.

The whole sweep is planned before its first job or as that begins (`planning.foresee`), and what was found is left in a
file; the process that started the jobs reads it, and looks at the store from time to time. Cards of the store say how
long things take. Of what nothing alike was made here before, cards of the demo on another machine say it roughly, at
the pace of what was made here; of what has no such card either, nothing is said until it was made.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from sarsynth.files import write_json
from sarsynth.report.pieces import duration
from sarsynth.store.artifacts import CARD
from sarsynth.store.costs import ATTEMPTS, Machine, Rates, Work, read_attempts

OUTLOOK = "outlook.json"  # beside what jobs write for the screen: what the first one found out about the whole sweep
KINDS = {"synthetic": "set of images", "cache": "cache", "partition": "partition"}  # others are called what they are
MOST_UNTIMED = 1 / 3  # of what is left: of more, cards do not tell how long it takes


@dataclass(frozen=True)
class Due:
    """An artifact that a sweep needs and that was not there as it began."""

    kind: str
    label: str
    fingerprint: str | None  # None as long as something that it follows from is not there
    work: Work | None  # in it, None if nobody counts it
    precision: str | None
    machine: Machine  # where it is made
    jobs: list[int]  # that need it, by number


@dataclass(frozen=True)
class Look:
    """How far a sweep is."""

    made: int  # artifacts
    due: int  # of how many that were missing
    seconds: float | None  # that the rest will take, as far as cards tell; None if they tell nothing
    untimed: int  # artifacts of the rest of which they do not tell
    rough: bool = False  # whether cards of another machine tell of some

    def __str__(self) -> str:
        if self.made == self.due:
            return "all is made; scores, pictures and report are to come"
        known = f"{self.made} of {self.due} made"
        if self.seconds is None:
            return f"{known}; the time left is told once cards tell of the like of the rest"
        return f"{known}, {self.time} left"

    @property
    def time(self) -> str:
        """How long the rest takes; at least so long where cards do not tell of all of it."""
        how = "at least" if self.untimed else "roughly" if self.rough else "about"
        return f"{how} {duration(self.seconds or 0)}"


class Outlook:
    """What is still to be made.

    Args:
        due: What was missing as the sweep began, in the order of making.
        there: How many artifacts were there.
        store: Their root.
        began: When this was found out, as `time.time` tells.
    """

    def __init__(self, due: Sequence[Due], there: int, store: Path, began: float) -> None:
        self.due, self.there, self.store, self.began = list(due), there, store, began

    def write(self, file: Path) -> None:
        """Leave it for another process."""
        due = [asdict(one) for one in self.due]
        write_json(file, {"due": due, "there": self.there, "store": str(self.store), "began": self.began})

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `write` left.

        Raises:
            FileNotFoundError: Nothing yet.
        """
        content = json.loads(file.read_text(encoding="utf-8"))
        return cls([_due(one) for one in content["due"]], content["there"], Path(content["store"]), content["began"])

    def look(self, at_once: int) -> Look:
        """See how far things are.

        Args:
            at_once: Jobs that run side by side. They share out what is left, as far as it is not all of one job.
        """
        made, begun = self._made(), self._begun()
        rest = [one for one in self.due if not _took(made, one)]
        rates, elsewhere = Rates.read(self.store), Rates.elsewhere()
        pace = rates.pace(elsewhere)
        total, by_job, untimed, rough = 0.0, Counter[int](), 0, False
        for one in rest:
            seconds = rates.expect(one.work, one.precision, one.machine).seconds if one.work else 0.0
            if seconds is None and one.work:
                seconds = elsewhere.expect(one.work, one.precision, one.machine).seconds
                seconds, rough = (seconds, rough) if seconds is None else (pace * seconds, True)
            if seconds is None:
                untimed += 1
                continue
            elapsed = begun.get((one.kind, one.label), [])
            seconds = max(0.0, seconds - (elapsed.pop() if elapsed else 0.0))
            total += seconds
            by_job.update(dict.fromkeys(one.jobs, seconds))
        left = max([total / at_once, *by_job.values()])
        known = untimed <= len(rest) * MOST_UNTIMED
        return Look(len(self.due) - len(rest), len(self.due), left if known else None, untimed, rough)

    def lines(self, at_once: int) -> list[str]:
        """Say what there is and what is to be made."""
        if not self.due:
            return [f"all {self.there} artifacts are there already"]
        kinds = Counter(one.kind for one in self.due)
        parts = [f"{count} {KINDS.get(kind, kind)}{'s' * (count > 1)}" for kind, count in kinds.items()]
        parts = [part.replace("set of imagess", "sets of images") for part in parts]
        look = self.look(at_once)
        if look.seconds is None:
            time_left = "how long it takes is told once some of it is there: no card of this store tells of its like"
        elif look.rough:
            time_left = f"{look.time}, by what its like took on two other cores; soon told by this machine's pace"
        else:
            time_left = f"{look.time}, by what the like of it took here"
        return [f"{self.there} artifacts are there, {len(self.due)} to make: {', '.join(parts)}", time_left]

    def _made(self) -> Counter[tuple[str, str, str | None]]:
        """What was made since, by kind, label and fingerprint; and by kind and label alone."""
        known = {(one.kind, one.label, one.fingerprint) for one in self.due}
        made: Counter[tuple[str, str, str | None]] = Counter()
        for card in self.store.glob(f"[!.]*/[!.]*/{CARD}"):
            label, _, fingerprint = card.parent.name.rpartition("-")
            key = (card.parents[1].name, label, fingerprint)
            if key in known:
                made[key] += 1
            elif card.stat().st_mtime >= self.began:
                made[(*key[:2], None)] += 1
        return made

    def _begun(self) -> dict[tuple[str, str], list[float]]:
        """Seconds spent so far on what is being made, by kind and label."""
        begun: dict[tuple[str, str], list[float]] = {}
        for note in self.store.glob(f"[!.]*/.*.partial/{ATTEMPTS}"):
            with suppress(OSError, KeyError):
                costs = read_attempts(note.parent)
                label = note.parent.name.removeprefix(".").removesuffix(".partial").rpartition("-")[0]
                spent = costs["seconds"] + max(0.0, time.time() - costs.get("started", time.time()))
                begun.setdefault((note.parents[1].name, label), []).append(spent)
        return begun


def _due(plain: Mapping[str, Any]) -> Due:
    work, machine = plain["work"], Machine(**plain["machine"])
    return Due(**{**plain, "work": Work(**work) if work else None, "machine": machine})


def _took(made: Counter[tuple[str, str, str | None]], one: Due) -> bool:
    """Whether an artifact is among those made; each counts for one."""
    key = (one.kind, one.label, one.fingerprint)
    if not made[key]:
        return False
    made[key] -= 1
    return True
