"""K adapters trained in one pass over the base they share: each sample sees the update of its own adapter.

A batch holds equal runs of samples, one run for each adapter that is routed at the moment. A layer's frozen weight acts
on all of them at once, the updates B_k A_k by batched products: K small trainings cost little more than one large one.
Adapters of lower rank are padded with zeros, which stay zero: their gradients are products with each other.
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
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, updates: Sequence[LowRank | None], route: Route) -> None:
        super().__init__()
        self.layer, self.route = layer, route
        rank = max(len(update.a) for update in updates if update is not None)
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
        if all(key in self.lora_A for key in keys):
            return outputs + self._update(inputs, keys).to(outputs.dtype)
        runs = list(inputs.chunk(len(keys)))
        zero = torch.zeros_like(outputs[: len(runs[0])])
        updates = [
            self._update(run, [key]) if key in self.lora_A else zero for key, run in zip(keys, runs, strict=True)
        ]
        return outputs + torch.cat([update.to(outputs.dtype) for update in updates])

    def _update(self, inputs: Tensor, keys: list[str]) -> Tensor:
        k = len(keys)
        a = torch.stack([self.lora_A[key] for key in keys]).to(inputs.dtype)  # (K, R, in, *kernel)
        b = torch.stack([self.lora_B[key] for key in keys]).flatten(2).to(inputs.dtype)  # (K, out, R)
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
def routed(unet: UNet2DConditionModel, adapters: Sequence[Adapter]) -> Iterator[Routing]:
    """Put K adapters on a U-Net inside the block; afterwards it has its own layers again, their weights unchanged."""
    route, layers = Route(len(adapters)), {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter):
        layers[name] = RoutedLayer(unet.get_submodule(name), [adapter.get(name) for adapter in adapters], route)
    try:
        for name, layer in layers.items():
            unet.set_submodule(name, layer, strict=True)
        yield Routing(layers, adapters, route)
    finally:
        for name, layer in layers.items():
            unet.set_submodule(name, layer.layer, strict=True)
