"""The SAR classifier: synthetic images are to help it; its features cluster the training set and measure fidelity."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import numpy as np
import timm
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import load_file, save_file
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

from sarsynth.classifier.augmentation import Augmentation, augment
from sarsynth.classifier.losses import Loss, class_weights, focal_losses
from sarsynth.classifier.oversampling import between_neighbours
from sarsynth.classifier.pretrained import Pretrained, start
from sarsynth.data.datamodules import shuffled
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.seeds import step_seed
from sarsynth.data.streams import Sampling, Stream, Succession, stream
from sarsynth.training.finite import FiniteWatch
from sarsynth.training.fitting import Fitting, learning_rate_share
from sarsynth.training.precision import FULL, Precision

WEIGHTS, CONFIG = "classifier.safetensors", "config.json"
SCHEDULE_FLOOR = (
    1e-4  # warm-up starts from, and cosine ends at, this share of the peak learning rate (the paper's release)
)
MOMENTUM = 0.9  # of SGD
SMALLEST_DEVIATION = 1e-6  # grey levels; below it lies rounding


@dataclass(frozen=True)
class OverSampling:
    """A training whose last steps have the last layer alone learn, from features; added ones lie between neighbours.

    First the whole network learns from the real images; then the features of all images are computed once, and an added
    image stands for a point between its features and those of a neighbour of its class (Dablain et al., Efficient
    Augmentation for Imbalanced Deep Learning, doi:10.1109/ICDE55515.2023.00114, with the over-sampling of SMOTE).

    Attributes:
        steps: Of the training, its last ones; their learning rate starts at its peak and falls as a cosine.
        neighbours: The nearest ones, of which one is chosen.
    """

    steps: int
    neighbours: int


@dataclass(frozen=True)
class ClassifierRecipe:
    """Which network, and how it is trained: the keys of a row in `conf/classifier/`, and what a method changes.

    Attributes:
        network: Name of a timm model.
        options: Further arguments of `timm.create_model`.
        pretrained: The weights that training starts from; None starts from random ones.
        image_size: Side of the images in px.
        max_steps: The training budget, the same for every method.
        batch_size: Images a step.
        optimizer: `sgd` (momentum 0.9) or `adamw`.
        learning_rate: Peak of the schedule: linear warm-up, then cosine to nearly zero.
        weight_decay: As the optimizer defines it.
        warmup_steps: Steps until the peak.
        augmentation: Random views of the training images.
        loss: What each training image weighs.
        sampling: Whether every training image comes as often as any other, or every class.
        oversampling: How the last layer learns alone; None trains the whole network to the end.
    """

    network: str
    image_size: int
    max_steps: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Pretrained | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: Loss = field(default_factory=Loss)
    sampling: Sampling = "uniform"
    oversampling: OverSampling | None = None

    @property
    def whole_steps(self) -> int:
        """Steps that train the whole network."""
        return self.max_steps - (self.oversampling.steps if self.oversampling else 0)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Build a recipe from plain settings, as YAML or JSON give them."""
        augmentation: dict[str, Any] = {
            key: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for key, value in settings.get("augmentation", {}).items()
        }
        over, digest = settings.get("oversampling"), settings.get("pretrained")
        parts = {
            "pretrained": Pretrained(digest) if digest else None,
            "augmentation": Augmentation(**augmentation),
            "loss": Loss(**settings.get("loss", {})),
            "oversampling": OverSampling(**over) if over else None,
        }
        return cls(**{**settings, **parts})

    def as_dict(self) -> dict[str, Any]:
        """Give plain settings that `from_dict` turns back into this recipe, also after a way through JSON.

        Weights that training starts from are their sha256 there, None if there are none.
        """
        return asdict(self) | {"pretrained": self.pretrained.sha256 if self.pretrained else None}


class ClassScores(TypedDict):
    """How well one class is recognised; each in [0, 1], `support` its number of images."""

    precision: float
    recall: float
    f1: float
    support: int


class Scores(TypedDict):
    """How well a classifier does; each in [0, 1]. `minor_f1` is None if no class is minor.

    `confusion` counts images: a row for each true class, a column for each predicted one.
    """

    per_class: dict[str, ClassScores]
    macro_f1: float
    minor_f1: float | None
    accuracy: float
    confusion: list[list[int]]


