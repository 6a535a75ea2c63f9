"""What artifacts cost: the work in each, the time, memory and disk that it took, and what the like of it will take.

Each artifact's card says what it cost; there is no other record. What is still to be made is estimated from the cards
of what is most like it. Torch is never imported here.
"""

import json
import math
import re
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sarsynth.files import write_json

ATTEMPTS = ".attempts.json"
ELSEWHERE = Path(__file__).parents[1] / "assets" / "costs.json"  # cards of the demo, made on two cores
TOLD = frozenset({"work", "precision", "processes", "device", "created", "seconds", "peak_memory_bytes", "disk_bytes"})
TOLD_OF_WORK = frozenset({"task", "unit", "amount", "like", "passes", "batch"})  # all that is told of costs by a card
PER_SAMPLE = "samples"  # the unit of trainings: more of them make nothing larger


@dataclass(frozen=True)
class Work:
    """How much there is to do for an artifact, and what decides how long that takes."""

    task: str  # what is done: `adapter`, `latents`, …
    unit: str  # to what: `samples` of a training, `images`, `texts`
    amount: int  # to how many of them
    # what else the time for one of them depends on: base, network, size in px, …
    like: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 1  # through a network for each one, where a setting says how many
    batch: int | None = None  # how many are in memory at once, where a setting says so
    disk_bytes: int | None = None  # what the artifact takes, where that is known beforehand
    rough: bool = False  # whether the amount is supposed: an equal share of what is not divided yet

    @property
    def plain(self) -> dict[str, Any]:
        """What a card keeps of it, which knows the rest better."""
        return {key: value for key, value in asdict(self).items() if key not in ("disk_bytes", "rough")}


@dataclass(frozen=True)
class Cost:
    """Wall-clock time, peak memory (of the accelerator if there is one) and disk; None is unknown."""

    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """Where something is to be made, in the words of cards."""

    device: str | None  # its name; None for an accelerator that is not here, of whatever kind
    processes: int | None  # of the job; None if that depends on a machine that is not here


class Rates:
    """What artifacts cost, as cards tell.

    Args:
        cards: What the cards hold; those of other versions, which do not say how much work there was, tell nothing.
    """

    def __init__(self, cards: Iterable[Mapping[str, Any]]) -> None:
        self._cards = [card for card in cards if card.get("work")]

    @classmethod
    def read(cls, root: Path) -> Self:
        """Read the cards of a store; one that is damaged tells nothing."""
        cards = []
        for file in root.glob("[!.]*/[!.]*/card.json"):
            with suppress(OSError, ValueError, RecursionError):
                card = json.loads(file.read_text())
                if isinstance(card, dict) and card.keys() >= TOLD and (card["work"] or {}).keys() >= TOLD_OF_WORK:
                    cards.append(card)
        return cls(cards)

    @classmethod
    def elsewhere(cls) -> Self:
        """What the demo took on another machine, for a store without cards; its times say little of this machine."""
        return cls(json.loads(ELSEWHERE.read_text()))

    def pace(self, others: Self) -> float:
        """Tell how many times as long things took as by the cards of others; 1 where nothing is alike."""
        ours, theirs = 0.0, 0.0
        for card in self._cards:
            work = Work(**card["work"])
            seconds = others.expect(work, card["precision"], Machine(card["device"], card["processes"])).seconds
            if seconds is not None:
                ours, theirs = ours + card["seconds"], theirs + seconds
        return ours / theirs if ours and theirs else 1.0

    def expect(self, work: Work, precision: str | None, machine: Machine) -> Cost:
        """Estimate what some work will cost from the artifact that is most like it: nearest in amount, then newest.

        Memory is that of such an artifact of the same batch. Disk grows with what is made, not with steps of a
        training.

        Args:
            work: What is to be done.
            precision: In which precision networks do it, None where there is no network.
            machine: Where.
        """
        alike = [card for card in self._cards if _alike(card, work, precision, machine)]
        alike.sort(key=lambda card: card["created"], reverse=True)
        alike.sort(key=lambda card: abs(math.log(_effort(card["work"]) / _effort(work.plain))))
        seconds, memory, disk = None, None, work.disk_bytes
        if alike:
            seconds = alike[0]["seconds"] * _effort(work.plain) / _effort(alike[0]["work"])
            same = [card for card in alike if card["work"]["batch"] == work.batch]
            memory = same[0]["peak_memory_bytes"] if same else None
            if disk is None:
                share = 1 if work.unit == PER_SAMPLE else work.amount / max(1, alike[0]["work"]["amount"])
                disk = math.ceil(alike[0]["disk_bytes"] * share)
        return Cost(seconds, memory, disk)


def _alike(card: Mapping[str, Any], work: Work, precision: str | None, machine: Machine) -> bool:
    theirs, ours = card["work"], work.plain
    if any(theirs[key] != ours[key] for key in ("task", "unit", "like")) or card["precision"] != precision:
        return False
    if machine.processes is not None and card["processes"] != machine.processes:
        return False
    if precision is None:  # no network: whatever accelerator there is does nothing
        return True
    return card["device"] == machine.device if machine.device else card["device"] != "cpu"


def _effort(work: Mapping[str, Any]) -> int:
    return max(1, work["amount"] * work["passes"])


# --- What is measured while an artifact is made -----------------------------------------------------------------------


def read_attempts(folder: Path) -> dict[str, Any]:
    """Read what the attempts at an artifact took so far; a note that is lost or damaged tells nothing."""
    with suppress(OSError, ValueError, RecursionError):
        past = json.loads((folder / ATTEMPTS).read_text())
        if isinstance(past, dict) and all(isinstance(number, int | float) for number in past.values()):
            return past
    return {}


class Attempt:
    """The cost of an artifact, summed in a small file of the partial folder over the attempts it takes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / ATTEMPTS
        past = read_attempts(folder)
        self.seconds: float = past.get("seconds", 0.0)
        self.peak_memory_bytes: int = past.get("peak_memory_bytes", 0)
        if "started" in past:  # killed, so it could not say how long it worked; the last file it wrote does
            last = max(file.stat().st_mtime for file in folder.rglob("*"))
            self.seconds += max(0.0, last - past["started"])

    def __enter__(self) -> Self:
        _reset_peak_memory()
        self.began = time.monotonic()
        write_json(self.file, self._costs() | {"started": time.time()})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.monotonic() - self.began
        self.peak_memory_bytes = max(self.peak_memory_bytes, _peak_memory())
        write_json(self.file, self._costs())

    def _costs(self) -> dict[str, float]:
        return {"seconds": self.seconds, "peak_memory_bytes": self.peak_memory_bytes}


def _cuda() -> Any | None:
    """`torch.cuda` if the builder used it. The store itself never imports torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def device() -> str:
    """Name what this process computes on."""
    cuda = _cuda()
    return cuda.get_device_name() if cuda else "cpu"


def _reset_peak_memory() -> None:
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()
    with suppress(OSError):  # where there is no such file, the peak is that of the process's whole life
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from what is resident now


def _peak_memory() -> int:
    """Peak bytes on the accelerator if one was used, else resident in this process."""
    if cuda := _cuda():
        return cuda.max_memory_allocated()
    try:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
    except (OSError, TypeError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
