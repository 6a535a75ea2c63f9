"""Attention of the frozen networks: what diffusers computes, bit for bit, and less often."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from tiny import noisy

from sarsynth.diffusion.attention import quick_to_learn_through, texts_projected_once
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.controlnet import new_controlnet
from sarsynth.training.precision import Precision


@torch.no_grad()
def test_it_is_what_diffusers_computes_bit_for_bit(tiny: Base, nano: Base):
    for base in (tiny, nano):
        latents, timesteps, text = noisy(base, 2)
        network, own = base.unet, base.unet.attn_processors
        known = [network(latents, timesteps, seen).sample for seen in (text, text + 1)]
        with texts_projected_once(network):
            got = [network(latents, timesteps, seen).sample for seen in (text, text, text + 1)]
        for one, other in zip((known[0], *known), got, strict=True):
            assert torch.equal(one, other)
        assert network.attn_processors == own, "afterwards the network has its own"


def test_so_are_gradients_through_it(tiny: Base, nano: Base):
    for base in (tiny, nano):
        latents, timesteps, text = noisy(base, 2)
        found, inputs = [], [latents.requires_grad_(), text.requires_grad_()]
        for way in (nullcontext(), quick_to_learn_through(base.unet)):
            with way:
                loss = base.unet(latents, timesteps, text).sample.square().mean()
            found.append([loss, *torch.autograd.grad(loss, inputs)])
        for one, other in zip(*found, strict=True):
            assert torch.equal(one, other)


def test_in_bfloat16_attention_alone_is_in_float32(tiny: Base, monkeypatch):
    """On a CPU, in autocast too, whose casts would take it back."""
    seen, attend = set(), F.scaled_dot_product_attention
    latents, timesteps, text = noisy(tiny, 2)
    expected = tiny.unet(latents, timesteps, text).sample
    tiny.unet.bfloat16()

    def watched(*of: torch.Tensor) -> torch.Tensor:
        attended = attend(*of)
        seen.update(part.dtype for part in (*of, attended))  # autocast would make bfloat16 of it
        return attended

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    with quick_to_learn_through(tiny.unet), Precision("bf16-mixed").autocast(torch.device("cpu")):
        got = tiny.unet(latents.bfloat16(), timesteps, text.bfloat16()).sample
    assert (got.dtype, seen) == (torch.bfloat16, {torch.float32})
    assert (got - expected).norm() < 0.05 * expected.norm()


@torch.no_grad()
def test_a_text_is_projected_once_and_another_one_again(tiny: Base):
    networks = [tiny.unet, new_controlnet(tiny, seed=0)]
    calls = []
    for network in networks:
        for name, layer in network.named_modules():
            if name.endswith(("attn2.to_k", "attn1.to_k")):
                layer.register_forward_hook(lambda *_, name=name: calls.append(name.split(".")[-2]))
    latents, timesteps, text = noisy(tiny, 2)
    contours = torch.zeros(2, 3, 16, 16)
    layers = [sum(name.endswith("attn2") for name, _ in network.named_modules()) for network in networks]
    with texts_projected_once(*networks):
        for seen in (text, text, text.clone()):
            tiny.unet(latents, timesteps, seen)
            networks[1](latents, timesteps, seen, contours)
    assert calls.count("attn2") == 2 * sum(layers)
    assert calls.count("attn1") == 3 * sum(layers)


def test_layers_of_another_kind_and_compiled_networks_keep_their_own(tiny: Base):
    own = tiny.unet.attn_processors
    *_, last = [name for name in own if "attn2" in name]
    tiny.unet.get_submodule(last.removesuffix(".processor")).residual_connection = True
    with texts_projected_once(tiny.unet):
        assert {name for name, one in tiny.unet.attn_processors.items() if one is own[name]} == {last}
    assert tiny.unet.attn_processors == own
    tiny.unet.forward = tiny.unet.forward
    with texts_projected_once(tiny.unet):
        assert tiny.unet.attn_processors == own
