"""The tracker: says once what broke, never fails a run, keeps stages apart, and wandb's files can be read back."""

import csv
import json
import re
import struct
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
import torch
import wandb
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import OmegaConf
from PIL import Image
from sklearn.metrics import precision_recall_curve
from test_conf import settings
from test_denoising import fit, flat, uninterrupted  # noqa: F401
from wandb.proto.wandb_internal_pb2 import Record

from sarsynth.commands import runs, session
from sarsynth.config.composition import CONF
from sarsynth.config.hydra_internals import jobs_of_sweep
from sarsynth.errors import UserError
from sarsynth.evidence.results import MEANS
from sarsynth.tracking import Previews, Tracker, recall_and_precision
from sarsynth.training.fitting import Fitting

BLOCK = 32768
CARD = {"kind": "adapter", "label": "ors", "fingerprint": "ab12", "inputs": {"latents": "cd34"}, "seconds": 1.5}


class Memory(Logger):
    """Keep what is logged; break at what is in `broken`."""

    name, version = "memory", ""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.broken, self.metrics, self.settings, self.ended = broken, [], [], []

    def _break(self, what: str) -> None:
        if what == self.broken:
            raise OSError(f"{what}: disk full")

    def log_metrics(self, metrics, step=None) -> None:
        self._break("metrics")
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, params, *_, **__) -> None:
        self._break("settings")
        self.settings.append(params)

    def finalize(self, status) -> None:
        self._break("finish")
        self.ended.append(status)


def use_everything(tracker: Tracker, folder: Path) -> None:
    """What a run does with its tracker."""
    picture = folder / "grid.png"
    Image.new("L", (8, 8)).save(picture)
    tracker.config({"seed": 0, "method": {"name": "lora"}})
    tracker.stage("ors").log_metrics({"loss": 0.5, "epoch": 0}, step=10)
    tracker.stage("sar").log_metrics({"loss": 0.25}, step=20)
    tracker.picture("images/1_grid", picture)
    drawn = {"a SAR image of cargo ship": Image.new("L", (8, 8)), "a SAR image of tanker ship": Image.new("L", (8, 8))}
    tracker.drawn("sar", lambda: drawn, 20)
    tracker.table("scores/1_results", ["method", "f1"], [["lora", 0.5]])
    shares = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]])
    tracker.predictions("scores", np.array([0, 0, 1, 1]), shares.argmax(axis=1), shares, ["cargo", "tanker"])
    store = folder / "adapter"
    store.mkdir()
    (store / "card.json").write_text(json.dumps(CARD))
    (store / "adapter.safetensors").write_bytes(b"weights")
    tracker.artifact("sd-nano-20ab", "base", {"source": "inside the package"}, [], made=False)
    tracker.artifact("ors-ab12", "adapter", CARD, [store / "card.json"], made=True)
    tracker.artifact(f"bulk carrier/[é]{'x' * 200}-ef56", "adapter", CARD, [store], made=True)
    tracker.artifact("train-images-cd34", "cache", CARD, [store / "card.json"], made=False)
    page = folder / "page.html"
    page.write_text("<p>a report</p>")
    tracker.page("sweep/3_report", page)
    tracker.scalars({"macro_f1": 0.5})
    tracker.finish("success")


def test_each_stage_logs_under_its_own_name(tmp_path: Path):
    logger = Memory()
    use_everything(Tracker(lambda: logger), tmp_path)
    assert logger.settings == [{"seed": 0, "method": {"name": "lora"}}]
    assert logger.metrics == [(10, {"ors/loss": 0.5}), (20, {"sar/loss": 0.25}), (None, {"macro_f1": 0.5})]
    assert logger.ended == ["success"]


@pytest.mark.parametrize("broken", ["metrics", "settings", "finish"])
def test_a_logger_that_fails_is_reported_once_and_left_alone(broken: str, tmp_path: Path, capsys):
    logger = Memory(broken)
    use_everything(Tracker(lambda: logger), tmp_path)
    said = capsys.readouterr().out
    assert said.count("logging stopped: ") == 1
    assert f"OSError: {broken}: disk full; the run goes on without it" in said
    if broken == "settings":
        assert logger.metrics == [], "what follows the first failure is not tried"


