"""Frozen weights in half precision, what is trained in float32; what goes in and comes out of a base is float32."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from known import a_study_that_knows
from test_conf import settings
from tiny import noisy, predict, tiny_base

from sarsynth.diffusion.base import NANO, Base, place_network
from sarsynth.errors import UserError
from sarsynth.stages.load_base import (
    adapter_precision,
    base,
    base_artifact,
    learning_base,
    sampling_base,
    sampling_precision,
)
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact
from sarsynth.tracking import Tracker
from sarsynth.training.precision import FULL, MANY, Precision, bfloat16_gain, choose, choose_for_pass, measured_gain

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)
HALVES = [Precision("bf16-mixed"), Precision("16-mixed")]


@pytest.mark.parametrize(
    ("asked", "device", "bfloat16", "chosen"),
    [
        ("auto", CPU, False, "32-true"),
        ("auto", CUDA, True, "bf16-mixed"),
        ("auto", CUDA, False, "16-mixed"),
        ("32-true", CUDA, True, "32-true"),
        ("16-mixed", CUDA, True, "16-mixed"),
        ("bf16-mixed", CPU, False, "bf16-mixed"),
    ],
)
def test_what_auto_comes_to(asked, device, bfloat16, chosen):
    assert choose(asked, device, lambda: bfloat16).name == chosen


@pytest.mark.parametrize(
    ("asked", "device", "message"),
    [
        ("16-mixed", CPU, "trainer.precision=16-mixed needs a CUDA card; use trainer.precision=auto"),
        ("bf16-mixed", CUDA, "this card has no bfloat16 .*; use trainer.precision=auto"),
    ],
)
def test_what_a_device_has_not_is_one_line(asked, device, message):
    with pytest.raises(UserError, match=message):
        choose(asked, device, lambda: False)


@pytest.mark.parametrize(
    ("asked", "device", "gain", "activations", "chosen"),
    [
        ("auto", CPU, 1.8, MANY, "bf16-mixed"),
        ("auto", CPU, 1.8, MANY - 1, "32-true"),
        ("auto", CPU, 1.1, MANY, "32-true"),
        ("auto", CUDA, 1.8, MANY, "16-mixed"),
        ("trainer", CPU, 1.8, MANY, "16-mixed"),
        ("bf16-mixed", CPU, 1.0, 1, "bf16-mixed"),
        ("32-true", CPU, 1.8, MANY, "32-true"),
        ("bf16-mixed", CUDA, 1.0, 1, "bf16-mixed"),  # planned where no card is
    ],
)
def test_passes_are_in_bfloat16_where_a_cpu_is_quicker_by_it(asked, device, gain, activations, chosen):
    key, trainer = "generate.precision", Precision("16-mixed")
    assert choose_for_pass(asked, trainer, device, activations, key=key, gain=lambda: gain).name == chosen


@pytest.mark.parametrize(("spent", "gain"), [((2.0, 1.0), 2.0), ((1.0, 2.0), 0.5)])
def test_what_bfloat16_gains_is_measured_in_turns(spent, gain, monkeypatch):
    by_type = dict(zip((torch.float32, torch.bfloat16), spent, strict=True))
    monkeypatch.setattr("sarsynth.training.precision._seconds", lambda inputs, _: by_type[inputs.dtype])
    assert measured_gain.__wrapped__() == gain


def test_what_bfloat16_gains_is_kept_by_model_of_cpu(tmp_path, monkeypatch):
    """So that all who share a store make the same things, and a CPU without instructions for it never measures."""
    gains = iter([1.8, 0.9, 1.2, 1.4])
    monkeypatch.setattr("sarsynth.training.precision.measured_gain", lambda: next(gains))
    kept, has = tmp_path / "gains.json", {"avx512_bf16": True, "cpu_name": "one"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert [bfloat16_gain(kept), bfloat16_gain(kept)] == [1.8, 1.8]
    has |= {"cpu_name": "other", "avx512_bf16": False, "amx_bf16": True}
    assert [bfloat16_gain(kept), json.loads(kept.read_text())] == [0.9, {"one": 1.8, "other": 0.9}]
    assert bfloat16_gain(tmp_path / "no folder" / "gains.json") == 1.2, "nothing is made to keep it in"
    kept.write_text('{"other": ')
    assert [bfloat16_gain(kept), json.loads(kept.read_text())] == [1.4, {"other": 1.4}], "a damaged one is made anew"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert bfloat16_gain(kept) == 1


def test_what_this_cpu_gains_is_a_number():
    assert 0 < measured_gain() < 100


def a_study(*said: str):
    """Of the embedded base, which trains in float32."""
    known = a_study_that_knows(
        (base_artifact, (), Artifact("base", "sd-nano", "ab12", NANO)), settings=settings("method=lora", *said)
    )
    known.precision, known.device, known.planning = FULL, CPU, False
    known.store = SimpleNamespace(root=Path("nowhere"))
    return known


def test_a_base_that_draws_in_the_precision_of_trainings_is_the_one_that_trains(capsys):
    for said in ([], ["generate.precision=32-true"]):
        study = a_study(*said)
        assert sampling_precision(study) == FULL, "which leaves fingerprints as they were"
        assert sampling_base(study, base_artifact(study)) is base(study)
    assert not capsys.readouterr().out


def test_another_precision_is_a_second_base_and_is_said_once(capsys):
    study = a_study("generate.precision=bf16-mixed")
    for _ in range(2):
        drawing = sampling_base(study, base_artifact(study))
    assert (drawing.unet.dtype, base(study).unet.dtype) == (torch.bfloat16, torch.float32)
    assert capsys.readouterr().out.count("images are drawn in bfloat16 (generate.precision=bf16-mixed)") == 1


def test_adapters_learn_in_a_precision_of_their_own(capsys):
    """Which is part of what they are; images are drawn, encoded and classified as before."""
    study = a_study("adapter.precision=bf16-mixed")
    learning = [learning_base(study, role) for role in ("ors", "sar")]
    assert learning[0] is learning[1]
    assert (learning[0].unet.dtype, base(study).unet.dtype) == (torch.bfloat16, torch.float32)
    assert sampling_base(study, base_artifact(study)) is base(study)
    assert capsys.readouterr().out.count("adapters learn in bfloat16 (adapter.precision=bf16-mixed)") == 1


def test_and_are_trained_in_it():
    study = Study(settings("method=lora"), Tracker(None))
    made = [study.fitting("sar", precision=of).make_trainer(max_steps=1).precision for of in (None, HALVES[0])]
    assert made == ["32-true", "bf16-mixed"]


def test_auto_goes_by_the_batch_of_each_training(monkeypatch):
    monkeypatch.setattr("sarsynth.stages.load_base.bfloat16_gain", lambda _: 1.8)
    study = a_study("adapter.precision=auto", "train.ors.batch_size=8", "train.sar.batch_size=7")
    assert [adapter_precision(study, role).name for role in ("ors", "sar")] == ["bf16-mixed", "32-true"]


@pytest.mark.parametrize(("batch", "guidance", "chosen"), [(4, 3, "bf16-mixed"), (3, 3, "32-true"), (4, 1, "32-true")])
def test_auto_goes_by_the_latent_cells_of_a_pass(batch, guidance, chosen, monkeypatch):
    """An image of 64 pixels has 16 x 16 of them, twice with guidance; the sizes of trainings are of no matter."""
    monkeypatch.setattr("sarsynth.stages.load_base.bfloat16_gain", lambda _: 1.8)
    said = ["generate.precision=auto", f"generate.batch_size={batch}", f"generate.guidance_scale={guidance}"]
    assert sampling_precision(a_study(*said)).name == chosen


def test_full_precision_changes_no_bit_and_needs_no_autocast():
    plain, placed = tiny_base(), tiny_base().place(CPU, FULL)
    assert torch.equal(predict(plain), predict(placed))
    with FULL.autocast(CPU):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", HALVES, ids=lambda one: one.name)
def test_frozen_weights_are_cast_once_and_the_door_is_float32(precision: Precision, tiny: Base):
    images, _, texts = torch.rand(2, 3, 16, 16) * 2 - 1, None, ["a photo", "tanker"]
    expected = [*tiny.encode(images), tiny.encode_text(texts), tiny.decode(torch.ones(2, 4, 8, 8))]
    tiny.place(CPU, precision)
    assert {weight.dtype for part in (tiny.unet, tiny.text_encoder) for weight in part.parameters()} == {
        precision.compute
    }
    got = [*tiny.encode(images), tiny.encode_text(texts), tiny.decode(torch.ones(2, 4, 8, 8))]
    for one, other in zip(expected, got, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.03 * one.norm()


def test_the_autoencoder_overflows_in_no_precision(tiny: Base):
    """Activations beyond 65,504 are none of bfloat16's business, and float16 never meets them."""
    torch.nn.init.constant_(tiny.vae.decoder.conv_in.weight, 4000.0)
    latents = torch.full((1, 4, 8, 8), 3.0)
    for precision in HALVES:
        assert tiny.place(CPU, precision).decode(latents).isfinite().all(), precision.name
    broken = tiny.vae.half()
    with torch.no_grad():
        assert not broken.decode(latents.half()).sample.isfinite().all(), "this test would see it"


def test_autocast_gives_float32_weights_gradients_through_half_precision():
    layer = torch.nn.Linear(8, 8)
    with Precision("bf16-mixed").autocast(CPU):
        output = layer(torch.ones(2, 8))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


def test_convolutions_lie_in_channels_last_on_cuda_alone(tiny: Base):
    place_network(tiny.unet, CPU, torch.float32)
    assert tiny.unet.conv_in.weight.is_contiguous()
    expected = tiny.unet(*noisy(tiny)).sample
    tiny.unet.to(memory_format=torch.channels_last)  # as on CUDA
    assert (tiny.unet(*noisy(tiny)).sample - expected).abs().max() < 1e-5
