"""Gradients are clipped by their true norm, also where a gradient scaler makes them larger for half precision."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from test_denoising import STEPS, fit, flat
from torch import Tensor

from sarsynth.diffusion import denoising
from sarsynth.errors import UserError
from sarsynth.training import finite
from sarsynth.training.fitting import Fitting

LIMIT = 1.0


class Float32(MixedPrecision):
    """A gradient scaler alone: without autocast its results are those without a scaler."""

    def forward_context(self):
        return nullcontext()


def scaled(**scaler) -> Fitting:
    plugin = Float32("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", **scaler))
    return Fitting(partial(Trainer, accelerator="cpu", devices=1, plugins=[plugin]))


class Moments(Callback):
    """Adam's, and how many steps they are of, at the end."""

    def on_train_end(self, trainer, module) -> None:
        states = trainer.optimizers[0].state.values()
        self.first = torch.cat([state["exp_avg"].flatten() for state in states])
        self.second = torch.cat([state["exp_avg_sq"].flatten() for state in states])
        self.steps = {int(state["step"]) for state in states}
        self.scaler = getattr(trainer.precision_plugin, "scaler", None)


class Spoil(Callback):
    """Gradients that overflow in the first steps, whatever they are scaled by."""

    def __init__(self, steps: int = STEPS) -> None:
        self.steps = steps

    def on_after_backward(self, trainer, module) -> None:
        if trainer.global_step < self.steps:
            module.groups[0].parameters[0].grad[0] = float("inf")


def noted(monkeypatch: pytest.MonkeyPatch, fitting: Fitting | None) -> tuple[Tensor, Tensor, Moments]:
    """Norms before clipping, weights and moments of a training."""
    norms: list[Tensor] = []
    clip = denoising.clip_grad_norm_

    def clipped(parameters, limit):
        assert limit == LIMIT
        norms.append(clip(parameters, limit))
        return norms[-1]

    monkeypatch.setattr(denoising, "clip_grad_norm_", clipped)
    moments = Moments()
    made = flat(fit(fitting=fitting, callbacks=[moments]))
    monkeypatch.undo()
    return torch.stack(norms), made, moments


def test_a_gradient_scaler_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    norms, weights, moments = noted(monkeypatch, None)
    norms_, weights_, moments_ = noted(monkeypatch, scaled())
    assert len(norms) == STEPS
    torch.testing.assert_close(norms_, norms)
    torch.testing.assert_close(weights_, weights)
    torch.testing.assert_close(moments_.first, moments.first)
    torch.testing.assert_close(moments_.second, moments.second)
    assert moments_.steps == moments.steps == {STEPS}


def test_an_overflow_leaves_its_step_out_and_is_no_defect():
    moments = Moments()
    made = flat(fit(fitting=scaled(), callbacks=[Spoil(3), moments]))
    assert made.isfinite().all()
    assert moments.scaler.get_scale() == 2.0 ** (16 - 3)
    assert moments.steps == {STEPS - 3}


def test_overflows_without_end_end_the_training(monkeypatch: pytest.MonkeyPatch):
    said = "steps were all left out, since gradients overflow float16.*no checkpoint yet; use trainer.precision=bf16"
    with pytest.raises(UserError, match=f"adapter, the last {STEPS} {said}"):
        fit(fitting=scaled(), callbacks=[Spoil()])
    monkeypatch.setattr(finite, "OVERFLOWS", 3)
    with pytest.raises(UserError, match=f"the last 3 {said}"):
        fit(fitting=scaled(), callbacks=[Spoil()])
