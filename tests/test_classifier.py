"""The classifier: learns, repeats itself, resumes, survives the disk; its views and scores are what they claim."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch._subclasses import FakeTensorMode

from sarsynth.classifier.augmentation import Augmentation, augment
from sarsynth.classifier.learning import ClassifierTraining, channel_statistics, fit_classifier
from sarsynth.classifier.network import Classifier, ClassifierRecipe, extract_features, predict
from sarsynth.classifier.oversampling import OverSampling
from sarsynth.classifier.scores import scores
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.data.seeds import step_seed
from sarsynth.data.streams import PackedSampler, Stream
from sarsynth.errors import UserError
from sarsynth.training.finite import FiniteWatch
from sarsynth.training.fitting import Fitting, learning_rate_share
from sarsynth.training.precision import Precision

CLASSES = ["upper", "lower"]
RECIPE = ClassifierRecipe(
    network="resnet18",
    options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    image_size=32,
    max_steps=12,
    batch_size=16,
    optimizer="adamw",
    learning_rate=1e-2,
    weight_decay=0.01,
    warmup_steps=2,
    augmentation=Augmentation(flip="horizontal", shift=2),
)


def bright_half(count: int, seed: int) -> LabelledImages:
    """Speckled chips whose upper or lower half is brighter, alternating."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.empty(count, 1, 32, 32).exponential_(1 / 30, generator=generator)
    images[labels == 0, :, :16] *= 3
    images[labels == 1, :, 16:] *= 3
    return LabelledImages(images.clamp(max=255).to(torch.uint8), labels)


TRAIN, TEST = bright_half(40, seed=0), bright_half(40, seed=1)


def fit(recipe: ClassifierRecipe = RECIPE, seed: int = 0, **more) -> Classifier:
    return fit_classifier(TRAIN, CLASSES, recipe, seed=seed, **{"fitting": Fitting()} | more)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return fit()


def same_weights(a: Classifier, b: Classifier) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_learns_two_separable_classes(optimizer: str) -> None:
    recipe = replace(RECIPE, max_steps=40, optimizer=optimizer)
    logits = predict(fit(recipe), TEST.images)
    assert scores(logits.argmax(dim=1), TEST.labels, CLASSES, [])["accuracy"] >= 0.95


def test_same_seed_same_weights(classifier: Classifier) -> None:
    torch.rand(3)  # what others draw must not matter
    assert same_weights(classifier, fit())
    assert not same_weights(classifier, fit(seed=1))


class Watch(Callback):
    """Note the step at which a training begins, and break it off at another."""

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def on_train_start(self, trainer, _) -> None:
        self.began = trainer.global_step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.stop:
            raise RuntimeError("killed")


def test_a_resumed_training_is_the_same_training(classifier: Classifier, tmp_path: Path) -> None:
    class Watched(Fitting):
        def fit(self, *args, **keys) -> None:
            super().fit(*args, **{**keys, "callbacks": [watch]})

    keep = {"checkpoints": tmp_path, "checkpoint_every": 5, "fitting": Watched()}
    watch = Watch(stop=7)
    with pytest.raises(RuntimeError, match="killed"):
        fit(**keep)
    watch = Watch(stop=-1)
    resumed = fit(**keep)
    assert watch.began == 5
    assert same_weights(classifier, resumed)


def test_synthetic_images_join_but_do_not_normalise(classifier: Classifier) -> None:
    synthetic = LabelledImages(torch.zeros(8, 1, 32, 32, dtype=torch.uint8), torch.zeros(8, dtype=torch.long))
    mixed = fit(synthetic=synthetic)
    assert torch.equal(mixed.mean, classifier.mean)
    assert torch.equal(mixed.std, classifier.std)
    assert not same_weights(mixed, classifier)


def test_save_and_load(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "classifier")
    loaded = Classifier.load(tmp_path / "classifier", "cpu")
    assert sorted(path.name for path in (tmp_path / "classifier").iterdir()) == [
        "classifier.safetensors",
        "config.json",
    ]
    assert json.loads((tmp_path / "classifier/config.json").read_text())["classes"] == CLASSES
    assert same_weights(loaded, classifier)
    assert torch.equal(predict(loaded, TEST.images), predict(classifier, TEST.images))


