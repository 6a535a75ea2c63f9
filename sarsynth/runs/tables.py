"""Tables that a run prints. Torch-free."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sarsynth.partitions import Partition
from sarsynth.scales import prototype_weights


def counts_table(counts: Mapping[str, Mapping[str, int]], minor: Sequence[str], title: str) -> Table:
    """Lay out the images of each split, by class and in all, as the paper's table does; minor classes have a star."""
    table = Table(box=SIMPLE_HEAD, title=title)
    table.add_column("split")
    for name in next(iter(counts.values())):
        table.add_column(f"{name}*" if name in minor else name, justify="right")
    table.add_column("total", justify="right")
    for split, by_class in counts.items():
        table.add_row(split, *(f"{count:,}" for count in by_class.values()), f"{sum(by_class.values()):,}")
    return table


def partition_table(partition: Partition) -> Table:
    """Lay out the class x cluster counts, the mixing weights that follow, and how far clusters are from classes."""
    table = Table(
        box=SIMPLE_HEAD,
        title="Training images in each prototype (bias-score weights)",
        caption=f"normalised mutual information with the classes: {partition.nmi:.2f}; at 1 prototypes are the classes",
    )
    table.add_column("class")
    for part in range(partition.k):
        table.add_column(str(part), justify="right")
    for name, row, shares in zip(partition.classes, partition.counts, prototype_weights(partition.counts), strict=True):
        table.add_row(name, *(f"{count} ({share:.2f})" for count, share in zip(row, shares, strict=True)))
    table.add_row("all", *map(str, partition.counts.sum(axis=0)))
    return table


def contours_table(kept: Mapping[str, Mapping[str, tuple[int, int]]]) -> Table:
    """Lay out, by class and source, how many images gave a contour, of how many."""
    table = Table(box=SIMPLE_HEAD, title="Images that give contours")
    table.add_column("class")
    for source in next(iter(kept.values())):
        table.add_column(source, justify="right")
    for name, sources in kept.items():
        table.add_row(name, *(f"{used} of {total}" for used, total in sources.values()))
    return table


def results_table(results: Sequence[Mapping[str, Any]], overrides: Sequence[str] = ()) -> Table:
    """Lay results out as the paper's table: F1 of each class, of the minor classes and of all, and FID.

    Args:
        results: The contents of result.json, a row each.
        overrides: What sets each row apart from the others besides its method; a column if it is anything.
    """
    first = results[0]
    seeds = ", ".join(sorted({str(len(result["seeds"])) for result in results}))
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1),
        title=f"F1 in % on the real test set, mean ± sd over {seeds} seeds; FID of the synthetic images",
    )
    table.add_column("method")
    if any(overrides):
        table.add_column("overrides")
    for name in first["classes"]:
        mark = "*" if name in first["minor"] else ""
        table.add_column(f"{name}{mark}", justify="right")
    for name in ("minor*", "macro", "FID"):
        table.add_column(name, justify="right")
    for index, result in enumerate(results):
        scores = result["classifier"]
        cells = [overrides[index]] if any(overrides) else []
        cells += [percent((scores["per_class"].get(name) or {}).get("f1")) for name in first["classes"]]
        cells += [percent(scores["minor_f1"]), percent(scores["macro_f1"])]
        distance = mean_fid(result)
        table.add_row(result["method"], *cells, "" if distance is None else f"{distance:.2f}")
    return table


def percent(figure: Mapping[str, Any] | None) -> str:
    """Format a figure in percent with its standard deviation."""
    if figure is None or figure["mean"] is None:
        return ""
    return f"{100 * figure['mean']:.1f}±{100 * figure['std']:.1f}"


def mean_fid(result: Mapping[str, Any]) -> float | None:
    """Average FID over the classes that have one; None without synthetic images."""
    known = [figures["fid"] for figures in result["fidelity"]["per_class"].values() if figures["fid"] is not None]
    return sum(known) / len(known) if known else None


def cheaper(named: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
    """Say so if a row without a generator does at least as well as the best one with: on minor classes, else on all.

    Args:
        named: Names and contents of result.json of the rows.

    Returns:
        One line; None if synthesis is ahead, or rows of one of the two kinds are missing.
    """
    minor = all(result["classifier"]["minor_f1"]["mean"] is not None for _, result in named)
    figure = "minor_f1" if minor else "macro_f1"
    made: dict[bool, list[tuple[float, str, str]]] = {True: [], False: []}
    for name, result in named:
        score = result["classifier"][figure]
        made[bool(result["fidelity"]["per_class"])].append((score["mean"], name, percent(score)))
    if not all(made.values()):
        return None
    (synthetic, name, shown), (plain, cheap, its) = max(made[True]), max(made[False])
    if synthetic > plain:
        return None
    of = "minor-class" if minor else "macro"
    return f"no generator is needed here: {of} F1 of {cheap} is {its}, of the best synthetic set, {name}, {shown}"