class Classifier(LightningModule):
    """A timm network, the statistics its images are normalised with, and how it learns.

    Images are in 0..255 (uint8 or floating), shape (B, C, H, W), everywhere. Initial weights follow from `seed`, all
    that is random in a training step (views, dropout) from (seed, step).

    A classifier trains in one process, on that process's device, so that its batch normalisation sees the whole batch
    and its bits do not depend on the number of processes; in a job of several these share out the seeds of an
    evaluation, each training one at a time.

    Args:
        recipe: Network and training.
        classes: Class names, in the order of the logits.
        mean: Mean of each channel of the real training images, in 0..255, length C.
        std: Their standard deviation.
        seed: Of initial weights and training.
        precision: In which it predicts; weights are float32, and so is what comes out.
    """

    network: Any  # timm's models share methods, not a type
    mean: Tensor
    std: Tensor
    class_weights: Tensor
    described: Tensor | None  # once the last layer learns alone

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
        self.watch = FiniteWatch()
        self.name_of: Callable[[int], str] = "image {}".format  # by row of what it trains on
        self.describe: Callable[[], Tensor] | None = None  # features of what it trains on
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed))
            self.network = timm.create_model(
                recipe.network, in_chans=len(mean), num_classes=len(self.classes), **recipe.options
            )
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1))
        self.register_buffer("class_weights", torch.ones(len(self.classes)), persistent=False)  # of training alone
        self.register_buffer("described", None, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images: logits, shape (B, number of classes)."""
        return self.network(self._normalised(images))

    def features(self, images: Tensor) -> Tensor:
        """Describe images by the pooled features before the last layer, shape (B, F)."""
        maps = self.network.forward_features(self._normalised(images))
        return self.network.forward_head(maps, pre_logits=True)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def on_train_batch_start(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Tie the network's own randomness, such as dropout, to the step; give the last layer what it learns from."""
        torch.manual_seed(step_seed(self.seed, self.global_step, 0, 0))
        if self.describe and self.described is None and self.global_step >= self.recipe.whole_steps:
            self.described = self.describe().to(self.device)
            self.train()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Weighted cross-entropy on random views of a batch, or on its features."""
        images, labels, rows = batch
        if self.described is None:
            generator = torch.Generator().manual_seed(step_seed(self.seed, self.global_step, 0, 1))
            logits = self(augment(images, self.recipe.augmentation, generator))
        else:
            logits = self.network.get_classifier()(self.described[rows])
        losses = self.class_weights[labels] * focal_losses(logits, labels, self.recipe.loss.gamma)
        self.watch.losses(
            losses.detach(),
            self.global_step,
            lambda index: f"{self.name_of(int(rows[index]))} ({self.classes[labels[index]]})",
        )
        loss = losses.mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the recipe's optimizer and a schedule that moves with every step."""
        recipe = self.recipe
        common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.parameters(), momentum=MOMENTUM, **common)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), **common)

        def schedule(step: int) -> float:
            whole, share = recipe.whole_steps, partial(learning_rate_share, floor=SCHEDULE_FLOOR)
            if step < whole or not recipe.oversampling:
                return share(step, warmup_steps=recipe.warmup_steps, max_steps=whole)
            return share(step - whole, warmup_steps=0, max_steps=recipe.oversampling.steps)

        lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

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
        unknown = [0.0] * config["channels"]
        recipe = ClassifierRecipe.from_dict(config["recipe"])
        classifier = cls(recipe, config["classes"], unknown, unknown, config["seed"], precision)
        classifier.load_state_dict(load_file(folder / WEIGHTS))
        return classifier.eval().to(device)


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images (N, C, H, W), in 0..255, uint8 or floating.

    A constant channel gets a deviation of 1, so that it can be divided by.
    """
    moments = [torch.var_mean(chunk.double(), dim=(2, 3), correction=0) for chunk in images.split(256)]
    variances, means = (torch.cat(parts) for parts in zip(*moments, strict=True))  # of each image: no float64 set
    mean = means.mean(dim=0)
    deviations = (variances + (means - mean) ** 2).mean(dim=0).sqrt()
    return mean.tolist(), [deviation if deviation > SMALLEST_DEVIATION else 1.0 for deviation in deviations.tolist()]


def fit_classifier(
    real: LabelledImages,
    classes: Sequence[str],
    recipe: ClassifierRecipe,
    *,
    synthetic: LabelledImages | None = None,
    seed: int,
    fitting: Fitting,
    precision: Precision = FULL,
    title: str = "classifier",
    checkpoints: Path | None = None,
    checkpoint_every: int = 0,
    callbacks: Sequence[Callback] = (),
) -> Classifier:
    """Train a classifier on real images, and on synthetic ones if given, for the recipe's number of steps.

    Args:
        real: Real training images of side `recipe.image_size`.
        classes: Names of the labels 0, 1, …
        recipe: Network and training.
        synthetic: Images that join the real ones, or stand for features that do (see `OverSampling`).
        seed: Of weights, sample order and views.
        fitting: How training loops run: in this process alone.
        precision: In which the classifier predicts; that in which it trains is `fitting`'s.
        title: What the progress bar says.
        checkpoints: Folder of the checkpoint that resumes this training; None keeps none.
        checkpoint_every: Steps between checkpoints.
        callbacks: What else looks on.

    Returns:
        The classifier after its last step, in evaluation mode.
    """
    classifier = Classifier(recipe, classes, *channel_statistics(real.images), seed, precision)
    if recipe.pretrained:
        start(classifier.network, recipe.pretrained, len(classifier.mean))
    training = real if synthetic is None else real + synthetic
    classifier.name_of = training.name
    classifier.class_weights = class_weights(training.labels.bincount(minlength=len(classes)), recipe.loss.beta)
    order: Stream | Succession = stream(training.labels, recipe.max_steps, seed, recipe.sampling)
    if recipe.oversampling:
        first = stream(real.labels, recipe.whole_steps, seed, recipe.sampling)
        then = stream(training.labels, recipe.oversampling.steps, step_seed(seed, 1), recipe.sampling)
        order = Succession(first, then, recipe.whole_steps)
        classifier.describe = partial(_over_sampled, classifier, training, len(real), recipe.oversampling, seed)
    fitting.fit(
        classifier,
        shuffled(training, order, batch_size=recipe.batch_size),
        title=title,
        max_steps=recipe.max_steps,
        checkpoints=checkpoints,
        checkpoint_every=checkpoint_every,
        callbacks=callbacks,
    )
    return classifier.eval()


def _over_sampled(
    classifier: Classifier, training: LabelledImages, real: int, recipe: OverSampling, seed: int
) -> Tensor:
    """Features of the first `real` images, and for each of the others a point between two of its class."""
    features, labels = extract_features(classifier, training.images).numpy(), training.labels.numpy()
    added = np.arange(len(labels)) >= real
    rng = np.random.default_rng(step_seed(seed, 2))
    for label in np.unique(labels[added]):
        bases, own = added & (labels == label), ~added & (labels == label)
        features[bases] = between_neighbours(features[bases], features[own], recipe.neighbours, rng)
    return torch.from_numpy(features)


@torch.inference_mode()
def predict(classifier: Classifier, images: Tensor, batch_size: int = 256) -> Tensor:
    """Classify images (N, C, H, W) on the classifier's device: logits on the CPU, float32 (N, classes)."""
    return _in_batches(classifier, Classifier.forward, images, batch_size)


