"""A card that is not here: shapes, dtypes and devices of all tensors, no values, so a CPU can test where things are.

Torch's fake tensors raise where an operation meets tensors on two devices, and where a program asks for a value, which
on a card would wait for all that was given to it before. Copies between devices are told apart here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CARD = torch.device("cuda", 1)  # not the first one, which is where a device without a number ends


class Copies(TorchDispatchMode):
    """Note every copy between devices that waits for the card.

    Attributes:
        waited: The operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func._schema.name in ("aten::_to_copy", "aten::copy_"):
            source = args[1] if func._schema.name == "aten::copy_" else args[0]
            non_blocking = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            if {source.device.type, result.device.type} == {"cpu", "cuda"} and not non_blocking:
                self.waited.append(f"{func} of {tuple(source.shape)} from {source.device} to {result.device}")
        return result


@contextmanager
def autocasting() -> Iterator[None]:
    """Let torch cast on a card inside the block, though there is none."""
    bfloat16 = patch.object(torch.cuda, "is_bf16_supported", lambda **_: True)
    with bfloat16, patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False):
        yield


@contextmanager
def elsewhere() -> Iterator[Copies]:
    """Let tensors be on `CARD` inside the block; modules are built before it, and moved there once in it."""
    with autocasting(), FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        yield copies


def left_behind(module: nn.Module) -> list[str]:
    """Parameters and buffers that are not on `CARD`."""
    named: dict[str, Tensor] = dict(module.named_parameters()) | dict(module.named_buffers())
    return [name for name, tensor in named.items() if tensor.device != CARD]
