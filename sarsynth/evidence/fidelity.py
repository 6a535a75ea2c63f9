"""How close synthetic images are to real ones, class by class and in all, in the study's own feature space.

Features come from the SAR classifier, not from ImageNet's Inception; figures compare within a study but not with those
of another extractor. FID is biased upwards, the more so the fewer images there are per feature: with fewer images than
features no covariance has full rank, and the figure is marked as unreliable. KID has no such bias and decides there.

torchmetrics has FID and KID, and tests compare with it. It computes each from scratch and KID on random subsets; here
the pairs of a set are computed once, for all figures and for the sub-samples behind their intervals.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sarsynth.data.choosing import evenly
from sarsynth.errors import UserError

NEIGHBOURS = 5  # of precision, recall, density and coverage, as Naeem et al. choose
MOST = 2000  # images of a set in what compares every pair; larger sets are thinned evenly
ROUNDS = 25  # sub-samples behind an interval
MOST_IN_ROUND = 500  # images of a set in one of them
NORMAL_95 = 1.96
FIGURES = ("fid", "kid", "precision", "recall", "density", "coverage")
RANGES = {"fid": (0.0, np.inf), "kid": (-np.inf, np.inf), "density": (0.0, np.inf)}  # the others lie in [0, 1]


def fid(real: Tensor, synthetic: Tensor) -> float:
    """Fréchet distance of two sets of features (Heusel et al., arXiv 1706.08500), in float64.

    |m_r - m_s|² + tr(C_r + C_s - 2 (C_r C_s)^½) with means m and unbiased covariances C. With C = AᵀA, tr (C_r C_s)^½
    is the sum of the singular values of A_r A_sᵀ: no root of a matrix that is not symmetric, and small for few images.

    The features are of shapes (N, F) and (M, F), N and M >= 2; the distance is at least 0, in squared features.
    """
    (mean_r, factor_r), (mean_s, factor_s) = _moments(real), _moments(synthetic)
    traces = factor_r.square().sum() + factor_s.square().sum()
    distance = (mean_r - mean_s).square().sum() + traces - 2 * torch.linalg.svdvals(factor_r @ factor_s.T).sum()
    return max(0.0, distance.item())


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,), and a factor A of the unbiased covariance AᵀA with no more rows than columns."""
    mean = features.double().mean(dim=0)
    centred = (features.double() - mean) / (len(features) - 1) ** 0.5
    return mean, torch.linalg.qr(centred, mode="r").R if len(centred) > centred.shape[1] else centred