@torch.inference_mode()
def extract_features(classifier: Classifier, images: Tensor, batch_size: int = 256) -> Tensor:
    """Describe images (N, C, H, W) on the classifier's device: features on the CPU, float32 (N, F)."""
    return _in_batches(classifier, Classifier.features, images, batch_size)


def _in_batches(
    classifier: Classifier, output: Callable[[Classifier, Tensor], Tensor], images: Tensor, batch_size: int
) -> Tensor:
    classifier.eval()
    batches = images.split(batch_size)
    with classifier.precision.autocast(classifier.device):
        return torch.cat([output(classifier, batch.to(classifier.device)).float().cpu() for batch in batches])


def scores(predicted: Tensor, labels: Tensor, classes: Sequence[str], minor: Sequence[str]) -> Scores:
    """Score predictions class by class.

    A class that was never predicted has precision 0. Macro-F1 is the mean over the classes that occur in `labels`.

    Args:
        predicted: Predicted labels, (N,).
        labels: True labels, (N,).
        classes: Names of the labels 0, 1, …
        minor: Names of the minor classes.
    """
    true, said, known = labels.cpu().numpy(), predicted.cpu().numpy(), range(len(classes))
    columns = precision_recall_fscore_support(true, said, labels=known, zero_division=0)
    per_class: dict[str, ClassScores] = {
        name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for name, precision, recall, f1, support in zip(classes, *columns, strict=True)
    }

    def mean_f1(names: Sequence[str]) -> float | None:
        values = [per_class[name]["f1"] for name in names if per_class[name]["support"]]
        return float(np.mean(values)) if values else None

    return {
        "per_class": per_class,
        "macro_f1": mean_f1(classes) or 0.0,
        "minor_f1": mean_f1(minor),
        "accuracy": float((true == said).mean()),
        "confusion": confusion_matrix(true, said, labels=known).tolist(),
    }
