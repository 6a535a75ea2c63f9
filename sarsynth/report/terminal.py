"""Tables in a terminal: of results, and of what a run is about to do or has found out. Torch-free."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.filesize import decimal as size
from rich.markup import escape
from rich.table import Table

from sarsynth.diffusion.prototypes import Partition, prototype_weights
from sarsynth.report import pieces
from sarsynth.report.pieces import WARNING, duration


def render(table: pieces.Table) -> Table:
    """Lay out a table of results: deviations and marks behind the values, intervals below them, notes at the end."""
    lines = [[_value(cell) for cell in row] for row in table.cells]
    return _laid_out(table.caption, table.columns, lines, caption="\n".join(table.notes) or None)


def _value(cell: pieces.Cell) -> str:
    mark = f" {cell.mark}" if cell.mark == WARNING else cell.mark
    return "\n".join([f"{cell.line}{mark}", *(["…".join(cell.ends)] if cell.interval else [])])


def _laid_out(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str | None = None, texts: int = 1
) -> Table:
    """Make a table whose first columns are texts, and the others figures, which stand to the right."""
    table = Table(box=SIMPLE_HEAD, title=escape(title), caption=caption and escape(caption))
    for index, column in enumerate(columns):
        if index < texts:
            table.add_column(escape(column), overflow="fold")
        else:
            table.add_column(escape(column), justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def counts_table(counts: Mapping[str, Mapping[str, int]], minor: Sequence[str], title: str) -> Table:
    """Lay out the images of each split, by class and in all, as the paper's table does; minor classes have a star."""
    names = [f"{name}*" if name in minor else name for name in next(iter(counts.values()))]
    rows = [
        [split, *(f"{count:,}" for count in by_class.values()), f"{sum(by_class.values()):,}"]
        for split, by_class in counts.items()
    ]
    return _laid_out(title, ["split", *names, "total"], rows)


def partition_table(partition: Partition) -> Table:
    """Lay out the class x cluster counts, the mixing weights that follow, and how far clusters are from classes."""
    weights = prototype_weights(partition.counts)
    rows = [
        [name, *(f"{count} ({share:.2f})" for count, share in zip(counts, shares, strict=True))]
        for name, counts, shares in zip(partition.classes, partition.counts, weights, strict=True)
    ]
    rows.append(["all", *map(str, partition.counts.sum(axis=0))])
    title, columns = "Training images in each prototype (bias-score weights)", ["class", *map(str, range(partition.k))]
    note = f"normalised mutual information with the classes: {partition.nmi:.2f}; at 1 prototypes are the classes"
    return _laid_out(title, columns, rows, caption=note)


def contours_table(kept: Mapping[str, Mapping[str, tuple[int, int]]]) -> Table:
    """Lay out, by class and source, how many images gave a contour, of how many."""
    rows = [[name, *(f"{used} of {total}" for used, total in sources.values())] for name, sources in kept.items()]
    return _laid_out("Images that give contours", ["class", *next(iter(kept.values()))], rows)


def plan_table(plan: Mapping[str, Any]) -> Table:
    """Lay out a plan of `sarsynth.commands.planning`, an artifact a line in the order of making; `?` is unknown."""
    jobs = plan["jobs"]
    places = sorted({f"{job['device'] or 'an accelerator'}, {job['precision']}" for job in jobs if job["precision"]})
    columns = ["", "artifact", "work", "time", "memory", "disk"]
    rows = [_plan_row(artifact) for artifact in plan["artifacts"]]
    if len(jobs) > 1:
        columns.append("jobs")
        for row, users in zip(rows, [artifact["jobs"] for artifact in plan["artifacts"]], strict=True):
            row.append("all" if len(users) == len(jobs) else ", ".join(map(str, users)))
    return _laid_out(f"Plan of {plan['script']}.py for {' and '.join(places)}", columns, rows, texts=2)


def _plan_row(artifact: Mapping[str, Any]) -> list[str]:
    name = f"{artifact['kind']}/{artifact['label']}"
    name += f" from {artifact['source']}" if artifact["source"] else f"-{artifact['fingerprint'] or '?'}"
    work = f"{'~' * artifact['rough']}{artifact['amount']:,} {artifact['unit']}" if artifact["unit"] else ""
    state = artifact["state"]
    forms: dict[str, Callable[[Any], str]] = {"seconds": duration, "memory_bytes": size, "disk_bytes": size}
    due = {"make": [*forms], "fetch": ["disk_bytes"]}.get(state, [])
    costs = {key: "?" if artifact[key] is None else forms[key](artifact[key]) for key in due}
    return [state, name, work, *(costs.get(key, "") for key in forms)]


def plan_summary(plan: Mapping[str, Any]) -> str:
    """Sum up a plan in one line."""
    totals = plan["totals"]

    def known(key: str, unknown: str, of: str, write: Callable[[Any], str]) -> str:
        without = totals[unknown]
        if without == totals[of]:
            return "?"
        return write(totals[key]) + (f" and that of {without} more" if without else "")

    parts = [f"{totals['there']} there"]
    if totals["fetch"]:
        parts.append(f"{totals['fetch']} to fetch ({known('fetch_bytes', 'unsized_fetches', 'fetch', size)})")
    parts.append(f"{totals['make']} to make")
    if totals["make"]:
        time, disk = known("seconds", "untimed", "make", duration), known("disk_bytes", "unsized", "make", size)
        memory = "?" if totals["memory_bytes"] is None else size(totals["memory_bytes"])
        parts[-1] += f": time {time}, disk {disk}, memory {memory}"
    free = [f"{size(store['free_bytes'])} are free in {store['path']}" for store in plan["stores"]]
    return "; ".join([", ".join(parts), *free])
