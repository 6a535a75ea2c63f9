"""ControlNets: they begin by changing nothing, steer images batched, train alone, lie on disk as diffusers has them."""

import json
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from safetensors.torch import load_file
from tiny import encoded, noisy, predict, samples, tiny_base
from torch import Tensor

from sarsynth.data.datamodules import SeededDataModule
from sarsynth.data.seeds import step_seed
from sarsynth.data.streams import Share, Stream
from sarsynth.data.transforms import to_uint8
from sarsynth.diffusion import adapters
from sarsynth.diffusion.adapters import Adapter, AdapterSpec
from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.contours import canny, pack
from sarsynth.diffusion.controlnet import (
    NANO_CONTROLNET,
    ContourConditioning,
    load_controlnet,
    new_controlnet,
    residuals,
    resolve_controlnet,
    save_controlnet,
    seen_by,
    to_conditioning,
)
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.routing import routed
from sarsynth.diffusion.samples import Contours, DenoisingSamples
from sarsynth.diffusion.sampling import Guidance, SampleRequest, sample
from sarsynth.diffusion.step_interval import StepInterval
from sarsynth.errors import UserError
from sarsynth.sim import render
from sarsynth.training.fitting import CHECKPOINT, Fitting

SIZE = 16  # px


def random_contours(count: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((count, SIZE, SIZE)) > 0.8) * np.uint8(255)


REQUESTS = [
    SampleRequest(prompt, (7, index), torch.from_numpy(contour))
    for index, (prompt, contour) in enumerate(zip(["a photo", "tanker", "a photo"], random_contours(3), strict=True))
]


@pytest.fixture
def base() -> Base:
    return tiny_base()


