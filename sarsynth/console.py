"""What a person sees while a study runs: one line a stage, bars with the time left, tables."""

import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

WIDTH = 160  # of tables in a file, which has no edge: they need not be squeezed into eighty columns
LOG = logging.getLogger(__name__)


class _Logged(Console):
    """A console of which the log of a run has a plain copy; conf/hydra says where that lies."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print, and log warnings as such."""
        super().print(*objects, **how)
        if LOG.isEnabledFor(logging.INFO):
            plain = io.StringIO()
            Console(file=plain, width=WIDTH, color_system=None, highlight=False, soft_wrap=True).print(*objects, **how)
            if text := plain.getvalue().rstrip():
                LOG.log(logging.WARNING if text.startswith("warning:") else logging.INFO, "%s", text)


console = _Logged(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = WIDTH

LINE_EVERY = 30  # seconds between lines where there is no terminal to draw a bar on


class _Tagged(io.TextIOBase):
    """A stream that begins every line with a tag, and is no terminal."""

    def __init__(self, stream: IO[str], tag: str) -> None:
        self.stream, self.tag = stream, tag

    def write(self, text: str) -> int:
        return self.stream.write("".join(self.tag + line for line in text.splitlines(keepends=True)))

    def flush(self) -> None:
        self.stream.flush()


def tag_lines(tag: str) -> None:
    """Begin each line that this process prints with a tag, and draw no bars: jobs side by side share the screen."""
    if isinstance(console.file, _Tagged):
        console.file.tag = tag
    else:
        console.width -= len(tag)
        console.file = cast(IO[str], _Tagged(console.file, tag))


@contextmanager
def progress(title: str, total: int, enabled: bool = True) -> Iterator[Callable[..., None]]:
    """Show a bar over `total` steps; yields a function `advance(steps=1, note="")`.

    The bar goes away at its end: the line that stays is the one that says what was made. Where output goes to a file, a
    line now and then says how far things are.
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
    bar = enabled and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not bar) as bars:
        task = bars.add_task(title, total=total, note="")
        said = time.monotonic()

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal said
            bars.update(task, advance=steps, note=note)
            if enabled and not bar and time.monotonic() - said > LINE_EVERY:
                said, state = time.monotonic(), bars.tasks[0]
                left = "" if state.time_remaining is None else f", {state.time_remaining:.0f} s left"
                console.print(f"  {title}: {state.completed:.0f}/{total}{left} {note}")

        yield advance
