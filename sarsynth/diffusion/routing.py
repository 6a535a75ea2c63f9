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
            frozen = [self.below[index] for index in self.route.active]
            a, b = torch.stack([update.a for update in frozen]), torch.stack([update.b for update in frozen])
            outputs = outputs + self._product(inputs, a, b).to(outputs.dtype)
        if all(key in self.lora_A for key in keys):
            return outputs + self._update(inputs, keys).to(outputs.dtype)
        runs = list(inputs.chunk(len(keys)))
        zero = torch.zeros_like(outputs[: len(runs[0])])
        updates = [
            self._update(run, [key]) if key in self.lora_A else zero for key, run in zip(keys, runs, strict=True)
        ]
        return outputs + torch.cat([update.to(outputs.dtype) for update in updates])

    def _update(self, inputs: Tensor, keys: list[str]) -> Tensor:
        a, b = (torch.stack([weights[key] for key in keys]) for weights in (self.lora_A, self.lora_B))
        return self._product(inputs, a, b)

    def _product(self, inputs: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """B_k A_k of equal runs of inputs, `a` (K, R, in, *kernel) and `b` (K, out, R, *ones)."""
        k, a, b = len(a), a.to(inputs.dtype), b.flatten(2).to(inputs.dtype)
        if isinstance(self.layer, nn.Linear):
            runs = inputs.reshape(k, -1, inputs.shape[-1])  # (K, samples and tokens, in)
            return (runs @ a.mT @ b.mT).view(*inputs.shape[:-1], -1)
        layer = self.layer
        grouped = inputs.unflatten(0, (k, -1)).transpose(0, 1).flatten(1, 2)  # (n, K in, H, W)
        narrow = F.conv2d(grouped, a.flatten(0, 1), None, layer.stride, layer.padding, layer.dilation, groups=k)
        height, width = narrow.shape[2:]
        wide = b @ narrow.unflatten(1, (k, -1)).flatten(3)  # (n, K, out, h w)
        return wide.transpose(0, 1).flatten(0, 1).unflatten(2, (height, width))


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
