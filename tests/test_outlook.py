"""What is left of a sweep: what counts as made, and how long the rest takes by the cards of the store."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sarsynth.commands.outlook import Due, Outlook
from sarsynth.store.costs import ATTEMPTS, ELSEWHERE, Machine, Work

CPU = Machine("cpu", 1)


def due(kind: str, label: str, fingerprint: str | None, amount: int | None, *jobs: int) -> Due:
    work = None if amount is None else Work(kind, "samples", amount, {"base": "nano"})
    return Due(kind, label, fingerprint, work, "32-true", CPU, list(jobs))


def make(store: Path, one: Due, seconds: float, fingerprint: str = "") -> Path:
    """Put the card of an artifact into a store."""
    folder = store / one.kind / f"{one.label}-{fingerprint or one.fingerprint}"
    folder.mkdir(parents=True)
    card = {"work": one.work and one.work.plain, "precision": one.precision, "processes": 1, "device": "cpu"}
    card |= {"seconds": seconds, "peak_memory_bytes": 1, "disk_bytes": 1, "created": "2026"}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def outlook(store: Path, *missing: Due) -> Outlook:
    """One that another process has written."""
    file = store / "outlook.json"
    Outlook(missing, 3, store, time.time()).write(file)
    return Outlook.read(file)


def test_no_time_is_told_before_cards_tell_it(tmp_path: Path):
    one, two = due("adapter", "ors", "a1", 100, 0, 1), due("adapter", "sar", "b1", 200, 1)
    found = outlook(tmp_path, one, two)
    assert found.look(2).seconds is None
    assert "no card of this store tells of its like" in " ".join(found.lines(2))
    assert "0 of 2 made; the time left is told once" in str(found.look(2))
    make(tmp_path, one, 10)
    assert str(found.look(2)) == "1 of 2 made, about 20 s left"


def test_what_is_left_is_shared_out_but_one_job_cannot_be(tmp_path: Path):
    make(tmp_path, due("adapter", "earlier", "e0", 100), 10)
    halves = [due("adapter", "sar", f"b{number}", 300, number) for number in range(4)]
    assert outlook(tmp_path, *halves).look(1).seconds == pytest.approx(120)
    assert outlook(tmp_path, *halves).look(2).seconds == pytest.approx(60)
    long = due("adapter", "long", "c1", 1000, 0)
    assert outlook(tmp_path, *halves, long).look(4).seconds == pytest.approx(130), "its job goes on alone"


def test_time_spent_on_what_is_being_made_counts(tmp_path: Path):
    make(tmp_path, due("adapter", "earlier", "e0", 100), 100)
    one = due("adapter", "sar", "b1", 100, 0)
    found = outlook(tmp_path, one)
    partial = tmp_path / "adapter/.sar-b1.partial"
    partial.mkdir()
    (partial / ATTEMPTS).write_text(json.dumps({"seconds": 20.0, "started": time.time() - 30}))
    assert found.look(1).seconds == pytest.approx(50, abs=2)


def test_what_no_card_tells_of_is_said_to_be_left_out(tmp_path: Path):
    make(tmp_path, due("adapter", "earlier", "e0", 100), 10)
    known = [due("adapter", "sar", f"b{number}", 100, 0) for number in range(3)]
    assert outlook(tmp_path, *known, due("classifier", "net", "d1", 5, 0)).look(1).time == "at least 30 s"
    assert outlook(tmp_path, *known, due("cache", "words", "d2", None, 0)).look(1).time == "about 30 s", (
        "nobody counts it"
    )
    strangers = [due("classifier", "net", f"d{number}", 5, 0) for number in range(3)]
    assert outlook(tmp_path, *known, *strangers).look(1).seconds is None, "of half of them cards tell nothing"


def test_what_had_no_name_yet_counts_once_it_is_made(tmp_path: Path):
    old = make(tmp_path, due("adapter", "prototype_0", "old", 100), 10)
    os.utime(old / "card.json", (1, 1))
    unnamed = [due("adapter", "prototype_0", None, 100, 0), due("adapter", "prototype_0", None, 100, 1)]
    found = outlook(tmp_path, *unnamed)
    assert found.look(1).made == 0, "that of an earlier run is none of them"
    make(tmp_path, unnamed[0], 10, "f00")
    assert found.look(1).made == 1
    make(tmp_path, due("adapter", "prototype_1", None, 100), 10, "f01")
    assert found.look(1).made == 1, "another label"
    make(tmp_path, unnamed[0], 10, "f02")
    assert str(found.look(1)) == "all is made; scores, pictures and report are to come"


def test_before_there_are_cards_those_of_another_machine_tell_roughly_at_the_pace_of_this_one(tmp_path: Path):
    """Twice as slow as the machine of the demo, once the first artifact shows it."""
    cards = json.loads(ELSEWHERE.read_text())
    first, second = [
        Due("cache", str(n), str(n), Work(**cards[n]["work"]), cards[n]["precision"], CPU, [0]) for n in (0, 1)
    ]
    found, (there, here) = outlook(tmp_path, first, second), [card["seconds"] for card in cards[:2]]
    assert found.look(1).seconds == pytest.approx(there + here) and found.look(1).time.startswith("roughly ")
    assert "two other cores" in found.lines(1)[1]
    make(tmp_path, first, 2 * there)
    assert found.look(1).seconds == pytest.approx(2 * here) and found.look(1).rough
    make(tmp_path, replace(second, fingerprint="of an earlier run"), 5.0)
    assert found.look(1).seconds == pytest.approx(5.0) and not found.look(1).rough, "its like was made here"


def test_the_plan_says_what_there_is(tmp_path: Path):
    found = outlook(
        tmp_path, due("synthetic", "a", "1", 1, 0), due("synthetic", "b", "2", 1, 0), due("cache", "c", "3", 1, 0)
    )
    assert found.lines(2)[0] == "3 artifacts are there, 3 to make: 2 sets of images, 1 cache"
    assert outlook(tmp_path).lines(2) == ["all 3 artifacts are there already"]
