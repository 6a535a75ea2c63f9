"""The denoising loss and its training: what moves, what does not, and that a run is a run however it is cut up."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch import Callback, Trainer
from processes import run_on_two
from safetensors.torch import load_file, save_file
from tiny import LENGTH, WIDTH, samples, tiny_base
from torch import Tensor

from sarsynth.data.datamodules import SeededDataModule
from sarsynth.data.seeds import step_seed
from sarsynth.data.streams import PackedSampler, Stream
from sarsynth.diffusion import adapters
from sarsynth.diffusion.adapters import AdapterSpec, LowRank, folded
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup, min_snr_weights
from sarsynth.diffusion.routing import routed
from sarsynth.diffusion.samples import Draws
from sarsynth.errors import UserError
from sarsynth.training.fitting import CHECKPOINT, Fitting, MovingAverage

SPEC = AdapterSpec(2, r".*\.(attn1|attn2)\.(to_q|to_k|to_v|to_out\.0)|.*\.conv1")
STEPS = 8


def latents(count: int = 12, views: int = 2, channels: int = 4) -> dict[str, Tensor]:
    """Made-up latents of `count` images in two views, with one of three texts each."""
    draw = torch.Generator().manual_seed(0)
    shape = (views, count, channels, 8, 8)
    return {
        "mean": torch.randn(shape, generator=draw).half(),
        "deviation": torch.rand(shape, generator=draw).half() / 10,
        "text_features": torch.randn(3, LENGTH, WIDTH, generator=draw),
        "text_index": torch.arange(count) % 3,
    }


def group(parameters, **changes) -> TrainableGroup:
    settings = {"learning_rate": 1e-2, "warmup_steps": 2, "max_steps": STEPS, "weight_decay": 0.01}
    return TrainableGroup("sar", list(parameters), **(settings | changes))


def below(base: Base) -> dict[str, LowRank]:
    """An adapter that is there already."""
    begun = adapters.fresh(base.unet, SPEC, 0)
    draw = torch.Generator().manual_seed(0)
    return {name: LowRank(a, torch.randn(b.shape, generator=draw) * 0.1) for name, (a, b) in begun.items()}


def fit(
    base: Base | None = None, *, scale: float = 0.6, fitting: Fitting | None = None, seed: int = 3, **more
) -> dict[str, LowRank]:
    """Train a fresh `sar` adapter for eight steps, on top of a folded `ors` adapter."""
    base = base or tiny_base()
    with folded(base.unet, [(below(base), scale)]), routed(base.unet, [adapters.fresh(base.unet, SPEC, 1)]) as routing:
        groups = [group(routing.parameters(0))]
        module = Denoiser(base.unet, base.noise_scheduler, groups, route=routing.route)
        data = SeededDataModule.whole(samples(latents()), batch_size=4, max_steps=STEPS, seed=seed)
        (fitting or Fitting()).fit(module, data, title="adapter", max_steps=STEPS, max_grad_norm=1.0, **more)
        return routing.adapter(0)


def flat(adapter: dict[str, LowRank]) -> Tensor:
    return torch.cat([part.flatten() for layer in adapter.values() for part in layer])


def fit_all(base: Base, *, steps: int, batch_size: int = 8, **more) -> None:
    """Train a whole U-Net."""
    base.unet.requires_grad_(True)
    module = Denoiser(
        base.unet, base.noise_scheduler, [group(base.unet.parameters(), learning_rate=2e-3, max_steps=steps)]
    )
    data = SeededDataModule.whole(samples(latents()), batch_size=batch_size, max_steps=steps, seed=3)
    Fitting().fit(module, data, title="base", max_steps=steps, **more)


def weights(base: Base) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in base.unet.named_parameters()}


class Kill(Callback):
    """Die after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


