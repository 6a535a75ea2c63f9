"""What a step needs in memory is known before it takes it: counted without content, and true of real steps."""

from types import SimpleNamespace

import pytest
import torch
from test_adapters import RELEASE
from test_sd15 import sd15_unet
from tiny import noisy, tiny_base
from torch import Tensor
from torch.profiler import profile

from sarsynth.diffusion import adapters
from sarsynth.diffusion.adapters import AdapterSpec
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.routing import routed
from sarsynth.training import memory
from sarsynth.training.memory import ADAM, Demand, demand, free_memory

CPU = torch.device("cpu")


def inputs(samples: int) -> tuple[Tensor, ...]:
    """Of `sd-nano`."""
    return torch.randn(samples, 16, 16, 16), torch.zeros(samples, dtype=torch.int64), torch.randn(samples, 40, 96)


def kept(unet, samples: int, autocast: torch.dtype | None = None) -> int:
    """Bytes that autograd keeps in a real forward pass, beside the weights."""
    known = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    sizes: dict[int, int] = {}
    held = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor

    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with saving, torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        unet(*inputs(samples)).sample.sum()
    return sum(sizes.values())


def peak(unet, samples: int) -> int:
    """Bytes that a real forward and backward pass hold at most, as torch's profiler saw them come and go."""
    given = inputs(samples)
    with profile(profile_memory=True) as found:
        unet(*given).sample.square().mean().backward()
    held = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_the_count_is_that_of_a_real_forward_pass(nano: Base, autocast: torch.dtype | None):
    with routed(nano.unet, [adapters.fresh(nano.unet, AdapterSpec(4, RELEASE), 0)]):
        need = demand(nano.unet, inputs, device=CPU, autocast=autocast)
        trained = sum(parameter.numel() for parameter in nano.unet.parameters() if parameter.requires_grad)
        got = need.total(8) - trained * ADAM
        assert got == pytest.approx(kept(nano.unet, 8, autocast), rel=0.12), "and two gradients of a layer"
        assert got > kept(nano.unet, 8, autocast)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_step_needs_as_much(nano: Base, checkpointing: bool):
    """Within a tenth, and never much more than was said."""
    with routed(nano.unet, [adapters.fresh(nano.unet, AdapterSpec(4, RELEASE), 0)]):
        if checkpointing:
            nano.unet.enable_gradient_checkpointing()
        try:
            need = demand(nano.unet, inputs, device=CPU, checkpointed=[nano.unet] if checkpointing else [])
            got, real = need.total(8), peak(nano.unet, 8)
            assert nano.unet.is_gradient_checkpointing == checkpointing
        finally:
            nano.unet.disable_gradient_checkpointing()
    assert 0.97 * real < got < 1.15 * real


def test_nothing_is_left_of_it(tiny: Base):
    """No weight, gradient or random number is touched."""
    tiny.unet.requires_grad_(True)
    before = dict(tiny.unet.named_parameters())
    state = torch.get_rng_state()
    demand(tiny.unet, lambda samples: noisy(tiny, samples), device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tiny.unet.get_parameter(name) is parameter for name, parameter in before.items())
    assert all(parameter.grad is None and type(parameter) is torch.nn.Parameter for parameter in before.values())


def test_what_is_trained_and_what_has_to_come_is_counted(tiny: Base):
    tiny.unet.requires_grad_(True)
    count = sum(parameter.numel() for parameter in tiny.unet.parameters())

    def fixed(**more) -> int:
        return demand(tiny.unet, lambda samples: noisy(tiny, samples), **({"device": CPU} | more)).fixed

    assert fixed() == 12 * count
    assert fixed(copies=1) == 16 * count
    with torch.device("meta"):
        unet = tiny_base().unet.requires_grad_(True)
    assert demand(unet, lambda samples: noisy(tiny, samples), device=CPU).fixed == 16 * count, "weights on their way"
    assert fixed(autocast=torch.bfloat16) == pytest.approx(14 * count, rel=0.05), "autocast's copies of the weights"
    tiny.unet.requires_grad_(False)
    assert fixed() == 0


def test_stable_diffusion_at_its_true_size():
    """A LoRA on 256 px: what is known of it is 0.4 to 0.6 GB a sample, and a third with checkpointing."""
    with torch.device("meta"):
        unet = sd15_unet().requires_grad_(False)
        begun = {
            name: adapters.LowRank(torch.empty(4, layer.in_features), torch.empty(layer.out_features, 4))
            for name, layer in unet.named_modules()
            if name.endswith(("to_q", "to_k", "to_v"))
        }

    def given(samples: int) -> tuple[Tensor, ...]:
        latents, text = torch.empty(samples, 4, 32, 32), torch.empty(samples, 77, 768)
        return latents, torch.zeros(samples, dtype=torch.int64), text

    with routed(unet, [begun]):
        whole = demand(unet, given, device=CPU)
        unet.enable_gradient_checkpointing()
        less = demand(unet, given, device=CPU, checkpointed=[unet])
    assert whole.fixed == pytest.approx(4 * 859.5e6, rel=0.02), "the weights"
    assert 0.35e9 < whole.per_sample < 0.6e9
    assert less.per_sample < whole.per_sample / 3


def test_how_many_fit():
    need = Demand(fixed=100, per_sample=10)
    assert [need.samples(free) for free in (0, 111, 123, 1000)] == [0, 0, 1, 80]
    assert need.with_each(2).per_sample == 10 + 2 * 16


def test_free_memory_is_shared_on_a_cpu_and_a_cards_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=900))
    assert free_memory(CPU, 3) == 300
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50)
    assert free_memory(torch.device("cuda:1"), 3) == 1020, "with what torch holds and does not use"
