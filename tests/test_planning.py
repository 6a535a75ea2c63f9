"""`build=plan`, through the command line: it makes nothing, and names what a run then makes."""

import json
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_pipeline
import torch
from rich.filesize import decimal
from test_pipeline import Command
from test_sweeps import TINY

from sarsynth.errors import UserError
from sarsynth.report.pieces import duration
from sarsynth.store.costs import Machine
from sarsynth.training.compute import Compute

command = test_pipeline.command  # the fixture

CONTROLNET = ["train.controlnet.max_steps=2", "train.controlnet.warmup_steps=1", "train.controlnet.batch_size=4"]
FINETUNE = ["train.finetune.max_steps=2", "train.finetune.warmup_steps=0", "train.finetune.batch_size=4"]
LOOPS = [
    f"train.base.{part}.{key}={value}"
    for part in ("autoencoder", "unet")
    for key, value in {"max_steps": 2, "warmup_steps": 1, "batch_size": 2}.items()
]
PHOTOS = ["regular=imagefolder", "regular.root=photos", "train.base.generic_pictures=10", *LOOPS]
SURVEYS = {"scan", "near", "radiometry", "keywords"}

Planned = Callable[..., dict]


@pytest.fixture
def planned(command: Command, tmp_path: Path) -> Planned:
    """Plan a command line; the plan as its file holds it, with what was printed as `out`."""

    def plan(script: str, *overrides: str) -> dict:
        run = command(script, *overrides, *TINY, "build=plan", "plan=plan.json")
        assert run.code == 0, run.err
        assert (tmp_path / "plan.json").is_file()
        assert not list(tmp_path.glob(".staged-*")), "no draft is left"
        return json.loads((tmp_path / "plan.json").read_text()) | {"out": run.out}

    return plan


def named(one: dict) -> str:
    return f"{one['kind']}/{one['label']}"


def there(store: Path) -> dict[str, str]:
    """Fingerprints of the artifacts of a store and what they are."""
    found = (json.loads(file.read_text()) for file in store.glob("[!.]*/[!.]*/card.json"))
    return {card["fingerprint"]: f"{card['kind']}/{card['label']}" for card in found}


RUNS = {
    "prototypes, contours, filter": ("evaluate", ["method=plora", "contours=real", "filter=memorised"]),
    "a tuned base": ("generate", ["method=finetune", "generate.speckle=matched", *FINETUNE]),
    "export": ("generate", ["method=clora", "export=out.safetensors", "class_name=tanker"]),
    "prototypes of the base": ("train", ["stage=prototypes", "prototypes.features=base"]),
    "a ControlNet": ("train", ["stage=controlnet", "controlnet.on=sar", *CONTROLNET]),
    "a base": ("train", ["stage=base", *PHOTOS]),
    "keywords": ("train", ["stage=data", "prompt=keywords"]),
    "no generator": ("evaluate", ["method=augmented", "evaluate.topk=mean", "radiometry=linear"]),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS)
def test_a_plan_names_what_a_run_then_makes(planned: Planned, command: Command, tmp_path: Path, case: str):
    script, overrides = RUNS[case]
    if "stage=base" in overrides:
        test_pipeline.write_images(tmp_path / "photos/train", {"cargo": 3, "tanker": 3}, "regular")
    store = tmp_path / "logs/store"
    before = planned(script, *overrides)
    assert {name.rpartition("-")[2] for name in there(store).values()} <= SURVEYS, "nothing but looks at data"
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["store"], "no run is begun"

    run = command(script, *overrides, *TINY)
    assert run.code == 0, run.err
    after = planned(script, *overrides)
    assert after["totals"]["make"] == after["totals"]["fetch"] == 0
    assert {one["fingerprint"]: named(one) for one in after["artifacts"]} == there(store)
    assert len(after["artifacts"]) == len(there(store)), "each once"
    for one, made in zip(before["artifacts"], after["artifacts"], strict=True):
        assert named(one) == named(made)
        assert one["fingerprint"] in (None, made["fingerprint"])
        assert one["fingerprint"] or case.startswith("prototypes,"), "known, if all that it follows from is"
    # What is known of sizes and work beforehand is so.
    found = {
        card["fingerprint"]: card for card in map(json.loads, (f.read_text() for f in store.glob("*/*/card.json")))
    }
    for one, made in zip(before["artifacts"], after["artifacts"], strict=True):
        card = found[made["fingerprint"]]
        if one["state"] == "make":
            assert (one["seconds"], one["memory_bytes"]) == (None, None), "no card tells"
            assert one["disk_bytes"] is None or one["disk_bytes"] <= card["disk_bytes"] < one["disk_bytes"] + 50_000
            assert one["rough"] or one["amount"] == card["work"]["amount"]
    shares = [(one["amount"], found[made["fingerprint"]]["work"]["amount"]) for one, made in
              zip(before["artifacts"], after["artifacts"], strict=True) if one["rough"]]  # fmt: skip
    assert sum(share for share, _ in shares) == sum(amount for _, amount in shares)


