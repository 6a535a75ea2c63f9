"""Rules that drop bad synthetic images before a classifier trains on them, fitted to real training images alone.

A rule gives every image a score and a limit, so that each dropped image can be explained, and the rule be judged.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sarsynth.evidence.memorisation import nearest_pixels


@dataclass(frozen=True, eq=False)
class Sample:
    """N images, with their features and logits by the study's classifier: all that a rule may look at."""

    images: Tensor  # uint8 (N, C, H, W)
    features: Tensor  # (N, F)
    logits: Tensor  # (N, classes)
    labels: Tensor  # classes, real or asked for, int64 (N,)


@dataclass(frozen=True, eq=False)
class Verdict:
    """Of each synthetic image, its score, the limit it had to keep, and whether it did; each (N,)."""

    scores: Tensor
    limits: Tensor
    kept: Tensor


class Rule(Protocol):
    """A filter: any class of this shape can stand behind `filter._target_`."""

    reason: ClassVar[str]

    def judge(self, real: Sample, synthetic: Sample) -> Verdict:
        """Fit the rule to real images, and say which synthetic ones to keep."""


@dataclass(frozen=True)
class Recognised:
    """Keep images whose class the classifier is as sure of as it is of real images of that class.

    The classifier was trained on those images, so it is surer of them than of new ones: the rule is strict, and the
    stricter the better the classifier fits its training set. It shares the classifier's errors; compare `filter=none`.
    """

    reason: ClassVar[str] = "confidence {score:.3g} in its class, below {limit:.3g} of real images"
    quantile: float  # of the real images' confidence in each class; images below it are dropped

    def judge(self, real: Sample, synthetic: Sample) -> Verdict:
        """Compare the probabilities of the classes."""
        expected, confidence = (
            sample.logits.softmax(dim=1).gather(1, sample.labels[:, None])[:, 0] for sample in (real, synthetic)
        )
        limits = torch.zeros(len(confidence))
        for label in synthetic.labels.unique():
            of_class = expected[real.labels == label]
            if len(of_class):
                limits[synthetic.labels == label] = torch.quantile(of_class, self.quantile)
        return Verdict(confidence, limits, confidence >= limits)


@dataclass(frozen=True)
class Near:
    """Keep images that lie in the manifold of their class's real features, as `precision` in `fidelity` defines it.

    A real image vouches for all that is nearer to it than its k-th nearest of the class. Score and limit are distance
    and radius of the real image that vouches, or comes nearest to it.
    """

    reason: ClassVar[str] = "{score:.3g} from the real image that could vouch for it, which does so up to {limit:.3g}"
    neighbours: int  # k, or as many as there are

    def judge(self, real: Sample, synthetic: Sample) -> Verdict:
        """Compare distances of features with radii."""
        scores, limits = torch.zeros(len(synthetic.labels)), torch.full((len(synthetic.labels),), torch.inf)
        for label in synthetic.labels.unique():
            of_class, rows = real.features[real.labels == label], synthetic.labels == label
            if len(of_class) < 2:
                continue  # one real image has no radius, so all are kept
            among = torch.cdist(of_class, of_class).fill_diagonal_(0)
            radii = among.kthvalue(min(self.neighbours, len(of_class) - 1) + 1, dim=1).values
            distances = torch.cdist(synthetic.features[rows], of_class)
            best = (distances - radii).argmin(dim=1)
            scores[rows], limits[rows] = distances.gather(1, best[:, None])[:, 0], radii[best]
        return Verdict(scores, limits, scores <= limits)


@dataclass(frozen=True)
class Original:
    """Keep images that are not near-copies of a real image of any class, by pixels (`memorisation.nearest_pixels`)."""

    reason: ClassVar[str] = "{score:.3g} from a real image by pixels, nearer than {limit:.3g}"
    quantile: float  # of the distances of real images to their nearest others; images nearer than that are dropped

    def judge(self, real: Sample, synthetic: Sample) -> Verdict:
        """Compare distances to the nearest real image."""
        among = nearest_pixels(real.images, real.images, same=True).distances
        limit = torch.quantile(among, self.quantile)
        scores = nearest_pixels(synthetic.images, real.images).distances
        return Verdict(scores, limit.expand(len(scores)), scores >= limit)
