"""The card of an artifact: what it is, from what it was made, when, by which code and at what cost."""

import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sarsynth import __version__, processes
from sarsynth.files import write_json
from sarsynth.store.artifacts import CARD, Request
from sarsynth.store.costs import ATTEMPTS, device, read_attempts

FILLED = ".filled"  # the builder is through; what is left are cards and names


def write_cards(requests: Sequence[Request], partials: Mapping[Request, Path], lead: Path) -> None:
    """Say in each folder what it is and what it cost, in this order; `lead` knows the cost of all of them."""
    spent = read_attempts(lead)
    shares, git = _shares(requests), _git_commit()
    for request in requests:
        if (partials[request] / CARD).is_file():
            continue
        facts = {
            "sarsynth": __version__,
            "git": git,
            "device": device(),
            "processes": processes.count(),
            "seconds": round(spent.get("seconds", 0.0) * shares[request], 3),
            "peak_memory_bytes": spent.get("peak_memory_bytes", 0),
            "disk_bytes": _size(partials[request]),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(partials[request] / CARD, request.card() | facts)


def _shares(requests: Sequence[Request]) -> dict[Request, float]:
    """Share the time of one build out among what it made: by work, equally where nobody counts it."""
    amounts = [request.work.amount if request.work else 0 for request in requests]
    if not all(amounts):
        amounts = [1] * len(requests)
    return {request: amount / sum(amounts) for request, amount in zip(requests, amounts, strict=True)}


def _size(folder: Path) -> int:
    """Bytes of the files that an artifact is going to have, its card apart."""
    notes = (ATTEMPTS, FILLED)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name not in notes)


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed copy."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
