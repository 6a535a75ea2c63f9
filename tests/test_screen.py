"""The screen that jobs side by side share: what they write for it, and what it shows."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sarsynth import console
from sarsynth.commands import screen as screens
from sarsynth.commands.screen import Screen
from sarsynth.console import SCREEN, State

ROOT = Path(__file__).parents[1]
JOB = """
import sys
from pathlib import Path
from sarsynth.console import State, console, progress, share_screen
share_screen(Path(sys.argv[1]), int(sys.argv[2]))
console.print("reused cache/known-1")
console.print(f"made   adapter/sar-{sys.argv[2]} in 3 s")
console.print("a table")
with progress("adapter sar", 10) as advance:
    advance(4, "loss 0.1")
    if sys.argv[3] == "stop":
        sys.exit()
State(end="done").write()
"""


@pytest.fixture
def shown(monkeypatch) -> io.StringIO:
    """What the console of this process shows, which is no terminal."""
    stream = io.StringIO()
    ours = Console(file=stream, width=100, force_terminal=False, soft_wrap=True, highlight=False)
    monkeypatch.setattr(screens, "console", ours)
    monkeypatch.setattr(screens, "LINE_EVERY", 0.0)
    return stream


def job(folder: Path, number: int, until: str = "end") -> None:
    subprocess.run([sys.executable, "-c", JOB, str(folder / SCREEN), str(number), until], cwd=ROOT, check=True)


def test_lines_of_jobs_carry_their_names_and_are_said_once(tmp_path: Path, shown: io.StringIO):
    screen = Screen(tmp_path, ["2lora", "none", "resample"], 2)
    job(tmp_path, 1)
    job(tmp_path, 0)
    screen.open()
    screen.close()
    lines = [line for line in shown.getvalue().splitlines() if "│" in line]
    assert lines == [
        "2lora    │ reused cache/known-1",
        "2lora    │ made   adapter/sar-0 in 3 s",
        "2lora    │ a table",
        "none     │ made   adapter/sar-1 in 3 s",
    ]
    assert not (tmp_path / SCREEN).exists(), "nothing stays"


def test_a_job_leaves_how_far_it_is(tmp_path: Path, shown: io.StringIO):
    screen = Screen(tmp_path, ["lora", "none"], 2)
    assert State.read(screen.folder, 0) is None
    job(tmp_path, 0, "stop")
    state = State.read(screen.folder, 0)
    assert state is not None and (state.task, state.done, state.total, state.note) == ("adapter sar", 4, 10, "loss 0.1")
    screen._say([state, None])
    assert "lora │   adapter sar: 4/10 loss 0.1\n" in shown.getvalue()
    assert "  0 of 2 jobs done after " in shown.getvalue()
    job(tmp_path, 1)
    ended = State.read(screen.folder, 1)
    assert ended is not None and ended.end == "done"
    drawn = io.StringIO()
    Console(file=drawn, width=100).print(screen._drawn([state, ended]))
    first, second, whole = drawn.getvalue().splitlines()
    assert first.split()[:3] == ["lora", "adapter", "sar"] and "4/10" in first and "━" in first
    assert second.split() == ["none", "done"]
    assert whole.strip().startswith("1 of 2 jobs done after ")


def test_a_job_whose_screen_has_gone_goes_on(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(console, "_shared", (tmp_path / "gone/0.txt", tmp_path / "gone/0.json"))
    State("adapter sar", 1, 10).write()
    assert not (tmp_path / "gone").exists()


def test_half_a_line_is_not_shown_yet(tmp_path: Path):
    (tmp_path / "0.txt").write_text("whole\nha", encoding="utf-8")
    lines, begin = console.read_lines(tmp_path, 0, 0)
    assert (lines, begin) == (["whole"], 6)
    (tmp_path / "0.txt").write_text("whole\nhalf ≥\n", encoding="utf-8")
    assert console.read_lines(tmp_path, 0, begin)[0] == ["half ≥"]