def trained(base: Base, seed: int = 3) -> ControlNetModel:
    """A ControlNet whose last layers are not zero any more."""
    controlnet = new_controlnet(base, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in controlnet.parameters():
        if not parameter.any():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return controlnet.requires_grad_(False)


def images(base: Base, control: ContourConditioning | None, requests=REQUESTS, **changes) -> Tensor:
    scheduler = diffusers.DDIMScheduler.from_config(base.noise_scheduler.config)
    recipe = {"image_size": SIZE, "guidance": Guidance(3.0), "num_inference_steps": 4, "batch_size": 4}
    return torch.cat(list(sample(base, scheduler, requests, conditioning=control, **(recipe | changes))))


# --- The shipped one --------------------------------------------------------------------------------------------------


def test_it_and_the_base_are_small_half_precision_safetensors():
    files = [file for file in NANO_CONTROLNET.iterdir() if file.is_file()]
    assert {file.name for file in files} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert {t.dtype for t in load_file(NANO_CONTROLNET / "diffusion_pytorch_model.safetensors").values()} == {
        torch.float16
    }
    assert "_name_or_path" not in json.loads((NANO_CONTROLNET / "config.json").read_text())
    assert sum(file.stat().st_size for file in [*files, *NANO.rglob("*")] if file.is_file()) <= 20e6


def test_its_images_have_the_contour_they_follow(nano: Base):
    contours = np.stack([canny(render(0, 2_000_000 + i, "cargo", "regular").pixels, (30, 80), 2.0) for i in range(4)])
    requests = [SampleRequest("a photo of a cargo ship", (1, i), torch.from_numpy(c)) for i, c in enumerate(contours)]
    shown = {
        scale: np.stack(
            [
                canny(to_uint8(image).permute(1, 2, 0).numpy(), (30, 80), 2.0)
                for image in images(
                    nano,
                    ContourConditioning(load_controlnet(NANO_CONTROLNET, nano), scale),
                    requests,
                    image_size=64,
                    num_inference_steps=10,
                )
            ]
        )
        for scale in (0.0, 1.0)
    }

    def distance(found: np.ndarray) -> float:
        """Mean distance in px of the wanted edges to the nearest edge that is there."""
        pairs = zip(contours, found, strict=True)
        return float(
            np.mean([cv2.distanceTransform(255 - is_, cv2.DIST_L2, 5)[want > 0].mean() for want, is_ in pairs])
        )

    assert distance(shown[1.0]) < 0.6 * distance(shown[0.0])


# --- Sampling ---------------------------------------------------------------------------------------------------------


def test_a_new_one_changes_nothing(base: Base):
    fresh = ContourConditioning(new_controlnet(base, seed=0), 1.0)
    torch.testing.assert_close(images(base, fresh), images(base, None), rtol=0, atol=1e-6)


def test_scale_zero_and_an_empty_interval_are_the_base_alone(base: Base):
    network = trained(base)
    plain, steered = images(base, None), images(base, ContourConditioning(network, 1.0))
    assert (plain - steered).abs().max() > 0.05
    torch.testing.assert_close(images(base, ContourConditioning(network, 0.0)), plain, rtol=0, atol=1e-6)
    never = ContourConditioning(network, 1.0, StepInterval(0.4, 0.5))
    torch.testing.assert_close(images(base, never), plain, rtol=0, atol=1e-6)


def test_the_contour_is_followed_not_only_present(base: Base):
    network = ContourConditioning(trained(base), 1.0)
    other = [SampleRequest(r.prompt, r.seed, torch.zeros_like(r.contour)) for r in REQUESTS]
    assert (images(base, network) - images(base, network, other)).abs().amax(dim=(1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_an_image_does_not_depend_on_its_batch(base: Base, guidance_scale: float):
    control = ContourConditioning(trained(base), 0.7, StepInterval(0.0, 0.8))
    known = to_uint8(images(base, control, guidance=Guidance(guidance_scale))).int()
    for batch_size in (1, 2):
        again = to_uint8(images(base, control, guidance=Guidance(guidance_scale), batch_size=batch_size)).int()
        assert (again - known).abs().max() <= 1
    backwards = to_uint8(images(base, control, REQUESTS[::-1], guidance=Guidance(guidance_scale))).int()
    assert (backwards.flip(0) - known).abs().max() <= 1


def test_both_halves_of_guidance_are_one_batch(base: Base, monkeypatch):
    network, rows = trained(base), []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda x, *rest, **more: rows.append(len(x)) or forward(x, *rest, **more))
    images(base, ContourConditioning(network, 1.0))
    assert rows == [6] * 4
    rows.clear()
    images(base, ContourConditioning(network, 1.0, StepInterval(0.25, 0.75)))
    assert rows == [6] * 2, "in the two middle ones of four steps"


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0)])
def test_images_are_those_of_diffusers(base: Base, interval: tuple[float, float]):
    network, request = trained(base), REQUESTS[1]
    pipe = StableDiffusionControlNetPipeline(
        base.vae,
        base.text_encoder,
        base.tokenizer,
        base.unet,
        network,
        diffusers.DDIMScheduler.from_config(base.noise_scheduler.config),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(step_seed(*request.seed))
    (known,) = pipe(
        prompt_embeds=base.encode_text([request.prompt]),
        negative_prompt_embeds=base.encode_text([""]),
        image=to_conditioning(request.contour[None]),
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=torch.randn(1, 4, 8, 8, generator=generator),
        controlnet_conditioning_scale=0.7,
        control_guidance_start=interval[0],
        control_guidance_end=interval[1],
        output_type="pt",
    ).images
    (made,) = images(base, ContourConditioning(network, 0.7, StepInterval(*interval)), [request])
    torch.testing.assert_close(made, 2 * known - 1, rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_what_its_first_layers_saw_stands_for_the_contours(base: Base, order: str):
    network, (latents, timesteps, text) = trained(base), noisy(base)
    network.register_to_config(controlnet_conditioning_channel_order=order)
    contours = to_conditioning(torch.from_numpy(random_contours(len(latents))))
    with torch.no_grad():
        known = residuals(network, latents, timesteps, text, contours, 0.7)
        found = residuals(network, latents, timesteps, text, seen_by(network, contours), 0.7, seen=True)
        again = residuals(network, latents, timesteps, text, contours, 0.7)
    middle = "mid_block_additional_residual"
    assert known[middle].any()
    for other in (found, again):
        assert torch.equal(other[middle], known[middle])
        for one, same in zip(*(given["down_block_additional_residuals"] for given in (known, other)), strict=True):
            assert torch.equal(one, same)


def test_contours_are_seen_once_a_batch(base: Base):
    network, calls = trained(base), []
    network.controlnet_cond_embedding.register_forward_hook(lambda *_: calls.append(1))
    images(base, ContourConditioning(network), batch_size=2)
    assert len(calls) == 2, "three images in two batches, of four steps with guidance each"


# --- Training ---------------------------------------------------------------------------------------------------------


def training(base: Base, controlnet: ControlNetModel, steps: int) -> Denoiser:
    (no_text,) = base.encode_text([""])
    group = TrainableGroup("controlnet", list(controlnet.requires_grad_(True).parameters()), 1e-2, 1, steps, 0.01)
    steering = ContourConditioning(controlnet)
    return Denoiser(base.unet, base.noise_scheduler, [group], conditioning=steering, no_text=no_text)


def dataset(base: Base, flip: str = "none", caption_dropout: float = 0.5) -> DenoisingSamples:
    contours = random_contours(6)
    pictures = torch.from_numpy(contours)[:, None]  # an image is its own contour
    tensors = encoded(base, pictures, ["a photo", "tanker"] * 3, flip)
    return samples(tensors, caption_dropout=caption_dropout, contours=Contours(torch.from_numpy(pack(contours)), flip))


@pytest.mark.parametrize(("flip", "axis"), [("none", None), ("horizontal", 2), ("vertical", 1)])
def test_mirrored_images_come_with_mirrored_contours(base: Base, flip: str, axis: int | None):
    rows = torch.tensor([4, 1, 4])
    known = torch.from_numpy(random_contours(6))[rows]
    read = dataset(base, flip).contours.read
    assert torch.equal(read(rows, torch.zeros(3, dtype=torch.int64)), known)
    if axis is not None:
        mirrored = known.flip(axis)
        expected = torch.stack([mirrored[0], known[1], mirrored[2]])
        assert torch.equal(read(rows, torch.tensor([1, 0, 1])), expected)


def fit(base: Base, controlnet: ControlNetModel, steps: int, folder: Path | None = None, stop: int = 0) -> None:
    Fitting().fit(
        training(base, controlnet, steps),
        SeededDataModule.whole(dataset(base), batch_size=4, max_steps=steps, seed=5),
        title="ControlNet",
        max_steps=stop or steps,
        checkpoints=folder,
        checkpoint_every=2,
        max_grad_norm=1.0,
    )


def test_it_learns_and_the_base_does_not(base: Base):
    before, controlnet = predict(base), new_controlnet(base, seed=0)
    begun = {name: weight.clone() for name, weight in controlnet.state_dict().items()}
    fit(base, controlnet, 4)
    assert torch.equal(predict(base), before)
    moved = {name for name, weight in controlnet.state_dict().items() if not torch.equal(weight, begun[name])}
    assert {"controlnet_mid_block.weight", "controlnet_cond_embedding.conv_out.weight", "conv_in.weight"} <= moved
    latents, timesteps, text = noisy(base)
    one, other = torch.from_numpy(random_contours(2))[:, None]
    with torch.no_grad():
        steered = [
            base.unet(
                latents,
                timesteps,
                text,
                **residuals(controlnet, latents, timesteps, text, to_conditioning(c).repeat(2, 1, 1, 1)),
            ).sample
            for c in (one, other)
        ]
    assert not torch.allclose(steered[0], steered[1])


def test_a_new_one_begins_with_the_loss_of_the_base(base: Base):
    """The loss of the first step is that of the U-Net alone on the same draws; a trained one has another."""
    losses = []
    for controlnet in (new_controlnet(base, seed=0), trained(base), new_controlnet(base, seed=1)):
        module = training(base, controlnet, 1)
        module.log = lambda name, loss: losses.append(float(loss))
        Fitting().fit(
            module, SeededDataModule.whole(dataset(base), batch_size=4, max_steps=1, seed=5), title="", max_steps=1
        )
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_a_killed_training_ends_as_if_it_had_not_been(base: Base, tmp_path: Path):
    whole, resumed = new_controlnet(base, seed=0), new_controlnet(base, seed=0)
    fit(base, whole, 5)
    fit(base, new_controlnet(base, seed=0), 5, tmp_path, stop=3)
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=False)["state_dict"]
    assert all(name.startswith("controlnet.") for name in kept), "the frozen U-Net is not in it"
    fit(base, resumed, 5, tmp_path)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


# --- Files ------------------------------------------------------------------------------------------------------------


def test_one_is_saved_and_loaded_by_folder_and_by_file(base: Base, tmp_path: Path):
    network = trained(base)
    save_controlnet(network, tmp_path / "saved")
    weights = tmp_path / "saved/diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 2.2 * sum(p.numel() for p in network.parameters()) + 50_000, "half precision"
    for path in (tmp_path / "saved", weights):
        where, content = resolve_controlnet(str(path))
        loaded = load_controlnet(where, base)
        assert len(content) == 64
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
        for name, weight in network.state_dict().items():  # saving rounds those in memory too
            assert torch.equal(loaded.state_dict()[name], weight)


def test_half_precision_is_loaded_where_there_is_one(base: Base, tmp_path: Path):
    network = trained(base)
    save_controlnet(network, tmp_path)
    _, full = resolve_controlnet(str(tmp_path))
    network.save_pretrained(tmp_path, variant="fp16")
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"not to be opened")
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"nor this")
    where, half = resolve_controlnet(str(tmp_path))
    assert half != full
    for name, weight in load_controlnet(where, base).state_dict().items():
        assert torch.equal(network.state_dict()[name], weight)