class Pairs:
    """Kernels and distances of all pairs of two sets, computed once; figures of sub-samples only choose among them.

    The features are of shapes (N, F) and (M, F), N and M >= 2.
    """

    def __init__(self, real: Tensor, synthetic: Tensor) -> None:
        real, synthetic = real.double(), synthetic.double()
        self.is_synthetic = torch.cat([torch.zeros(len(real)), torch.ones(len(synthetic))]).bool()
        both = torch.cat([real, synthetic])
        self.kernel = (both @ both.T / both.shape[1] + 1) ** 3
        centred = both - both.mean(dim=0)  # digits of small distances far from the origin
        self.distance = torch.cdist(centred, centred).fill_diagonal_(0)

    def kid(self, rows: Tensor | None = None) -> float:
        """Kernel distance: squared MMD, cubic kernel, unbiased (Bińkowski et al., arXiv 1801.01401), over all pairs.

        Its expectation does not depend on the number of images, so unlike `fid` it can be compared between classes. It
        is about 0 for equal distributions; slightly negative values occur. `rows` are rows of both sets, one after
        the other; None is all of them.
        """
        rr, ss, rs = self._blocks(self.kernel, rows)
        within = [(block.sum() - block.trace()) / (len(block) * (len(block) - 1)) for block in (rr, ss)]
        return (within[0] + within[1] - 2 * rs.mean()).item()

    def overlaps(self, rows: Tensor | None = None) -> dict[str, float]:
        """Precision, recall (Kynkäänniemi et al., arXiv 1904.06991), density, coverage (Naeem et al., 2002.09797).

        The manifold of a set is the union of the balls around its features that reach to the k-th nearest of the
        others, k = 5, or as many as there are. Precision: share of synthetic features in the real manifold; recall: the
        reverse; density: how many real balls hold a synthetic feature, over k; coverage: share of real balls that hold
        one. `rows` is as in `kid`.
        """
        rr, ss, rs = self._blocks(self.distance, rows)
        # Each image is its own nearest neighbour.
        radius_r, radius_s = (block.kthvalue(min(NEIGHBOURS, len(block) - 1) + 1).values for block in (rr, ss))
        in_real, in_synthetic = rs <= radius_r[:, None], rs <= radius_s
        return {
            "precision": in_real.any(dim=0).double().mean().item(),
            "recall": in_synthetic.any(dim=1).double().mean().item(),
            "density": in_real.sum(dim=0).double().mean().item() / min(NEIGHBOURS, len(rr) - 1),
            "coverage": in_real.any(dim=1).double().mean().item(),
        }

    def _blocks(self, matrix: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.arange(len(matrix)) if rows is None else rows
        synthetic = self.is_synthetic[rows]
        r, s = rows[~synthetic], rows[synthetic]
        return matrix[r][:, r], matrix[s][:, s], matrix[r][:, s]


def compare(real: Tensor, synthetic: Tensor, seed: int = 0) -> dict[str, Any]:
    """Measure distances and overlaps of two sets of features, with intervals.

    Intervals come from sub-samples without replacement: a bootstrap repeats images, which lowers the rank of a
    covariance and shortens distances to neighbours, so it is biased for all of these figures. Over sub-samples of a
    share f of both sets, the spread times (f / (1 - f))^½ estimates the standard error at full size (the delete-d
    jackknife; Shao and Wu, doi:10.1214/aos/1176347263); f is a half, less for sets of more than 1,000. What more images
    would take off the bias of FID is not in its interval.

    Args:
        real: Shape (N, F).
        synthetic: Shape (M, F).
        seed: Of the sub-samples.

    Returns:
        * `fid` and `kid`: lower the closer; `fid_reliable`: whether both sets have as many images as features;
        * `precision` (how many synthetic images are like real ones) and `recall` (how many real images are like
          synthetic ones), `density` and `coverage`, which outliers move less: the higher the better;
        * `intervals`: [low, high], 95 %, of each figure that has one; `n_real`, `n_synthetic`.

        Figures are None where there are too few images to tell.

    Raises:
        UserError: A feature is not finite.
    """
    for kind, features in {"real": real, "synthetic": synthetic}.items():
        if bad := int((~features.isfinite()).any(dim=1).sum()):
            raise UserError(
                f"features of {bad} of {len(features)} {kind} images are not finite; the classifier they come from "
                "diverged: lower classifier.learning_rate"
            )
    sizes = len(real), len(synthetic)
    figures, errors = _figures(real, synthetic, seed)
    intervals = {}
    for name, error in errors.items():
        low, high = figures[name] - NORMAL_95 * error, figures[name] + NORMAL_95 * error
        lowest, highest = RANGES.get(name, (0.0, 1.0))
        intervals[name] = [max(lowest, low), min(highest, high)]
    known = {"fid": None, "fid_reliable": min(sizes) >= real.shape[1]} | dict.fromkeys(FIGURES) | figures
    return known | {"intervals": intervals, "n_real": sizes[0], "n_synthetic": sizes[1]}


def _figures(real: Tensor, synthetic: Tensor, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of two sets and their standard errors; nothing where there are too few images."""
    sizes = len(real), len(synthetic)
    if min(sizes) < 2:
        return {}, {}
    thin_real, thin_synthetic = (features[evenly(len(features), MOST)] for features in (real, synthetic))
    pairs = Pairs(thin_real, thin_synthetic)
    figures = {"fid": fid(real, synthetic), "kid": pairs.kid()} | pairs.overlaps()
    if min(sizes) < 4:  # halves need two
        return figures, {}

    def of_pairs(r: Tensor, s: Tensor) -> dict[str, float]:
        rows = torch.cat([r, s + len(thin_real)])
        return {"kid": pairs.kid(rows)} | pairs.overlaps(rows)

    errors = _standard_errors(lambda r, s: {"fid": fid(real[r], synthetic[s])}, sizes, seed)
    return figures, errors | _standard_errors(of_pairs, (len(thin_real), len(thin_synthetic)), seed)


def _standard_errors(
    measure: Callable[[Tensor, Tensor], dict[str, float]], sizes: tuple[int, int], seed: int
) -> dict[str, float]:
    """Standard error of each figure of two sets of these sizes, by the delete-d jackknife."""
    rng = np.random.default_rng(seed)
    share = min(0.5, MOST_IN_ROUND / max(sizes))
    keep = [max(2, int(share * size)) for size in sizes]
    rounds = [
        measure(*(torch.from_numpy(rng.permutation(size)[:kept]) for size, kept in zip(sizes, keep, strict=True)))
        for _ in range(ROUNDS)
    ]
    scale = (share / (1 - share)) ** 0.5
    return {name: scale * float(np.std([figures[name] for figures in rounds], ddof=1)) for name in rounds[0]}


def fidelity(
    real: Tensor, real_labels: Tensor, synthetic: Tensor, synthetic_labels: Tensor, classes: Sequence[str]
) -> dict[str, Any]:
    """Measure every class that has synthetic images, and all of them together.

    Features are of shapes (N, F) and (M, F), labels (N,) and (M,).

    Returns:
        `width`: number of features; `per_class`: figures (`compare`) by class name, in the order of `classes`;
        `pooled`: those of equally many images of both sets in each class, evenly spread over the class, lest a
        difference in class shares pass for one in images; None without synthetic images.
    """
    per_class: dict[str, Any] = {}
    pools: tuple[list[Tensor], list[Tensor]] = [], []
    for label, name in enumerate(classes):
        of_class = real[real_labels == label], synthetic[synthetic_labels == label]
        if len(of_class[1]):
            per_class[name] = compare(*of_class)
            fewer = min(map(len, of_class))
            for pool, features in zip(pools, of_class, strict=True):
                pool.append(features[evenly(len(features), fewer)])
    pooled = compare(torch.cat(pools[0]), torch.cat(pools[1])) if per_class else None
    return {"width": real.shape[1], "pooled": pooled, "per_class": per_class}
