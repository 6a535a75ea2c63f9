"""Tables that a run prints. Torch-free."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.filesize import decimal as size
from rich.table import Table

from sarsynth.diffusion.prototypes import prototype_weights

if TYPE_CHECKING:
    from sarsynth.diffusion.prototypes import Partition


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


def partition_table(partition: "Partition") -> Table:
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
    """Lay results out as the paper's table: F1 of each class, of the minor classes and of all, KID and FID.

    The last two are of all classes together. FID stands there only where there are as many images as features, else
    why not; on the release's input, which compares with nothing else, both say so.

    Args:
        results: The contents of result.json, a row each.
        overrides: What sets each row apart from the others besides its method; a column if it is anything.
    """
    first = results[0]
    seeds = ", ".join(sorted({str(len(result["seeds"])) for result in results}))
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1),
        title=f"F1 in % on the real test set, mean ± sd over {seeds} seeds; KID and FID of the synthetic images",
        caption="\n".join(sorted({f"! {leaks}" for result in results if (leaks := result["protocol"]["leaks"])}))
        or None,
    )
    table.add_column("method")
    if any(overrides):
        table.add_column("overrides")
    for name in first["classes"]:
        mark = "*" if name in first["minor"] else ""
        table.add_column(f"{name}{mark}", justify="right")
    for name in ("minor*", "macro", "KID", "FID"):
        table.add_column(name, justify="right")
    for index, result in enumerate(results):
        scores = result["classifier"]
        cells = [overrides[index]] if any(overrides) else []
        cells += [percent((scores["per_class"].get(name) or {}).get("f1")) for name in first["classes"]]
        cells += [percent(scores["minor_f1"]), percent(scores["macro_f1"])]
        mark = " !" if result["protocol"]["leaks"] else ""
        table.add_row(result["method"] + mark, *cells, *fidelity_cells(result["fidelity"]))
    return table


def gains_table(found: Mapping[str, Any]) -> Table | None:
    """Lay out how far each row lies above its baseline, with intervals and marks; None if no row has one.

    Args:
        found: What significance.json holds.
    """
    rows = [row for row in found["rows"] if row["gains"]]
    if not rows:
        return None
    by_job = {row["job"]: row for row in found["rows"]}
    against = ", ".join(dict.fromkeys(by_job[row["baseline"]]["method"] for row in rows))
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1),
        title=f"Gain in F1 over {against}, in points of a percent, and its {100 * (1 - found['level']):.0f} % interval "
        "over test images and seeds",
        caption=f"▲ ▼ significant at {100 * found['level']:.0f} %, for classes after Holm's correction, of two seeds "
        "or more; p is McNemar's of accuracy",
    )
    named = any(row["overrides"] for row in rows)
    classes = list(dict.fromkeys(name for row in rows for name in row["gains"]["per_class"]))
    table.add_column("method")
    if named:
        table.add_column("overrides")
    for name in (*classes, "minor", "macro", "accuracy", "p"):
        table.add_column(name, justify="right")
    for row in rows:
        gains = row["gains"]
        every = [gains["per_class"].get(name) for name in classes]
        cells = [gain_cell(gain) for gain in (*every, gains["minor_f1"], gains["macro_f1"], gains["accuracy"])]
        mcnemar = f"{gains['mcnemar']['p']:.3f}" if gains["mcnemar"] else ""
        mark = " !" if row["leaks"] else ""
        table.add_row(row["method"] + mark, *([row["overrides"]] if named else []), *cells, mcnemar)
    return table


def gain_cell(gain: Mapping[str, Any] | None) -> str:
    """Format a gain in points, its mark, and its interval below it."""
    if gain is None:
        return ""
    mark = ("▲" if gain["delta"] > 0 else "▼") if gain["significant"] else ""
    return f"{100 * gain['delta']:+.1f}{mark}\n{100 * gain['low']:+.1f}…{100 * gain['high']:+.1f}"


def percent(figure: Mapping[str, Any] | None) -> str:
    """Format a figure in percent with its standard deviation."""
    if figure is None or figure["mean"] is None:
        return ""
    return f"{100 * figure['mean']:.1f}±{100 * figure['std']:.1f}"


def fidelity_cells(fidelity: Mapping[str, Any]) -> tuple[str, str]:
    """Format pooled KID and FID; empty without synthetic images."""
    pooled = fidelity["pooled"]
    if pooled is None:
        return "", ""
    kid = "too few" if pooled["kid"] is None else f"{pooled['kid']:.3g}"
    fid = reliable_fid(pooled)
    told = f"n < {fidelity['width']}" if fid is None else f"{fid:.2f}"
    if fidelity["preprocess"] == "release":
        return f"{kid} (release input)", f"{told} (release input)"
    return kid, told


def reliable_fid(figures: Mapping[str, Any]) -> float | None:
    """FID, where it may be shown by itself: of at least as many images as there are features."""
    return figures["fid"] if figures["fid_reliable"] else None


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


def plan_table(plan: Mapping[str, Any]) -> Table:
    """Lay a plan out, an artifact a line, in the order in which they would be made; `?` is what nobody knows yet.

    Args:
        plan: What `sarsynth.commands.planning` writes.
    """
    several = len(plan["jobs"]) > 1
    places = sorted(
        {f"{job['device'] or 'an accelerator'}, {job['precision']}" for job in plan["jobs"] if job["precision"]}
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), title=f"Plan of {plan['script']}.py for {' and '.join(places)}")
    table.add_column("")
    table.add_column("artifact", overflow="fold")
    for name in ("work", "time", "memory", "disk"):
        table.add_column(name, justify="right")
    if several:
        table.add_column("jobs", overflow="fold")
    for one in plan["artifacts"]:
        name = f"{one['kind']}/{one['label']}"
        name += f" from {one['source']}" if one["source"] else f"-{one['fingerprint'] or '?'}"
        work = f"{'~' * one['rough']}{one['amount']:,} {one['unit']}" if one["unit"] else ""
        costs = [
            "" if one["state"] not in states else "?" if one[key] is None else shown(one[key])
            for key, shown, states in (
                ("seconds", duration, ("make",)),
                ("memory_bytes", size, ("make",)),
                ("disk_bytes", size, ("make", "fetch")),
            )
        ]
        jobs = "all" if len(one["jobs"]) == len(plan["jobs"]) else ", ".join(map(str, one["jobs"]))
        table.add_row(one["state"], name, work, *costs, *([jobs] if several else []))
    return table


def plan_summary(plan: Mapping[str, Any]) -> str:
    """Say in one line how much a plan comes to."""
    totals = plan["totals"]

    def known(key: str, unknown: str, of: str, shown: Callable[[Any], str]) -> str:
        more = totals[unknown]
        if more == totals[of]:
            return "?"
        return shown(totals[key]) + (f" and that of {more} more" if more else "")

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


def duration(seconds: float) -> str:
    """Say how long something takes, in two units at most."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
