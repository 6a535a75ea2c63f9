"""The seeds of an evaluation, shared out over the processes of a job: bits are those of one process."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from processes import run, run_on_two
from safetensors.torch import load_file
from test_classifier import RECIPE, TEST, fit
from test_conf import settings
from test_pipeline import TINY
from torch import distributed

from sarsynth import processes
from sarsynth.classifier.network import predict
from sarsynth.commands.session import quieten
from sarsynth.errors import UserError
from sarsynth.report.jobs import read_curves
from sarsynth.stages import score_classifiers
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import classifier
from sarsynth.store.artifacts import CHECKPOINTS, Request
from sarsynth.store.building import Store
from sarsynth.tracking import Tracker
from sarsynth.training.compute import Compute
from sarsynth.training.fitting import Fitting
from sarsynth.training.precision import FULL

TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


# --- In the store -----------------------------------------------------------------------------------------------------


def request(name: str) -> Request:
    return Request("evaluation", name, {"name": name}, {}, version=1, command=f"python evaluate.py seeds=[{name}]")


def meet(root: Path) -> None:
    """Each process builds one, and only once the other has begun the other."""

    def build(request: Request, folder: Path) -> None:
        (root / f"{request.name}-begun").touch()
        for name in "01":
            wait_for(root / f"{name}-begun")
        (folder / "rank").write_text(str(processes.rank()))

    made = Store(root).make_each([request(name) for name in "01"], build)
    assert [(artifact.path / "rank").read_text() for artifact in made.values()] == ["0", "1"]


def test_processes_build_at_once_and_all_have_all(tmp_path: Path):
    assert run_on_two(meet, tmp_path) == [0, 0]
    assert len(list(tmp_path.glob("evaluation/*/card.json"))) == 2


def die(root: Path) -> None:
    """The second process dies at work; the first one goes on from where it stopped."""

    def build(request: Request, folder: Path) -> None:
        kept = folder / CHECKPOINTS / "last"
        if processes.rank() == 1:
            kept.parent.mkdir()
            kept.write_text("half")
            (root / "dying").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        wait_for(root / "dying")
        (folder / "from").write_text(kept.read_text() if kept.exists() else "nothing")

    made = Store(root).make_each([request(name) for name in "012"], build)
    assert [(artifact.path / "from").read_text() for artifact in made.values()] == ["nothing", "half", "nothing"]


def test_nobody_waits_for_a_process_that_died(tmp_path: Path):
    assert run_on_two(die, tmp_path, timeout=60) == [0, -signal.SIGKILL]


def test_one_process_builds_one_after_the_other_and_says_so(tmp_path: Path):
    said: list[str] = []

    def build(request: Request, folder: Path) -> None:
        said.append(f"build {request.name}")

    requests = [request(name) for name in "abc"]
    made = Store(tmp_path, report=said.append).make_each(requests[:2], build)
    assert list(made) == requests[:2] and all(artifact.complete for artifact in made.values())
    assert [line.split("-")[0] for line in said] == [
        *("build a", "made   evaluation/a", "build b", "made   evaluation/b")
    ]
    said.clear()
    Store(tmp_path, report=said.append).make_each(requests, build)
    assert [line.split("-")[0] for line in said] == [
        *("build c", "made   evaluation/c", "reused evaluation/a", "reused evaluation/b")
    ]
    missing = Store(tmp_path, "require")
    with pytest.raises(UserError, match=r"evaluation/d-\w+ is missing .*make it with: python evaluate.py seeds=\[d\]"):
        missing.make_each([*requests, request("d")], build)


# --- A training -------------------------------------------------------------------------------------------------------


def test_a_training_alone_is_on_the_device_of_its_process():
    second = Compute(partial(Trainer, devices=2, num_nodes=3, strategy="ddp"), torch.device("cuda", 1), FULL, 6)
    assert second.make_trainer_alone.keywords == {"devices": [1], "num_nodes": 1, "strategy": "auto"}
    two = Compute.of({"accelerator": "cpu", "devices": 2, "num_nodes": 1, "strategy": "ddp", "deterministic": False})
    trainer = two.make_trainer_alone(logger=False, enable_progress_bar=False)
    assert (trainer.world_size, trainer.strategy.root_device) == (1, torch.device("cpu"))


def train_beside_another(folder: Path) -> None:
    """In a group of two, train different numbers of steps, which nothing common to both would survive."""
    compute = Compute.of(settings(*TWO).trainer.model_dump())
    compute.enter()
    for seed in range(2 - processes.rank()):
        logits = predict(fit(seed=seed, fitting=Fitting(compute.make_trainer_alone)), TEST.images)
        torch.save(logits, folder / f"{processes.rank()}-{seed}.pt")
    assert distributed.get_world_size() == 2, "the group is as it was"
    distributed.barrier()


def test_a_training_takes_no_notice_of_the_group_that_its_process_is_in(tmp_path: Path):
    assert run_on_two(train_beside_another, tmp_path, timeout=120) == [0, 0]
    for file in ("0-0.pt", "0-1.pt", "1-0.pt"):
        alone = predict(fit(RECIPE, seed=int(file[2])), TEST.images)
        assert torch.equal(torch.load(tmp_path / file), alone), file


# --- An evaluation ----------------------------------------------------------------------------------------------------


def evaluate(folder: Path, *overrides: str) -> None:
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    quieten()
    study = Study(settings("method=augmented", *TINY, "classifier.epochs=8", *overrides), Tracker(None))
    study.compute.enter()
    train = score_classifiers._train

    def watched(study: Study, seed: int, folder: Path) -> None:
        Path(f"seed-{seed}-by-{processes.rank()}").touch()
        train(study, seed, folder)

    score_classifiers._train = watched
    assert len(score_classifiers.trained(study, study.settings.seeds)) == 3
    classifier(study)


def test_classifiers_of_two_processes_are_those_of_one(tmp_path: Path):
    """Seeds, and the study's own: under the names that one process gives them, and the same bit for bit."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(evaluate, one, "seeds=[0,1,2]") == 0
    assert run_on_two(evaluate, two, "seeds=[0,1,2]", *TWO) == [0, 0]
    by = {file.name[-1] for file in two.glob("seed-*")}
    assert by == {"0", "1"} and len(list(two.glob("seed-*"))) == 3, "each seed once, and both processes at work"
    files = {
        str(file.relative_to(one)): file
        for kind in ("evaluation", "classifier")
        for file in one.glob(f"logs/store/{kind}/**/*")
        if file.is_file() and file.name != "card.json"
    }
    assert len(files) == 3 * (2 + 2) + 2
    for name, file in files.items():
        if file.suffix == ".json":
            assert (two / name).read_bytes() == file.read_bytes(), name
            continue
        ours, known = load_file(two / name), load_file(file)
        assert ours.keys() == known.keys()
        assert all(torch.equal(ours[key], known[key]) for key in known), name
    assert not list(two.glob("logs/store/*/.*.partial"))


