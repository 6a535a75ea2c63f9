"""Adapters are float32, whatever the base below them is in: they learn, fold and route as on one in full precision."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from test_adapters import CONVOLUTIONAL, RELEASE, trained
from test_denoising import fit
from tiny import noisy, tiny_base
from torch import Tensor

from sarsynth.diffusion import adapter_files, adapters
from sarsynth.diffusion.adapters import Adapter, AdapterSpec, concatenate, folded
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.routing import routed
from sarsynth.training.fitting import Fitting

SPEC = AdapterSpec(4, CONVOLUTIONAL)
HALVES = [torch.bfloat16, torch.float16]


def half(dtype: torch.dtype = torch.bfloat16) -> Base:
    base = tiny_base()
    base.unet.to(dtype)
    return base


def all_float32(adapter: Adapter) -> bool:
    return {weight.dtype for layer in adapter.values() for weight in layer} == {torch.float32}


@pytest.mark.parametrize("dtype", HALVES)
def test_adapters_of_a_base_in_half_precision_are_float32(dtype: torch.dtype, tmp_path: Path):
    unet = half(dtype).unet
    begun = adapters.fresh(unet, SPEC, 0)
    assert all_float32(begun)
    assert all(torch.equal(layer.a, known.a) for layer, known in zip(begun.values(), fresh_on_float32(), strict=True))
    adapter_files.save(begun, tmp_path / adapter_files.WEIGHTS)
    assert all_float32(adapter_files.load(unet, tmp_path / adapter_files.WEIGHTS))
    assert all_float32(concatenate([(begun, 0.3), (begun, 0.5)]))
    with routed(unet, [begun]) as routing:
        assert {parameter.dtype for parameter in routing.parameters(0)} == {torch.float32}


def fresh_on_float32() -> list[adapters.LowRank]:
    return list(adapters.fresh(tiny_base().unet, SPEC, 0).values())


@pytest.mark.parametrize("dtype", HALVES)
def test_a_stack_is_folded_in_float32_and_rounded_once(dtype: torch.dtype):
    """Also under autocast, which would multiply the matrices in half precision."""
    base = half(dtype)
    stack = [(trained(base, 0), 0.7), (trained(base, 1), 0.4)]
    layers = dict(base.unet.named_modules())
    expected = {name: (layers[name].weight.float() + of.delta()).to(dtype) for name, of in concatenate(stack).items()}
    with torch.autocast("cpu", dtype), folded(base.unet, stack):
        assert all(torch.equal(layers[name].weight, weight) for name, weight in expected.items())


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("pattern", [RELEASE, CONVOLUTIONAL])
def test_routed_layers_compute_in_the_precision_of_what_comes_in(autocast: bool, pattern: str):
    """On a base in bfloat16 the prediction is near that in float32, and gradients reach float32 weights."""
    spec = AdapterSpec(2, pattern)
    latents, timesteps, text = noisy(tiny_base(), 4)

    def run(base: Base, inputs: list[Tensor], on: bool) -> tuple[Tensor, list[Tensor]]:
        some = [trained(tiny_base(), seed, spec) for seed in (0, 1)]
        with routed(base.unet, some) as routing, torch.autocast("cpu", torch.bfloat16, enabled=on):
            made = base.unet(inputs[0], timesteps, inputs[1]).sample
            made.float().square().mean().backward()
            return made.detach(), [parameter.grad for index in (0, 1) for parameter in routing.parameters(index)]

    known, gradients = run(tiny_base(), [latents, text], on=False)
    inputs = [latents, text] if autocast else [latents.bfloat16(), text.bfloat16()]
    made, halves = run(half(), inputs, on=autocast)
    assert made.dtype == torch.bfloat16
    assert {gradient.dtype for gradient in halves} == {torch.float32}
    assert (made.float() - known).norm() < 0.03 * known.norm()
    one, other = (torch.cat([gradient.flatten() for gradient in some]) for some in (gradients, halves))
    assert (one - other).norm() < 0.05 * one.norm()


class Note(Callback):
    """First and last loss, and what Adam keeps."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, *_) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer, module) -> None:
        states = trainer.optimizers[0].state.values()
        self.kept = {value.dtype for state in states for name, value in state.items() if name != "step"}


def test_a_training_in_bfloat16_is_near_one_in_float32():
    whole, less = Note(), Note()
    fit(callbacks=[whole])
    trainer = partial(Trainer, accelerator="cpu", devices=1, precision="bf16-mixed")
    made = fit(half(), fitting=Fitting(trainer), callbacks=[less])
    assert all_float32(made)
    assert less.kept == {torch.float32}
    assert less.losses == pytest.approx(whole.losses, rel=0.02)
