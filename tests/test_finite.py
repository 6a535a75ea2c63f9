"""What is not finite stops a training, names whose it is, and is kept nowhere; on an accelerator no step waits."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from processes import run_on_two
from test_classifier import RECIPE
from test_denoising import STEPS, fit
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sarsynth.classifier.learning import fit_classifier
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.errors import UserError
from sarsynth.training.finite import EVERY, FiniteWatch
from sarsynth.training.fitting import CHECKPOINT, Fitting

LATER = Fitting(look_every=100)


class Spoil(Callback):
    """A sample that is not finite; also notes the weights after each step."""

    def __init__(self, step: int) -> None:
        self.step, self.row = step, -1
        self.weights: dict[int, Tensor] = {}

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        if trainer.global_step == self.step:
            batch["latents"][1] = torch.nan
            self.row = int(batch["row"][1])

    def on_train_batch_end(self, trainer, module, *_) -> None:
        flat = torch.cat([parameter.detach().flatten() for parameter in module.groups[0].parameters])
        self.weights[trainer.global_step] = flat
        self.moments = torch.cat([s["exp_avg"].flatten() for s in trainer.optimizers[0].state.values()])
        self.steps = {int(state["step"]) for state in trainer.optimizers[0].state.values()}


@pytest.mark.parametrize(("every", "stopped"), [(1, 3), (2, 4), (5, 5), (100, STEPS)])
def test_a_sample_is_named_whenever_one_looks_and_harms_no_weight(every: int, stopped: int):
    spoil = Spoil(3)
    with pytest.raises(UserError) as error:
        fit(fitting=Fitting(look_every=every), callbacks=[spoil])
    said = f"adapter, step 3: the loss is not finite for image {spoil.row}; no checkpoint yet; mend the images"
    assert said in str(error.value)
    assert max(spoil.weights) in (stopped, stopped - 1), "the callback that looks comes before the one that notes"
    assert all(weights.isfinite().all() for weights in spoil.weights.values())
    assert spoil.moments.isfinite().all()
    if every == 100:
        assert torch.equal(spoil.weights[4], spoil.weights[3]), "the step was left out"
        assert not torch.equal(spoil.weights[5], spoil.weights[4])
        assert spoil.steps == {STEPS - 1}


class SpoilGradient(Callback):
    """A gradient that is not finite, of a step whose losses are."""

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        if trainer.global_step == 2:
            self.rows = batch["row"].tolist()

    def on_after_backward(self, trainer, module) -> None:
        if trainer.global_step == 2:
            module.groups[0].parameters[0].grad[0] = float("inf")


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_gradient_is_that_of_its_step(every: int):
    spoil = SpoilGradient()
    with pytest.raises(UserError) as error:
        fit(fitting=Fitting(look_every=every), callbacks=[spoil])
    named = ", ".join(f"image {row}" for row in spoil.rows)
    assert f"step 2: the gradient is not finite for {named};" in str(error.value)


def test_no_checkpoint_is_written_before_a_look(tmp_path: Path):
    keep = {"checkpoints": tmp_path, "checkpoint_every": 2}
    with pytest.raises(UserError, match=f"step 4: the loss is not finite .*; the last good checkpoint is {tmp_path}"):
        fit(fitting=LATER, callbacks=[Spoil(4)], **keep)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=False)["global_step"] == 4
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]


class Waits(TorchDispatchMode):
    """Counts how often a value is asked for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Count(Callback):
    """How often the steps from the third to the last ask for a value."""

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        if trainer.global_step == 2:
            self.waits = Waits()
            self.waits.__enter__()

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == STEPS:
            self.waits.__exit__(None, None, None)


@pytest.mark.parametrize(("every", "waits"), [(1, True), (100, False)])
def test_no_step_asks_for_a_value_between_looks(every: int, waits: bool):
    count = Count()
    fit(fitting=Fitting(look_every=every), callbacks=[count])
    assert bool(count.waits.count) == waits


@pytest.mark.parametrize(("device", "every"), [("cpu", 1), ("cuda:1", EVERY)])
def test_on_a_cpu_one_looks_at_once(device: str, every: int):
    watch, module = FiniteWatch(), SimpleNamespace()
    strategy = SimpleNamespace(root_device=torch.device(device))
    watch.setup(SimpleNamespace(world_size=1, strategy=strategy), module, "fit")
    assert watch.every == every
    assert module.watch is watch


class SpoilImage(Callback):
    """An image of a classifier's fourth step that is not finite."""

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        if trainer.global_step == 3:
            batch[0][1] = torch.nan
            self.row, self.label = int(batch[2][1]), int(batch[1][1])


@pytest.mark.parametrize("every", [1, 100])
def test_a_classifiers_image_is_named(every: int):
    """With the rest of its batch, whose normalisation it spoils; the steps after it are not finite either."""
    images = torch.rand(9, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    real = LabelledImages(images, torch.arange(9) % 3, [f"chip {row}" for row in range(9)])
    recipe, spoil = replace(RECIPE, max_steps=5, batch_size=4), SpoilImage()
    with pytest.raises(UserError) as error:
        fit_classifier(real, "abc", recipe, seed=0, fitting=Fitting(look_every=every), callbacks=[spoil])
    assert "step 3: the loss is not finite for chip" in str(error.value)
    assert f"chip {spoil.row} ({'abc'[spoil.label]})" in str(error.value)


class SpoilOne(Spoil):
    """One process meets a value that is not finite, later the other."""

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self.step = 2 if trainer.global_rank == 1 else 5
        super().on_train_batch_start(trainer, module, batch, index)


def fit_a_spoilt_one(folder: Path) -> None:
    trainer = partial(Trainer, accelerator="cpu", devices=2, strategy="ddp")
    spoil = SpoilOne(0)
    with pytest.raises(UserError) as error:
        fit(fitting=Fitting(trainer, look_every=100), callbacks=[spoil])
    rank = torch.distributed.get_rank()
    (folder / f"rank_{rank}.txt").write_text(f"{error.value}")
    assert all(weights.isfinite().all() for weights in spoil.weights.values())
    if rank == 1:
        (folder / "row").write_text(str(spoil.row))


def test_two_processes_name_the_first_of_all(tmp_path: Path):
    assert run_on_two(fit_a_spoilt_one, tmp_path) == [0, 0]
    first, second = (file.read_text() for file in sorted(tmp_path.glob("rank_*.txt")))
    assert first == second
    assert f"step 2: the loss is not finite for image {(tmp_path / 'row').read_text()};" in first