def test_a_classifiers_curve_is_of_one_training(monkeypatch, tmp_path: Path) -> None:
    """Those of the same seed on the images of other generators have names of their own, as in result.json."""
    study, called = Study(settings("method=lora", "generator_seeds=[4,5]"), Tracker(None)), []
    monkeypatch.setattr(score_classifiers, "recipe_of_method", lambda _: RECIPE)
    monkeypatch.setattr(score_classifiers, "learning_and_validation", lambda _: (TEST, None))
    monkeypatch.setattr(score_classifiers, "labelled", lambda *_: TEST)
    monkeypatch.setattr(score_classifiers, "sizes", lambda _: {})
    monkeypatch.setattr(score_classifiers, "classes", lambda _: [])
    monkeypatch.setitem(score_classifiers.ADDS, "synthetic", lambda *_: None)
    monkeypatch.setattr(Study, "fitting", lambda _, stage, **more: called.append(stage))
    monkeypatch.setattr(score_classifiers, "fit_classifier", lambda *_, title, **more: called.append(title))
    for cell in study.cells:
        with pytest.raises(AttributeError):  # of no classifier
            score_classifiers.fit(cell, 2, tmp_path)
    other = "seed_2_generator_5_sample_0"
    assert called == ["seed_2", "classifier, lora, seed 2", other, f"classifier, lora, {other.replace('_', ' ')}"]


def test_a_curve_ends_where_its_training_does(tmp_path: Path) -> None:
    """Lightning writes the last value of what is not logged any more again and again."""
    (tmp_path / "metrics.csv").write_text("a,b,step\n3,1,9\n2,1,19\n2,1,29\n2,1,39\n")
    curves = read_curves(tmp_path / "metrics.csv")
    assert curves["a"].tolist() == [[9, 3], [19, 2]]
    assert len(curves["b"]) == 4, "what never changes is shown whole"
