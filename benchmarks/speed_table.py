"""The table of `speed.py`: on the screen, in docs/speed-SIZE.json, and between the marks of docs/speed.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sarsynth.console import console
from sarsynth.files import staged

from contests import Row, rows_of
from recording import between_marks

DOCS = Path(__file__).parents[1] / "docs"
MARKS = "<!-- figures of speed.py -->", "<!-- end of figures -->"
HEADS = ("claim", "peer", "ours", "peer's", "ratio", "middle half", "by wall time", "goal", "memory, ours / peer's")


def print_rows(rows: Sequence[Row]) -> None:
    """Show rows, one a line, as they come."""
    for row in rows:
        claim, peer, *cells = cells_of(row)
        told = ", ".join(f"{head} {cell}" for head, cell in zip(HEADS[2:], cells, strict=True) if cell)
        console.print(f"[bold]{claim}[/]: {told}{f'; beside {peer}' if peer else ''}", highlight=False, soft_wrap=True)


def cells_of(row: Row) -> list[str]:
    """A row as text."""
    goal = (
        "" if row.goal is None else f"{row.goal:g}{'' if row.ratio else ' s'} ({'met' if row.reached else 'not met'})"
    )
    memory = "" if row.memory is None else " / ".join(f"{size / 1e9:.2f} GB" for size in row.memory)
    if row.ratio is None or row.theirs is None:
        return [row.claim, row.peer, seconds(row.ours), "", "", "", "", goal, memory]
    middle = f"{row.low:.2f} to {row.high:.2f} ({row.turns})"
    return [
        *(row.claim, row.peer, seconds(row.ours), seconds(row.theirs)),
        *(f"{row.ratio:.2f}", middle, f"{row.wall_ratio:.2f}", goal, memory),
    ]


def seconds(value: float) -> str:
    """A time with three digits."""
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def record(size: str, found: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Write the record of a size, and put the tables of all sizes into the page; rows of other claims stay."""
    docs.mkdir(parents=True, exist_ok=True)
    file = docs / f"speed-{size}.json"
    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    rows = {row["claim"]: row for row in (*known, *found["rows"])}
    with staged(file) as draft:
        draft.write_text(json.dumps({**found, "rows": list(rows.values())}, indent=1) + "\n", encoding="utf-8")
    page = docs / "speed.md"
    if page.is_file():
        tables = [markdown(file.stem.removeprefix("speed-"), json.loads(file.read_text())) for file in _records(docs)]
        with staged(page) as draft:
            text = page.read_text(encoding="utf-8")
            draft.write_text(between_marks(text, "\n\n".join(tables), MARKS), encoding="utf-8")


def _records(docs: Path) -> list[Path]:
    return sorted(docs.glob("speed-*.json"), key=lambda file: file.stem, reverse=True)


def markdown(size: str, found: Mapping[str, Any]) -> str:
    """One size's table, below what it was measured on."""
    facts = ", ".join(f"{key} {value}" for key, value in found["machine"].items() if value is not None)
    lines = [list(HEADS), ["---"] * 2 + ["---:"] * (len(HEADS) - 2), *(cells_of(row) for row in rows_of(found))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{size}** on {found['device']}: {facts}.\n\n{table}"
