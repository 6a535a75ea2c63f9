"""How a classifier learns: its training step, its optimizer and schedule, and the training from first to last step."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from sarsynth.classifier.augmentation import augment
from sarsynth.classifier.losses import class_weights, focal_losses
from sarsynth.classifier.network import Classifier, ClassifierRecipe, extract_features
from sarsynth.classifier.oversampling import between_neighbours
from sarsynth.classifier.pretrained import load_weights
from sarsynth.data.datamodules import shuffled
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.seeds import step_seed
from sarsynth.data.streams import Stream, Succession, stream
from sarsynth.training.finite import FiniteWatch
from sarsynth.training.fitting import Fitting, learning_rate_share
from sarsynth.training.precision import FULL, Precision

SCHEDULE_FLOOR = 1e-4  # share of the peak learning rate at the ends of warm-up and cosine, as in the paper's release
MOMENTUM = 0.9  # of SGD
SMALLEST_STD = 1e-6  # grey levels; what is smaller is rounding


class ClassifierTraining(LightningModule):
    """The training of a classifier, in place: its steps as Lightning runs them.

    All that is random in a step (views, dropout) follows from (seed, step).

    A classifier trains in one process, on that process's device, so that its batch normalisation sees the whole batch
    and its bits do not depend on the number of processes; in a job of several these share out the seeds of an
    evaluation, each training one at a time.

    Args:
        classifier: What learns.
        images: Training images: real ones, and then those that join them.
        real: How many are real.
    """

    class_weights: Tensor
    last_layer_inputs: Tensor | None  # (N, F), once the last layer learns alone

    def __init__(self, classifier: Classifier, images: LabelledImages, real: int) -> None:
        super().__init__()
        self.classifier, self.images, self.real = classifier, images, real
        self.recipe, self.seed = classifier.recipe, classifier.seed
        self.watch = FiniteWatch()
        counts = images.labels.bincount(minlength=len(classifier.classes))
        self.register_buffer("class_weights", class_weights(counts, self.recipe.loss.beta), persistent=False)
        self.register_buffer("last_layer_inputs", None, persistent=False)

    def on_train_batch_start(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Tie the network's own randomness, such as dropout, to the step; begin the last layer's own steps."""
        torch.manual_seed(step_seed(self.seed, self.global_step, 0, 0))
        alone = self.recipe.oversampling and self.global_step >= self.recipe.whole_steps
        if alone and self.last_layer_inputs is None:
            self.last_layer_inputs = self.oversampled_features().to(self.device)
            self.train()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Weighted cross-entropy on random views of a batch, or on its features."""
        images, labels, rows = batch
        if self.last_layer_inputs is None:
            generator = torch.Generator().manual_seed(step_seed(self.seed, self.global_step, 0, 1))
            logits = self.classifier(augment(images, self.recipe.augmentation, generator))
        else:
            logits = self.classifier.network.get_classifier()(self.last_layer_inputs[rows])
        losses = self.class_weights[labels] * focal_losses(logits, labels, self.recipe.loss.gamma)
        self.watch.losses(
            losses.detach(),
            self.global_step,
            lambda index: f"{self.images.name(int(rows[index]))} ({self.classifier.classes[labels[index]]})",
        )
        loss = losses.mean()
        self.log("loss", loss)
        return loss

    def oversampled_features(self) -> Tensor:
        """Compute features of the real images, and for each of the others a point between two of its class."""
        recipe = self.recipe.oversampling
        assert recipe is not None
        features, labels = extract_features(self.classifier, self.images.images).numpy(), self.images.labels.numpy()
        added = np.arange(len(labels)) >= self.real
        rng = np.random.default_rng(step_seed(self.seed, 2))
        for label in np.unique(labels[added]):
            bases, own = added & (labels == label), ~added & (labels == label)
            features[bases] = between_neighbours(features[bases], features[own], recipe.neighbours, rng)
        return torch.from_numpy(features)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the recipe's optimizer and a schedule that moves with every step."""
        recipe = self.recipe
        common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.parameters(), momentum=MOMENTUM, **common)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), fused=True, **common)

        def schedule(step: int) -> float:
            whole, share = recipe.whole_steps, partial(learning_rate_share, floor=SCHEDULE_FLOOR)
            if step < whole or not recipe.oversampling:
                return share(step, warmup_steps=recipe.warmup_steps, max_steps=whole)
            return share(step - whole, warmup_steps=0, max_steps=recipe.oversampling.steps)

        lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images (N, C, H, W), in 0..255, uint8 or floating.

    A constant channel gets a deviation of 1, so that it can be divided by.
    """
    moments = [torch.var_mean(chunk.double(), dim=(2, 3), correction=0) for chunk in images.split(256)]
    variances, means = (torch.cat(parts) for parts in zip(*moments, strict=True))  # of each image: no float64 set
    mean = means.mean(dim=0)
    std = (variances + (means - mean) ** 2).mean(dim=0).sqrt()
    return mean.tolist(), torch.where(std > SMALLEST_STD, std, 1.0).tolist()


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
        callbacks: Further callbacks of the Trainer.

    Returns:
        The classifier after its last step, in evaluation mode.
    """
    classifier = Classifier(recipe, classes, *channel_statistics(real.images), seed, precision)
    if recipe.pretrained:
        load_weights(classifier.network, recipe.pretrained, len(classifier.mean))
    images = real if synthetic is None else real + synthetic
    fitting.fit(
        ClassifierTraining(classifier, images, len(real)),
        shuffled(images, _order(real, images, recipe, seed), batch_size=recipe.batch_size),
        title=title,
        max_steps=recipe.max_steps,
        checkpoints=checkpoints,
        checkpoint_every=checkpoint_every,
        callbacks=callbacks,
    )
    return classifier.eval()


def _order(real: LabelledImages, images: LabelledImages, recipe: ClassifierRecipe, seed: int) -> Stream | Succession:
    """In which order images are trained on: where the last layer learns alone, real ones until then."""
    if not recipe.oversampling:
        return stream(images.labels, recipe.max_steps, seed, recipe.sampling)
    first = stream(real.labels, recipe.whole_steps, seed, recipe.sampling)
    then = stream(images.labels, recipe.oversampling.steps, step_seed(seed, 1), recipe.sampling)
    return Succession(first, then, recipe.whole_steps)
