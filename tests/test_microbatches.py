"""A step that is done in parts is the step: same weights, logs, checkpoints and defects, up to rounding."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from processes import run_on_two
from safetensors.torch import load_file, save_file
from test_control import dataset as control_samples
from test_control import training as control_training
from test_denoising import STEPS, Kill, fit, group, latents
from test_denoising import flat as flat_adapter
from test_pipeline import OF_SEVERAL_SEEDS, Command, command  # noqa: F401
from test_routing import CELLS, RELEASE, train, trained
from tiny import samples, tiny_base
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from sarsynth import processes
from sarsynth.data.datamodules import ByRow, SeededDataModule
from sarsynth.data.streams import Stream
from sarsynth.diffusion.adapters import AdapterSpec, fresh
from sarsynth.diffusion.controlnet import new_controlnet
from sarsynth.diffusion.denoising import Denoiser
from sarsynth.diffusion.pretraining import AutoencoderRecipe, Autoencoding
from sarsynth.diffusion.routing import routed
from sarsynth.errors import UserError
from sarsynth.training import microbatches
from sarsynth.training.fitting import CHECKPOINT, Fitting, MovingAverage
from sarsynth.training.memory import Demand
from sarsynth.training.tasks import StepOptions

DDP = partial(Trainer, accelerator="cpu", devices=2, strategy="ddp")
FEW = [replace(cell, steps=min(cell.steps, 50) // 10 + 1) for cell in CELLS]  # of 6, 6, 4 and 6 steps


@pytest.fixture
def run(command: Command) -> Command:  # noqa: F811  # a fixture of another file is a name of this one
    """Run a script, see test_pipeline."""
    return command


def at_once(samples: int, **more) -> Fitting:
    return Fitting(options=StepOptions(micro_batch=samples), **more)


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def near(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((one - other).norm() <= tolerance * other.norm())


class Parts(Callback):
    """Samples of each part, and what was logged at the end of each step."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.logged: dict[int, dict[str, float]] = {}

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self.sizes.append(len(batch["row"]))

    def on_train_batch_end(self, trainer, module, *_) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.logged.setdefault(trainer.global_step, {}).update(metrics)