def test_the_commands_of_a_plan_make_it_one_after_the_other(planned: Planned, command: Command):
    plan = planned("train", "stage=sar", "method=plora")
    commands = list(dict.fromkeys(one["command"] for one in plan["artifacts"] if one["command"]))
    assert len(commands) == 4
    for line in commands:
        assert plan["out"].count(f"  {line}\n") == 1
        _, script, *overrides = shlex.split(line)
        assert not {"build=plan", "plan=plan.json"} & set(overrides)
        run = command(script.removesuffix(".py"), *overrides)
        assert run.code == 0 and "made   " in run.out, run.err
    assert planned("train", "stage=sar", "method=plora")["totals"]["make"] == 0


def test_a_sweep_shares_is_counted_once_and_told_what_the_like_of_it_cost(
    planned: Planned, command: Command, tmp_path: Path
):
    jobs = ["-m", "stage=sar", "method=lora,plora_uniform,plora", "pack=true"]
    first = planned("train", *jobs)
    used = {named(one): one["jobs"] for one in first["artifacts"]}
    assert len(used) == len(first["artifacts"])
    assert used["cache/sim-sar-latents"] == [0, 1, 2]
    assert used["adapter/prototype_0"] == used["partition/prototypes-2"] == [1, 2], "known by what they will be"
    assert used["adapter/sar"] == [0]
    assert [job["overrides"][1] for job in first["jobs"]] == ["method=lora", "method=plora_uniform", "method=plora"]
    assert "#1 method=plora_uniform\n" in first["out"], "what sets it apart, and no more"
    makes = [one for one in first["artifacts"] if one["state"] == "make"]
    assert first["totals"]["untimed"] == first["totals"]["make"] == len(makes)
    assert "time ?" in first["out"] and "memory ?" in first["out"]

    assert command("train", *jobs, *TINY).code == 0
    again = planned("train", *jobs, "seed=1", "hydra/launcher=joblib")
    makes = [one for one in again["artifacts"] if one["state"] == "make"]
    assert {named(one) for one in makes} >= {"adapter/ors", "adapter/prototype_0", "adapter/sar"}
    for one in makes:
        assert one["seconds"] >= 0 and one["disk_bytes"] > 0 and one["memory_bytes"] > 1e6, one
    totals = again["totals"]
    assert (totals["untimed"], totals["unsized"]) == (0, 0)
    assert totals["seconds"] == pytest.approx(sum(one["seconds"] for one in makes))
    assert totals["disk_bytes"] == sum(one["disk_bytes"] for one in makes)
    assert totals["there"] + totals["make"] == len(again["artifacts"])
    # The table says the same.
    rows = [" ".join(line.split()) for line in again["out"].splitlines()]
    for one in again["artifacts"]:
        work = f"{'~' * one['rough']}{one['amount']:,} {one['unit']}"
        costs = (
            [duration(one["seconds"]), decimal(one["memory_bytes"]), decimal(one["disk_bytes"])] if one in makes else []
        )
        jobs_of = "all" if len(one["jobs"]) == 3 else ", ".join(map(str, one["jobs"]))
        row = " ".join([one["state"], f"{named(one)}-{one['fingerprint'] or '?'}", work, *costs, jobs_of])
        assert rows.count(row) == 1, row
    assert f"{totals['there']} there, {totals['make']} to make: time {duration(totals['seconds'])}" in again["out"]
    assert Counter(one["kind"] for one in makes)["classifier"] == 1
    assert len(list((tmp_path / "logs/sweeps/train").iterdir())) == 1, "a plan leaves no folder"


def test_a_job_that_cannot_be_planned_takes_no_other_with_it(command: Command, tmp_path: Path):
    asked = ["method=none", "data.minor=auto,[tankr]", *TINY, "build=plan", "plan=plan.json"]
    run = command("evaluate", "-m", *asked)
    assert run.code == 1 and "tankr" in run.err + run.out
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["jobs"][0]["error"] is None and "tankr" in plan["jobs"][1]["error"]
    assert {tuple(one["jobs"]) for one in plan["artifacts"]} == {(0,)}
    alone = command("evaluate", "method=none", "data.minor=[tankr]", *TINY, "build=plan")
    assert alone.code == 1 and alone.err.count("error: ") == 1 and "tankr" in alone.err


def test_what_a_run_would_fetch_is_named_and_not_fetched(planned: Planned):
    address = "https://weights.example/resnet18-0123abcd.pth"
    elsewhere = ["base.path=nobody/nothing", "contours=real", "base.controlnet=lllyasviel/control_v11p_sd15_canny"]
    plan = planned("evaluate", "method=lora", *elsewhere, f"classifier.pretrained={address}")
    fetched = {one["kind"]: one for one in plan["artifacts"] if one["state"] == "fetch"}
    assert {kind: one["source"] for kind, one in fetched.items()} == {
        "base": "nobody/nothing",
        "controlnet": "lllyasviel/control_v11p_sd15_canny",
        "weights": address,
    }
    assert fetched["controlnet"]["disk_bytes"] == 722_599_641 and fetched["base"]["disk_bytes"] is None
    assert "3 to fetch (722.6 MB and that of 2 more)" in plan["out"]
    unknown = {named(one) for one in plan["artifacts"] if one["state"] == "make" and one["fingerprint"] is None}
    assert unknown >= {"cache/sim-sar-latents", "adapter/sar", "synthetic/lora", "classifier/resnet18"}
    assert "cache/sim-sar-contours" not in unknown, "which need none of them"


