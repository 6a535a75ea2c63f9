"""Compiled networks learn what they learn otherwise, and are afterwards what they were."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from test_adapters import RELEASE
from test_control import dataset as control_samples
from test_control import training as control_training
from test_denoising import Kill, fit, flat, group, latents
from test_routing import CELLS, train
from tiny import samples, tiny_base
from torch import Tensor

from sarsynth.data.datamodules import SeededDataModule
from sarsynth.diffusion.adapters import AdapterSpec, fresh
from sarsynth.diffusion.attention import quick_to_learn_through
from sarsynth.diffusion.controlnet import new_controlnet
from sarsynth.diffusion.denoising import Denoiser
from sarsynth.diffusion.routing import routed
from sarsynth.training import compiling
from sarsynth.training.compiling import verdict
from sarsynth.training.fitting import CHECKPOINT, Fitting
from sarsynth.training.tasks import StepOptions

COMPILED = Fitting(options=StepOptions(compile=True))


@pytest.fixture
def backend() -> str:
    """What runs the graphs that Dynamo finds: as they are; a test that wants their backward pass too says so."""
    return "eager"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, backend: str):
    """Dynamo alone, without a compiler behind it, and after the third step instead of the seventh."""
    torch.compiler.reset()
    monkeypatch.setattr(compiling, "TIMED", 1)
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **more: whole(*args, **(more | {"backend": backend})))


class Seen(Callback):
    """After which steps a network was compiled."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        if all("forward" in network.__dict__ for network in module.compilable):
            self.steps.append(trainer.global_step)


def near(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= 1e-5 * other.norm())


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_an_adapter_learns_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With forward and backward pass as graphs."""
    base, seen = tiny_base(), Seen()
    names = [name for name, _ in base.unet.named_parameters()]
    made = fit(base, fitting=COMPILED, callbacks=[seen], checkpoints=tmp_path, checkpoint_every=7)
    assert seen.steps == [4, 5, 6, 7, 8]
    known = fit(checkpoints=tmp_path / "known", checkpoint_every=7)
    assert made.keys() == known.keys()
    assert near(flat(made), flat(known))
    kept = [torch.load(folder / CHECKPOINT, weights_only=False) for folder in (tmp_path, tmp_path / "known")]
    assert kept[0]["state_dict"].keys() == kept[1]["state_dict"].keys()
    assert "forward" not in base.unet.__dict__
    assert [name for name, _ in base.unet.named_parameters()] == names
    assert "adapter: compiled in " in capsys.readouterr().out


def test_one_that_fails_is_not_left_compiled():
    base = tiny_base()
    with pytest.raises(RuntimeError, match="killed"):
        fit(base, fitting=COMPILED, callbacks=[Kill(5)])
    assert "forward" not in base.unet.__dict__


def test_several_adapters_of_which_some_end_before_the_others():
    """What is computed changes with the set of those that still train, and with nothing else."""
    cells = [replace(cell, steps=steps, pattern=RELEASE) for cell, steps in zip(CELLS[1:], (8, 5, 8), strict=True)]
    torch._dynamo.utils.counters.clear()
    made = train(tuple(cells), fitting=COMPILED)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "three and two adapters"
    for one, other in zip(made, train(tuple(cells)), strict=True):
        assert near(flat(one), flat(other))


def test_routing_is_one_graph():
    unet = tiny_base().unet
    spec = AdapterSpec(2, r".*\.(attn1|attn2)\.(to_q|to_k|to_v|to_out\.0)|.*\.conv1")
    inputs = torch.randn(4, 4, 8, 8), torch.zeros(4, dtype=torch.int64), torch.randn(4, 12, 16)
    begun = [fresh(unet, spec, seed) for seed in (0, 1)]
    with routed(unet, begun) as routing, quick_to_learn_through(unet):
        for active in ([0, 1], [1]):
            routing.choose(active)
            unet(*inputs)  # what comes before the forward pass, which alone is compiled, takes the adapters apart
            explained = torch._dynamo.explain(unet.forward)(*inputs)
            assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_a_controlnet_with_checkpointing_in_parts():
    """All options at once."""

    def trained(fitting: Fitting) -> Tensor:
        base = tiny_base()
        controlnet = new_controlnet(base, seed=0)
        data = SeededDataModule.whole(control_samples(base), batch_size=4, max_steps=4, seed=5)
        fitting.fit(control_training(base, controlnet, 4), data, title="", max_steps=4, max_grad_norm=1.0)
        return torch.cat([parameter.detach().flatten() for parameter in controlnet.parameters()])

    every = Fitting(options=StepOptions(2, gradient_checkpointing=True, compile=True))
    assert near(trained(every), trained(Fitting()))


def test_a_whole_unet_learns_the_same():
    def tuned(fitting: Fitting) -> Tensor:
        base = tiny_base()
        base.unet.requires_grad_(True)
        module = Denoiser(base.unet, base.noise_scheduler, [group(base.unet.parameters(), max_steps=4)])
        data = SeededDataModule.whole(samples(latents()), batch_size=4, max_steps=4, seed=3)
        fitting.fit(module, data, title="base", max_steps=4, max_grad_norm=1.0)
        return torch.cat([parameter.detach().flatten() for parameter in base.unet.parameters()])

    assert near(tuned(COMPILED), tuned(Fitting()))


def test_a_short_training_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiling, "TIMED", 5)
    fit(fitting=COMPILED)
    assert "adapter: too short to say whether train.compile pays (14 steps tell)" in capsys.readouterr().out


def test_from_when_on_it_pays(monkeypatch: pytest.MonkeyPatch):
    """A step of 2 s becomes one of 1 s, and compilation takes 30 s: it has paid after 30 more steps."""
    monkeypatch.setattr(compiling, "TIMED", 5)
    said = verdict([100.0, 110.0, 141.0, 142.0, 147.0], began=10)
    assert said == "compiled in 30 s; a step takes 1.000 s, 2.000 s without; it pays from step 48 on"
    said = verdict([100.0, 110.0, 141.0, 143.0, 153.0], began=10)
    assert said == "compiled in 29 s; a step takes 2.000 s, 2.000 s without; it does not pay, set train.compile=false"
