"""The cheap rivals of synthesis: each does what its row says, at the budget of all the others."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from known import a_study_that_knows
from scipy import ndimage
from sklearn.utils.class_weight import compute_class_weight
from test_classifier import CLASSES, RECIPE, TRAIN, Watch, fit, same_weights
from test_conf import settings
from torch.nn import functional

from sarsynth.classifier import pasting
from sarsynth.classifier.added_images import Added
from sarsynth.classifier.augmentation import Augmentation, augment
from sarsynth.classifier.learning import ClassifierTraining, fit_classifier
from sarsynth.classifier.losses import Loss, class_weights, focal_losses
from sarsynth.classifier.network import Classifier
from sarsynth.classifier.oversampling import OverSampling, between_neighbours
from sarsynth.cli import CONF
from sarsynth.config.schema import Settings
from sarsynth.data.clutter import cutout_mask
from sarsynth.data.datamodules import shuffled
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.streams import BalancedStream, PackedSampler, Stream, Succession, stream
from sarsynth.errors import UserError
from sarsynth.sim import render
from sarsynth.stages import sum_up
from sarsynth.stages.copy_images import COPIES
from sarsynth.stages.curate_images import planned, source
from sarsynth.training.fitting import Fitting

COUNTS = torch.tensor([389, 171, 81, 32, 24])


# --- The loss ---------------------------------------------------------------------------------------------------------


def test_class_weights_go_from_none_to_inverse_frequency():
    assert class_weights(COUNTS, 0.0).tolist() == [1.0] * 5
    labels = np.repeat(np.arange(5), COUNTS)
    balanced = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    np.testing.assert_allclose(class_weights(COUNTS, 1.0), balanced, rtol=1e-6)
    np.testing.assert_allclose(class_weights(COUNTS, 1 - 1e-9), balanced, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 1.0])
def test_class_weights_are_those_of_effective_numbers_and_have_mean_one(beta: float):
    weights = class_weights(COUNTS, beta).double()
    assert (weights * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)
    # The effective number is the sum of the powers of beta (Cui et al., proposition 1).
    effective = torch.tensor([sum(beta**power for power in range(count)) for count in COUNTS.tolist()])
    torch.testing.assert_close((weights * effective) / (weights * effective)[0], torch.ones(5).double())


def test_a_class_without_images_has_no_weight():
    assert class_weights(torch.tensor([3, 0, 1]), 1.0).tolist() == pytest.approx([2 / 3, 0, 2])
    assert class_weights(torch.tensor([3, 0, 1]), 0.0).tolist() == [1, 0, 1]


LOGITS = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.arange(50) % 5


def gradient(losses) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    losses(logits).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_focal_loss_without_focus_is_cross_entropy():
    reference = functional.cross_entropy(LOGITS, LABELS, reduction="none")
    assert torch.equal(focal_losses(LOGITS, LABELS, 0.0), reference)
    assert torch.equal(
        gradient(lambda logits: focal_losses(logits, LABELS, 0.0)),
        gradient(lambda logits: functional.cross_entropy(logits, LABELS, reduction="none")),
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_the_papers(gamma: float):
    p = LOGITS.double().softmax(1)[torch.arange(50), LABELS]
    torch.testing.assert_close(focal_losses(LOGITS.double(), LABELS, gamma), -((1 - p) ** gamma) * p.log())
    certain = torch.tensor([[200.0, 0, 0]], requires_grad=True)
    loss = focal_losses(certain, torch.tensor([0]), gamma)
    loss.backward()
    assert loss == 0
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


# --- The order --------------------------------------------------------------------------------------------------------

UNEVEN = torch.tensor([0] * 20 + [1] * 7 + [3] * 2)  # no image of class 2


def test_a_balanced_stream_shows_every_class_alike():
    rows = torch.arange(100, 129)
    stream = BalancedStream(rows, 50, 0, UNEVEN)
    batches = [stream.batch(step, 4) for step in range(50)]
    shown = torch.cat(batches)
    classes = UNEVEN[shown - 100]
    for turn in classes[:198].split(3):
        assert sorted(turn.tolist()) == [0, 1, 3], "each round has every class once"
    assert len({tuple(turn.tolist()) for turn in classes[:198].split(3)}) == 6, "in any order"
    for label, size in ((0, 20), (1, 7), (3, 2)):
        own = shown[classes == label]
        for epoch in own[: len(own) // size * size].split(size):
            assert sorted(epoch.tolist()) == rows[label == UNEVEN].tolist(), "each image once before any comes again"


def test_a_balanced_stream_is_a_function_of_seed_and_step():
    def whole(seed: int, batch_size: int, start: int = 0) -> torch.Tensor:
        stream = BalancedStream(torch.arange(29), 120 // batch_size, seed, UNEVEN)
        return torch.cat([share.rows[0] for share in PackedSampler([stream], batch_size, start=lambda: start)])

    assert torch.equal(whole(0, 4), whole(0, 10)), "batches are cuts of one stream"
    assert torch.equal(whole(0, 4, start=7), whole(0, 4)[28:]), "a resumed run goes on"
    assert not torch.equal(whole(0, 4), whole(1, 4))


def test_the_classifiers_batches_follow_the_sampling():
    training = LabelledImages(torch.zeros(29, 1, 2, 2, dtype=torch.uint8), UNEVEN)
    shares = {}
    for sampling in ("uniform", "balanced"):
        data = shuffled(training, stream(UNEVEN, 9, 0, sampling), batch_size=29)
        shown = torch.cat([share.rows[0] for share in PackedSampler(data.streams, 29)])
        shares[sampling] = Counter(UNEVEN[shown].tolist())
    assert shares == {"uniform": {0: 180, 1: 63, 3: 18}, "balanced": {0: 87, 1: 87, 3: 87}}


def test_one_stream_after_another():
    first, then = Stream(torch.arange(5), 3, 0), Stream(torch.arange(9), 4, 1)
    both = Succession(first, then, 3)
    got = [share.rows[0] for share in PackedSampler([both], 4)]
    assert len(got) == both.max_steps == 7
    for step, batch in enumerate(got):
        assert torch.equal(batch, first.batch(step, 4) if step < 3 else then.batch(step - 3, 4))


# --- Copies of real images --------------------------------------------------------------------------------------------


def test_speckle_of_views_has_mean_one_and_variance_one_over_looks():
    flat = torch.full((8, 3, 64, 64), 50, dtype=torch.uint8)
    for looks in (4, 10):
        views = augment(flat, Augmentation(looks=looks), torch.Generator().manual_seed(0))
        assert torch.equal(views[:, 0], views[:, 2]), "channels of one scene share it"
        factor = (views[:, 0].double() / 50) ** 2
        assert factor.mean() == pytest.approx(1, abs=0.01)
        assert factor.var() == pytest.approx(1 / looks, rel=0.05)


def test_views_without_speckle_draw_what_they_drew():
    plain = augment(TRAIN.images, Augmentation(flip="both", shift=2), torch.Generator().manual_seed(0))
    noisy = augment(TRAIN.images, Augmentation(flip="both", shift=2, looks=1_000), torch.Generator().manual_seed(0))
    assert (plain - noisy).abs().max() <= 0.1 * 255
    assert noisy.max() <= 255


def a_study(classes: list[str] = CLASSES, seed: int = 0) -> Any:
    sar = SimpleNamespace(classes=classes)
    return a_study_that_knows((source, ("sar",), sar), settings=composed().model_copy(update={"seed": seed}))


@cache
def composed() -> Settings:
    return settings("base.image_size=32", "method=copy_paste")


@pytest.mark.parametrize("adds", ["real", "augmented", "features"])
def test_copies_are_those_of_the_plan_and_of_the_seed(adds: str):
    plan = {"upper": 0, "lower": 30}
    study = a_study()
    copies = COPIES[adds](study, TRAIN, plan)
    assert copies.images.shape == (30, 1, 32, 32) and copies.images.dtype == torch.uint8
    assert copies.labels.tolist() == [1] * 30
    sources = Counter(copies.names)
    assert len(sources) == 20 and set(sources.values()) == {1, 2}, "each once before any twice"
    again, other = COPIES[adds](study, TRAIN, plan), COPIES[adds](a_study(seed=1), TRAIN, plan)
    assert torch.equal(again.images, copies.images)
    assert not torch.equal(other.images, copies.images)
    known = {image.numpy().tobytes() for image in TRAIN.images}
    assert all((image.numpy().tobytes() in known) == (adds != "augmented") for image in copies.images)
    assert len(COPIES[adds](study, TRAIN, {"upper": 0, "lower": 0})) == 0


# --- Copy-paste -------------------------------------------------------------------------------------------------------


def sea(rng: np.random.Generator, level: float = 40.0, side: int = 64) -> np.ndarray:
    """Four-look clutter, amplitudes about `level`."""
    return level * np.sqrt(rng.gamma(4, 1 / 4, (1, side, side)))


def chip(rng: np.random.Generator, level: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    """A bright hull with a dark deck in the sea, and where it is."""
    image, hull, deck = sea(rng, level), np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    hull[26:38, 12:52] = True
    deck[30:34, 18:46] = True
    image[:, hull] = np.maximum(200 + 10 * rng.standard_normal(hull.sum()), 0)
    image[:, deck] = 0.5 * level
    return np.clip(image.round(), 0, 255).astype(np.uint8), hull


def test_a_mask_is_the_target_deck_and_all():
    for seed in range(5):
        image, hull = chip(np.random.default_rng(seed))
        mask = cutout_mask(image)
        assert mask is not None
        assert mask[hull].all(), "the dark deck inside it too"
        assert not (mask & (ndimage.distance_transform_edt(~hull) > 7)).any(), "and nothing far from it"


def test_what_has_no_target_gives_none():
    assert cutout_mask(np.full((1, 64, 64), 7, np.uint8)) is None
    half = np.repeat(np.repeat(np.array([[[10, 200]]]), 64, axis=1), 32, axis=2)
    half[..., 20:] = 200
    assert cutout_mask(half.astype(np.uint8)) is None
    black = np.zeros((1, 64, 64), np.uint8)
    black[:, 30:34, 30:34] = 255
    assert pasting.background(black) is None, "no clutter to fill the place with"


def test_pasted_targets_stay_and_clutter_stays_clutter():
    rng = np.random.default_rng(0)
    inside, around = [], []
    for _ in range(20):
        (image, hull), (other, _) = chip(rng), chip(rng, level=20.0)
        mask, background = cutout_mask(image), pasting.background(other)
        assert mask is not None and background is not None
        pasted = pasting.paste(image, mask, background)
        assert pasted.dtype == np.uint8
        assert np.array_equal(pasted[:, mask], image[:, mask])
        assert not np.array_equal(pasted[:, ~mask], image[:, ~mask])
        far = pasting._fading(mask) == 0
        gain = pasting.clutter_level(image, mask).item() / background.mean()
        np.testing.assert_allclose(pasted[:, far], (background[:, far] * gain).clip(0, 255), atol=0.51)
        inside.append(background[:, hull])  # where the other target was
        around.append(pasted[:, ~mask])
    reference = np.concatenate([sea(rng).ravel() for _ in range(20)])
    variation = reference.std() / reference.mean()
    for pixels, level in ((np.concatenate(inside, axis=1), 20.0), (np.concatenate(around, axis=1), 40.0)):
        assert pixels.mean() / level == pytest.approx(reference.mean() / 40, rel=0.05)
        assert pixels.std() / pixels.mean() == pytest.approx(variation, rel=0.1)


def test_a_seam_is_as_rough_as_what_it_joins():
    rng = np.random.default_rng(0)
    over, under = sea(rng, side=256), sea(rng, side=256)
    level = np.array([[[over.mean()]]])
    for weight in (0.0, 0.3, 0.5, 1.0):
        mixed = pasting.blend(over, under, np.full((256, 256), weight), level)
        assert mixed.mean() == pytest.approx(over.mean(), rel=0.01)
        assert mixed.std() == pytest.approx(over.std(), rel=0.02)
    assert (0.5 * over + 0.5 * under).std() < 0.75 * over.std(), "as a mean is not"


def test_targets_of_the_simulated_world_go_onto_each_others_clutter():
    names = ["cargo", "tanker"]
    chips = [render(0, index, name, "sar").pixels.transpose(2, 0, 1) for name in names for index in range(4)]
    real = LabelledImages(torch.from_numpy(np.stack(chips)), torch.tensor([0] * 4 + [1] * 4))
    study = a_study(names)
    made = COPIES["pasted"](study, real, {"cargo": 0, "tanker": 6})
    assert made.labels.tolist() == [1] * 6
    targets, others = zip(*(name.split(" on ") for name in made.names or []), strict=True)
    assert set(targets) == {f"image {row}" for row in range(4, 8)}
    assert all(target != other for target, other in zip(targets, others, strict=True))
    assert torch.equal(COPIES["pasted"](study, real, {"cargo": 0, "tanker": 6}).images, made.images)
    flat = replace(real, images=torch.full_like(real.images, 9))
    with pytest.raises(UserError, match="copy-paste: no target of class tanker stands out from its clutter"):
        COPIES["pasted"](study, flat, {"cargo": 0, "tanker": 6})


# --- Over-sampling of features ----------------------------------------------------------------------------------------


def test_over_sampled_features_lie_between_neighbours():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((12, 5)).astype(np.float32)
    bases = np.repeat(np.arange(12), 20)
    made = between_neighbours(samples[bases], samples, 3, rng)
    distances = np.linalg.norm(samples[:, None] - samples, axis=2)
    shares = []
    for base, point in zip(bases, made, strict=True):
        nearest = np.argsort(distances[base])[1:4]
        ways = samples[nearest] - samples[base]
        along = ((point - samples[base]) * ways).sum(axis=1) / (ways**2).sum(axis=1)
        off = np.linalg.norm(samples[base] + along[:, None] * ways - point, axis=1)
        assert off.min() < 1e-5
        shares.append(along[off.argmin()])
    assert min(shares) >= 0 and max(shares) <= 1
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    one = samples[:1]
    assert np.array_equal(between_neighbours(one[[0, 0]], one, 3, rng), one[[0, 0]]), "alone, it stays where it is"


@pytest.mark.parametrize(("added", "warned"), [(5, True), (0, False)])
def test_nothing_lies_between_one_image_and_itself(added: int, warned: bool, monkeypatch):
    few = TRAIN[torch.cat([(TRAIN.labels == 0).nonzero()[:, 0], (TRAIN.labels == 1).nonzero()[:1, 0]])]
    monkeypatch.setattr(sum_up, "learning_and_validation", lambda study: (few, None))
    study = a_study()
    study.known[planned.__wrapped__, ()] = {"upper": Added(0, 3), "lower": Added(0, added)}
    assert sum_up.repetition_warning(study) is None, "copy-paste does not look for neighbours"
    study.settings = settings("base.image_size=32", "method=oversampled")
    line = sum_up.repetition_warning(study) or ""
    assert line.startswith("one training image of class lower: nothing lies between") == warned


OVERSAMPLED = replace(RECIPE, oversampling=OverSampling(steps=4, neighbours=3))


@pytest.fixture(scope="module")
def oversampled() -> Classifier:
    return fit(OVERSAMPLED, synthetic=TRAIN[TRAIN.labels == 1])


def test_the_last_steps_train_the_last_layer_alone(oversampled: Classifier):
    """The rest is what a training of the steps before makes it."""
    before = fit(replace(RECIPE, max_steps=8)).state_dict()
    moved = {name for name, tensor in oversampled.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"network.fc.weight", "network.fc.bias"}
    assert OVERSAMPLED.whole_steps == 8
    training = ClassifierTraining(oversampled, TRAIN + TRAIN[TRAIN.labels == 1], len(TRAIN))
    features = training.oversampled_features()
    assert features.shape == (60, 16)
    real = features[:40][TRAIN.labels == 1]
    assert not torch.equal(features[40:], real)
    assert (features[40:] <= real.amax(dim=0)).all(), "between those of their class"
    assert (features[40:] >= real.amin(dim=0)).all()


def test_a_last_layer_goes_on_where_it_stopped(oversampled: Classifier, tmp_path: Path):
    class Watched(Fitting):
        def fit(self, *args, **keys) -> None:
            super().fit(*args, **{**keys, "callbacks": [watch]})

    keep = {"checkpoints": tmp_path, "checkpoint_every": 5, "fitting": Watched(), "synthetic": TRAIN[TRAIN.labels == 1]}
    watch = Watch(stop=11)
    with pytest.raises(RuntimeError, match="killed"):
        fit(OVERSAMPLED, **keep)
    watch = Watch(stop=-1)
    assert same_weights(fit(OVERSAMPLED, **keep), oversampled)
    assert watch.began == 10


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_losses_and_sampling_change_what_is_learnt():
    """On uneven data, at equal steps, each goes its own way."""
    few = TRAIN[torch.arange(24) * 2 % 40 + (torch.arange(24) >= 20).long()]
    assert few.labels.bincount().tolist() == [20, 4]
    recipes = {
        "none": RECIPE,
        "weighted": replace(RECIPE, loss=Loss(beta=1.0)),
        "focal": replace(RECIPE, loss=Loss(gamma=2.0)),
        "balanced": replace(RECIPE, sampling="balanced"),
    }
    made = {
        name: fit_classifier(few, CLASSES, replace(recipe, max_steps=2), seed=0, fitting=Fitting())
        for name, recipe in recipes.items()
    }
    for name in ("weighted", "focal", "balanced"):
        assert not same_weights(made["none"], made[name])
    weights = ClassifierTraining(made["weighted"], few, len(few)).class_weights
    assert weights.tolist() == pytest.approx([24 / 40, 24 / 8])


def test_every_row_differs_from_none_by_what_its_name_says():
    rows = {
        "resample": {"adds": "real"},
        "weighted": {"loss": {"beta": 1.0}},
        "focal": {"loss": {"gamma": 2.0}},
        "balanced": {"sampling": "balanced"},
        "augmented": {"adds": "augmented"},
        "copy_paste": {"adds": "pasted"},
        "oversampled": {"adds": "features"},
    }
    for name, differs in rows.items():
        row = yaml.safe_load((CONF / f"method/{name}.yaml").read_text())
        assert row == {"defaults": ["none", "_self_"], "name": name, **differs}
    experiment = yaml.safe_load((CONF / "experiment/rivals.yaml").read_text())
    assert set(experiment["hydra"]["sweeper"]["params"]["method"].split(",")) == {"none", *rows, "2lora"}
