"""K adapters trained in one pass over the base they share: each sample sees the update of its own adapter.

A batch holds equal runs of samples, one run for each adapter that is routed at the moment. A layer's frozen weight acts
on all of them at once, the updates B_k A_k by batched products: K small trainings cost little more than one large one.
Adapters of lower rank are padded with zeros, which stay zero: their gradients are products with each other.
Adapters may stand on frozen ones, each on its own: as those of several generator seeds do.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from sarsynth.diffusion.adapters import Adapter, LowRank

LAYOUT = "two vectors"  # how the weights of an adapter in training lie in a checkpoint
# Ranks of all adapters together from which each run is convolved with its own A. Below, every A on all samples, of
# which each takes its own, is quicker than many small convolutions, and either than one in groups.
APART = 32


class Route:
    """Which adapters the runs of the present batch belong to, in their order."""

    def __init__(self, adapters: int) -> None:
        self.active: Sequence[int] = range(adapters)


class RoutedLayer(nn.Module):
    """A frozen linear or convolutional layer with updates of which each sample sees one.

    They are added in the precision of what the layer makes.

    Args:
        layer: The frozen layer; it is used, not copied.
        route: Shared by all layers of a network.
        below: The frozen updates that the adapters stand on, stacked: `a` (adapters, R, in, *kernel) and `b` (adapters,
            out, R), scaled already; None where the layer itself is what they stand on.

    Attributes:
        update: What the active adapters add, of K stacked as `below` is, of one alone without that dimension; None for
            nothing.
    """

    update: LowRank | None = None

    def __init__(self, layer: nn.Linear | nn.Conv2d, route: Route, below: LowRank | None = None) -> None:
        super().__init__()
        self.layer, self.route = layer, route
        # Parameters, frozen like those of the layer: an estimate of memory looks for all that a network rests on.
        self.below = nn.ParameterList(below or ()).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, …, in) or (B, in, H, W), B a multiple of the number of active adapters."""
        updates = [LowRank(*map(self._of_the_active, self.below))] if self.below else []
        updates += [] if self.update is None else [self.update]
        if not updates:
            return self.layer(inputs)
        if isinstance(self.layer, nn.Linear):
            return _linear(self.layer, inputs, updates)
        return _convolved(self.layer, inputs, updates)

    def _of_the_active(self, stack: Tensor) -> Tensor:
        active = list(self.route.active)
        return stack[active[0] if len(active) == 1 else active]


# A step of small tensors is calls more than arithmetic, and each view is one, forward and backward: as few as can be.


def _linear(layer: nn.Linear, inputs: Tensor, updates: Sequence[LowRank]) -> Tensor:
    """Apply a linear layer with updates for each of K equal runs of samples, or for all."""
    together = updates[0].b.shape[:-2]  # K, or nothing for one adapter
    flat = inputs.reshape(*together, -1, inputs.shape[-1])  # (K, samples and tokens, in)
    outputs = layer(flat)
    flat = flat.to(outputs.dtype)
    for update in updates:
        a, b = (part.to(outputs.dtype) for part in update)
        if together:
            outputs = torch.baddbmm(outputs, torch.bmm(flat, a.mT), b.mT)
        else:
            outputs = torch.addmm(outputs, F.linear(flat, a), b.mT)
    return outputs.view(*inputs.shape[:-1], -1)


def _convolved(layer: nn.Conv2d, inputs: Tensor, updates: Sequence[LowRank]) -> Tensor:
    """Apply a convolution with updates for each of K equal runs of samples, or for all."""
    outputs = layer(inputs)
    inputs, shape, outputs = inputs.to(outputs.dtype), outputs.shape, outputs.flatten(2)  # (B, out, h w)
    for update in updates:
        a, b = (part.to(outputs.dtype) for part in update)
        if a.dim() == 4:
            narrow = _convolve(layer, inputs, a).flatten(2)  # (B, R, h w)
            outputs = torch.baddbmm(outputs, b.expand(len(narrow), -1, -1), narrow)
        else:
            narrow = _of_runs(layer, inputs, a).flatten(2)
            each = len(narrow) // len(a)
            outputs = torch.baddbmm(outputs, b if each == 1 else b.repeat_interleave(each, dim=0), narrow)
    return outputs.view(shape)


def _of_runs(layer: nn.Conv2d, inputs: Tensor, a: Tensor) -> Tensor:
    """Convolve each of K equal runs with its own A: (B, R, h, w)."""
    k, rank = a.shape[:2]
    if k * rank >= APART:
        runs = zip(inputs.chunk(k), a.unbind(), strict=True)
        return torch.cat([_convolve(layer, run, own) for run, own in runs])
    every = _convolve(layer, inputs, a.flatten(0, 1)).unflatten(1, (k, rank)).unflatten(0, (k, -1))
    return every.diagonal(dim1=0, dim2=2).permute(4, 0, 1, 2, 3).flatten(0, 1)


def _convolve(layer: nn.Conv2d, inputs: Tensor, a: Tensor) -> Tensor:
    return F.conv2d(inputs, a, None, layer.stride, layer.padding, layer.dilation)


def _stacked(updates: Sequence[LowRank | None]) -> LowRank | None:
    """Stack the updates of a layer as `RoutedLayer` has them, padded to one rank; None where all are."""
    some = [update for update in updates if update is not None]
    if not some:
        return None
    rank, first = max(len(update.a) for update in some), some[0]
    a = first.a.new_zeros(len(updates), rank, *first.a.shape[1:])
    b = first.b.new_zeros(len(updates), len(first.b), rank)
    for index, update in enumerate(updates):
        if update is not None:
            a[index, : len(update.a)], b[index, :, : len(update.a)] = update.a, update.b.flatten(1)
    return LowRank(a, b)


