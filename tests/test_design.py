"""Variance by cause, against a mixed model and known worlds; figures beyond F1, against those of the libraries."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from test_conf import settings
from torchmetrics.functional.classification import multiclass_calibration_error

from sarsynth.classifier.thresholds import best_thresholds, decide
from sarsynth.evidence.chance import Part, Variance
from sarsynth.evidence.comparison import shown
from sarsynth.evidence.design import Design, components
from sarsynth.evidence.predictions import Predictions, calibration_errors, precision_areas
from sarsynth.evidence.results import figure_names
from sarsynth.evidence.significance import compare, score
from sarsynth.evidence.spending import causes, next_hour
from sarsynth.stages.study import Study, once, once_a_cell, once_a_generator
from sarsynth.tracking import Tracker

CLASSES, LABELS = ["cargo", "tanker"], np.repeat([0, 1], 60)


def predictions(design: Design, luck: float, seed: int, right: float = 0.7) -> Predictions:
    """Classifiers of which those of one generator share how much they are right."""
    rng = np.random.default_rng(seed)
    chances = right + luck * rng.standard_normal((design.shape[0], 1, 1, 1))
    correct = rng.random((*design.shape, len(LABELS))) < chances
    said = np.where(correct, LABELS, 1 - LABELS).reshape(-1, 1, len(LABELS))
    return Predictions(said, LABELS, CLASSES, [str(row) for row in range(len(LABELS))], design=design)


def test_parts_of_a_balanced_layout_add_up_to_what_one_factor_gives_alone():
    grid = np.random.default_rng(0).normal(size=(3, 1, 4, 2))
    found = components(grid)
    assert set(found) == {frozenset({"generator"}), frozenset({"classifier"}), frozenset({"generator", "classifier"})}
    alone = components(grid[:1])
    (only,) = alone
    assert only == {"classifier"}
    assert alone[only] == pytest.approx(grid[0, 0].var(axis=0, ddof=1) / 4)
    means = grid.mean(axis=2)[:, 0]
    of_generators = found[frozenset({"generator"})] + found[frozenset({"generator", "classifier"})]
    assert of_generators == pytest.approx(means.var(axis=0, ddof=1) / 3)


def test_parts_are_those_of_a_mixed_model():
    """Of a nested layout, in which all that classifiers do is within a generator, REML gives the same (statsmodels)."""
    mixed = pytest.importorskip("statsmodels.api").MixedLM
    rng = np.random.default_rng(3)
    grid = (2.0 * rng.normal(size=(6, 1, 1, 1)) + rng.normal(size=(6, 1, 8, 1))).astype(float)
    fitted = mixed(grid.ravel(), np.ones((48, 1)), groups=np.repeat(np.arange(6), 8)).fit(reml=True)
    found = components(grid)
    between = found[frozenset({"generator"})] + found[frozenset({"generator", "classifier"})]
    variance = fitted.cov_re[0, 0] / 6 + fitted.scale / 48
    assert between[0] == pytest.approx(variance, rel=1e-3)


def test_unbiased_in_a_crossed_world():
    rng, true, found = np.random.default_rng(1), 0.0, []
    sizes = (3, 2, 4)
    for _ in range(3000):
        grid = rng.normal(size=(3, 1, 1, 1)) + rng.normal(size=(1, 2, 1, 1)) + 0.5 * rng.normal(size=(1, 1, 4, 1))
        grid = grid + 0.7 * rng.normal(size=(3, 1, 4, 1)) + rng.normal(size=(*sizes, 1))
        found.append(sum(components(grid).values())[0])
    true = 1 / 3 + 1 / 2 + 0.25 / 4 + 0.49 / 12 + 1 / 24
    assert np.mean(found) == pytest.approx(true, rel=0.06)


def test_where_generators_differ_by_far_the_quantile_is_students_of_their_number():
    one = np.ones(2)
    parts = [Part(frozenset({"generator"}), 0, one, 0 * one)]
    far = Variance(1e-9 * one, parts, {0: {"generator": 4, "sample": 1, "classifier": 1}}, 1000)
    assert far.quantile(0.975) == pytest.approx(stats.t.ppf(0.975, 3), rel=0.02)
    assert far.chance(far.quantile(0.975)) == pytest.approx(0.05, rel=3e-3)
    none = Variance(one, [], {0: {}}, 1000)
    assert none.quantile(0.99) == pytest.approx(stats.t.ppf(0.99, 999), rel=1e-3)


def test_one_generator_against_another_is_never_called():
    one, two = (Design(range(count), (0,), range(3)) for count in (1, 3))
    far = [
        predictions(design, 0.0, seed=seed, right=right)
        for design in (one, two)
        for seed, right in [(0, 0.95), (1, 0.3)]
    ]
    single, several = (compare(*pair, ["tanker"], replicates=300, seed=0) for pair in (far[:2], far[2:]))
    assert not single.macro_f1.significant and several.macro_f1.significant
    plain = predictions(Design(classifiers=range(3)), 0.0, seed=1, right=0.3)
    assert compare(far[0], plain, ["tanker"], replicates=300, seed=0).macro_f1.significant, "of this set of adapters"


def test_luck_of_generators_widens_the_interval_and_is_named():
    design = Design(range(4), (0,), range(3))
    lucky, base = predictions(design, 0.12, seed=2), predictions(Design(classifiers=range(3)), 0.0, seed=5)
    found = compare(lucky, base, ["tanker"], replicates=500, seed=0).macro_f1
    alone = compare(
        Predictions(lucky.predicted[:3], LABELS, CLASSES, lucky.images, design=Design((0,), (0,), range(3))),
        base,
        ["tanker"],
        replicates=500,
        seed=0,
    ).macro_f1
    assert found.high - found.low > alone.high - alone.low
    scores, of_base = (score(one, ["tanker"], replicates=500, seed=0) for one in (lucky, base))
    shares = causes(scores)["macro_f1"]
    assert shares["sample"] is None, "one sample seed tells nothing"
    assert shares["generator"] == max(part for part in shares.values() if part is not None)
    spending = next_hour(scores, of_base, {"generator": 600.0, "sample": None, "classifier": 600.0})
    assert [option["spend_on"] for option in spending["options"]] == ["generator", "classifier"]
    assert spending["options"][0]["then"] == 10
    assert shown({"generator": 4, "sample": 1, "classifier": 3}) == "4 generator x 1 sample x 3 classifier seeds"
    assert shown({"generator": 1, "sample": 1, "classifier": 3}) == "3 seeds"


def test_areas_and_calibration_are_those_of_the_libraries():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([1, 1, 1], size=80).round(2) + 1e-3  # ties
    shares /= shares.sum(axis=1, keepdims=True)
    labels = np.repeat([0, 1, 2], [40, 25, 15])
    weights = np.concatenate([np.ones((1, 80)), rng.integers(0, 3, size=(1, 80))])
    for row, found in zip(weights, precision_areas(shares, labels, weights), strict=True):
        known = [average_precision_score(labels == label, shares[:, label], sample_weight=row) for label in range(3)]
        assert found == pytest.approx(known)
    predicted = shares.argmax(axis=1)
    known = multiclass_calibration_error(torch.tensor(shares), torch.tensor(labels), num_classes=3, n_bins=15)
    assert calibration_errors(shares, predicted, labels, weights[:1])[0] == pytest.approx(float(known))
    given = Predictions(predicted[None, None], labels, ["a", "b", "c"], shares=shares[None, None])
    scored = score(given, [], replicates=100, seed=0)
    place = figure_names(["a", "b", "c"]).index(("balanced_accuracy", None))
    assert scored.mean[place] == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_thresholds_are_the_best_on_validation_images():
    logits = torch.tensor([[2.0, 0.0], [1.5, 0.0], [1.0, 0.9], [1.0, 0.8], [3.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, 0])
    chosen = best_thresholds(logits, labels)
    assert decide(logits, chosen).tolist() == labels.tolist(), "argmax names class 1 never"
    assert decide(logits, torch.tensor([0.5, 0.5])).tolist() == logits.argmax(dim=1).tolist()
    assert best_thresholds(logits, torch.zeros(5, dtype=torch.int64))[1] == 0.5


def test_a_study_has_a_cell_for_each_generator_and_sample_seed():
    calls: list[tuple[str, int, int]] = []

    def noted(study: Study, name: str) -> int:
        calls.append((name, study.generator_seed, study.sample_seed))
        return study.generator_seed

    kinds = {"all": once(noted), "generator": once_a_generator(noted), "cell": once_a_cell(noted)}
    study = Study(settings("method=2lora", "generator_seeds=[3,4]", "sample_seeds=[5,6]"), Tracker(None))
    cells = [(cell.generator_seed, cell.sample_seed) for cell in study.cells]
    assert cells == [(3, 5), (3, 6), (4, 5), (4, 6)]
    for cell in [*study.cells, *study.cells]:
        for name, function in kinds.items():
            function(cell, name)
    assert [sum(call[0] == name for call in calls) for name in kinds] == [1, 2, 4]
    for method, number in {"resample": 1, "frozen": 2}.items():
        overrides = (f"method={method}", "generator_seeds=[3,4]", "sample_seeds=[5,6]")
        assert len(Study(settings(*overrides), Tracker(None)).cells) == number
    assert settings("seed=7").generator_seeds == settings("seed=7").sample_seeds == (7,)


def test_areas_of_more_images_than_short_integers_count():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [200, 2**15])
    shares = rng.dirichlet([1, 1], size=len(labels))
    given = Predictions(shares.argmax(axis=1)[None, None], labels, ["a", "b"], shares=shares[None, None])
    found = score(given, [], replicates=20, seed=0).mean[figure_names(["a", "b"]).index(("pr_auc", None))]
    known = np.mean([average_precision_score(labels == label, shares[:, label]) for label in (0, 1)])
    assert found == pytest.approx(known, abs=2e-4), "single precision, in a sum of many thousands"
