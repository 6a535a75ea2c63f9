"""K adapters in one pass: each sample sees its own, each adapter ends as if it had been trained alone."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from processes import run_on_two
from safetensors.torch import load_file, save_file
from test_adapters import CONVOLUTIONAL, RELEASE, trained
from test_denoising import Kill, latents
from tiny import noisy, predict, samples, tiny_base
from torch import Tensor, nn

from sarsynth.data.datamodules import SeededDataModule
from sarsynth.data.streams import Stream
from sarsynth.diffusion import adapters
from sarsynth.diffusion.adapters import Adapter, AdapterSpec, LowRank, folded
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.routing import Route, RoutedLayer, routed
from sarsynth.errors import UserError
from sarsynth.training.fitting import Fitting


@dataclass(frozen=True)
class Cell:
    """One of several trainings: everything that may differ between them."""

    rows: tuple[int, ...]
    seed: int
    rank: int = 4
    steps: int = 50
    learning_rate: float = 1e-3
    pattern: str = CONVOLUTIONAL


# Different images, seeds, ranks, rates, lengths and layers.
CELLS = (
    Cell((0, 1, 2, 3, 4), seed=3),
    Cell((5, 6), seed=4, rank=2, learning_rate=3e-3),
    Cell((7, 8, 9, 10, 11), seed=5, steps=31),
    Cell((1, 5, 9), seed=3, rank=3, pattern=RELEASE),
)


def train(cells: tuple[Cell, ...], tensors: dict[str, Tensor] | None = None, **more) -> list[dict[str, LowRank]]:
    """Train adapters together on a tiny base that a frozen adapter is folded into."""
    base = tiny_base()
    below = trained(base, 9, AdapterSpec(2, RELEASE))
    begun = [adapters.fresh(base.unet, AdapterSpec(cell.rank, cell.pattern), cell.seed) for cell in cells]
    steps = max(cell.steps for cell in cells)
    with folded(base.unet, [(below, 0.5)]), routed(base.unet, begun) as routing:
        groups = [
            TrainableGroup(f"cell_{index}", routing.parameters(index), cell.learning_rate, 5, cell.steps, 0.01)
            for index, cell in enumerate(cells)
        ]
        names = [f"chip {row}" for row in range(12)]
        module = Denoiser(base.unet, base.noise_scheduler, groups, route=routing.route, names=names)
        streams = [Stream(torch.tensor(cell.rows), cell.steps, cell.seed) for cell in cells]
        data = SeededDataModule(samples(tensors or latents()), streams, batch_size=4)
        fitting = more.pop("fitting", Fitting())
        try:
            fitting.fit(module, data, title="adapters", max_steps=steps, max_grad_norm=0.05, **more)
        finally:
            made = [routing.adapter(index) for index in range(len(cells))]
    return made


def flat(adapter: Adapter) -> Tensor:
    return torch.cat([part.flatten() for layer in adapter.values() for part in layer])


def equal(one: Adapter, other: Adapter) -> bool:
    return torch.equal(flat(one), flat(other))


@pytest.fixture(scope="module")
def together() -> list[dict[str, LowRank]]:
    return train(CELLS)


# --- One pass ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("active", [(0, 1, 2), (2, 0), (1,), (0,)])
def test_each_sample_sees_its_own_adapter(tiny: Base, active: tuple[int, ...]):
    """Adapters of different ranks and layers, in any order, against the same adapters folded one at a time."""
    specs = AdapterSpec(4, CONVOLUTIONAL), AdapterSpec(2, CONVOLUTIONAL), AdapterSpec(3, RELEASE)
    some = [trained(tiny, seed, spec) for seed, spec in enumerate(specs)]
    inputs = noisy(tiny, 2 * len(active))
    expected = []
    for place, index in enumerate(active):
        with folded(tiny.unet, [(some[index], 1.0)]):
            expected.append(tiny.unet(*(part[2 * place : 2 * place + 2] for part in inputs)).sample)
    with routed(tiny.unet, some) as routing:
        routing.route.active = active
        got = tiny.unet(*inputs).sample
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_adapter_stands_on_its_own_frozen_one(tiny: Base):
    """As those of several generator seeds do: against both folded, one pair at a time."""
    some = [trained(tiny, seed, AdapterSpec(3, CONVOLUTIONAL)) for seed in (0, 1)]
    below = [(trained(tiny, seed, AdapterSpec(2, CONVOLUTIONAL)), scale) for seed, scale in ((5, 0.5), (6, 0.9))]
    inputs, expected = noisy(tiny, 4), []
    for place, (own, frozen) in enumerate(zip(some, below, strict=True)):
        with folded(tiny.unet, [frozen, (own, 1.0)]):
            expected.append(tiny.unet(*(part[2 * place : 2 * place + 2] for part in inputs)).sample)
    with routed(tiny.unet, some, below):
        got = tiny.unet(*inputs).sample
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_the_base_is_itself_again_afterwards(tiny: Base):
    before, layers = predict(tiny), dict(tiny.unet.named_modules())
    with pytest.raises(RuntimeError, match="half-way"), routed(tiny.unet, [trained(tiny, 0), trained(tiny, 1)]):
        raise RuntimeError("half-way")
    assert dict(tiny.unet.named_modules()) == layers
    assert torch.equal(predict(tiny), before)


def test_what_goes_in_comes_out_without_padding(tiny: Base):
    some = [trained(tiny, 0, AdapterSpec(4, CONVOLUTIONAL)), trained(tiny, 1, AdapterSpec(2, RELEASE))]
    with routed(tiny.unet, some) as routing:
        for index, adapter in enumerate(some):
            again = routing.adapter(index)
            assert again.keys() == adapter.keys()
            assert equal(again, adapter)
            assert not any(p.requires_grad is False for p in routing.parameters(index))


# --- As if alone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(CELLS)))
def test_training_together_is_training_one_after_the_other(together, index: int):
    """Fifty steps on the same samples and noise: the relative difference of the weights is at most 1e-4."""
    (alone,) = train((CELLS[index],))
    assert [len(layer.a) for layer in together[index].values()] == [CELLS[index].rank] * len(alone)
    a, b = flat(alone), flat(together[index])
    assert (a - b).norm() <= 1e-4 * a.norm()
    begun = flat(adapters.fresh(tiny_base().unet, AdapterSpec(CELLS[index].rank, CELLS[index].pattern), 0))
    assert a.shape == begun.shape
    assert flat({n: LowRank(layer.b, layer.b) for n, layer in alone.items()}).abs().max() > 0, (
        "and something was learnt"
    )


def test_company_makes_no_difference_but_each_cell_does(together):
    first = [flat(adapter) for adapter in together[:3]]
    assert not any(a.shape == b.shape and torch.allclose(a, b) for a, b in pairwise(first))


def test_a_killed_run_of_several_ends_as_if_it_had_never_been(together, tmp_path: Path):
    """Also beyond the step where a shorter one has ended."""
    keep = {"checkpoints": tmp_path, "checkpoint_every": 10}
    for step in (15, 44):
        with pytest.raises(RuntimeError, match="killed"):
            train(CELLS, callbacks=[Kill(step)], **keep)
    assert all(equal(a, b) for a, b in zip(train(CELLS, **keep), together, strict=True))


# --- What does harm ---------------------------------------------------------------------------------------------------


def test_a_nan_in_the_data_of_one_names_it_and_alters_none(tmp_path: Path):
    """Image 6 belongs to the second cell alone; its first turn stops the run before any weight moves by it."""
    spoilt = latents()
    spoilt["mean"][:, 6] = float("nan")
    step = next(s for s in range(50) if 6 in Stream(torch.tensor(CELLS[1].rows), 50, CELLS[1].seed).batch(s, 4))
    good: dict[int, list[dict[str, LowRank]]] = {}

    class Note(Callback):
        def on_exception(self, trainer, module, error) -> None:
            good[trainer.global_step] = [{}]

    with pytest.raises(UserError) as error:
        train(CELLS, spoilt, callbacks=[Note()])
    said = str(error.value)
    assert f"step {step}: the loss is not finite for chip 6" in said
    assert not any(f"chip {other}" in said for other in range(12) if other != 6), "no other image is blamed"
    assert "no checkpoint yet" in said
    assert list(good) == [step], "it stopped there, before the optimiser's step"


def test_the_last_good_checkpoint_is_named_and_good(together, tmp_path: Path):
    """A run that is mended goes on from it and ends where it would have."""
    calls = {"left": 25}

    class Spoil(Callback):
        def on_after_backward(self, trainer, module) -> None:
            calls["left"] -= 1
            if calls["left"] == 0:
                module.groups[2].parameters[0].grad[0] = float("inf")

    keep = {"checkpoints": tmp_path, "checkpoint_every": 10}
    with pytest.raises(
        UserError, match=r"step 24: the gradient is not finite for chip .*last good checkpoint is"
    ) as error:
        train(CELLS, callbacks=[Spoil()], **keep)
    named = {int(word) for word in str(error.value).replace(",", " ").replace(";", " ").split() if word.isdigit()} - {
        24
    }
    assert named <= set(CELLS[2].rows), "the images of that adapter alone"
    assert all(equal(a, b) for a, b in zip(train(CELLS, **keep), together, strict=True))


# --- Two processes ----------------------------------------------------------------------------------------------------


def train_in_a_group(folder: Path) -> None:
    made = train(CELLS, fitting=Fitting(partial(Trainer, accelerator="cpu", devices=2, strategy="ddp")))
    rank = torch.distributed.get_rank()
    save_file({str(index): flat(adapter) for index, adapter in enumerate(made)}, folder / f"rank_{rank}.safetensors")


def test_two_processes_train_several_as_one_does(together, tmp_path: Path):
    """Data-parallel over gloo, one adapter ending before the others."""
    assert run_on_two(train_in_a_group, tmp_path) == [0, 0]
    first, second = (load_file(tmp_path / f"rank_{rank}.safetensors") for rank in (0, 1))
    for index, adapter in enumerate(together):
        a, b = flat(adapter), first[str(index)]
        assert torch.equal(b, second[str(index)])
        assert (a - b).norm() <= 1e-4 * a.norm()


class SpoilOne(Callback):
    """One process meets a value that is not finite."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == 2 and trainer.global_rank == 1:
            batch["latents"][-1] = torch.nan


