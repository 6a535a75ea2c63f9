"""The SAR classifier: its network and recipe, what it says of images, and how it is saved and loaded.

Synthetic images are to help it; its features cluster the training set and measure fidelity.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import timm
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sarsynth.classifier.augmentation import Augmentation
from sarsynth.classifier.losses import Loss
from sarsynth.classifier.oversampling import OverSampling
from sarsynth.classifier.pretrained import Pretrained
from sarsynth.data.seeds import step_seed
from sarsynth.data.streams import Sampling
from sarsynth.training.precision import FULL, Precision

WEIGHTS, CONFIG = "classifier.safetensors", "config.json"


@dataclass(frozen=True)
class ClassifierRecipe:
    """Which network, and how it is trained: the keys of a row in `conf/classifier/`, and what a method changes."""

    network: str  # name of a timm model
    image_size: int  # side of the images in px
    max_steps: int  # the training budget, the same for every method
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float  # peak of the schedule: linear warm-up, then cosine to nearly zero
    weight_decay: float  # as the optimizer defines it
    warmup_steps: int  # until the peak
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of `timm.create_model`
    pretrained: Pretrained | None = None  # the weights that training starts from; None starts from random ones
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: Loss = field(default_factory=Loss)
    sampling: Sampling = "uniform"  # every training image comes as often as any other; `balanced`: every class
    oversampling: OverSampling | None = None  # the last layer learns alone in the end; None: the whole network does

    @property
    def whole_steps(self) -> int:
        """Steps that train the whole network."""
        return self.max_steps - (self.oversampling.steps if self.oversampling else 0)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Build a recipe from what `as_dict` gives, or JSON has made of it."""
        digest = settings.get("pretrained")
        return TypeAdapter(cls).validate_python({**settings, "pretrained": digest and Pretrained(digest)})

    def as_dict(self) -> dict[str, Any]:
        """Give plain settings; of the weights that training starts from, the sha256."""
        return asdict(self) | {"pretrained": self.pretrained.sha256 if self.pretrained else None}


class Classifier(nn.Module):
    """A timm network with the statistics that its images are normalised with.

    Images are in 0..255 (uint8 or floating), shape (B, C, H, W), everywhere.

    Args:
        recipe: Network and training.
        classes: Class names, in the order of the logits.
        mean: Mean of each channel of the real training images, in 0..255, length C.
        std: Their standard deviation.
        seed: Of the initial weights and of the training.
        precision: In which it predicts; weights are float32, and so are logits and features.
    """

    network: Any  # timm's models share methods, not a type
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        recipe: ClassifierRecipe,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        precision: Precision = FULL,
    ) -> None:
        super().__init__()
        self.recipe, self.classes, self.seed, self.precision = recipe, list(classes), seed, precision
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed))
            self.network = timm.create_model(
                recipe.network, in_chans=len(mean), num_classes=len(self.classes), **recipe.options
            ).to(memory_format=torch.channels_last)  # convolutions and pooling are faster so, and mean the same
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mean.device

    def forward(self, images: Tensor) -> Tensor:
        """Classify images: logits, shape (B, number of classes)."""
        return self.network(self._normalised(images))

    def features(self, images: Tensor) -> Tensor:
        """Describe images by the pooled features before the last layer, shape (B, F)."""
        maps = self.network.forward_features(self._normalised(images))
        return self.network.forward_head(maps, pre_logits=True)

    def _normalised(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def save(self, folder: Path) -> None:
        """Write weights and statistics as safetensors, and a JSON from which `load` rebuilds the rest."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / WEIGHTS)
        config = {
            "classes": self.classes,
            "channels": len(self.mean),
            "seed": self.seed,
            "recipe": self.recipe.as_dict(),
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str, precision: Precision = FULL) -> Self:
        """Read what `save` wrote; the classifier is on the device and in evaluation mode."""
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        recipe = ClassifierRecipe.from_dict(config["recipe"])
        placeholder = [0.0] * config["channels"]  # the statistics are in the file of weights
        classifier = cls(recipe, config["classes"], placeholder, placeholder, config["seed"], precision)
        classifier.load_state_dict(load_file(folder / WEIGHTS))
        return classifier.eval().to(device)


@torch.inference_mode()
def predict(classifier: Classifier, images: Tensor, batch_size: int = 256) -> Tensor:
    """Classify images (N, C, H, W) on the classifier's device: logits on the CPU, float32 (N, classes)."""
    return _in_batches(classifier, classifier.forward, images, batch_size)


@torch.inference_mode()
def extract_features(classifier: Classifier, images: Tensor, batch_size: int = 256) -> Tensor:
    """Describe images (N, C, H, W) on the classifier's device: features on the CPU, float32 (N, F)."""
    return _in_batches(classifier, classifier.features, images, batch_size)


def _in_batches(classifier: Classifier, compute: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> Tensor:
    classifier.eval()
    batches = images.split(batch_size)
    with classifier.precision.autocast(classifier.device):
        return torch.cat([compute(batch.to(classifier.device)).float().cpu() for batch in batches])