class Losses(Callback):
    """Note each step's loss."""

    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def on_train_batch_end(self, trainer, module, outputs, *_) -> None:
        self.values[trainer.global_step] = outputs["loss"].item()


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[Tensor, dict[int, float]]:
    """Weights and losses of a run that nothing disturbs."""
    losses = Losses()
    made = fit(callbacks=[losses])
    return flat(made), losses.values


# --- The loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_the_loss_is_the_papers_equation(prediction: str):
    """By hand, for one batch: views, latents, noise and time steps from (seed, step), then the mean square."""
    base = tiny_base()
    base.noise_scheduler.register_to_config(prediction_type=prediction)
    losses, order = Losses(), []

    class Recorded(Callback):
        def on_train_batch_start(self, trainer, module, batch, index) -> None:
            order.append(batch["row"])

    data = SeededDataModule.whole(samples(latents()), batch_size=4, max_steps=1, seed=3)
    with torch.enable_grad(), routed(base.unet, [adapters.fresh(base.unet, SPEC, 0)]) as routing:
        module = Denoiser(base.unet, base.noise_scheduler, [group(routing.parameters(0), max_steps=1)])
        Fitting().fit(module, data, title="adapter", max_steps=1, callbacks=[losses, Recorded()])

    tensors = latents()
    draw = torch.Generator().manual_seed(step_seed(3, 0))
    view = torch.randint(2, (4,), generator=draw)
    chosen = order[0]
    mean, deviation = tensors["mean"][view, chosen].float(), tensors["deviation"][view, chosen].float()
    clean = mean + deviation * torch.randn(4, 4, 8, 8, generator=draw)
    noise = torch.randn(4, 4, 8, 8, generator=draw)
    timesteps = torch.randint(1000, (4,), generator=draw)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)[timesteps].float()[:, None, None, None]
    noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    goal = noise if prediction == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * clean
    text_features = tensors["text_features"][tensors["text_index"][chosen]]
    expected = (base.unet(noisy, timesteps, text_features).sample - goal).square().mean().item()
    assert losses.values[1] == pytest.approx(expected, rel=1e-5)


def test_dropped_captions_are_the_empty_one():
    """All captions dropped is training on the empty caption alone."""

    def losses(dropout: float, captions: list[str]) -> dict[int, float]:
        base, noted = tiny_base(), Losses()
        base.unet.requires_grad_(True)
        base.text_encoder.requires_grad_(True)
        tensors = {k: v for k, v in latents().items() if not k.startswith("text")}
        dataset = samples(tensors | {"input_ids": base.tokenize(captions)}, caption_dropout=dropout)
        module = Denoiser(
            base.unet,
            base.noise_scheduler,
            [group([*base.unet.parameters(), *base.text_encoder.parameters()], max_steps=3)],
            text_encoder=base.text_encoder,
            no_text=base.tokenize([""])[0],
        )
        data = SeededDataModule.whole(dataset, batch_size=4, max_steps=3, seed=3)
        before = base.text_encoder.embeddings.token_embedding.weight.clone()
        Fitting().fit(module, data, title="base", max_steps=3, callbacks=[noted])
        assert not torch.equal(base.text_encoder.embeddings.token_embedding.weight, before), "trains along"
        return noted.values

    words = ["a SAR image of cargo ship"] * 12
    assert losses(1.0, words) == losses(0.0, [""] * 12)
    assert losses(0.0, words) != losses(0.0, [""] * 12)


# --- What moves -------------------------------------------------------------------------------------------------------


def test_training_sar_on_ors_moves_sar_alone():
    base = tiny_base()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    ors = below(base)
    known = flat(ors)
    made = fit(base)
    assert torch.equal(flat(ors), known)
    after = base.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    begun = adapters.fresh(base.unet, SPEC, 1)
    for name, (a, b) in made.items():
        assert not torch.equal(a, begun[name].a)
        assert b.abs().max() > 0


def test_what_lies_below_matters_to_what_is_learnt(uninterrupted):
    assert not torch.allclose(flat(fit(scale=0.0)), uninterrupted[0])