class KillAmid(Callback):
    """Die in the middle of a step."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if index == self.batch:
            raise RuntimeError("killed")


@pytest.fixture(scope="module")
def whole() -> tuple[Tensor, Parts]:
    parts = Parts()
    return flat_adapter(fit(callbacks=[parts])), parts


# --- The same weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "each"), [(1, 1), (2, 2), (3, 2)])
def test_one_adapter(whole, most: int, each: int):
    """Of four samples a step, in equal parts of at most so many."""
    parts = Parts()
    made = flat_adapter(fit(fitting=at_once(most), callbacks=[parts]))
    assert parts.sizes == [each] * (STEPS * 4 // each)
    assert near(made, whole[0])
    assert parts.logged.keys() - {0} == whole[1].logged.keys()
    for step, known in whole[1].logged.items():
        assert parts.logged[step] == pytest.approx(known, rel=1e-4)


def test_several_adapters_of_which_one_ends_before_the_others():
    """Each part holds as many samples of one as of the other."""
    parts, known = Parts(), Parts()
    together = train(tuple(FEW), callbacks=[known])
    made = train(tuple(FEW), fitting=at_once(8), callbacks=[parts])
    assert parts.sizes == [8] * 8 + [6] * 4
    for one, other in zip(made, together, strict=True):
        assert near(flat_adapter(one), flat_adapter(other), 1e-4)
    for step, losses in known.logged.items():
        assert parts.logged[step] == pytest.approx(losses, rel=1e-3)


def test_a_whole_unet_and_its_average():
    def tuned(fitting: Fitting) -> Tensor:
        base = tiny_base()
        base.unet.requires_grad_(True)
        module = Denoiser(base.unet, base.noise_scheduler, [group(base.unet.parameters(), max_steps=4)])
        data = SeededDataModule.whole(samples(latents()), batch_size=4, max_steps=4, seed=3)
        fitting.fit(module, data, title="base", max_steps=4, max_grad_norm=1.0, callbacks=[MovingAverage(0.5)])
        return flat(base.unet)

    assert near(tuned(at_once(2)), tuned(Fitting()))


def test_a_controlnet():
    def trained(fitting: Fitting) -> Tensor:
        base = tiny_base()
        controlnet = new_controlnet(base, seed=0)
        data = SeededDataModule.whole(control_samples(base), batch_size=4, max_steps=3, seed=5)
        fitting.fit(control_training(base, controlnet, 3), data, title="", max_steps=3, max_grad_norm=1.0)
        return flat(controlnet)

    assert near(trained(at_once(1)), trained(Fitting()))


def test_an_autoencoder():
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def trained(fitting: Fitting) -> Tensor:
        vae = tiny_base().vae.requires_grad_(True)
        recipe = AutoencoderRecipe(
            learning_rate=1e-3,
            warmup_steps=1,
            max_steps=3,
            batch_size=4,
            weight_decay=0.0,
            max_grad_norm=1.0,
            checkpoint_every=3,
            kl_weight=1e-3,
        )
        module = Autoencoding(vae, recipe, seed=2)
        data = SeededDataModule.whole(ByRow(TensorDataset(images)), batch_size=4, max_steps=3, seed=2)
        fitting.fit(module, data, title="autoencoder", max_steps=3, max_grad_norm=1.0)
        return flat(vae)

    assert near(trained(at_once(1)), trained(Fitting()))


def fit_in_a_group(folder: Path) -> None:
    made = flat_adapter(fit(fitting=at_once(1, make_trainer=DDP)))
    save_file({"sar": made}, folder / f"rank_{torch.distributed.get_rank()}.safetensors")


def test_two_processes(whole, tmp_path: Path):
    """Each has two samples of a step, and takes one at a time."""
    assert run_on_two(fit_in_a_group, tmp_path) == [0, 0]
    first, second = (load_file(tmp_path / f"rank_{rank}.safetensors")["sar"] for rank in (0, 1))
    assert torch.equal(first, second)
    assert near(first, whole[0])


# --- The same checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [1, 2, 4])
def test_one_that_was_killed_amid_a_step_goes_on_in_as_many_parts_as_it_likes(whole, tmp_path: Path, then: int):
    keep = {"checkpoints": tmp_path, "checkpoint_every": 2}
    with pytest.raises(RuntimeError, match="killed"):
        fit(fitting=at_once(2), callbacks=[KillAmid(8)], **keep)  # the first half of the fifth step
    assert torch.load(tmp_path / CHECKPOINT, weights_only=False)["global_step"] == 4
    parts = Parts()
    made = flat_adapter(fit(fitting=at_once(then), callbacks=[parts], **keep))
    assert parts.sizes == [then] * ((STEPS - 4) * 4 // then)
    assert near(made, whole[0])
    if then == 2:
        assert torch.equal(made, flat_adapter(fit(fitting=at_once(2))))


def test_one_begun_as_a_whole_goes_on_in_parts(whole, tmp_path: Path):
    keep = {"checkpoints": tmp_path, "checkpoint_every": 3}
    with pytest.raises(RuntimeError, match="killed"):
        fit(callbacks=[Kill(4)], **keep)
    assert near(flat_adapter(fit(fitting=at_once(1), **keep)), whole[0])


# --- The same defects -------------------------------------------------------------------------------------------------


class Spoil(Callback):
    """A sample that is not finite, in the second part of the third step."""

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        if index == 5:
            batch["latents"][1] = torch.nan
            self.row = int(batch["row"][1])


def test_a_sample_of_a_part_is_named():
    spoil = Spoil()
    with pytest.raises(UserError) as error:
        fit(fitting=at_once(2), callbacks=[spoil])
    assert f"step 2: the loss is not finite for image {spoil.row};" in str(error.value)


class SpoilGradient(Callback):
    """A gradient that is not finite, in the third step."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        if trainer.global_step == 2:
            self.rows += batch["row"].tolist()

    def on_after_backward(self, trainer, module) -> None:
        if trainer.global_step == 2:
            module.groups[0].parameters[0].grad[0] = float("inf")


def test_a_gradient_is_that_of_all_samples_of_its_step():
    spoil = SpoilGradient()
    with pytest.raises(UserError) as error:
        fit(fitting=at_once(1), callbacks=[spoil])
    named = ", ".join(f"image {row}" for row in spoil.rows)
    assert len(spoil.rows) == 4
    assert f"step 2: the gradient is not finite for {named};" in str(error.value)


# --- As much as fits --------------------------------------------------------------------------------------------------


