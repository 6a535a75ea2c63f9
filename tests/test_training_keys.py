"""Settings of trainings that once followed from others in silence: they still do, unless something else is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known import a_study_that_knows
from test_conf import settings
from test_pipeline import WORLD
from tiny import tiny_base

from sarsynth.diffusion import adapters
from sarsynth.diffusion.prototypes import Partition
from sarsynth.diffusion.routing import routed
from sarsynth.stages import train_adapters
from sarsynth.stages.curate_images import training as records
from sarsynth.stages.load_base import architecture_of_base, base_artifact, shapes_of_base
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact
from sarsynth.tracking import Tracker
from sarsynth.training.precision import FULL
from sarsynth.training.tasks import StepOptions

BASE, ORS = (Artifact(kind, kind, kind, Path("nowhere")) for kind in ("base", "ors"))
RECIPE = {"learning_rate": 1e-3, "batch_size": 16, "weight_decay": 0.01, "max_grad_norm": 1.0, "loraplus_lr_ratio": 8.0}


def training(*said: str, name: str = "sar", steps: int = 150, whole: bool = False) -> train_adapters.Training:
    """One adapter, of a study of which nothing is there."""
    chosen = settings(*said)
    role: Any = name
    study = a_study_that_knows(
        (architecture_of_base, (), None),
        (base_artifact, (), BASE),
        (shapes_of_base, (), None),
        (records, (role,), [None] * 4),
        settings=chosen,
        step_options=StepOptions(),
        precision=FULL,
        device=torch.device("cpu"),
        command=lambda *keys: "",
    )
    recipe = chosen.train.ors if name == "ors" else chosen.train.sar
    inputs = {} if name == "ors" else {"ors": ORS}
    part = train_adapters.Part(name, 4, steps, recipe.warmup(steps, whole=whole), None if whole else range(4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_adapters, "encoded", lambda *_: {})
        patch.setattr(train_adapters, "samples", lambda *_: {})
        return train_adapters._training(study, role, recipe, part, inputs)


@pytest.mark.parametrize(
    ("said", "whole", "warmup"),
    [
        ([], True, 30),
        ([], False, 15),  # of a part, a tenth of its steps at most
        (["train.sar.warmup_steps=10"], False, 10),
        (["train.sar.warmup_share=0.1"], True, 15),
        (["train.sar.warmup_share=0.1"], False, 15),
        (["train.sar.warmup_share=0.3"], False, 45),
        (["train.sar.warmup_share=0"], False, 0),
    ],
)
def test_warmup_may_be_a_share_of_an_adapters_own_steps(said: list[str], whole: bool, warmup: int) -> None:
    """In the fingerprint it is steps, as ever, whoever said them."""
    made = training(*said, whole=whole)
    assert made.part.warmup == warmup
    assert made.request.settings["recipe"] == RECIPE | {"max_steps": 150, "warmup_steps": warmup}


def test_the_ors_adapter_too() -> None:
    assert (
        training("train.ors.warmup_share=0.2", "train.sar.warmup_share=0.5", name="ors", whole=True).part.warmup == 30
    )
    assert training(name="ors", whole=True).scale_below is None


def test_weights_of_time_steps_are_in_the_fingerprint_once_there_are_any() -> None:
    weighted, plain = training("train.sar.snr_gamma=5").request, training().request
    assert "snr_gamma" not in plain.settings["recipe"] and weighted.settings["recipe"]["snr_gamma"] == 5.0
    assert training("train.ors.snr_gamma=5").request.fingerprint == plain.fingerprint


def test_weights_of_time_steps_reach_the_adapter_that_has_them(monkeypatch) -> None:
    run, base = [training("train.sar.snr_gamma=5"), training()], tiny_base()
    begun = [adapters.fresh(base.unet, adapters.AdapterSpec(2, r".*\.to_q"), seed) for seed in range(2)]
    for name, known in {"learning_base": base, "training": [], "_conditioning": None}.items():
        monkeypatch.setattr(train_adapters, name, lambda *_, known=known: known)
    with routed(base.unet, begun) as routing:
        assert [group.snr_gamma for group in train_adapters._task(run, routing).groups] == [5.0, None]


def test_training_on_the_ors_adapter_has_a_scale_of_its_own() -> None:
    """By default w1 of generation, as ever; said, generation changes no adapter."""
    assert training().scale_below == 0.9
    assert training("generate.scales=[0.7,1.0]").scale_below == 0.7
    assert training("base=sd15").scale_below == 0.6
    own = [training("train.sar.scale_below=0.9", f"generate.scales=[{w1},1.0]") for w1 in (0.5, 0.9)]
    assert [one.scale_below for one in own] == [0.9, 0.9]
    assert own[0].request.fingerprint == own[1].request.fingerprint == training().request.fingerprint


@pytest.mark.parametrize(("sampling", "steps"), [("uniform", [21, 79]), ("balanced", [13, 87])])
def test_steps_of_parts_follow_how_often_their_images_come(sampling: str, steps: list[int], monkeypatch) -> None:
    """The first part holds two of ten images, of the class that has eight: a fifth of all, an eighth if balanced."""
    labels, assignments = np.array([0] * 8 + [1] * 2), np.array([0, 0] + [1] * 8)
    division = Partition.of(assignments, labels, ["large", "small"], ["one", "other"])
    monkeypatch.setattr(train_adapters, "partition", lambda study: (division, {}))
    monkeypatch.setattr(train_adapters, "ors_adapter", lambda study: ORS)
    monkeypatch.setattr(train_adapters, "_labels", lambda study, role: torch.from_numpy(labels))
    monkeypatch.setattr(train_adapters, "_training", lambda study, role, recipe, part, inputs, together: part)
    chosen = settings("method=plora", "train.sar.max_steps=100", f"adapter.sampling={sampling}")
    parts: list[Any] = train_adapters.sar_trainings(a_study_that_knows(settings=chosen))
    assert [part.steps for part in parts] == steps


def test_a_tenth_of_the_images_has_a_seed_of_its_own(tmp_path: Path, monkeypatch) -> None:
    """By default that of everything, as ever; said, other seeds train on the same tenth."""
    monkeypatch.chdir(tmp_path)

    def tenth(*said: str) -> list[str]:
        chosen = settings("data.split=deci", *WORLD, "data.train={cargo: 40, other: 30}", *said)
        return [record.path for record in records(Study(chosen, Tracker(None)), "sar")]

    first, other = tenth(), tenth("seed=1")
    assert len(first) == len(other) == 4 + 3 + 3 and first != other
    assert tenth("data.deci_seed=1") == other
    assert tenth("seed=1", "data.deci_seed=0") == first


def test_adapters_of_one_precision_train_in_one_run() -> None:
    """And are other adapters than those of another precision."""
    half, full = training("adapter.precision=bf16-mixed"), training()
    assert (half.request.precision, full.request.precision) == ("bf16-mixed", "32-true")
    assert half.request.fingerprint != full.request.fingerprint and half.batch_key != full.batch_key
    assert full.batch_key == training("train.sar.max_steps=9").batch_key