def test_a_language_model_is_not_asked(planned: Planned, monkeypatch):
    monkeypatch.setattr("sarsynth.captions.aspects.FourAspects.describe", lambda *_: pytest.fail("it costs"))
    model = ["prompt=llm", "prompt.model=any", "data.flip=none", '+prompt.captions.data="a {class_name}, {keywords}"']
    plan = planned("generate", "-m", "method=frozen,2lora", *model)
    unknown = {named(one): one["fingerprint"] is None for one in plan["artifacts"] if one["state"] == "make"}
    assert not unknown["cache/sim-sar-keywords"] and not unknown["cache/sim-ors-latents"]
    assert unknown["cache/sim-ors-texts"] and unknown["adapter/ors"]
    assert unknown["synthetic/frozen"], "its prompts follow from them"


def test_keywords_of_annotations_are_looked_up_for_a_plan(planned: Planned):
    plan = planned("train", "stage=ors", "prompt=keywords")
    states = {named(one): one["state"] for one in plan["artifacts"]}
    assert states["cache/sim-ors-keywords"] == "there"
    assert all(one["fingerprint"] for one in plan["artifacts"])


def test_a_store_that_is_too_small_is_a_warning(command: Command, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    run = command("train", "stage=ors", *TINY, "build=plan")
    assert run.code == 0
    assert "warning: paths.store=logs/store has 1.0 kB left, and this takes" in run.out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["build=plan", "plan=none/plan.json"], "plan=none/plan.json: no such folder: none; make it"),
        (["build=plan", "plan=file/plan.json"], "plan=file/plan.json: no such folder: file"),
        (["build=plan", "plan=folder"], "plan=folder: it is a folder"),
        (["plan=plan.json"], "plan=plan.json is where a plan is written; say build=plan too"),
        (["-m", "build=plan,auto"], "build and plan are the same for all jobs of a sweep"),
        (["-m", "build=plan", "plan=a.json,b.json"], "build and plan are the same for all jobs of a sweep"),
        (["build=plan", "trainer=gpu"], "say trainer.precision=bf16-mixed .* or 16-mixed"),
        (["build=plan", "export=a.safetensors", "class_name=tanker", "method=frozen"], "has no adapters to export"),
        (["build=plan", "method=none"], "method=none makes no synthetic images"),
        (["build=plan", "method=lora", "adapter.path=file"], "adapter.path=file: empty; copy or download it once more"),
        (["build=plan", "train.sar.max_steps=1"], "train.sar.max_steps=1 is shared by 2 adapters"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(command: Command, tmp_path: Path, monkeypatch, overrides: list[str], said: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    chosen = {key.partition("=")[0]: key for key in [*TINY, *overrides]}
    test_pipeline.refused(command("generate", *sorted(chosen.values())), said, root=tmp_path)


# --- Where ------------------------------------------------------------------------------------------------------------


def options(**changes) -> dict:
    auto = {"accelerator": "gpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "bf16-mixed"}
    return auto | {"deterministic": False} | changes


def test_a_run_on_a_card_is_planned_without_one(monkeypatch, planned: Planned):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    compute = Compute.planned(options())
    assert (compute.precision.name, compute.machine) == ("bf16-mixed", Machine(None, 1))
    assert Compute.planned(options(devices=8, num_nodes=2, strategy="ddp")).machine.processes == 16
    assert Compute.planned(options(devices=[0, 3])).machine.processes == 2
    assert Compute.planned(options(devices="auto")).machine.processes is None
    with pytest.raises(UserError, match="no CUDA card is here to say what trainer.precision=auto comes to"):
        Compute.planned(options(precision="auto"))

    plans = [planned("train", "stage=ors", *trainer) for trainer in ([], ["trainer=gpu", "trainer.precision=16-mixed"])]
    cpu, gpu = ({named(one): one["fingerprint"] for one in plan["artifacts"]} for plan in plans)
    assert plans[1]["jobs"][0]["precision"] == "16-mixed" and plans[1]["jobs"][0]["device"] is None
    assert {name for name in cpu if cpu[name] != gpu[name]} == {
        *("cache/sim-ors-latents", "cache/sim-ors-texts", "adapter/ors")  # and no look at images
    }


def test_a_cpu_is_planned_for_as_it_is_run_on():
    for asked in (options(accelerator="cpu", precision="32-true"), options(accelerator="cpu", precision="auto")):
        run, plan = Compute.of(asked), Compute.planned(asked)
        assert (run.device, run.precision, run.processes) == (plan.device, plan.precision, plan.processes)
    two = options(accelerator="cpu", devices=2, strategy="ddp", precision="32-true")
    assert Compute.planned(two).processes == 2