def test_a_logger_that_cannot_be_built_fails_nothing(tmp_path: Path, capsys):
    def build() -> Logger:
        raise ConnectionError("no network")

    use_everything(Tracker(build), tmp_path)
    assert capsys.readouterr().out.count("ConnectionError: no network") == 1


def test_no_logger_logs_nothing(tmp_path: Path, capsys):
    use_everything(Tracker(None), tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("broken", ["", "metrics"])
def test_training_is_the_same_whatever_its_logger_does(broken: str, uninterrupted):  # noqa: F811
    logger = Memory(broken)
    # Lightning logs every tenth step; these runs have eight.
    made = fit(fitting=Fitting(logger=Tracker(lambda: logger).stage("sar")))
    assert torch.equal(flat(made), uninterrupted[0])


def test_losses_and_learning_rate_of_a_training_are_logged(monkeypatch):
    logger, trainer = Memory(), Fitting().make_trainer
    every_step = SimpleNamespace(make=lambda **more: trainer(**(more | {"log_every_n_steps": 1})))
    fit(fitting=Fitting(every_step.make, Tracker(lambda: logger).stage("sar")))
    losses = {step: metrics["sar/loss"] for step, metrics in logger.metrics if "sar/loss" in metrics}
    rates = [value for _, metrics in logger.metrics for name, value in metrics.items() if name.startswith("sar/lr")]
    assert len(losses) == 8
    assert all(value > 0 for value in losses.values())
    assert rates[0] < max(rates) == pytest.approx(1e-2)
    assert not any("epoch" in metrics for _, metrics in logger.metrics)


def test_previews_are_files_with_a_caption_each_whatever_the_logger(tmp_path: Path):
    use_everything(Tracker(Memory, tmp_path), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "previews/metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["a SAR image of cargo ship", "a SAR image of tanker ship"]
    for line in lines:
        with Image.open(tmp_path / "previews" / line["file_name"]) as picture:
            assert picture.size == (8, 8)
    assert lines[0]["file_name"] == "sar/samples-000020-0.png"


def test_previews_that_nothing_would_take_are_refused():
    with pytest.raises(UserError, match="preview.every=5 draws for a logger; say logger=csv"):
        settings("logger=none", "+preview={every: 5, prompts: 2}")
    assert settings("logger=csv", "+preview={every: 5, prompts: 2}").preview.prompts == 2


def test_the_sweep_for_wandbs_agent_composes():
    """Whatever it chooses, with the words that it puts before."""
    sweep = yaml.safe_load((Path(__file__).parents[1] / "docs/wandb-sweep.yaml").read_text())
    assert sweep["command"][:3] == ["${env}", "python", "${program}"] and sweep["program"] == "evaluate.py"
    assert sweep["metric"]["name"] in MEANS, "the summary of a run has it"
    fixed = [word for word in sweep["command"][3:] if not word.startswith("${")]
    for key, values in sweep["parameters"].items():
        for value in values.get("values") or [values["min"], values["max"]]:
            chosen = settings(*fixed, f"{key}={value}")
            assert chosen.logger.is_wandb
            section, _, name = key.partition(".")
            found = getattr(getattr(chosen, section), name or "name", None)
            assert found == value or section == "augment"


# --- What a run of W&B is called --------------------------------------------------------------------------------------


def called(folder: Path, *overrides: str, script: str = "train") -> dict:
    """What a job in this folder is called, whose store lies beside."""
    store = f"paths.store={folder.parents[1]}/store"
    return runs.about_job(
        settings("logger=wandb", "logger.offline=true", store, *overrides), folder, [*overrides, store], script
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], {"name": "plora-sim", "group": "sim sd-nano", "job_type": "train"}),
        (["method=lora", "seed=3", "method.rank=8"], {"name": "lora-sim seed=3 rank=8"}),
        (["train.ors.max_steps=3", "train.sar.max_steps=9"], {"name": "plora-sim ors.max_steps=3 sar.max_steps=9"}),
        (["trainer.accelerator=cpu", "logger.project=p", "build=require"], {"name": "plora-sim"}),
        (
            ["data=sim_rare", "generate.per_class=7"],
            {"name": "plora-sim_rare per_class=7", "group": "sim_rare sd-nano"},
        ),
        (["+logger.name=mine"], {"name": "mine"}),
        (["+logger.name=2024", "+logger.notes=0"], {"name": "2024", "notes": "0"}),
        (["+logger.group=night", "+logger.job_type=try"], {"group": "night", "job_type": "try"}),
        (["method=lora"], {"tags": ["lora", "sim", "sd-nano", "train"]}),
        (["+logger.tags=paper"], {"tags": ["paper"]}),
        (["+logger.tags=[paper,7]"], {"tags": ["paper", "7"]}),
    ],
)
def test_a_run_of_wandb_is_called_what_it_does_or_what_the_settings_say(said, expected, tmp_path: Path):
    about = called(tmp_path / "runs/train/now", *said)
    assert {key: about[key] for key in expected} == expected


