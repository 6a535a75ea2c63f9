"""The verdict of a health report: ready with the next command, or what has to be mended first."""

from types import SimpleNamespace
from typing import Any

import pytest

from sarsynth.report.health_verdict import findings, verdict

GOOD: dict[str, Any] = {
    "slot": "data",
    "counts": {"train": {"cargo": 90, "tanker": 40}, "test": {"cargo": 50, "tanker": 40}},
    "scan": SimpleNamespace(bad={}, paths=["x"] * 220),
    "max_bad": 0.01,
    "contradictions": [],
    "leaking": [],
    "remedy": None,
    "summary": {name: {"sizes": {"64x64": 9}} for name in ("cargo", "tanker")},
    "framing": SimpleNamespace(warnings=lambda shapes: []),
    "shapes": [],
}


def health(**other: Any) -> Any:
    return SimpleNamespace(**(GOOD | other))


def test_good_images_lead_on():
    said = verdict([health(), health(slot="ors", counts={"train": {"port": 9}})], "python evaluate.py -m")
    assert said.good and said.line.startswith("Ready") and not said.reasons
    assert [command.line for command in said.then] == ["python evaluate.py -m"]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"scan": SimpleNamespace(bad=dict.fromkeys("abc", "blank"), paths=["x"] * 100)}, "data.max_bad=0.03"),
        ({"contradictions": [1]}, "1 pictures of data have two labels"),
        ({"counts": {"train": {"cargo": 9}}}, "data.test=0.2 holds"),
        (
            {"counts": {"train": {"cargo": 9, "tanker": 8}, "test": {"cargo": 40, "tanker": 0}}},
            "no test images of tanker",
        ),
        ({"counts": {}}, "no training images"),
    ],
)
def test_what_stops_a_study_is_said_first(other: dict[str, Any], told: str):
    said = verdict([health(**other)], "go on")
    assert not said.good and said.line.startswith("Mend this first") and not said.then
    assert any(told in reason for reason in said.reasons), said.reasons


def test_held_out_images_come_with_their_remedy():
    said = verdict([health(leaking=[("a", "b")], remedy="python evaluate.py data.leave_out=x")], "go on")
    assert not said.good and [command.line for command in said.then] == ["python evaluate.py data.leave_out=x"]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"counts": {"train": {"cargo": 90, "tanker": 40}, "test": {"cargo": 50, "tanker": 8}}},
            "one of tanker is 12.5",
        ),
        ({"counts": {"train": {"cargo": 90, "tanker": 3}, "test": {"cargo": 50, "tanker": 40}}}, "hardly any training"),
        ({"summary": {"cargo": {"sizes": {"64x64": 9}}, "tanker": {"sizes": {"70x70": 9}}}}, "size of an image tells"),
        ({"scan": SimpleNamespace(bad={"a": "blank"}, paths=["x"] * 220)}, "left out"),
    ],
)
def test_what_to_keep_in_mind_stops_nothing(other: dict[str, Any], told: str):
    found = findings(health(**other))
    assert not found.stops and any(told in line for line in found.remarks), found