def train_a_spoilt_one(folder: Path) -> None:
    fitting = Fitting(partial(Trainer, accelerator="cpu", devices=2, strategy="ddp"))
    with pytest.raises(UserError) as error:
        train(CELLS, fitting=fitting, callbacks=[SpoilOne()])
    (folder / f"rank_{torch.distributed.get_rank()}.txt").write_text(str(error.value))


def test_two_processes_stop_together_and_name_the_same_image(tmp_path: Path):
    """One of them has a value that is not finite; the other would wait for it, and report a lost connection."""
    assert run_on_two(train_a_spoilt_one, tmp_path) == [0, 0]
    first, second = (file.read_text() for file in sorted(tmp_path.glob("rank_*.txt")))
    assert first == second
    assert "step 2: the loss is not finite for " in first


@pytest.mark.parametrize("adapters", [1, 3, 16])
@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, stride=2, padding=1)])
@pytest.mark.parametrize("each", [1, 2])
def test_each_run_of_a_layer_sees_its_own_update(layer: nn.Module, adapters: int, each: int):
    """Of W + B_k A_k, computed as one weight of each run; of two samples a run their order counts."""
    torch.manual_seed(0)
    size = each * adapters
    inputs = torch.randn(size, 6, 4, 4) if isinstance(layer, nn.Conv2d) else torch.randn(size, 4, 6)
    ones = (1, 1) if isinstance(layer, nn.Conv2d) else ()
    updates = [LowRank(torch.randn(2, *layer.weight.shape[1:]), torch.randn(5, 2, *ones)) for _ in range(adapters)]
    expected = [
        torch.func.functional_call(layer, {"weight": layer.weight + update.delta()}, (run,))
        for update, run in zip(updates, inputs.chunk(adapters), strict=True)
    ]
    routed_layer = RoutedLayer(layer, Route(adapters))
    a, b = (torch.stack(parts) for parts in zip(*updates, strict=True))
    stack = LowRank(a, b.flatten(2))
    routed_layer.update = stack if adapters > 1 else LowRank(stack.a[0], stack.b[0])
    found = routed_layer(inputs)
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)
