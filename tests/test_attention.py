"""Attention while images are drawn: what diffusers computes, bit for bit, and less often."""

import torch
from tiny import noisy

from sarsynth.diffusion.attention import texts_projected_once
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.controlnet import new_controlnet


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