@pytest.mark.parametrize("loaded", [False, True])
def test_nothing_of_a_classifier_stays_behind(classifier: Classifier, tmp_path: Path, loaded: bool) -> None:
    """Neither when it moves nor when it is read to where it computes."""
    classifier.save(tmp_path)
    moved = ClassifierTraining(Classifier.load(tmp_path, "meta" if loaded else "cpu"), TRAIN, len(TRAIN))
    moved.last_layer_inputs = torch.zeros(3, 16, device=moved.classifier.device)
    moved.to("meta")
    tensors = dict([*moved.named_parameters(), *moved.named_buffers()])
    tensors |= {
        key: value for module in moved.modules() for key, value in vars(module).items() if torch.is_tensor(value)
    }
    assert {"classifier.mean", "classifier.std", "classifier.network.fc.weight"} <= tensors.keys()
    assert {"class_weights", "last_layer_inputs"} <= tensors.keys()
    assert {tensor.device.type for tensor in tensors.values()} == {"meta"}
    views = augment(
        torch.zeros(2, 1, 8, 8, device="meta"), Augmentation("both", 1, (0.5, 1.0), looks=2), torch.Generator()
    )
    assert views.device.type == "meta"


def test_a_step_mixes_no_devices(monkeypatch) -> None:
    """On a card that is not there: of tensors without values, torch checks the devices all the same."""
    card, step = torch.device("cuda", 1), 0
    monkeypatch.setattr(ClassifierTraining, "global_step", property(lambda _: step))
    recipe = replace(RECIPE, augmentation=Augmentation("both", 2, (0.5, 1.0)), oversampling=OverSampling(4, 3))
    images, labels = torch.zeros(8, 1, 32, 32, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    classifier = Classifier(recipe, CLASSES, [1.0], [2.0], 0)
    training = ClassifierTraining(classifier, LabelledImages(images, labels), 8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        training.to(card)
        training.log = lambda *_: None  # type: ignore[method-assign]
        training.watch = FiniteWatch(every=50)  # as on a card; a look needs values
        training.oversampled_features = lambda: torch.zeros(20, 16)  # type: ignore[method-assign]
        for look, width in ((predict, 2), (extract_features, 16)):
            found = look(classifier, images, batch_size=5)
            assert (found.device.type, found.shape) == ("cpu", (8, width))
        batch = (images.to(card), labels.to(card), labels.to(card))
        for step in (0, recipe.whole_steps):  # noqa: B007  # what `global_step` gives
            training.on_train_batch_start(batch, 0)
            assert training.training_step(batch, 0).device == card
        assert training.last_layer_inputs is not None and training.last_layer_inputs.device == card


def test_what_is_predicted_in_half_precision_is_float32(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    half = Classifier.load(tmp_path, "cpu", Precision("bf16-mixed"))
    assert {tensor.dtype for tensor in half.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits, features = half(TEST.images), half.features(TEST.images)
    for found, known, full in (
        (predict(half, TEST.images), logits, predict(classifier, TEST.images)),
        (extract_features(half, TEST.images), features, extract_features(classifier, TEST.images)),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, known.float())
        assert 0 < (found - full).abs().max() < 0.1 * full.abs().max()


@pytest.mark.parametrize("channels", [1, 3])
def test_layout_in_memory_changes_nothing_but_rounding(channels: int) -> None:
    """Channels last, which is faster, from the first layer to the last map."""
    classifier = Classifier(RECIPE, CLASSES, [100.0] * channels, [50.0] * channels, 0).eval()
    images, maps = NOISE.expand(-1, channels, -1, -1), []
    for layer in ("conv1", "layer1", "layer4"):
        classifier.network.get_submodule(layer).register_forward_hook(lambda *seen: maps.append(seen[-1]))
    logits = predict(classifier, images)
    assert [found.is_contiguous(memory_format=torch.channels_last) for found in maps] == [True] * 3
    plain = classifier.network.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(logits, plain((images.float() - 100) / 50), atol=1e-5, rtol=1e-5)


def test_recipe_survives_json() -> None:
    recipe = replace(RECIPE, augmentation=Augmentation(crop_scale=(0.08, 1.0)))
    assert ClassifierRecipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_features_are_what_the_last_layer_sees(classifier: Classifier) -> None:
    features = extract_features(classifier, TEST.images, batch_size=7)
    assert features.shape == (40, 16)
    with torch.no_grad():
        torch.testing.assert_close(classifier.network.fc(features), predict(classifier, TEST.images))


def test_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(0, 256, (5, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    floats = images.double().transpose(0, 1).flatten(1)
    assert mean == pytest.approx(floats.mean(dim=1).tolist())
    assert std == pytest.approx(floats.std(dim=1, correction=0).tolist())
    assert channel_statistics(torch.full((2, 1, 4, 4), 7, dtype=torch.uint8)) == ([7.0], [1.0])


def views(augmentation: Augmentation, images: Tensor, seed: int = 0) -> Tensor:
    return augment(images, augmentation, torch.Generator().manual_seed(seed))


NOISE = torch.randint(0, 256, (64, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_no_augmentation_changes_nothing() -> None:
    torch.testing.assert_close(views(Augmentation(), NOISE), NOISE.float(), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("flip", "axes"), [("horizontal", (3,)), ("vertical", (2,)), ("both", (2, 3))])
def test_flips_move_whole_images(flip: str, axes: tuple[int, ...]) -> None:
    candidates = [NOISE.float()]
    for axis in axes:
        candidates += [candidate.flip(axis) for candidate in candidates]
    errors = torch.stack([(views(Augmentation(flip=flip), NOISE) - c).abs().amax((1, 2, 3)) for c in candidates])
    nearest = errors.min(dim=0)
    assert nearest.values.max() < 1e-2
    assert len(nearest.indices.unique()) == len(candidates)


def test_shifts_are_whole_pixels_and_mirror_what_comes_in() -> None:
    padded = torch.cat([NOISE.flip(3)[..., -3:], NOISE, NOISE.flip(3)[..., :3]], dim=3)
    padded = torch.cat([padded.flip(2)[:, :, -3:], padded, padded.flip(2)[:, :, :3]], dim=2).float()
    shifted = views(Augmentation(shift=3), NOISE)
    windows = [
        (padded[:, :, y : y + 16, x : x + 16] - shifted).abs().amax((1, 2, 3)) for y in range(7) for x in range(7)
    ]
    nearest = torch.stack(windows).min(dim=0)
    assert nearest.values.max() < 1e-2
    assert len(nearest.indices.unique()) > 20


def test_cut_outs_lie_inside_and_have_the_asked_area() -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramps = torch.stack([rows, columns]).expand(500, 2, 16, 16)
    cut = views(Augmentation(crop_scale=(0.25, 0.25), crop_ratio=(1, 1)), ramps)
    steps = cut[:, 0, 9, 8] - cut[:, 0, 8, 8]
    torch.testing.assert_close(steps, torch.full_like(steps, 0.5))
    assert cut.min() >= 0
    assert cut.max() <= 15
    centres = cut[:, :, 7:9, 7:9].mean((2, 3))
    torch.testing.assert_close(centres.mean(0), torch.tensor([7.5, 7.5]), atol=0.3, rtol=0)
    assert (centres.amin(0) < 4).all()
    assert (centres.amax(0) > 11).all()


def test_views_follow_from_the_generator_alone() -> None:
    everything = Augmentation(flip="both", shift=2, crop_scale=(0.5, 1))
    assert torch.equal(views(everything, NOISE), views(everything, NOISE))
    assert not torch.equal(views(everything, NOISE), views(everything, NOISE, seed=1))


def test_schedule_rises_and_falls() -> None:
    shares = [learning_rate_share(step, warmup_steps=10, max_steps=100, floor=1e-4) for step in range(102)]
    assert shares[0] == pytest.approx(1e-4)
    assert shares[10] == 1
    assert shares[55] == pytest.approx(0.5, abs=1e-3)
    assert shares[100] == shares[101] == pytest.approx(1e-4)
    assert learning_rate_share(0, warmup_steps=0, max_steps=100) == 1
    constant = [learning_rate_share(step, warmup_steps=4, max_steps=10, decay="constant") for step in range(12)]
    assert constant == [0, 0.25, 0.5, 0.75, *[1] * 8]


def test_a_training_that_diverges_stops_and_says_where() -> None:
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e30, warmup_steps=0)
    named = replace(TRAIN, names=[f"{row}.png" for row in range(len(TRAIN))])
    message = r"classifier, step \d+: the (loss|gradient) is not finite for \d+\.png \(\w+\).* and 8 more;"
    with pytest.raises(UserError, match=message):
        fit_classifier(named, CLASSES, recipe, seed=0, fitting=Fitting())


def test_scores_of_a_known_confusion() -> None:
    true, predicted = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 0, 1])
    result = scores(predicted, true, ["a", "b", "c", "absent"], minor=["b", "c"])
    assert result["per_class"]["a"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3})
    assert result["per_class"]["b"] == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "support": 2})
    assert result["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert result["macro_f1"] == pytest.approx((2 / 3 + 0.4) / 3)
    assert result["minor_f1"] == pytest.approx(0.2)
    assert result["accuracy"] == 0.5
    assert result["confusion"] == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert scores(predicted, true, list("abcd"), minor=[])["minor_f1"] is None


def stream(size: int, max_steps: int, seed: int) -> Stream:
    return Stream(torch.arange(size), max_steps, seed)


def rows_of(sampler: PackedSampler) -> list[Tensor]:
    return [share.rows.flatten() for share in sampler]


def test_a_stream_is_shuffled_and_cut_by_steps() -> None:
    sampler = PackedSampler([stream(10, 10, 0)], batch_size=4)
    batches = rows_of(sampler)
    assert [len(batch) for batch in batches] == [4] * 10 == [4] * len(sampler)
    rows = torch.cat(batches)
    for epoch in rows.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:20].tolist()
    resumed = PackedSampler([stream(10, 10, 0)], batch_size=4, start=lambda: 6)
    assert torch.equal(torch.cat(rows_of(resumed)), rows[24:])


def test_batches_are_shared_out_and_small_sets_repeat() -> None:
    whole = PackedSampler([stream(3, 2, 5)], 8)
    halves = [PackedSampler([stream(3, 2, 5)], 8, rank=rank, world_size=2) for rank in range(2)]
    for batch, *parts in zip(rows_of(whole), *map(rows_of, halves), strict=True):
        assert torch.equal(torch.stack(parts, dim=1).flatten(), batch)
        assert torch.bincount(batch, minlength=3).min() >= math.floor(8 / 3)


def test_streams_that_share_a_run_are_what_they_are_alone() -> None:
    rows = torch.tensor([7, 3, 11, 4])
    streams = [stream(10, 5, 0), Stream(rows, 3, 1)]
    alone = [[one.batch(step, 4) for step in range(one.max_steps)] for one in streams]
    packed = rows_of(PackedSampler(streams, 4))
    assert [len(batch) for batch in packed] == [8, 8, 8, 4, 4]
    for step, batch in enumerate(packed):
        assert torch.equal(batch, torch.cat([one[step] for one in alone if step < len(one)]))
    assert set(torch.cat(alone[1]).tolist()) <= set(rows.tolist())
    shares = [rows_of(PackedSampler(streams, 4, rank=rank, world_size=2)) for rank in range(2)]
    assert torch.equal(torch.stack([shares[0][0], shares[1][0]], dim=1).flatten(), packed[0])


def test_step_seed_mixes() -> None:
    assert len({step_seed(a, b) for a in range(20) for b in range(20)}) == 400
    assert step_seed(1, 2) == step_seed(1, 2) >= 0
    torch.Generator().manual_seed(step_seed(2**31, 10**9))


def test_images_keep_their_names() -> None:
    def blank(count: int, names: list[str] | None = None) -> LabelledImages:
        return LabelledImages(torch.zeros(count, 1, 4, 4), torch.zeros(count, dtype=torch.int64), names)

    joined = blank(2, ["a.png", "b.png"]) + blank(2)
    assert [joined.name(row) for row in range(4)] == ["a.png", "b.png", "image 0", "image 1"]
    assert joined[torch.tensor([3, 1, 1])].names == ["image 1", "b.png", "b.png"]
    assert joined[joined.labels == 1].names == []
    assert joined[:1].names == ["a.png"]
