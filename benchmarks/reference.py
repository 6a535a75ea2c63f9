"""Reference classifiers: trained on many balanced real pictures of the simulated world, to say what a picture shows."""

from functools import cache

from sarsynth.classifier.learning import fit_classifier
from sarsynth.classifier.network import Classifier, ClassifierRecipe, predict
from sarsynth.classifier.scores import scores
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.radiometry import EightBit
from sarsynth.data.simulated import Simulated
from sarsynth.data.transforms import load_images
from sarsynth.sim import CLASSES
from sarsynth.training.fitting import Fitting

import torch
from torch import Tensor

SEED = 7  # a world of its own: no ship that a base, an adapter or a study has seen


@cache
def pictures(domain: str, per_class: int, size: int, split: str = "train") -> LabelledImages:
    """Draw a balanced set."""
    source = Simulated(domain, SEED, per_class, per_class, size)
    records = source.records(split)
    return LabelledImages(load_images(source, records, size, EightBit()), torch.tensor([r.label for r in records]))


def reference(
    domain: str, recipe: ClassifierRecipe, per_class: int = 600, seed: int = SEED
) -> tuple[Classifier, LabelledImages]:
    """Train the classifier of a domain, one for each seed; returns it with a held-out set of 100 pictures a class."""
    training = pictures(domain, per_class, recipe.image_size)
    classifier = fit_classifier(
        training, CLASSES, recipe, seed=seed, fitting=Fitting(), title=f"reference classifier, {domain}"
    )
    return classifier, pictures(domain, 100, recipe.image_size, "test")


def recognised(classifier: Classifier, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of the images of each class that the classifier calls by their name, their mean, and that of all images."""
    right = (predict(classifier, images).argmax(dim=1) == labels).float()
    shares = {name: right[labels == label].mean().item() for label, name in enumerate(CLASSES)}
    return shares | {"mean of classes": sum(shares.values()) / len(shares), "all images": right.mean().item()}


def macro_f1(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Macro-F1 on a set."""
    return scores(predict(classifier, images).argmax(dim=1), labels, CLASSES, [])["macro_f1"]
