"""Attention while images are drawn: a text is projected once, not in every step, and little else is done in Python.

Keys and values of cross-attention follow from the text and the weights alone, which stay the same over all steps.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor


class _Kept:
    """Scaled dot-product attention of one layer, which keeps keys and values until another text comes."""

    def __init__(self) -> None:
        self._text: Tensor | None = None
        self._keys_and_values: tuple[Tensor, ...] = ()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Map image tokens (B, N, C) to as many; the text is (B, L, D), without one tokens attend to each other."""
        assert attention_mask is None, "nothing is masked in Stable Diffusion v1"
        if encoder_hidden_states is None:
            keys, values = _keys_and_values(attn, hidden_states)
        else:
            if self._text is not encoder_hidden_states:
                self._text, self._keys_and_values = encoder_hidden_states, _keys_and_values(attn, encoder_hidden_states)
            keys, values = self._keys_and_values
        attended = F.scaled_dot_product_attention(_heads(attn, attn.to_q(hidden_states)), keys, values)
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))

    # diffusers asks for it in every call, and to work it out takes as long as a small product.
    __call__.__signature__ = inspect.signature(__call__)  # type: ignore[attr-defined]


def _keys_and_values(attn: Attention, source: Tensor) -> tuple[Tensor, Tensor]:
    return _heads(attn, attn.to_k(source)), _heads(attn, attn.to_v(source))


def _heads(attn: Attention, tokens: Tensor) -> Tensor:
    """(B, N, C) as (B, heads, N, C / heads)."""
    return tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


@contextmanager
def texts_projected_once(*networks: UNet2DConditionModel | ControlNetModel) -> Iterator[None]:
    """Keep what layers make of a text for as long as the same tensor comes, inside the block.

    Their weights must stay as they are meanwhile, and nothing be differentiated. The result is the same, bit for bit.
    """
    with ExitStack() as stack:
        for network in networks:
            if "forward" in vars(network):  # compiled for the layers that it has
                continue
            for layer in network.modules():
                if isinstance(layer, Attention) and _is_plain(layer):
                    stack.callback(layer.set_processor, layer.processor)
                    layer.set_processor(_Kept())
        yield


def _is_plain(layer: Attention) -> bool:
    """Whether a layer is as those of Stable Diffusion v1 are: it has no norm, residual or scale of its own."""
    more = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k")
    return (
        all(getattr(layer, name) is None for name in more)
        and not layer.residual_connection
        and layer.rescale_output_factor == 1
    )
