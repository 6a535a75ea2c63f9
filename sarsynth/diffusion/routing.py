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


class Route:
    """Which adapters the runs of the present batch belong to, in their order."""

    def __init__(self, adapters: int) -> None:
        self.active: Sequence[int] = range(adapters)


class RoutedLayer(nn.Module):
    """A frozen linear or convolutional layer with K updates of which each sample sees one.

    The updates are float32, as adapters are; they compute, and are added, in the precision of what comes in.

    Args:
        layer: The frozen layer; it is used, not copied.
        updates: One for each adapter, None where an adapter does not change this layer.
        route: Shared by all layers of a network.
        below: The frozen update that each adapter stands on, of one rank, scaled already; none where the layer itself
            is what they stand on.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        updates: Sequence[LowRank | None],
        route: Route,
        below: Sequence[LowRank] = (),
    ) -> None:
        super().__init__()
        self.layer, self.route, self.below = layer, route, below
        rank = max((len(update.a) for update in updates if update is not None), default=0)
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        for index, update in enumerate(updates):
            if update is not None:
                missing = rank - len(update.a)
                ones = (0, 0) * (update.b.dim() - 2)
                self.lora_A[str(index)] = nn.Parameter(
                    F.pad(update.a, (0, 0) * (update.a.dim() - 1) + (0, missing)).clone()
                )
                self.lora_B[str(index)] = nn.Parameter(F.pad(update.b, (*ones, 0, missing)).clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, …, in) or (B, in, H, W), B a multiple of the number of active adapters."""
        outputs = self.layer(inputs)
        keys = [str(index) for index in self.route.active]
        if self.below:
            outputs = _add(self.layer, outputs, inputs, [self.below[index] for index in self.route.active])
        if all(key in self.lora_A for key in keys):
            return self._updated(outputs, inputs, keys)
        runs = zip(keys, outputs.chunk(len(keys)), inputs.chunk(len(keys)), strict=True)
        return torch.cat([self._updated(out, run, [key]) if key in self.lora_A else out for key, out, run in runs])

    def _updated(self, outputs: Tensor, inputs: Tensor, keys: list[str]) -> Tensor:
        """Add to what the frozen layer made of K equal runs the update of each run's adapter."""
        return _add(self.layer, outputs, inputs, [LowRank(self.lora_A[key], self.lora_B[key]) for key in keys])


def _add(layer: nn.Linear | nn.Conv2d, outputs: Tensor, inputs: Tensor, updates: Sequence[LowRank]) -> Tensor:
    """Add an update for each of K equal runs, in the precision of the outputs and in one product."""
    a, b = ([part.to(outputs.dtype) for part in parts] for parts in zip(*updates, strict=True))
    add = _update_of_one if len(updates) == 1 else _update_of_each
    return add(layer, outputs, inputs.to(outputs.dtype), a, b)


def _update_of_one(
    layer: nn.Linear | nn.Conv2d, outputs: Tensor, inputs: Tensor, a: list[Tensor], b: list[Tensor]
) -> Tensor:
    """One adapter on all samples: what `_update_of_each` computes, without the copies that take K runs apart."""
    if isinstance(layer, nn.Linear):
        narrow = F.linear(inputs, a[0])
        return torch.addmm(outputs.flatten(0, -2), narrow.flatten(0, -2), b[0].mT).view(outputs.shape)
    narrow = F.conv2d(inputs, a[0], None, layer.stride, layer.padding, layer.dilation).flatten(2)  # (B, R, h w)
    return torch.baddbmm(outputs.flatten(2), b[0].flatten(1).expand(len(narrow), -1, -1), narrow).view(outputs.shape)


def _update_of_each(
    layer: nn.Linear | nn.Conv2d, outputs: Tensor, inputs: Tensor, a: list[Tensor], b: list[Tensor]
) -> Tensor:
    """K adapters, each on its own of K equal runs of samples."""
    k, stacked_b = len(a), torch.stack([part.flatten(1) for part in b])  # (K, out, R)
    if isinstance(layer, nn.Linear):
        narrow = inputs.reshape(k, -1, inputs.shape[-1]) @ torch.stack(a).mT  # (K, samples and tokens, R)
        return torch.baddbmm(outputs.reshape(k, -1, outputs.shape[-1]), narrow, stacked_b.mT).view(outputs.shape)
    # Every A on all samples, of which each takes its own: at ranks this low, cheaper than a convolution in groups.
    narrow = F.conv2d(inputs, torch.cat(a), None, layer.stride, layer.padding, layer.dilation).flatten(2)
    own = narrow.view(k, -1, k, len(a[0]), narrow.shape[2]).diagonal(dim1=0, dim2=2)  # (n, R, h w, K)
    own = own.permute(3, 0, 1, 2).flatten(0, 1)  # (K n, R, h w)
    each_b = stacked_b.repeat_interleave(len(own) // k, dim=0)
    return torch.baddbmm(outputs.flatten(2), each_b, own).view(outputs.shape)


class Routing:
    """K adapters on a U-Net, ready to train.

    Attributes:
        route: Which of them the present batch is for.
    """

    def __init__(self, layers: Mapping[str, RoutedLayer], adapters: Sequence[Adapter], route: Route) -> None:
        self._layers, self._adapters, self.route = layers, adapters, route

    def choose(self, active: Sequence[int]) -> None:
        """Set which adapters the next batches are for, in equal runs."""
        self.route.active = active

    def parameters(self, index: int) -> list[nn.Parameter]:
        """The trainable weights of one adapter."""
        key = str(index)
        layers = [self._layers[name] for name in self._adapters[index]]
        return [weight for layer in layers for weight in (layer.lora_A[key], layer.lora_B[key])]

    def b_matrices(self, index: int) -> list[nn.Parameter]:
        """The second halves of one adapter's updates, which LoRA+ trains faster."""
        return self.parameters(index)[1::2]

    def adapter(self, index: int) -> dict[str, LowRank]:
        """One adapter as it stands, without padding."""
        key, adapter = str(index), self._adapters[index]
        return {
            name: LowRank(
                self._layers[name].lora_A[key].detach()[: len(start.a)].clone(),
                self._layers[name].lora_B[key].detach()[:, : len(start.a)].clone(),
            )
            for name, start in adapter.items()
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
        updates = [adapter.get(name) for adapter in adapters]
        layers[name] = RoutedLayer(unet.get_submodule(name), updates, route, stands_on)
    try:
        for name, layer in layers.items():
            unet.set_submodule(name, layer, strict=True)
        yield Routing(layers, adapters, route)
    finally:
        for name, layer in layers.items():
            unet.set_submodule(name, layer.layer, strict=True)