class Factors(nn.Module):
    """The updates of K adapters, float32, each adapter in two long vectors: all its A, and all its B.

    So an optimiser and the clipping of gradients have two tensors an adapter to do with, and not two a layer. Each pass
    of the U-Net begins by taking those of the active adapters apart.

    Args:
        layers: Those that have updates, by the U-Net's names.
        adapters: What trains; a layer that an adapter does not change has zeros, which stay zero.
        route: Which of them the next pass is for.
    """

    def __init__(self, layers: Mapping[str, RoutedLayer], adapters: Sequence[Adapter], route: Route) -> None:
        super().__init__()
        self._route, stacks = route, {name: _stacked([adapter.get(name) for adapter in adapters]) for name in layers}
        begun = {name: stack for name, stack in stacks.items() if stack is not None}
        self._layers = [layers[name] for name in begun]  # a list, so that they are no part of this module
        self.places = {name: place for place, name in enumerate(begun)}
        self._shapes = [[part.shape[1:] for part in parts] for parts in zip(*begun.values(), strict=True)]  # of A, of B
        self._lengths = [[shape.numel() for shape in shapes] for shapes in self._shapes]
        self.a, self.b = (
            nn.ParameterList(torch.cat([part[index].flatten() for part in parts]) for index in range(len(adapters)))
            for parts in zip(*begun.values(), strict=True)
        )

    def spread(self) -> None:
        """Give the layers what the active adapters add to them."""
        active, dtype = self._route.active, self._layers[0].layer.weight.dtype  # cast at once, not in each layer
        a, b = (self._apart([vectors[index] for index in active], dtype, side) for side, vectors in self._sides)
        for layer, *update in zip(self._layers, a, b, strict=True):
            layer.update = LowRank(*update)

    def of(self, index: int) -> Iterator[LowRank]:
        """One adapter as it stands, layer by layer, padded."""
        parts = (self._apart([vectors[index].detach()], torch.float32, side) for side, vectors in self._sides)
        return (LowRank(a, b) for a, b in zip(*parts, strict=True))

    @property
    def _sides(self) -> Iterator[tuple[int, nn.ParameterList]]:
        return enumerate((self.a, self.b))

    def _apart(self, vectors: Sequence[Tensor], dtype: torch.dtype, side: int) -> list[Tensor]:
        """Vectors of K adapters as the stacked matrices of each layer, that of one as matrices."""
        together = (torch.stack(list(vectors)) if len(vectors) > 1 else vectors[0]).to(dtype)
        parts = together.split(self._lengths[side], dim=-1)
        return [part.view(*part.shape[:-1], *shape) for part, shape in zip(parts, self._shapes[side], strict=True)]


class Routing:
    """K adapters on a U-Net, ready to train.

    Attributes:
        route: Which of them the present batch is for.
    """

    def __init__(self, factors: Factors, adapters: Sequence[Adapter], route: Route) -> None:
        self._factors, self._adapters, self.route = factors, adapters, route

    def choose(self, active: Sequence[int]) -> None:
        """Set which adapters the next batches are for, in equal runs."""
        self.route.active = active

    def parameters(self, index: int) -> list[nn.Parameter]:
        """The trainable weights of one adapter: all its A, and all its B."""
        return [self._factors.a[index], self._factors.b[index]]

    def b_matrices(self, index: int) -> list[nn.Parameter]:
        """The second halves of one adapter's updates, which LoRA+ trains faster."""
        return [self._factors.b[index]]

    def adapter(self, index: int) -> dict[str, LowRank]:
        """One adapter as it stands, without padding."""
        padded = dict(zip(self._factors.places, self._factors.of(index), strict=True))
        return {
            name: LowRank(
                padded[name].a[: len(begun.a)].clone(), padded[name].b[:, : len(begun.a)].reshape(begun.b.shape).clone()
            )
            for name, begun in self._adapters[index].items()
        }


@contextmanager
def routed(
    unet: UNet2DConditionModel, adapters: Sequence[Adapter], below: Sequence[tuple[Adapter, float]] = ()
) -> Iterator[Routing]:
    """Put K adapters on a U-Net inside the block; afterwards it has its own layers again, their weights unchanged.

    Args:
        unet: The frozen network.
        adapters: What trains.
        below: For each of them the frozen adapter that it stands on, with its scale, all of the same layers and ranks;
            none where what all stand on is the U-Net.
    """
    route, layers = Route(len(adapters)), {}
    for name in dict.fromkeys(name for adapter in (*adapters, *(frozen for frozen, _ in below)) for name in adapter):
        stands_on = [LowRank(frozen[name].a, scale * frozen[name].b) for frozen, scale in below if name in frozen]
        layers[name] = RoutedLayer(unet.get_submodule(name), route, _stacked(stands_on))
    factors = Factors(layers, adapters, route)
    spreading = unet.register_forward_pre_hook(lambda *_: factors.spread())
    try:
        for name, layer in layers.items():
            unet.set_submodule(name, layer, strict=True)
        unet.add_module("factors", factors)  # whoever asks the U-Net for its parameters finds them
        yield Routing(factors, adapters, route)
    finally:
        spreading.remove()
        del unet.factors
        for name, layer in layers.items():
            unet.set_submodule(name, layer.layer, strict=True)
