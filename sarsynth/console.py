"""What a person sees while a study runs: one line a stage, bars with the time left, tables.

Jobs side by side share one screen. Each then writes its lines and how far it is to two small files of a folder of their
sweep, and the process that started them shows both (`sarsynth.commands.screen`).
"""

import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from sarsynth.files import write_text

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

    def on_broken_pipe(self) -> None:
        """Go on without a reader, as after `| head`: a study takes hours, and its log has all lines."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _take_all(stream: IO[str]) -> None:
    """Print what a terminal of few signs does not know with a replacement, in place of failing of it."""
    if isinstance(stream, io.TextIOWrapper):  # not where a test or a notebook has its own
        stream.reconfigure(errors="replace")


_take_all(sys.stdout)
_take_all(sys.stderr)
console = _Logged(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = WIDTH


def print_error(message: str) -> None:
    """Print what a user can mend, in one line on stderr."""
    line = message.replace("\n", "\\n")  # a class may hold a break
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), line))


LINE_EVERY = 30  # seconds between lines where there is no terminal to draw a bar on
SCREEN = ".screen"  # folder of a sweep in which its jobs say what the screen that they share shows; gone at its end
NAMES = "names.json"  # in it: of the jobs, by number
STATE_EVERY = 0.5  # seconds between two states of a job


class _Tagged(io.TextIOBase):
    """A stream that begins every line with a tag, and is no terminal."""

    def __init__(self, stream: IO[str], tag: str) -> None:
        self.stream, self.tag = stream, tag

    def write(self, text: str) -> int:
        return self.stream.write("".join(self.tag + line for line in text.splitlines(keepends=True)))

    def flush(self) -> None:
        self.stream.flush()


@dataclass
class State:
    """How far a job is that shares the screen."""

    task: str = ""  # what the bar is of; empty between two
    done: int = 0  # steps
    total: int = 0  # of how many
    left: float | None = None  # seconds
    note: str = ""
    end: str = ""  # how the job ended; empty as long as it runs

    @classmethod
    def read(cls, screen: Path, number: int) -> Self | None:
        """Read that of a job; None if it has not begun."""
        try:
            return cls(**json.loads(_files(screen, number)[1].read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def write(self) -> None:
        """Leave that of this process's job, if it shares the screen."""
        if _shared:
            with suppress(FileNotFoundError):  # who started the jobs has gone, and nobody looks any more
                write_text(_shared[1], json.dumps(asdict(self)), durable=False)


_shared: tuple[Path, Path] | None = None  # where this process writes, if the job that it runs shares the screen


def _files(screen: Path, number: int) -> tuple[Path, Path]:
    """Where a job that shares the screen writes its lines and its state."""
    return screen / f"{number}.txt", screen / f"{number}.json"


def read_lines(screen: Path, number: int, begin: int) -> tuple[list[str], int]:
    """Read the lines that a job has written from a byte on, and where the next one will begin."""
    try:
        with _files(screen, number)[0].open("rb") as file:
            file.seek(begin)
            text = file.read()
    except FileNotFoundError:
        return [], begin
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").splitlines(), begin + len(whole)


def share_screen(screen: Path, number: int) -> None:
    """From now on this process writes for the screen that its job, of this number, shares with others."""
    global _shared
    names = json.loads((screen / NAMES).read_text(encoding="utf-8"))
    tag_lines(f"{names[number]:<{max(map(len, names))}} │ ")
    _shared = _files(screen, number)
    assert isinstance(console.file, _Tagged)
    console.file.stream = _shared[0].open("a", encoding="utf-8", errors="backslashreplace")
    State().write()


def is_shared() -> bool:
    """Whether this process writes for a screen that it shares with other jobs."""
    return _shared is not None


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
    line now and then says how far things are; where jobs share a screen, it shows their bars.
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
        said = time.monotonic() - STATE_EVERY * is_shared()

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal said
            bars.update(task, advance=steps, note=note)
            if enabled and not bar and time.monotonic() - said > (STATE_EVERY if is_shared() else LINE_EVERY):
                said, state = time.monotonic(), bars.tasks[0]
                if is_shared():
                    State(title, int(state.completed), total, state.time_remaining, note).write()
                else:
                    line = step_line(title, state.completed, total, state.time_remaining, note)
                    console.print(f"  {line}", markup=False)

        yield advance
    if enabled:
        State().write()


def step_line(title: str, done: float, total: int, left: float | None, note: str) -> str:
    """Say in a line how far something is."""
    return f"{title}: {done:.0f}/{total}{'' if left is None else f', {left:.0f} s left'} {note}".rstrip()
