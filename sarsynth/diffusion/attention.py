"""Attention of the frozen networks: what diffusers computes, with less Python around it.

Keys and values of cross-attention follow from the text and the weights alone, which stay the same over all steps of
images that are drawn: there a text is projected once. Where gradients go through it on a CPU, attention itself is
computed in float32: the backward pass of torch's in bfloat16 takes twelve times as long.
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor


class _Plain:
    """Scaled dot-product attention of one layer that nothing is added to."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Map image tokens (B, N, C) to as many; the text is (B, L, D), without one tokens attend to each other."""
        assert attention_mask is None, "nothing is masked in Stable Diffusion v1"
        queries = _heads(attn, attn.to_q(hidden_states))  # first, as in diffusers: gradients are summed in that order
        attended = self._attend(queries, *self._keys_and_values(attn, hidden_states, encoder_hidden_states))
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))

    # diffusers asks for it in every call, and to work it out takes as long as a small product.
    __call__.__signature__ = inspect.signature(__call__)  # type: ignore[attr-defined]

    def _keys_and_values(self, attn: Attention, tokens: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        source = tokens if text is None else text
        return _heads(attn, attn.to_k(source)), _heads(attn, attn.to_v(source))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(queries, keys, values)


class _InFloat32(_Plain):
    """The same, attention itself in float32."""

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            attended = super()._attend(queries.float(), keys.float(), values.float())
        return attended.to(queries.dtype)


class _Kept(_Plain):
    """The same, which keeps keys and values until another text comes."""

    def __init__(self) -> None:
        self._text: Tensor | None = None
        self._kept: tuple[Tensor, Tensor]

    def _keys_and_values(self, attn: Attention, tokens: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        if text is None:
            return super()._keys_and_values(attn, tokens, text)
        if self._text is not text:
            self._text, self._kept = text, super()._keys_and_values(attn, tokens, text)
        return self._kept


def _heads(attn: Attention, tokens: Tensor) -> Tensor:
    """(B, N, C) as (B, heads, N, C / heads)."""
    return tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def texts_projected_once(*networks: UNet2DConditionModel | ControlNetModel) -> AbstractContextManager[None]:
    """Keep what layers make of a text for as long as the same tensor comes, inside the block.

    Their weights must stay as they are meanwhile, and nothing be differentiated. The result is the same, bit for bit.
    """
    return _attending(networks, _Kept)


def quick_to_learn_through(unet: UNet2DConditionModel) -> AbstractContextManager[None]:
    """Attend, inside the block, in the way whose gradients are quick on the device that the U-Net is on.

    In float32 the result is the same, bit for bit.
    """
    return _attending([unet], _InFloat32 if unet.device.type == "cpu" else _Plain)


@contextmanager
def _attending(networks: Iterable[UNet2DConditionModel | ControlNetModel], way: type[_Plain]) -> Iterator[None]:
    with ExitStack() as stack:
        for network in networks:
            if "forward" in vars(network):  # compiled for the layers that it has
                continue
            for layer in network.modules():
                if isinstance(layer, Attention) and _is_plain(layer):
                    stack.callback(layer.set_processor, layer.processor)
                    layer.set_processor(way())
        yield


def _is_plain(layer: Attention) -> bool:
    """Whether a layer is as those of Stable Diffusion v1 are: it has no norm, residual or scale of its own."""
    more = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k")
    return (
        all(getattr(layer, name) is None for name in more)
        and not layer.residual_connection
        and layer.rescale_output_factor == 1
    )
