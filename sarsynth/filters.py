"""Rules that drop bad synthetic images before a classifier trains on them, fitted to real training images alone.

A rule gives every image a score and a limit, so that what it drops can be explained and the rule be judged. It is
never more than a row of `conf/filter/` away from being left out.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sarsynth.evidence.memorisation import nearest_pixels


@dataclass(frozen=True, eq=False)
class Sample:
    """What a rule may look at: N images, with what the study's classifier makes of them.

    Attributes:
        images: uint8 (N, C, H, W).
        features: (N, F).
        logits: (N, classes).
        labels: Classes, real or asked for, int64 (N,).
    """

    images: Tensor
    features: Tensor
    logits: Tensor
    labels: Tensor


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
        """Learn what real images are like, class by class, and say which synthetic ones to keep."""


@dataclass(frozen=True)
class Recognised:
    """Keep what the classifier takes for its class, as sure of it as of real images of that class.

    The classifier has seen those images, so it is surer of them than of new ones: the rule is strict, and the stricter
    the better the classifier fits its training set. It shares the classifier's blind spots; compare `filter=none`.

    Args:
        quantile: Of the real images' confidence in each class; below it is out.
    """

    reason: ClassVar[str] = "confidence {score:.3g} in its class, below {limit:.3g} of real images"
    quantile: float

    def judge(self, real: Sample, synthetic: Sample) -> Verdict:
        """Compare the probabilities of the classes."""
        sure_real, sure = (
            sample.logits.softmax(dim=1).gather(1, sample.labels[:, None])[:, 0] for sample in (real, synthetic)
        )
        limits = torch.zeros(len(sure))
        for label in synthetic.labels.unique():
            of_class = sure_real[real.labels == label]
            if len(of_class):
                limits[synthetic.labels == label] = torch.quantile(of_class, self.quantile)
        return Verdict(sure, limits, sure >= limits)


@dataclass(frozen=True)
class Near:
    """Keep what lies in the manifold of its class's real features: the membership behind `precision` in `fidelity`.

    An image is in if some real image of the class is nearer than that one's k-th nearest of the class. Score and limit
    are that distance and radius, of the real image that comes nearest to vouching.

    Args:
        neighbours: k, or as many as there are.
    """

    reason: ClassVar[str] = "{score:.3g} from the real image that could vouch for it, which does so up to {limit:.3g}"
    neighbours: int

    def judge(self, real: Sample, synthetic: Sample) -> Verdict:
        """Compare distances of features with radii."""
        scores, limits = torch.zeros(len(synthetic.labels)), torch.full((len(synthetic.labels),), torch.inf)
        for label in synthetic.labels.unique():
            ours, rows = real.features[real.labels == label], synthetic.labels == label
            if len(ours) < 2:
                continue  # one image has no radius; nothing speaks against any other
            among = torch.cdist(ours, ours).fill_diagonal_(0)
            radii = among.kthvalue(min(self.neighbours, len(ours) - 1) + 1, dim=1).values
            distances = torch.cdist(synthetic.features[rows], ours)
            best = (distances - radii).argmin(dim=1)
            scores[rows], limits[rows] = distances.gather(1, best[:, None])[:, 0], radii[best]
        return Verdict(scores, limits, scores <= limits)


@dataclass(frozen=True)
class Original:
    """Keep what is no near-copy of a real image, of whichever class, by pixels (`memorisation.nearest_pixels`).

    Args:
        quantile: Of the distances of real images to their nearest others; nearer is out.
    """

    reason: ClassVar[str] = "{score:.3g} from a real image by pixels, nearer than {limit:.3g}"
    quantile: float

    def judge(self, real: Sample, synthetic: Sample) -> Verdict:
        """Compare distances to the nearest real image."""
        among = nearest_pixels(real.images, real.images, same=True).distances
        limit = torch.quantile(among, self.quantile)
        scores = nearest_pixels(synthetic.images, real.images).distances
        return Verdict(scores, limit.expand(len(scores)), scores >= limit)
