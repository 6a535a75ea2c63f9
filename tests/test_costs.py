"""What artifacts cost: what a build records, and what is expected of the next."""

import json
from pathlib import Path

import pytest

from sarsynth.errors import UserError
from sarsynth.store.artifacts import Artifact, Request
from sarsynth.store.building import Store
from sarsynth.store.costs import Cost, Machine, Rates, Work

HERE = Machine("cpu", 1)
WORK = Work("adapter", "samples", 100, {"base": "sd15", "image_size": 256}, batch=32)


def card(work: Work = WORK, **changes) -> dict:
    about = {"precision": "32-true", "device": "cpu", "processes": 1, "created": "2026-01-01T00:00:00+00:00"}
    cost = {"seconds": 50.0, "peak_memory_bytes": 10**9, "disk_bytes": 3000}
    return about | cost | {"work": work.plain} | changes


def expect(work: Work, *cards: dict, machine: Machine = HERE, precision: str | None = "32-true") -> Cost:
    return Rates(cards).expect(work, precision, machine)


def test_time_grows_with_the_work_and_a_training_leaves_as_much_as_another():
    double = Work("adapter", "samples", 200, WORK.like, batch=32)
    assert expect(double, card()) == Cost(100.0, 10**9, 3000)
    assert expect(double) == Cost()
    images = Work("synthetic", "images", 10, {"base": "sd15"}, passes=20, batch=16)
    more = Work("synthetic", "images", 30, {"base": "sd15"}, passes=60, batch=32)
    assert expect(more, card(images)) == Cost(50.0 * 9, None, 9000), "another batch has another peak"


def test_what_is_known_beforehand_needs_no_card():
    latents = Work("latents", "images", 10, disk_bytes=640)
    assert expect(latents) == Cost(disk_bytes=640)
    assert expect(latents, card(Work("latents", "images", 5))).disk_bytes == 640


@pytest.mark.parametrize(
    "other",
    [
        {"work": Work("unet", "samples", 100, WORK.like, batch=32).plain},
        {"work": Work("adapter", "images", 100, WORK.like, batch=32).plain},
        {"work": Work("adapter", "samples", 100, {"base": "sd15", "image_size": 512}, batch=32).plain},
        {"precision": "bf16-mixed"},
        {"device": "NVIDIA H100"},
        {"processes": 2},
        {"work": None},
    ],
    ids=["task", "unit", "size", "precision", "device", "processes", "uncounted"],
)
def test_nothing_is_told_by_what_is_not_alike(other: dict):
    assert expect(WORK, card() | other) == Cost()


def test_the_nearest_in_amount_tells_then_the_newest():
    def some(amount: int, seconds: float, year: int) -> dict:
        return card(Work("adapter", "samples", amount, WORK.like, batch=32), seconds=seconds, created=f"{year}")

    far, old, new = some(10_000, 1.0, 2030), some(90, 9.0, 2020), some(90, 18.0, 2021)
    assert expect(WORK, far, old, new).seconds == expect(WORK, new, old, far).seconds == 20.0


def test_without_a_network_the_accelerator_is_of_no_matter():
    scan = Work("scan", "images", 10, {"data": "sim"})
    assert expect(scan, card(scan, precision=None, device="NVIDIA H100"), precision=None).seconds == 50.0


def test_an_accelerator_that_is_not_here_is_any_but_the_cpu():
    elsewhere, h100 = Machine(None, None), card(device="NVIDIA H100", processes=8, seconds=1.0)
    assert expect(WORK, card(), machine=elsewhere) == Cost()
    assert expect(WORK, card(), h100, machine=elsewhere).seconds == 1.0


def test_rates_are_read_from_a_store_whatever_else_lies_there(tmp_path: Path):
    good, bad = tmp_path / "adapter/sar-1", tmp_path / "adapter/sar-2"
    for folder, text in ((good, json.dumps(card())), (bad, "{")):
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(text)
    assert Rates.read(tmp_path).expect(WORK, "32-true", HERE).seconds == 50.0
    assert Rates.read(tmp_path / "none").expect(WORK, "32-true", HERE) == Cost()


# --- What a store records, and plans ----------------------------------------------------------------------------------


def request(label: str = "sar", **changes) -> Request:
    call = {"settings": {"rank": 4}, "inputs": {}, "version": 1, "command": f"python train.py stage={label}"}
    return Request("adapter", label, **(call | changes))


def test_what_is_made_together_shares_its_time_by_work_and_says_its_size(tmp_path: Path):
    several = [request(f"prototype_{n}", settings={"n": n}, work=Work("adapter", "samples", n)) for n in (1, 3)]

    def build(folders):
        for one, folder in folders.items():
            (folder / "weights").write_bytes(b"0" * 1000 * one.work.amount)

    made = Store(tmp_path, report=lambda line: None).make_all(several, build)
    first, second = (made[one].card for one in several)
    assert (first["disk_bytes"], second["disk_bytes"]) == (1000, 3000)
    assert first["work"] == several[0].work.plain
    assert first["processes"] == 1
    assert second["seconds"] == pytest.approx(3 * first["seconds"], abs=0.002)


def refuse(folders) -> None:
    pytest.fail("a plan builds nothing")


def test_a_plan_makes_surveys_alone_and_notes_the_rest(tmp_path: Path):
    lines: list[str] = []
    store = Store(tmp_path, "plan", lines.append)
    survey = request("scan", survey=True, settings={"look": 1})
    sar = request(inputs={"scan": store.make_all([survey], lambda folders: None)[survey]})
    made = store.make_all([sar], refuse)[sar]
    assert store.make_all([sar], refuse)[sar] == made
    assert not made.complete and made.known
    assert [artifact.label for artifact in store.planned] == ["scan", "sar"]
    assert [path.parent.name for path in tmp_path.glob("*/*/card.json")] == [next(iter(store.planned)).path.name]
    assert lines == [f"made   {next(iter(store.planned))} in 0 s"]
    real = Store(tmp_path, report=lines.append).make_all([sar], lambda folders: None)[sar]
    assert real == made and made.complete, "it is what a run makes"


def test_what_follows_from_what_is_not_there_has_no_fingerprint_yet(tmp_path: Path):
    store = Store(tmp_path, "plan", lambda line: None)
    partition = store.make_all([p := request("partition")], refuse)[p]
    supposed = request("prototype_0", inputs={"partition": partition}, follows=[partition])
    adapter = store.make_all([supposed], refuse)[supposed]
    images = request("images", inputs={"adapter": adapter})
    assert not adapter.known and images.fingerprint.startswith("?") and partition.known
    # What two jobs suppose is one if it will be one.
    again = request("prototype_0", inputs={"partition": partition}, follows=[partition])
    other = Artifact("partition", "other", "f" * 16, tmp_path / "other")
    assert again.fingerprint == supposed.fingerprint
    assert request("prototype_0", inputs={"partition": other}, follows=[other]).fingerprint != supposed.fingerprint
    # Once it is there, what follows has the fingerprint that it would have had.
    Store(tmp_path, report=lambda line: None).make_all([p], lambda folders: None)
    known = request("prototype_0", inputs={"partition": partition}, follows=[partition]).fingerprint
    assert known == request("prototype_0", inputs={"partition": partition}).fingerprint


def test_require_stops_as_before(tmp_path: Path):
    with pytest.raises(UserError, match="make it with: python train.py stage=sar"):
        Store(tmp_path, "require").make_all([request()], refuse)