def test_training_learns():
    losses = Losses()
    fit_all(tiny_base(), steps=60, callbacks=[losses])
    values = list(losses.values.values())
    assert sum(values[-10:]) < 0.9 * sum(values[:10])


# --- A run is a function of its settings ------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_weights(uninterrupted):
    torch.randn(7)  # what others draw must not matter
    assert torch.equal(flat(fit()), uninterrupted[0])
    assert not torch.equal(flat(fit(seed=4)), uninterrupted[0])


def test_draws_are_a_function_of_seed_and_step():
    def draws(seed: int, step: int) -> list[Tensor]:
        draw = Draws(seed, step, 8)
        return [draw.integers(2), draw.normal((3, 2)), draw.normal((3,)), draw.integers(1000), draw.uniform()]

    whole = draws(0, 5)
    assert [len(part) for part in whole] == [8] * 5
    assert all(torch.equal(a, b) for a, b in zip(whole, draws(0, 5), strict=True))
    assert not torch.equal(whole[1], draws(0, 6)[1])
    assert not torch.equal(whole[1], draws(1, 5)[1])


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 1), (4, 1), (1, 4), (2, 2)])
def test_a_step_is_the_same_however_it_is_shared_out(world_size: int, micro_batches: int):
    """Over processes and in parts: side by side, the shares of two packed streams are the step of one process."""
    streams = [Stream(torch.arange(7), 3, 0), Stream(torch.arange(5, 12), 2, 1)]
    dataset = samples(latents(), caption_dropout=0.5)

    def steps(rank: int, world_size: int, micro_batches: int) -> list[dict[str, Tensor]]:
        sampler = PackedSampler(streams, 8, lambda: 1, rank, world_size, micro_batches)
        assert len(sampler) == 3 * micro_batches
        return [dataset[share] for share in sampler]

    whole = steps(0, 1, 1)
    assert [len(step["latents"]) for step in whole] == [16, 8], "the shorter one has ended"
    shares = [steps(rank, world_size, micro_batches) for rank in range(world_size)]
    for index, step in enumerate(whole):
        count = len(step["row"]) // 8
        mine = slice(index * micro_batches, (index + 1) * micro_batches)
        by_part = zip(*(shares[rank][mine] for rank in range(world_size)), strict=True)
        parts = [share for of_part in by_part for share in of_part]
        for name in ("latents", "noise", "timesteps", "row", "dropped"):
            runs = [part[name].unflatten(0, (count, -1)) for part in parts]
            assert torch.equal(torch.stack(runs, dim=2).flatten(0, 2), step[name]), name
        words = [part["text_features"][part["text_index"]].unflatten(0, (count, -1)) for part in parts]
        assert torch.equal(torch.stack(words, dim=2).flatten(0, 2), step["text_features"][step["text_index"]])
        assert len(step["text_features"]) <= 3, "each text once"


def test_a_killed_run_ends_as_if_it_had_never_been(uninterrupted, tmp_path: Path):
    keep = {"checkpoints": tmp_path / "checkpoints", "checkpoint_every": 3}
    with pytest.raises(RuntimeError, match="killed"):
        fit(callbacks=[Kill(5)], **keep)
    assert [file.name for file in keep["checkpoints"].iterdir()] == [CHECKPOINT]
    losses = Losses()
    resumed = fit(callbacks=[losses], **keep)
    assert list(losses.values) == [4, 5, 6, 7, 8], "it went on from the checkpoint of step 3"
    assert losses.values == {step: uninterrupted[1][step] for step in losses.values}
    assert torch.equal(flat(resumed), uninterrupted[0])


def test_a_run_killed_before_its_first_checkpoint_begins_again(uninterrupted, tmp_path: Path):
    keep = {"checkpoints": tmp_path, "checkpoint_every": 6}
    with pytest.raises(RuntimeError, match="killed"):
        fit(callbacks=[Kill(2)], **keep)
    assert torch.equal(flat(fit(**keep)), uninterrupted[0])


