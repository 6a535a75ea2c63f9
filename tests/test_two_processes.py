"""Every artifact that two processes of one group make is what one process makes; each as torchrun starts them."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from processes import run, run_on_two
from safetensors.torch import load_file
from test_pipeline import TINY

from sarsynth import cli

SHORT = ("max_steps=2", "warmup_steps=1", "batch_size=2")
CONTROLNET = [f"train.controlnet.{key}" for key in SHORT]
BASE = [f"train.base.{part}.{key}" for part in ("autoencoder", "unet") for key in SHORT]
STAGES = {
    # and the classifier and the partition that it rests on; under the frozen ControlNet
    "adapter": ["stage=sar", "method=plora", "contours=real"],
    "controlnet": ["stage=controlnet", "controlnet.on=sar", *CONTROLNET],
    "finetune": ["stage=sar", "method=finetune"],
    "base": ["stage=base", "regular.train=3", "train.base.generic_pictures=10", *BASE],
}


def train(folder: Path, *trainer: str) -> None:
    os.chdir(folder)
    for overrides in STAGES.values():
        sys.argv = ["train.py", *overrides, *TINY, *trainer]
        cli.main("train")


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    """The stores of one process and of two."""
    alone, shared = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    assert run(train, alone) == 0
    assert run_on_two(train, shared, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2") == [0, 0]
    return alone / "logs/store", shared / "logs/store"


def artifacts(store: Path) -> list[str]:
    return sorted(str(card.parent.relative_to(store)) for card in store.glob("*/*/card.json"))


def test_the_same_artifacts_and_no_more(stores):
    alone, shared = stores
    assert artifacts(alone) == artifacts(shared)
    assert {json.loads(card.read_text())["kind"] for card in shared.glob("*/*/card.json")} == {
        *("cache", "classifier", "partition", "adapter", "controlnet", "base")
    }
    assert not list(shared.glob("*/.*.partial"))


def test_the_same_weights_up_to_rounding(stores):
    alone, shared = stores
    files = [file for file in alone.rglob("*.safetensors") if file.parents[1].name != ".locks"]
    assert len(files) > 10
    for file in files:
        one, two = load_file(file), load_file(shared / file.relative_to(alone))
        assert one.keys() == two.keys()
        for name in one:
            a, b = one[name].double(), two[name].double()
            assert (a - b).norm() <= 2e-3 * a.norm() + 1e-9, f"{file.name}: {name}"  # bases are kept in half precision


def test_a_classifier_trains_in_one_process(stores):
    """To the bit: its batches are not shared out."""
    alone, shared = stores
    (file,) = alone.glob("classifier/*/classifier.safetensors")
    one, two = load_file(file), load_file(shared / file.relative_to(alone))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_one_process_keeps_the_record(stores):
    assert len(list((stores[1].parent / "runs/train").iterdir())) == len(STAGES)
