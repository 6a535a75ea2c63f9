"""What a sweep ends with: its table, its report, the pictures of its jobs side by side, and what failed. Torch-free."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sarsynth.console import console, print_error
from sarsynth.errors import UserError, one_line
from sarsynth.evidence.chance import LEVEL
from sarsynth.evidence.comparison import shown
from sarsynth.report import elsewhere, published, rows, terminal, writing
from sarsynth.report.html import REPORT
from sarsynth.report.jobs import read_jobs
from sarsynth.report.rows import Row
from sarsynth.report.side_by_side import side_by_side
from sarsynth.report.sweep import Sweep
from sarsynth.report.verdict import verdict


def sum_up(folder: Path, store: Path, notice: str | None = None) -> bool:
    """Print the results of a sweep, write its report and pictures beside its jobs, and name what failed.

    What it comes to stands in the last lines, the address of its report in the very last one.

    Args:
        folder: Of the sweep.
        store: Of the artifacts that its results rest on.
        notice: What readers have to know of the figures.

    Returns:
        Whether nothing failed, the report included.
    """
    jobs, last, problems = read_jobs(folder), list[str](), list[str]()
    if any(job.is_scored for job in jobs):
        sweep = Sweep.of(folder, store, jobs)
        console.rule("[bold]results", align="left")
        with _noting("results", problems), writing.blaming(sweep):
            show_scores(sweep.uncompared)
        with _noting("report", problems), writing.blaming(sweep):
            report(sweep)
            last = [*verdict(sweep.rows), str(folder / REPORT)]
    with _noting("pictures side by side", problems):
        for file in side_by_side(jobs, store, folder):
            console.print(f"  {file}", markup=False)
    for job in jobs:
        if files := sorted(job.folder.glob("*.png")):
            console.print(f"  {job.name}: {job.folder}/ {' '.join(file.name for file in files)}", markup=False)
    if failed := [job for job in jobs if job.error]:
        console.rule(f"[bold red]{len(failed)} of {len(jobs)} jobs failed", align="left")
        for job in failed:
            console.print(f"  {job.name}: {job.folder}/ {job.error}", markup=False)
    if notice:
        console.print(f"[bold yellow]{notice}")
    for line in last:
        console.print(f"  {line}", markup=False, style="bold")
    for problem in dict.fromkeys(problems):
        print_error(problem)
    return not problems and not failed


@contextmanager
def _noting(what: str, problems: list[str]) -> Iterator[None]:
    """Note what fails inside the block; it hides nothing else that is to be printed, such as which jobs failed."""
    try:
        yield
    except UserError as error:
        problems.append(one_line(error))
    except Exception as error:
        logging.getLogger(__name__).exception("no %s: a defect", what)
        problems.append(f"no {what}: a defect: {type(error).__name__}: {one_line(error)}")


def show_results(results: Sequence[Row]) -> None:
    """Print the scores of each row, and whether a generator was needed."""
    show_scores(results)
    if line := rows.cheaper(results):
        console.print(f"  {line}", markup=False)


def show_scores(results: Sequence[Row], where: str = "the real test set") -> None:
    """Print the scores of each row."""
    seeds = ", ".join(sorted({shown(rows.seeds_of(row.result)) for row in results}))
    title = f"F1 in % on {where}, mean ± sd over {seeds}; FID and KID of the synthetic images"
    console.print(terminal.render(rows.scores_table(results, title, without=["accuracy"])))


def report(sweep: Sweep) -> None:
    """Write the report of a sweep and print its gains."""
    files = writing.write(sweep)
    show_gains(sweep)
    for file in files:
        if file.name != REPORT:  # the last line names it
            console.print(f"  {file}", markup=False)


def show_gains(sweep: Sweep) -> None:
    """Print the gains, what would settle those that are open, and why a row has none."""
    baselines = ", ".join(dict.fromkeys(row.baseline for row in sweep.rows if row.baseline))
    interval = f"its {100 * (1 - LEVEL):.0f} % interval over test images and seeds"
    title = f"Gain in F1 over {baselines}, in points of a percent, and {interval}"
    holm = f"▲ ▼ significant at {100 * LEVEL:.0f} %, for classes after Holm's correction, of two seeds or more"
    if table := rows.gains_table(sweep.rows, title, [f"{holm}; p is McNemar's of accuracy"]):
        console.print(terminal.render(table))
    reasons = {row.entry["note"]: row.name for row in reversed(sweep.rows) if row.entry["note"]}
    for line in [*sweep.significance["open"], *(f"{name}: {reason}" for reason, name in reasons.items())]:
        console.print(f"  {line}", markup=False)
    if published.in_paper(sweep):
        for beside in filter(None, [published.scores_beside(sweep), published.gains_beside(sweep)]):
            console.print(terminal.render(beside))
        for line in [*published.other_images(sweep), *published.NOTES]:
            console.print(f"  {line}", markup=False)
    if sweep.elsewhere:
        show_elsewhere(sweep, sweep.elsewhere)


def show_elsewhere(sweep: Sweep, second: Sweep) -> None:
    """Print scores on both test sets beside each other, and the gains on the second one."""
    console.print(terminal.render(elsewhere.both(sweep, second)))
    interval = f"its {100 * (1 - LEVEL):.0f} % interval"
    if table := rows.gains_table(second.rows, f"Gain in F1 on {elsewhere.named(second)}, in points, and {interval}"):
        console.print(terminal.render(table))
    for line in [*elsewhere.lines_of_classes(second), *elsewhere.notes(second)]:
        console.print(f"  {line}", markup=False)
