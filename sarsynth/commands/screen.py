"""The one screen of jobs that run side by side: their lines as they come, and below them how far each is. Torch-free.

The jobs write to small files of the sweep's folder (`sarsynth.console`); a thread of the process that started them
reads these. At a terminal it draws a bar a job, below them what is left of the whole sweep; elsewhere it says so now
and then.
"""

import atexit
import json
import re
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sarsynth.commands.outlook import OUTLOOK, Outlook
from sarsynth.console import LINE_EVERY, NAMES, SCREEN, State, console, read_lines, step_line
from sarsynth.files import write_text
from sarsynth.report.pieces import duration

DRAW_EVERY = 0.25  # seconds
LOOK_EVERY = 5.0  # seconds between looks at the store, or more: they take at most a twentieth of a core
WAITS, BEGINS = "waits for its turn", "begins"
BAR = 24  # columns
DONE = re.compile(r"made |waiting for ")  # begins lines that say what a job is at
MADE = re.compile(r"made +(\S+) in .*")  # what is made need not be said to be reused by others


class Screen:
    """Shows the jobs of a sweep until it is closed.

    Args:
        folder: Of the sweep.
        names: Of its jobs, by number.
        at_once: How many of them run side by side.
    """

    def __init__(self, folder: Path, names: Sequence[str], at_once: int) -> None:
        self.folder, self.names, self.at_once = folder / SCREEN, names, at_once
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / NAMES, json.dumps(list(names)), durable=False)
        self.read = [0] * len(names)  # bytes of each job's lines
        self.last = [""] * len(names)  # its last line
        self.heard: dict[str, int] = {}  # who said it first, of each line
        self.outlook: Outlook | None = None
        self.whole, self.look_again = "", 0.0  # what is left of the sweep, and when to look anew
        self.said, self.began = time.monotonic(), time.monotonic()
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._show, daemon=True)
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def open(self) -> None:
        """Begin to show."""
        console.print(f"  {len(self.names)} jobs, {self.at_once} at a time: {', '.join(self.names)}", markup=False)
        if self.live:
            self.live.start()
        atexit.register(self.close)  # a cursor that Ctrl-C left hidden would stay so
        self.thread.start()

    def close(self) -> None:
        """Show the last lines, and remove the files that they came from."""
        if self.closing.is_set():
            return
        self.closing.set()
        self.thread.join()
        self._pass_on()
        if self.live:
            self.live.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _show(self) -> None:
        while not self.closing.wait(DRAW_EVERY):
            self._pass_on()
            self._look()
            states = [State.read(self.folder, number) for number in range(len(self.names))]
            if self.live:
                self.live.update(self._drawn(states), refresh=True)
            elif time.monotonic() - self.said > LINE_EVERY:
                self.said = time.monotonic()
                self._say(states)

    def _pass_on(self) -> None:
        """Print what the jobs have printed since, but for what another one has said already."""
        for number in range(len(self.names)):
            lines, self.read[number] = read_lines(self.folder, number, self.read[number])
            for line in map(Text.from_ansi, lines):
                said = line.plain.partition("│")[2].strip()
                if self._is_new(said, number):
                    console.print(line)
                if DONE.match(said):
                    self.last[number] = said

    def _is_new(self, said: str, number: int) -> bool:
        """Whether no other job has said a line before this one does."""
        if made := MADE.fullmatch(said):
            self.heard[f"reused {made[1]}"] = number
            return True
        return self.heard.setdefault(said, number) == number

    def _look(self) -> None:
        """Find out what is left of the sweep, once a job has said what there is to do."""
        if time.monotonic() < self.look_again:
            return
        began = time.monotonic()
        if self.outlook is None:
            try:
                self.outlook = Outlook.read(self.folder / OUTLOOK)
            except FileNotFoundError:
                return
            for line in self.outlook.lines(self.at_once):
                console.print(f"  {line}", markup=False)
        self.whole = str(self.outlook.look(self.at_once))
        self.look_again = time.monotonic() + max(LOOK_EVERY, 20 * (time.monotonic() - began))

    def _say(self, states: Sequence[State | None]) -> None:
        """Say in lines how far things are."""
        width = max(map(len, self.names))
        for name, state in zip(self.names, states, strict=True):
            if state and state.task:
                line = step_line(state.task, state.done, state.total, state.left, state.note)
                console.print(f"{name:<{width}} │   {line}", markup=False)
        console.print(self._sum(states), markup=False)

    def _drawn(self, states: Sequence[State | None]) -> Group:
        """A line a job, and one for the whole."""
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for column in range(3):
            table.add_column(no_wrap=True, justify="right" if column else "left")
        for name, state, last in zip(self.names, states, self.last, strict=True):
            table.add_row(Text(f"  {name}", style="bold"), *_row(state, last))
        return Group(table, Text(self._sum(states), style="cyan", no_wrap=True, overflow="ellipsis"))

    def _sum(self, states: Sequence[State | None]) -> str:
        ended = sum(bool(state and state.end) for state in states)
        jobs = f"  {ended} of {len(states)} jobs done after {duration(time.monotonic() - self.began)}"
        return f"{jobs} · {self.whole}" if self.whole and ended < len(states) else jobs


def say_how_far(folder: Path, done: int, jobs: int) -> None:
    """Say how far a sweep is of which one job runs after the other, if there was anything to make.

    Args:
        folder: Of the sweep.
        done: Jobs that are over.
        jobs: Jobs in all.
    """
    file = folder / SCREEN / OUTLOOK
    if done < jobs and file.is_file() and (outlook := Outlook.read(file)).due:
        console.print(f"  {done} of {jobs} jobs done · {outlook.look(1)}", markup=False)


def _row(state: State | None, last: str) -> tuple[Text | str, ProgressBar | str, str, str]:
    """What the line of a job says beside its name: what it does, a bar, steps, time left."""
    if state is None or state.end:
        return Text(state.end if state else WAITS, style="dim"), "", "", ""
    if not state.task:
        return Text(last or BEGINS, style="dim"), "", "", ""
    left = "" if state.left is None else f"{duration(state.left)} left"
    bar = ProgressBar(total=state.total, completed=state.done, width=BAR)
    return Text(state.task), bar, f"{state.done}/{state.total}", left
