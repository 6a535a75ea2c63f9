"""What a run says: on the console once, and a plain copy of it in the run's log."""

import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from sarsynth import cli
from sarsynth.console import console
from sarsynth.errors import UserError


@pytest.fixture
def say(tmp_path: Path, monkeypatch, capsys):
    """Run `evaluate` with a job that only talks; returns what the console showed."""

    def run(settings, folder, overrides):
        console.print(f"made   [bold]adapter/ors[/]-{settings.seed}")
        console.print("[yellow]warning:[/] a blank image")
        if settings.seed == 1:
            raise UserError("no such folder")

    def evaluate(*overrides: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *overrides])
        capsys.readouterr()
        with suppress(SystemExit):
            cli.main("evaluate")
        return capsys.readouterr().out

    monkeypatch.setitem(sys.modules, "sarsynth.commands.evaluate", SimpleNamespace(run=run))
    monkeypatch.setattr("sarsynth.commands.summary.Summary.on_multirun_end", lambda *_, **__: console.print("the end"))
    return evaluate


def test_the_log_of_a_run_has_what_the_console_says(say, tmp_path: Path):
    assert say("seed=1").count("made   adapter/ors-1") == 1
    (log,) = (tmp_path / "logs/runs/evaluate").glob("*/evaluate.log")
    made, warning, error = log.read_text().splitlines()
    assert made.endswith("[sarsynth.console][INFO] made   adapter/ors-1")
    assert warning.endswith("[WARNING] warning: a blank image")
    assert error.endswith("[ERROR] no such folder")


def test_each_job_of_a_sweep_has_a_log_and_says_everything_once(say, tmp_path: Path):
    shown = say("-m", "seed=2,3")
    for seed in (2, 3):
        assert shown.count(f"made   adapter/ors-{seed}") == 1
    assert shown.count("the end") == 1, "which is in the log of no job"
    logs = sorted((tmp_path / "logs/sweeps/evaluate").glob("*/*/evaluate.log"))
    assert [log.read_text().count("made") for log in logs] == [1, 1]
    assert "the end" not in logs[1].read_text()