def test_a_new_one_is_a_copy_of_the_way_down(nano: Base):
    controlnet = new_controlnet(nano, seed=0)
    assert torch.equal(
        controlnet.down_blocks[0].resnets[0].conv1.weight, nano.unet.down_blocks[0].resnets[0].conv1.weight
    )
    assert not any(block.weight.any() for block in controlnet.controlnet_down_blocks)
    latents = torch.zeros(1, 16, 16, 16)
    with torch.no_grad():
        residuals(controlnet, latents, torch.tensor(5), nano.encode_text([""]), torch.zeros(1, 3, 64, 64))
    assert torch.equal(
        controlnet.controlnet_cond_embedding.conv_in.weight,
        new_controlnet(nano, seed=0).controlnet_cond_embedding.conv_in.weight,
    )


def test_others_are_one_line(base: Base, nano: Base, tmp_path: Path):
    save_controlnet(trained(base), tmp_path / "tiny")
    base.save(tmp_path / "base")
    no_weights = tmp_path / "empty"
    no_weights.mkdir()
    (no_weights / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    wrong = [
        (tmp_path / "tiny", nano, "made for another architecture"),
        (tmp_path / "tiny/diffusion_pytorch_model.safetensors", nano, ".*expected shape"),
        (tmp_path / "base/unet", base, ".*it has no controlnet_cond_embedding"),
        (tmp_path / "base/unet/diffusion_pytorch_model.safetensors", base, "weights of a ControlNet are missing"),
        (no_weights, base, ".*no diffusion_pytorch_model.safetensors"),
    ]
    for where, steered, said in wrong:
        with pytest.raises(UserError, match=f"base.controlnet={where}: {said}.*set base.controlnet") as caught:
            load_controlnet(where, steered)
        assert "\n" not in str(caught.value)
    for path in ("no/such/thing", "someone/something", str(tmp_path / "base")):
        with pytest.raises(UserError, match=f"base.controlnet={path}.*set base.controlnet"):
            resolve_controlnet(path)


# --- Adapters that learn under it -------------------------------------------------------------------------------------

CONVOLUTIONS = AdapterSpec(2, r".*\.(attn1|attn2)\.(to_q|to_v)|.*\.conv1")


def fit_adapters(
    base: Base, controlnet: ControlNetModel, seeds: tuple[int, ...], **more: Any
) -> tuple[list[Adapter], list[float]]:
    """Train an adapter a seed in one pass under a frozen ControlNet; returns them and the summed loss of each step."""
    losses: list[float] = []
    with routed(base.unet, [adapters.fresh(base.unet, CONVOLUTIONS, seed) for seed in seeds]) as routing:
        groups = [
            TrainableGroup(str(index), routing.parameters(index), 1e-2, 1, 4, 0.01) for index in range(len(seeds))
        ]
        steering = ContourConditioning(controlnet)
        module = Denoiser(base.unet, base.noise_scheduler, groups, route=routing.route, conditioning=steering)
        module.log = lambda name, loss: losses.append(float(loss))
        module.log_dict = lambda losses: None
        streams = [Stream(torch.arange(6), 4, seed) for seed in seeds]
        data = SeededDataModule(dataset(base, "vertical", 0.0), streams, batch_size=4)
        Fitting().fit(module, data, title="adapters", max_steps=4, max_grad_norm=1.0, **more)
        return [routing.adapter(index) for index in range(len(seeds))], losses


@pytest.fixture
def frozen(base: Base) -> ControlNetModel:
    controlnet = trained(base).requires_grad_(False)
    for parameter in [*controlnet.controlnet_mid_block.parameters(), *controlnet.controlnet_down_blocks.parameters()]:
        parameter.mul_(100)  # what it adds is to be seen in a loss
    return controlnet


def test_the_loss_is_that_of_the_steered_unet(base: Base, frozen: ControlNetModel):
    """A fresh adapter adds nothing: the first loss is the mean square by diffusers' own ControlNet and U-Net."""
    _, losses = fit_adapters(base, frozen, (5,))
    batch = dataset(base, "vertical", 0.0)[
        Share(step=0, seeds=[5], rows=Stream(torch.arange(6), 4, 5).batch(0, 4)[None], total=4, places=slice(None))
    ]
    noisy_latents = base.noise_scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
    text = batch["text_features"][batch["text_index"]]
    picture = (batch["contour"][:, None].repeat(1, 3, 1, 1) / 255).float()
    with torch.no_grad():
        down, middle = frozen(noisy_latents, batch["timesteps"], text, picture, return_dict=False)
        steered = base.unet(
            noisy_latents, batch["timesteps"], text,
            down_block_additional_residuals=down, mid_block_additional_residual=middle,
        ).sample  # fmt: skip
        alone = base.unet(noisy_latents, batch["timesteps"], text).sample
    assert losses[0] == pytest.approx(float((steered - batch["noise"]).square().mean()), rel=1e-5)
    assert losses[0] != pytest.approx(float((alone - batch["noise"]).square().mean()), rel=1e-3)


def test_the_adapter_learns_and_what_steers_it_does_not(base: Base, frozen: ControlNetModel, tmp_path: Path):
    begun = {name: weight.clone() for name, weight in frozen.state_dict().items()}
    before = predict(base)
    (adapter,), _ = fit_adapters(base, frozen, (5,), checkpoints=tmp_path, checkpoint_every=2)
    assert all(torch.equal(weight, begun[name]) for name, weight in frozen.state_dict().items())
    assert torch.equal(predict(base), before)
    assert any(update.b.any() for update in adapter.values())


def test_adapters_in_one_pass_learn_under_it_as_each_alone(base: Base, frozen: ControlNetModel):
    together, _ = fit_adapters(base, frozen, (5, 6))
    for seed, adapter in zip((5, 6), together, strict=True):
        (alone,), _ = fit_adapters(base, frozen, (seed,))
        for name, update in alone.items():
            torch.testing.assert_close(update.a, adapter[name].a, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(update.b, adapter[name].b, rtol=1e-3, atol=1e-5)
