"""How cost grows: slopes, the table, and the two rows of what is asked for again, in miniature."""

from pathlib import Path

import again
import growth
import pytest
import torch
from growth import Point, Row


def row(*costs: tuple[int, float, float]) -> Row:
    return Row("scan", "images", [Point(*cost) for cost in costs], "; and a note")


def test_a_slope_is_that_of_logarithms_between_the_last_two_sizes():
    grown = row((10, 0.7, 1e9), (1000, 2.0, 50e6), (10_000, 200.0, 500e6))
    assert grown.slope("seconds") == pytest.approx(2)
    assert grown.slope("memory") == pytest.approx(1)
    assert row((1000, 0.001, 5), (10_000, 0.4, 9)).slope("seconds") == 0, "costs that small tell nothing"
    assert row((1000, 2.0, 5)).slope("seconds") is None


def test_a_row_of_the_table_has_all_sizes():
    text = growth.markdown([row((1000, 2.0, 50e6), (10_000, 20.0, 500e6))], "on a machine")
    assert text.splitlines()[-1] == (
        "| scan; and a note | 1,000, 10,000 images | 2.00, 20.00 s | 1.00 | 50, 500 MB | 1.00 |"
    )
    assert text.startswith("on a machine\n\n| what | over |")


def test_what_is_measured_is_measured_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(growth.console, "quiet", True)
    found = growth.alone("fidelity", 40, 2, 1, tmp_path)
    assert found.size == 40 and found.seconds > 0


def test_fidelity_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measured = []
    monkeypatch.setattr(again, "fidelity", lambda *_: measured.append(1) or {"pooled": {"fid": 1.0}})
    laps = again.fidelity_again(torch.zeros(3, 2), torch.zeros(3, 2), tmp_path, rounds=2)
    assert len(laps.ours) == 2 and measured == [1]