def test_a_checkpoint_holds_the_adapter_alone(tmp_path: Path):
    made = fit(checkpoints=tmp_path, checkpoint_every=4)
    file = tmp_path / CHECKPOINT
    content = torch.load(file, weights_only=False)
    assert content["global_step"] == 4
    assert all(".factors." in name for name in content["state_dict"])
    moments = content["optimizer_states"][0]["state"]
    assert len(moments) == len(content["state_dict"]) == 2, "all A, and all B"
    count = adapters.parameters(made)
    assert sum(tensor.numel() for tensor in content["state_dict"].values()) == count
    assert file.stat().st_size < 3 * 4 * count + 15_000, "weights and two moments, and their names"


# --- The moving average of a whole U-Net ------------------------------------------------------------------------------


def test_the_average_is_the_weighted_mean_of_the_weights():
    """By hand: each update moves it by 1 - min(decay, (1 + n) / (10 + n)) towards the present weights."""
    seen: list[dict[str, Tensor]] = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, module, *_) -> None:
            seen.append({name: p.detach().clone() for name, p in module.unet.named_parameters()})

    base = tiny_base()
    base.unet.register_buffer("places", torch.arange(3), persistent=False)  # as text encoders have
    fit_all(base, steps=6, callbacks=[Note(), MovingAverage(0.25)])
    assert torch.equal(base.unet.places, torch.arange(3))
    expected = seen[0]  # the first update is the first weights themselves
    for n, now in enumerate(seen[1:], start=1):
        slow = min(0.25, (1 + n) / (10 + n))
        expected = {name: slow * expected[name] + (1 - slow) * now[name] for name in now}
    assert slow == 0.25
    for name, parameter in base.unet.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(parameter, seen[-1][name]) for name, parameter in base.unet.named_parameters())


def test_a_killed_average_ends_as_if_it_had_never_been(tmp_path: Path):
    def average(every: int) -> list[Callback]:
        return [MovingAverage(0.5, every)]

    whole, resumed = tiny_base(), tiny_base()
    fit_all(whole, steps=8, callbacks=average(2))
    keep = {"checkpoints": tmp_path, "checkpoint_every": 3}
    with pytest.raises(RuntimeError, match="killed"):
        fit_all(tiny_base(), steps=8, callbacks=[*average(2), Kill(5)], **keep)
    fit_all(resumed, steps=8, callbacks=average(2), **keep)
    known = weights(whole)
    assert all(torch.equal(weight, known[name]) for name, weight in weights(resumed).items())


# --- Two processes ----------------------------------------------------------------------------------------------------


def fit_in_a_group(folder: Path) -> None:
    fitting = Fitting(partial(Trainer, accelerator="cpu", devices=2, strategy="ddp"))
    made = fit(fitting=fitting, checkpoints=folder, checkpoint_every=5)
    save_file({"sar": flat(made)}, folder / f"rank_{torch.distributed.get_rank()}.safetensors")


def test_two_processes_train_as_one_does(uninterrupted, tmp_path: Path):
    """Data-parallel over gloo: the same global batch gives the same weights, on both ranks, up to rounding."""
    assert run_on_two(fit_in_a_group, tmp_path) == [0, 0]
    alone = uninterrupted[0]
    first, second = (load_file(tmp_path / f"rank_{rank}.safetensors")["sar"] for rank in (0, 1))
    assert torch.equal(first, second)
    assert (alone - first).norm() <= 1e-5 * alone.norm()
    # A checkpoint of two processes is one of one process too.
    resumed = flat(fit(checkpoints=tmp_path, checkpoint_every=5))
    assert (alone - resumed).norm() <= 1e-5 * alone.norm()