def test_on_a_cpu_with_memory_enough_a_step_is_whole(whole):
    assert whole[1].sizes == [4] * STEPS


def test_auto_looks_at_several_adapters_in_half_precision():
    """Of two samples each after one each, as of the same step: an example is of the number that was asked for."""
    data = SeededDataModule(
        samples(latents()), [Stream(torch.arange(12), STEPS, seed) for seed in range(4)], batch_size=4
    )
    for each in (1, 2, 1):
        example = data.example(each)
        assert {len(example[name]) for name in ("latents", "noise", "timesteps", "row", "text_index")} == {4 * each}
    made = train(FEW[:2], fitting=Fitting(partial(Trainer, accelerator="cpu", precision="bf16-mixed")))
    assert all(bool(flat_adapter(adapter).isfinite().all()) for adapter in made)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_auto_looks_at_adapters_that_each_stand_on_another(precision: str):
    """As those of several generator seeds do; what they stand on is there already, and costs what passes through it."""
    base, spec = tiny_base(), AdapterSpec(2, RELEASE)
    below = [(trained(base, seed, spec), 0.5) for seed in range(2)]
    data = SeededDataModule(samples(latents()), [Stream(torch.arange(12), 1, seed) for seed in range(2)], batch_size=4)
    found = []
    for stands_on in ((), below):
        with routed(base.unet, [fresh(base.unet, spec, seed) for seed in range(2)], stands_on) as routing:
            groups = [group(routing.parameters(index)) for index in range(2)]
            module = Denoiser(base.unet, base.noise_scheduler, groups, route=routing.route)
            found.append(microbatches.needs(module, data, StepOptions(), torch.device("cpu"), precision))
    alone, standing = found
    assert alone.per_sample <= standing.per_sample < 1.5 * alone.per_sample
    assert standing.fixed < alone.fixed + 16 * sum(part.numel() for layer in below[0][0].values() for part in layer)


def test_adapters_of_a_study_as_on_a_card(run: Command):
    """In half precision, several generator seeds, memory estimated, which tests of studies elsewhere leave out."""
    made = run("train", *OF_SEVERAL_SEEDS, "trainer=cpu", "trainer.precision=bf16-mixed")
    assert made.code == 0, made.err
    assert len(re.findall(r"^made   adapter/prototype_\d", made.out, flags=re.MULTILINE)) == 4


def test_auto_is_what_fits(whole, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """With memory for three samples, four go through in two parts; with memory for none there is one line."""
    needs = microbatches.needs
    per_sample: list[int] = []

    def three(device, processes):
        assert (device.type, processes) == ("cpu", 1)
        return int(3.1 * per_sample[-1] / 0.9)

    def noted(*args, **more):
        per_sample.append(needs(*args, **more).per_sample)
        return replace(needs(*args, **more), fixed=0)

    monkeypatch.setattr(microbatches, "needs", noted)
    monkeypatch.setattr(microbatches, "free_memory", three)
    parts = Parts()
    assert near(flat_adapter(fit(callbacks=[parts])), whole[0])
    assert parts.sizes == [2] * (2 * STEPS)
    assert "adapter: each step of 4 samples in 2 parts of 2 (train.micro_batch=auto)" in capsys.readouterr().out
    monkeypatch.setattr(microbatches, "free_memory", lambda *_: per_sample[-1] // 2)
    with pytest.raises(UserError, match=r"adapter: a step needs .* GB of memory with one sample at a time, .* free"):
        fit()


def fit_on_unequal_devices(folder: Path) -> None:
    rank = processes.rank()
    microbatches.needs = lambda *_, **more: Demand(0, 1000)
    microbatches.free_memory = lambda *_: 10_000 if rank == 0 else 1200
    parts = Parts()
    fit(fitting=Fitting(DDP), callbacks=[parts])
    (folder / f"rank_{rank}.txt").write_text(str(parts.sizes))


def test_processes_take_as_many_parts_as_the_fullest_device_asks_for(tmp_path: Path):
    assert run_on_two(fit_on_unequal_devices, tmp_path) == [0, 0]
    first, second = (file.read_text() for file in sorted(tmp_path.glob("rank_*.txt")))
    assert first == second == str([1] * (2 * STEPS))


def test_less_than_one_sample_of_each_is_refused():
    with pytest.raises(UserError, match="train.micro_batch=3, but 4 adapters train together here"):
        train(tuple(FEW), fitting=at_once(3))
