"""What `gpu.json` holds, as tables: on the screen, and between the marks of `gpu.md` and of the README above it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sarsynth.console import console

from rich.table import Table

MARKS = "<!-- figures of a GPU run -->", "<!-- end of figures -->"
MEASURED = ("case", "precision", "what", "median", "range", "peak memory, GB", "note")
COSTS = ("work", "times", "samples or images of each", "from", "a second", "GPU-hours")


def print_tables(found: Mapping[str, Any]) -> None:
    """Show what was measured and what Table 3 would cost."""
    for title, columns, rows in _tables(found):
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, justify="left" if column in ("case", "work", "from", "note", "what") else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def record(found: Mapping[str, Any], folder: Path) -> None:
    """Write `gpu.json`, and put its figures into `gpu.md` and the README above, where these have marks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "gpu.json", json.dumps(found, indent=2) + "\n")
    for file, text in ((folder / "gpu.md", markdown(found)), (folder.parent / "README.md", summary(found))):
        if file.is_file():
            _write(file, between_marks(file.read_text(encoding="utf-8"), text))


def between_marks(page: str, text: str, marks: tuple[str, str] = MARKS) -> str:
    """Replace what stands between the marks of a page; one without marks stays as it is."""
    begin, end = marks
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    return re.sub(pattern, lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)


def markdown(found: Mapping[str, Any]) -> str:
    """The tables as markdown, below what they were measured on."""
    facts = ", ".join(f"{key} {value}" for key, value in found["machine"].items() if value is not None)
    parts = [f"{found['created']}, sarsynth {found['sarsynth']}, base {found['size']}: {facts}."]
    for title, columns, rows in _tables(found):
        lines = [columns, ["---"] * len(columns), *rows]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def summary(found: Mapping[str, Any]) -> str:
    """One line for the README."""
    total = _total(found["table3"]["rows"])
    return (
        f"Measured on one {found['machine']['card']} ({found['created'][:10]}), see [docs/gpu.md](docs/gpu.md): the "
        f"paper's Table 3 would take {total} GPU-hours."
    )


def _tables(found: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    yield "What was measured", MEASURED, [row for case in found["cases"] for row in _rows(case)]
    rows = found["table3"]["rows"]
    total = ["all", "", "", "", "", _total(rows)]
    yield f"What {found['table3']['command']} would cost", COSTS, [*map(_cost, rows), total]


def _rows(case: Mapping[str, Any]) -> list[list[str]]:
    """A row a figure; memory stands beside the first."""
    peak = " / ".join(_short(figure["value"]) for figure in case["figures"] if "memory" in figure["what"])
    name, precision = case["name"], case["precision"] or ""
    figures = [figure for figure in case["figures"] if "memory" not in figure["what"]]
    if not figures:
        return [[name, precision, case["status"], "", "", "", case["note"]]]
    rows = [
        [
            *("", ""),
            figure["what"],
            f"{_short(figure['value'])} {figure['unit'] if figure['unit'] != '1/s' else ''}".strip(),
            f"{_short(figure['low'])} to {_short(figure['high'])} ({figure['repeats']})",
            *("", ""),
        ]
        for figure in figures
    ]
    rows[0] = [name, precision, *rows[0][2:5], peak, case["note"]]
    return rows


def _cost(row: Mapping[str, Any]) -> list[str]:
    rate, hours = (("?" if row[key] is None else _short(row[key])) for key in ("rate", "hours"))
    return [row["name"], str(row["times"]), f"{row['each']:,}", row["keys"], f"{rate} ({row['case']})", hours]


def _total(rows: Sequence[Mapping[str, Any]]) -> str:
    known = _short(sum(row["hours"] for row in rows if row["hours"] is not None))
    unknown = sum(row["hours"] is None for row in rows)
    return f"{known} + {unknown} unknown" if unknown else known


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _write(file: Path, text: str) -> None:
    """Write whole or not at all."""
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
