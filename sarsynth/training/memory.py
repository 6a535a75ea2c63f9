"""The memory that a training step needs, estimated before any is allocated, and the memory that is free.

A network's forward pass runs on torch's fake tensors, which have shapes and no content, and so costs no memory. Counted
are the bytes that autograd would keep for the backward pass: with gradient checkpointing the inputs of blocks, and what
one block keeps while it is computed again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from diffusers import ModelMixin
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SHARE = 0.9  # of the free memory that is counted on: libraries and fragmentation take some
WEIGHT = 4  # bytes of float32
ADAM = 3 * WEIGHT  # bytes a trained weight: its gradient and Adam's two moments, float32


@dataclass(frozen=True)
class Demand:
    """Bytes that a training step needs beside those that are taken already."""

    fixed: int  # whatever the number of samples
    per_sample: int  # for each sample that goes through the network at once

    def samples(self, free: int) -> int:
        """How many samples at once fit into so many free bytes; 0 if not even one does."""
        return max(0, int(SHARE * free - self.fixed) // self.per_sample)

    def with_each(self, parameters: int) -> "Demand":
        """The demand if each sample trains so many parameters of its own."""
        return replace(self, per_sample=self.per_sample + parameters * (WEIGHT + ADAM))

    def total(self, samples: int) -> int:
        """Bytes for so many samples at once."""
        return self.fixed + samples * self.per_sample


def free_memory(device: torch.device, processes: int = 1) -> int:
    """Bytes that this process may still fill on a device.

    The `processes` of a job on one machine share the memory of its CPU; each has a CUDA card of its own.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available // processes


def demand(
    module: nn.Module,
    inputs: Callable[[int], tuple[Any, ...]],
    *,
    each: int = 1,
    device: torch.device,
    autocast: torch.dtype | None = None,
    checkpointed: Sequence[ModelMixin] = (),
    copies: int = 0,
) -> Demand:
    """Estimate what training a module with Adam needs.

    Args:
        module: Its forward pass is a training step's; its parameters are trained where they require gradients.
        inputs: Gives the arguments of the forward pass for a number of samples of each stream, tensors in any nesting;
            contents and device do not matter.
        each: How many streams a pass holds.
        device: Where it is to train.
        autocast: The precision that it computes in; None for that of its weights.
        checkpointed: Networks of the module that compute their blocks again in the backward pass.
        copies: Of the trained weights, float32, that are kept beside them, such as a moving average.
    """
    per_sample, fixed = _peak(module, inputs(1), device, autocast, checkpointed), 0
    if autocast is not None:  # the copies of weights in that precision do not grow with the samples
        both = _peak(module, inputs(2), device, autocast, checkpointed)
        fixed, per_sample = max(0, 2 * per_sample - both), both - per_sample
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    tensors = [*module.parameters(), *module.buffers()]
    arriving = sum(tensor.nbytes for tensor in tensors if tensor.device.type != device.type)
    return Demand(arriving + trained * (ADAM + WEIGHT * copies) + fixed, -(-per_sample // each))


class _Largest(TorchDispatchMode):
    """Notes the most bytes that one operation reads and writes, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        storages = {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
        self.bytes = max(self.bytes, sum(storages.values()))
        return result


def least_of_forward(module: nn.Module, shape: Sequence[int]) -> int:
    """Bytes at least that a forward pass of an input of some shape takes on the CPU, float32; it takes none itself."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), _Largest() as largest:
        module(torch.empty(*shape))
    return largest.bytes


class _Meter:
    """Counts what autograd keeps, each storage once, without the storages of `known` tensors."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.storages: dict[int, UntypedStorage] = {}
        self.recomputing = 0  # bytes, at most, while a checkpointed block is computed again
        self.largest = 0

    def keep(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.storages[storage._cdata] = storage  # held, so that no other takes its place
            self.largest = max(self.largest, storage.nbytes())

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())

    def checkpoint(self, block: Callable[..., Any], *args: Any) -> Any:
        """Stand in for `torch.utils.checkpoint`: only the inputs of a block are kept.

        The backward pass computes one block at a time again, after the blocks behind it have freed their memory.
        """
        outside, self.storages = self.storages, {}
        outputs = block(*args)
        inside, self.storages = self.storages, outside
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        if any(tensor.requires_grad for tensor in tensors):
            for leaf in tree_leaves(args):
                if isinstance(leaf, Tensor):
                    self.keep(leaf)
            both = self.storages | inside
            self.recomputing = max(self.recomputing, sum(storage.nbytes() for storage in both.values()))
        return tree_map_only(Tensor, lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad), outputs)


def _peak(
    module: nn.Module,
    inputs: tuple[Any, ...],
    device: torch.device,
    autocast: torch.dtype | None,
    checkpointed: Sequence[ModelMixin],
) -> int:
    """Bytes, at most, that a forward and a backward pass keep."""
    precision = nullcontext() if autocast is None else torch.autocast(device.type, autocast)
    with FakeTensorMode():  # not `meta`, which knows neither autocast nor the device's own attention

        def empty(tensor: Tensor) -> Tensor:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            return fake.requires_grad_(tensor.requires_grad)

        weights = {name: empty(tensor) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
        arguments = tree_map_only(Tensor, empty, inputs)
        meter = _Meter(list(weights.values()))
        saved = torch.autograd.graph.saved_tensors_hooks(meter.keep, lambda kept: kept)
        with _checkpointing(checkpointed, meter.checkpoint), precision, torch.enable_grad(), saved:
            functional_call(module, weights, arguments)
        # The backward pass has gradients of a layer's output and input beside what is kept.
        return max(meter.bytes, meter.recomputing) + 2 * meter.largest


@contextmanager
def _checkpointing(networks: Sequence[ModelMixin], function: Callable[..., Any]) -> Iterator[None]:
    """Run the blocks of checkpointed networks by another function than torch's inside the context."""
    for network in networks:
        network.enable_gradient_checkpointing(function)
    try:
        yield
    finally:
        for network in networks:
            network.enable_gradient_checkpointing()
