"""Sizes that no machine could hold are refused before anything is computed; those that are of no use are warned of."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from known import a_study_that_knows
from test_adapters import CONVOLUTIONAL, RELEASE
from test_conf import settings
from tiny import tiny_base
from torch import nn

from sarsynth.classifier.added_images import Added
from sarsynth.commands.preflight import check_network
from sarsynth.diffusion import adapters
from sarsynth.diffusion.adapters import AdapterSpec
from sarsynth.errors import UserError
from sarsynth.stages.check_sizes import check_batch, check_images_of_base, check_numbers, check_rank
from sarsynth.stages.curate_images import counts, planned, source, training
from sarsynth.stages.load_base import shapes_of_base
from sarsynth.training.memory import least_of_forward
from sarsynth.training.precision import FULL

CLASSES = {"cargo": 16, "tanker": 4}


def study(*said: str, joining: int = 12, images: int = 20, planning: bool = False) -> Any:
    """A study of a tiny base of which all is known, and nothing made."""
    base = tiny_base()
    added = {name: Added(joining if name == "tanker" else 0, 0) for name in CLASSES}
    return a_study_that_knows(
        (shapes_of_base, (), (base.unet, dict(base.vae.config))),
        (training, ("sar",), [None] * images),
        (planned, (), added),
        (counts, (), CLASSES),
        (source, ("sar",), SimpleNamespace(channels=1, classes=list(CLASSES))),
        settings=settings("method=lora", *said),
        precision=FULL,
        device=torch.device("cpu"),
        planning=planning,
    )


# --- Ranks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [RELEASE, CONVOLUTIONAL], ids=["release", "convolutional"])
def test_the_width_of_a_layer_is_the_highest_rank_of_its_update(pattern: str):
    unet = tiny_base().unet
    for name, width in adapters.widths(unet, pattern).items():
        layer = adapters.fresh(unet, AdapterSpec(40, pattern), 0)[name]
        random = layer._replace(b=torch.randn(layer.b.shape, generator=torch.Generator().manual_seed(0)))
        assert torch.linalg.matrix_rank(random.delta().flatten(1)) == width


def test_ranks_are_up_to_the_widest_layers_width(capsys):
    widest = max(adapters.widths(tiny_base().unet, CONVOLUTIONAL).values())
    for key, rank, shared in (("method.rank", 100_000, 1), ("train.ors.rank", widest + 1, 1), ("method.rank", 65, 4)):
        with pytest.raises(
            UserError, match=rf"^{key}={rank}.* above the width of every layer .*at most {widest}.*lower"
        ):
            check_rank(study(), key, rank, shared)
    check_rank(study(), "method.rank", 8)
    check_rank(study(), "method.rank", 4 * 8, 4)
    assert capsys.readouterr().out == ""


def test_a_rank_that_only_some_layers_can_have_is_warned_of_once(capsys):
    some = study()
    check_rank(some, "method.rank", 9)
    check_rank(some, "method.rank", 9)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("warning: method.rank=9 is above the width of ") == 1
    assert "(the narrowest: 8), where it takes memory and adds nothing" in said


# --- Batches and image sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["base.image_size=160000"], "base.image_size=160000: one image take.* GB of memory, and this machine has"),
        (["encode.batch_size=1000000"], "encode.batch_size=1000000: 1000000 images take"),
        (["generate.batch_size=1000000", "generate.per_class=1000000"], "generate.batch_size=1000000: 1000000 images"),
    ],
)
def test_images_of_the_base_that_cannot_fit_are_refused(said: list[str], message: str):
    with pytest.raises(UserError, match=f"^{message}.*lower it"):
        check_images_of_base(study("base.image_size=512", *said, images=2_000_000), "sar")


def test_a_batch_is_no_larger_than_its_set_and_a_plan_may_be_for_another_machine():
    check_images_of_base(study("encode.batch_size=1000000", "generate.batch_size=1000000"), "sar")
    check_images_of_base(study("base.image_size=160000", planning=True), "sar")


def test_batches_of_a_training(capsys):
    with pytest.raises(UserError, match="^train.sar.batch_size=100000000000: a list of 100000000000 samples take"):
        check_batch(study(), "train.sar.batch_size", 10**11, 20)
    check_batch(study(), "train.sar.batch_size", 64, 20)
    assert capsys.readouterr().out == ""
    check_batch(study(), "train.sar.batch_size", 2000, 20)
    assert "a step sees each 100 times" in " ".join(capsys.readouterr().out.split())


def test_an_image_size_that_the_classifier_cannot_take_is_refused_without_trying():
    with pytest.raises(UserError, match="^classifier.image_size=200000: one image takes .* GB of memory in resnet18"):
        check_network(settings("classifier.image_size=200000"))


def test_the_least_of_a_forward_pass_is_what_its_largest_layer_reads_and_writes():
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1))
    weights = network[0].weight.nbytes
    assert least_of_forward(network, (1, 1, 64, 64)) == 4 * (1 + 8) * 64**2 + weights


# --- Images a class ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "joining", "message"),
    [
        (
            [],
            10**9,
            "augment.plan adds 1000000000 images, most to tanker: 1000000020 images of classifier.image_size=64",
        ),
        (["classifier.batch_size=1000000000"], 12, "classifier.batch_size=1000000000: images of classifier.image_size"),
        (
            ["generate.per_class=1000000000000"],
            12,
            "generate.per_class=1000000000000: .* synthetic images .*paths.store",
        ),
    ],
)
def test_more_images_than_memory_or_disk_hold_are_refused(said: list[str], joining: int, message: str):
    with pytest.raises(UserError, match=f"^{message}"):
        check_numbers(study(*said, joining=joining))
    check_numbers(study())