def test_a_long_name_still_is_its_own(tmp_path: Path):
    long = [f"prompt.wordings.data.paper={'y' * 150}"]
    one, other = (called(tmp_path / "r/t/n", *long, f"seed={seed}")["name"] for seed in (1, 2))
    assert len(one) == len(other) == 128 and one != other


def sweep_of(folder: Path, *overrides: str) -> list[dict]:
    """What the jobs of a sweep are called; Hydra leaves its configuration in the sweep's folder before they begin."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("evaluate", [], return_hydra_config=True)
        OmegaConf.set_readonly(config.hydra, False)
        config.hydra.overrides.task = list(overrides)
        folder.mkdir(parents=True)
        OmegaConf.save(config, folder / runs.MULTIRUN)
        jobs = jobs_of_sweep(config.hydra, overrides)
    return [called(folder / str(number), *job, script="evaluate") for number, job in enumerate(jobs)]


def test_jobs_of_a_sweep_are_told_apart_by_what_varies_and_go_on_when_it_is_begun_again(tmp_path: Path):
    asked = ["method=lora,2lora", "seed=0,1", "method.rank=8", "logger.project=p"]
    first, again = (sweep_of(tmp_path / "sweeps" / name, *asked) for name in ("one", "two"))
    assert [job["name"] for job in first] == [
        "lora-sim seed=0",
        "lora-sim seed=1",
        "2lora-sim seed=0",
        "2lora-sim seed=1",
    ]
    assert {job["group"] for job in first} == {first[0]["group"]}
    assert re.fullmatch("sim method, seed [0-9a-f]{6}", first[0]["group"])
    assert len({job["id"] for job in first}) == 4
    assert [(job["id"], job["group"]) for job in again] == [(job["id"], job["group"]) for job in first]
    other = sweep_of(tmp_path / "sweeps/three", "method=lora,2lora", "seed=0,1,2", "method.rank=8")
    assert not {job["id"] for job in other} & {job["id"] for job in first}, "another sweep has rows of its own"


def test_the_same_work_in_the_same_store_is_the_same_run(tmp_path: Path, monkeypatch):
    one = called(tmp_path / "a/runs/1", "seed=3")
    assert called(tmp_path / "a/runs/2", "seed=3", "trainer.accelerator=cpu")["id"] == one["id"]
    assert called(tmp_path / "a/runs/3", "seed=4")["id"] != one["id"]
    assert called(tmp_path / "a/runs/3", "seed=3", script="evaluate")["id"] != one["id"]
    assert called(tmp_path / "b/runs/1", "seed=3")["id"] != one["id"], "somebody else's"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert "id" not in called(tmp_path / "a/runs/1", "seed=3"), "W&B's agent has chosen it"


def test_the_logger_is_built_with_what_the_run_is_called(tmp_path: Path, monkeypatch):
    seen: dict = {}
    monkeypatch.setattr(WandbLogger, "__init__", lambda self, **given: seen.update(given))
    chosen = settings("logger=wandb", "logger.offline=true", f"paths.store={tmp_path}/store")
    make = session._logger(chosen, tmp_path / "runs/train/now", ["method=lora"], "train")
    make()
    assert seen["save_dir"] == str(tmp_path / "runs/train/now")
    assert seen.keys() >= {"id", "name", "group", "tags", "notes", "job_type", "project", "offline"}
    assert "artifacts" not in seen
    monkeypatch.setattr(session.processes, "rank", lambda: 1)
    assert session._logger(chosen, tmp_path, [], "train") is None, "one process of a job logs"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("+logger.id=abc", "logger.id is decided by the run itself"),
        (f"+logger.name={'x' * 129}", "logger.name has 129 characters, and W&B takes 1 to 128"),
        (f"+logger.job_type={'x' * 65}", "logger.job_type has 65 characters, and W&B takes 1 to 64"),
        ("logger.artifacts=all", "logger.artifacts=all is not a value of logger.artifacts"),
        (f"+logger.tags=[a,{'x' * 65}]", r"logger.tags\[1\] has 65 characters, and W&B takes 1 to 64"),
    ],
)
def test_what_wandb_would_lose_a_run_by_is_refused(said: str, why: str):
    with pytest.raises(UserError, match=why):
        settings("logger=wandb", said)


def test_other_loggers_have_no_artifacts():
    with pytest.raises(UserError, match="logger.artifacts is of W&B alone; say logger=wandb"):
        settings("logger=csv", "+logger.artifacts=files")


def test_csv_lies_in_the_runs_folder(tmp_path: Path):
    use_everything(Tracker(lambda: CSVLogger(save_dir=str(tmp_path))), tmp_path)
    (file,) = tmp_path.rglob("metrics.csv")
    rows = list(csv.DictReader(file.open()))
    assert [(row["step"], row["ors/loss"], row["sar/loss"]) for row in rows[:2]] == [
        ("10", "0.5", ""),
        ("20", "", "0.25"),
    ]
    assert rows[-1]["macro_f1"] == "0.5"


def records(folder: Path) -> list[Record]:
    """What an offline run of wandb wrote: protocol buffers in LevelDB's log format, after seven bytes of its own.

    Blocks of 32 KiB hold pieces of records, each after its checksum (4 bytes), its length (2) and whether it is the
    whole (1), the first, a middle or the last piece of a record.
    """
    (file,) = folder.rglob("*.wandb")
    content = file.read_bytes()
    found, pieces, place = [], b"", 7
    while place < len(content):
        left = BLOCK - place % BLOCK
        if left < 7:  # too short for a header: padding
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        pieces += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(pieces))
            pieces = b""
    return found


def ended(folder: Path) -> list[Record]:
    """The records of a run that has ended; wandb's own process may write the last ones a moment later."""
    for _ in range(200):
        found = records(folder)
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            break
        time.sleep(0.1)
    return found