def test_a_batch_that_cannot_be_shared_out_is_refused():
    data = SeededDataModule.whole(samples(latents()), batch_size=5, max_steps=1, seed=0)
    data.trainer = SimpleNamespace(world_size=2)
    with pytest.raises(UserError, match="batch_size=5 is not a multiple of 2 processes"):
        data.train_dataloader()


@pytest.mark.parametrize(("device", "workers", "pinned"), [("cpu", 0, False), ("cuda:1", 1, True), ("mps", 1, False)])
def test_an_accelerator_is_fed_ahead_from_pinned_memory(device: str, workers: int, pinned: bool):
    data = SeededDataModule.whole(samples(latents()), batch_size=4, max_steps=1, seed=0)
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=0, strategy=strategy)
    loader = data.train_dataloader()
    assert (loader.num_workers, loader.pin_memory) == (workers, pinned)


# --- LoRA+ ------------------------------------------------------------------------------------------------------------


def test_b_learns_faster_by_the_ratio():
    """Adam's first step is the learning rate for every weight that has a gradient; A has none, since B begins at 0."""
    made = []
    for ratio in (1.0, 4.0):
        base = tiny_base()
        with routed(base.unet, [adapters.fresh(base.unet, SPEC, 1)]) as routing:
            groups = [
                group(routing.parameters(0), warmup_steps=0, max_steps=1, faster=routing.b_matrices(0), ratio=ratio)
            ]
            module = Denoiser(base.unet, base.noise_scheduler, groups, route=routing.route)
            data = SeededDataModule.whole(samples(latents()), batch_size=4, max_steps=1, seed=3)
            Fitting().fit(module, data, title="adapter", max_steps=1)
            made.append(routing.adapter(0))
    for plain, faster in zip(made[0].values(), made[1].values(), strict=True):
        assert torch.equal(plain.a, faster.a)
        torch.testing.assert_close(faster.b, 4 * plain.b, rtol=1e-4, atol=1e-7)
        assert plain.b.abs().max() == pytest.approx(1e-2, rel=1e-2)


# --- Min-SNR weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_weights_of_time_steps_are_those_of_the_paper(prediction_type: str):
    """Hang et al., section 3.4: an error of the noise counts by the least of 1 and gamma over the ratio."""
    noise_scheduler = DDPMScheduler(prediction_type=prediction_type)
    kept, steps = noise_scheduler.alphas_cumprod, torch.arange(1000)
    snr = kept / (1 - kept)
    weights = min_snr_weights(noise_scheduler, steps, 5.0)
    # An error of the velocity is one of the noise, times the root of snr + 1 over snr.
    in_noise = weights if prediction_type == "epsilon" else weights * (snr + 1) / snr
    torch.testing.assert_close(in_noise, torch.where(snr > 5, 5 / snr, torch.ones(1000)), rtol=1e-4, atol=1e-6)


def test_each_adapter_of_a_run_has_weights_of_its_own():
    """For a base that predicts noise none is above 1, and a gamma that no step reaches leaves all as they are."""
    made = {}
    for names in (["plain", "all"], ["plain", "five"]):
        base, gammas = tiny_base(), {"plain": None, "all": 1e9, "five": 5.0}
        with routed(base.unet, [adapters.fresh(base.unet, SPEC, 1) for _ in names]) as routing:
            groups = [group(routing.parameters(place), snr_gamma=gammas[name]) for place, name in enumerate(names)]
            module = Denoiser(base.unet, base.noise_scheduler, groups, route=routing.route)
            streams = [Stream(torch.arange(12), STEPS, 3) for _ in names]
            data = SeededDataModule(samples(latents()), streams, batch_size=4)
            Fitting().fit(module, data, title="adapters", max_steps=STEPS)
            made |= {name: flat(routing.adapter(place)) for place, name in enumerate(names)}
    torch.testing.assert_close(made["all"], made["plain"], rtol=1e-4, atol=1e-6)
    assert (made["five"] - made["plain"]).abs().max() > 1e-3
