"""A training is taken to its end or leaves nothing; afterwards everything is where and as it was."""

from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from test_control import dataset as control_samples
from test_control import training as control_training
from test_denoising import STEPS, Kill, fit, flat
from tiny import tiny_base
from torch import Tensor, nn

from sarsynth.data.datamodules import SeededDataModule
from sarsynth.diffusion.controlnet import new_controlnet
from sarsynth.errors import UserError
from sarsynth.training.fitting import Fitting, MovingAverage, _moving_average
from sarsynth.training.tasks import StepOptions

CHECKPOINTED = StepOptions(gradient_checkpointing=True)


def on_cpu(**arguments) -> Fitting:
    return Fitting(partial(Trainer, accelerator="cpu", devices=1, **arguments))


# --- To the end -------------------------------------------------------------------------------------------------------


class Stop(Callback):
    """Ask for an end after three steps."""

    def on_train_batch_end(self, trainer, *_) -> None:
        trainer.should_stop = trainer.global_step == 3


@pytest.mark.parametrize(
    ("arguments", "callbacks", "named"),
    [
        ({"max_time": timedelta(seconds=0)}, [], "max_time ended the training after "),
        ({"fast_dev_run": True}, [], f"fast_dev_run ended the training after 1 of {STEPS} steps"),
        ({}, [Stop()], f"a callback ended the training after 3 of {STEPS} steps"),
    ],
)
def test_a_training_that_ends_early_is_none(arguments, callbacks, named):
    with pytest.raises(UserError, match=f"adapter: {named}"):
        fit(fitting=on_cpu(**arguments), callbacks=callbacks)


@pytest.mark.parametrize(
    "arguments", [{"limit_train_batches": 3}, {"overfit_batches": 2}, {"accumulate_grad_batches": 2}]
)
def test_what_would_feed_it_otherwise_does_not(arguments):
    assert torch.equal(flat(fit(fitting=on_cpu(**arguments))), flat(fit()))


# --- Where it was -----------------------------------------------------------------------------------------------------


def test_a_module_is_afterwards_where_it_was_trained(monkeypatch: pytest.MonkeyPatch):
    """Lightning's last word is to move it to the CPU; ours is to move it back."""
    moves: list[str] = []
    base = tiny_base()
    cpu, to = nn.Module.cpu, nn.Module.to

    def noted_cpu(module):
        moves.append("away")
        return cpu(module)

    def noted_to(module, device, *args, **kwargs):
        if isinstance(device, torch.device):
            moves.append(str(device))
        return to(module, device, *args, **kwargs)

    monkeypatch.setattr("lightning.fabric.utilities.device_dtype_mixin._DeviceDtypeModuleMixin.cpu", noted_cpu)
    monkeypatch.setattr("lightning.fabric.utilities.device_dtype_mixin._DeviceDtypeModuleMixin.to", noted_to)
    fit(base)
    assert moves[-2:] == ["away", "cpu"]
    moves.clear()
    with pytest.raises(RuntimeError, match="killed"):
        fit(base, callbacks=[Kill(2)])
    assert moves[-2:] == ["away", "cpu"]


# --- Memory -----------------------------------------------------------------------------------------------------------


class RunOut(Callback):
    """Memory that is not there."""

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_memory_that_runs_out_is_one_line():
    said = r"memory ran out with 4 samples at once \(train.micro_batch=auto\); set train.micro_batch=2, set train.grad"
    with pytest.raises(UserError, match=f"adapter: {said}.*or lower base.image_size$"):
        fit(callbacks=[RunOut()])
    with pytest.raises(UserError, match=r"with 1 samples at once \(train.micro_batch=1\); lower base.image_size$"):
        fit(fitting=Fitting(options=StepOptions(1, gradient_checkpointing=True)), callbacks=[RunOut()])


# --- Gradient checkpointing -------------------------------------------------------------------------------------------


class Seen(Callback):
    """Which networks compute blocks again, while they train."""

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.checkpointing = [network.is_gradient_checkpointing for network in module.networks]


def test_gradient_checkpointing_changes_nothing_and_is_off_again():
    base, seen = tiny_base(), Seen()
    made = flat(fit(base, fitting=Fitting(options=CHECKPOINTED), callbacks=[seen]))
    assert seen.checkpointing == [True]
    assert not base.unet.is_gradient_checkpointing
    assert torch.equal(made, flat(fit())), "routed layers too"
    with pytest.raises(RuntimeError, match="killed"):
        fit(base, fitting=Fitting(options=CHECKPOINTED), callbacks=[Kill(2)])
    assert not base.unet.is_gradient_checkpointing


def test_gradient_checkpointing_of_a_controlnet_changes_nothing():
    def controlnet(fitting: Fitting) -> list[Tensor]:
        base, seen = tiny_base(), Seen()
        network = new_controlnet(base, seed=0)
        data = SeededDataModule.whole(control_samples(base), batch_size=4, max_steps=3, seed=5)
        fitting.fit(control_training(base, network, 3), data, title="", max_steps=3, callbacks=[seen])
        assert seen.checkpointing == [fitting.options.gradient_checkpointing] * 2
        return list(network.parameters())

    known, made = controlnet(Fitting()), controlnet(Fitting(options=CHECKPOINTED))
    assert all(torch.equal(one, other) for one, other in zip(known, made, strict=True))


# --- The moving average -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.25, 0.5, 0.9999])
def test_averages_taken_together_have_the_bits_of_averages_taken_alone(decay: float):
    """Also at the step of which half goes to either side, the ninth."""
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(7, 5, generator=draw) for _ in range(130)]
    averages = [torch.randn(7, 5, generator=draw) for _ in range(130)]
    for updates in range(1, 12):
        slower = min(decay, (1 + updates) / (10 + updates))
        expected = [torch.lerp(now, average, slower) for now, average in zip(weights, averages, strict=True)]
        _moving_average(averages, weights, torch.tensor(updates), decay=decay)
        assert all(torch.equal(one, other) for one, other in zip(averages, expected, strict=True))


def test_the_average_lies_where_the_weights_are_and_counts_on_the_cpu():
    average, module = MovingAverage(0.9), LightningModule()
    module.layer = nn.Linear(2, 2)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    average.setup(trainer, module, "fit")
    assert {parameter.device.type for parameter in average._average_model.module.parameters()} == {"meta"}
    assert average._average_model.n_averaged.device.type == "cpu"