def logged(found: list[Record], kind: str) -> dict[str, str]:
    """The last values of history, summary or config as JSON, by key; of nested ones by their outer key."""
    lists = {
        "history": lambda r: r.history.item,
        "summary": lambda r: r.summary.update,
        "config": lambda r: r.config.update,
    }
    return {
        item.key or item.nested_key[0]: item.value_json
        for record in found
        if record.WhichOneof("record_type") == kind
        for item in lists[kind](record)
    }


def captions(found: list[Record], name: str) -> list[str]:
    """The captions of the pictures that were logged under a name, of the last time."""
    items = [item for record in found for item in record.history.item if list(item.nested_key) == [name, "captions"]]
    return json.loads(items[-1].value_json)


@pytest.mark.parametrize(("status", "code"), [("success", 0), ("failed", 1)])
def test_a_run_of_wandb_says_how_it_ended(status, code, tmp_path: Path):
    tracker = Tracker(lambda: WandbLogger(project="p", offline=True, log_model=False, save_dir=str(tmp_path)))
    tracker.config({"seed": 0})
    tracker.finish(status)
    (end,) = (record.exit for record in ended(tmp_path) if record.WhichOneof("record_type") == "exit")
    assert end.exit_code == code


@pytest.mark.parametrize("error", [None, UserError("mend it"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_session_that_fails_is_not_called_a_success(error, tmp_path: Path, monkeypatch):
    logger = Memory()
    monkeypatch.setattr(session, "_logger", lambda *_: lambda: logger)
    monkeypatch.setattr(session, "rehearse", lambda *_: None)
    with (
        pytest.raises(type(error)) if error else nullcontext(),
        session.session(settings(f"paths.store={tmp_path}"), tmp_path, [], "evaluate"),
    ):
        if error:
            raise error
    assert logger.ended == ["failed" if error else "success"]


def test_an_offline_run_of_wandb_can_be_read_back(tmp_path: Path):
    here = {"save_dir": str(tmp_path), "group": "sweep", "name": "lora", "job_type": "sar"}
    use_everything(Tracker(lambda: WandbLogger(project="p", offline=True, log_model=False, **here)), tmp_path)
    found = ended(tmp_path)
    kinds = {record.WhichOneof("record_type") for record in found}
    assert {"run", "history", "exit"} <= kinds, "finished properly"
    run = next(record.run for record in found if record.WhichOneof("record_type") == "run")
    assert (run.run_group, run.display_name, run.project, run.job_type) == ("sweep", "lora", "p", "sar")
    keys = logged(found, "history")
    assert {"ors/loss", "ors/step", "sar/loss", "images/1_grid", "scores/1_results", "sar/samples"} <= set(keys)
    assert {"scores/3_confusion_table", "scores/4_precision_recall_table", "sweep/3_report"} <= set(keys)
    assert (keys["ors/step"], keys["sar/step"]) == ("10", "20")
    axes = {r.metric.name: r.metric.step_metric for r in found if r.WhichOneof("record_type") == "metric"}
    assert axes.items() >= {"ors/loss": "ors/step", "sar/loss": "sar/step", "sar/samples": "sar/step"}.items()
    assert "macro_f1" not in keys and logged(found, "summary")["macro_f1"] == "0.5", "a figure to sort by, no curve"
    assert captions(found, "sar/samples") == ["a SAR image of cargo ship", "a SAR image of tanker ship"], (
        "one a picture"
    )
    recorded = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    base, made, other, used = (artifact for artifact in recorded if artifact.type != "run_table")
    assert (base.name, base.type, base.use_after_commit) == ("sd-nano-20ab", "base", True)
    assert len(other.name) == 128 and other.name.endswith("x-ef56"), "W&B takes no more, and no other characters"
    assert sorted(entry.path for entry in other.manifest.contents) == ["adapter.safetensors", "card.json"]
    assert (made.name, made.type, made.use_after_commit) == ("ors-ab12", "adapter", False)
    assert json.loads(made.metadata)["inputs"] == {"latents": "cd34"}, "what it was made from"
    assert [entry.path for entry in made.manifest.contents] == ["card.json"]
    assert (used.name, used.use_after_commit) == ("train-images-cd34", True)
    assert {"seed", "method"} <= set(logged(found, "config"))
    names = {file.name.split("_")[0] for file in (next(tmp_path.glob("wandb/offline-run-*")) / "files").rglob("*.*")}
    assert {"1"} <= names
    assert wandb.run is None, "the next job of a sweep begins its own"


def test_a_disabled_run_of_wandb_leaves_nothing(tmp_path: Path, capsys):
    here = {"save_dir": str(tmp_path), "mode": "disabled"}
    use_everything(Tracker(lambda: WandbLogger(project="p", log_model=False, **here)), tmp_path)
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.rglob("*.wandb"))


def test_recall_and_precision_are_scikit_learns():
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.3
    shares = rng.random(1000)
    precision, recall, _ = precision_recall_curve(right, shares)
    whole = set(zip(recall.tolist(), precision.tolist(), strict=True))
    points = recall_and_precision(right, shares)
    assert len(points) == 200
    assert {tuple(point) for point in points} <= whole
    assert points[0] == [recall[0], precision[0]] and points[-1] == [0.0, 1.0]


def test_previews_come_when_it_is_time_and_training_takes_no_notice(uninterrupted):  # noqa: F811
    shown = []

    def show(step: int) -> None:
        torch.manual_seed(99)
        torch.rand(7)
        shown.append(step)

    made = fit(callbacks=[Previews(3, show)])
    assert shown == [3, 6]
    assert torch.equal(flat(made), uninterrupted[0])
