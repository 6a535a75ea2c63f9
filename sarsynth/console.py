"""What a person sees while a study runs: one line a stage, bars with the time left, tables."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False)


@contextmanager
def progress(title: str, total: int, enabled: bool = True) -> Iterator[Callable[..., None]]:
    """Show a bar over `total` steps; yields a function `advance(steps=1, note="")`.

    The bar goes away at its end: the line that stays is the one that says what was made.
    """
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not enabled) as bars:
        task = bars.add_task(title, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bars.update(task, advance=steps, note=note)

        yield advance
