"""Everything is where it computes, and no step waits for it: shown on a card that is not here."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from elsewhere import CARD, Copies, autocasting, elsewhere, left_behind
from test_classifier import RECIPE
from tiny import LENGTH, WIDTH
from torch import Tensor

from sarsynth.classifier.learning import ClassifierTraining
from sarsynth.classifier.network import Classifier, extract_features, predict
from sarsynth.data.labelled_images import LabelledImages
from sarsynth.diffusion import adapters
from sarsynth.diffusion.adapters import AdapterSpec
from sarsynth.diffusion.base import Base, place_network
from sarsynth.diffusion.controlnet import ContourConditioning, new_controlnet
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.latents import encode_images
from sarsynth.diffusion.routing import routed
from sarsynth.diffusion.sampling import Guidance, SampleRequest, sample
from sarsynth.diffusion.step_interval import StepInterval
from sarsynth.training.finite import EVERY
from sarsynth.training.memory import demand
from sarsynth.training.precision import FULL, Precision
from sarsynth.training.tasks import Task

HALF = Precision("bf16-mixed")
PRECISIONS = [FULL, HALF, Precision("16-mixed")]
SPEC = AdapterSpec(2, r".*\.(attn1|attn2)\.(to_q|to_k|to_v|to_out\.0)|.*\.conv1")
GREY = torch.zeros(3, 1, 16, 16, dtype=torch.uint8)


class Steps:
    """A noise scheduler that asks for no value; those of diffusers look up where in their tables a time step is."""

    init_noise_sigma = 1.0

    def set_timesteps(self, count: int, device: torch.device) -> None:
        self.timesteps = torch.arange(count, device=device)

    def scale_model_input(self, latents: Tensor, timestep: Tensor) -> Tensor:
        return latents

    def step(self, noise: Tensor, timestep: Tensor, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=latents - noise / 10)


# --- The stand-in itself


def test_two_devices_in_one_operation_are_seen():
    with elsewhere(), pytest.raises(RuntimeError, match="two devices, cuda:1 and cpu"):
        torch.zeros(2, device=CARD) + torch.zeros(2)


def test_asking_for_a_value_is_seen():
    with elsewhere(), pytest.raises(Exception, match="_local_scalar_dense"):
        float(torch.zeros(2, device=CARD).sum())


def test_copies_that_wait_are_told_from_those_that_do_not():
    with elsewhere() as copies:
        torch.zeros(2).to(CARD, non_blocking=True)
        torch.zeros(2, device=CARD).copy_(torch.zeros(2), non_blocking=True)
        assert not copies.waited
        torch.zeros(3).to(CARD)
        torch.zeros(3, device=CARD).cpu()
        assert len(copies.waited) == 2


# --- The package


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_a_base_moves_as_a_whole(tiny: Base, precision: Precision):
    """In the precision of frozen weights, its convolutions in channels_last."""
    with elsewhere():
        tiny.place(CARD, precision)
        assert not left_behind(tiny)
        assert tiny.unet.dtype == tiny.text_encoder.dtype == precision.compute
        assert tiny.vae.dtype == precision.autoencoder
        for network in (tiny.unet, tiny.vae):
            weights = [layer.weight for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
            assert weights
            assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_on_a_cpu_nothing_changes_its_memory_format(tiny: Base):
    tiny.place(torch.device("cpu"))
    assert all(weight.is_contiguous() for weight in tiny.parameters())


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_encoding(tiny: Base, precision: Precision):
    with elsewhere():
        tiny.place(CARD, precision)
        moments = encode_images(tiny, GREY, flip="vertical", batch_size=2)
        assert (moments.device.type, moments.dtype) == ("cpu", torch.float16), "to be written"
        texts = tiny.encode_text(["a photo", "a SAR image"])
        assert (texts.device, texts.dtype) == (CARD, torch.float32)


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_sampling_with_a_controlnet(tiny: Base, precision: Precision):
    controlnet = new_controlnet(tiny, seed=0).requires_grad_(False).eval()
    requests = [SampleRequest("a photo", (0, index), GREY[0, 0]) for index in range(2)]
    with elsewhere():
        tiny.place(CARD, precision)
        place_network(controlnet, CARD, precision.compute)
        control = ContourConditioning(controlnet, 1.0, StepInterval(0.0, 0.5))
        options = {"image_size": 16, "guidance": Guidance(7.5), "num_inference_steps": 2, "batch_size": 1}
        for images in sample(tiny, Steps(), requests, conditioning=control, **options):
            assert (images.device, images.dtype, images.shape[1:]) == (CARD, torch.float32, (3, 16, 16))


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_predictions_and_features(precision: Precision):
    classifier = Classifier(RECIPE, ["a", "b"], [100.0], [50.0], 0, precision)
    with elsewhere():
        classifier.to(CARD)
        assert not left_behind(classifier)
        for describe in (predict, extract_features):
            told = describe(classifier, GREY)
            assert (told.device.type, told.dtype) == ("cpu", torch.float32)


# --- A training step waits for nothing


def attend(module: Task | ClassifierTraining) -> None:
    """Have a module believe that it is in the middle of a training on the card."""
    plugin = SimpleNamespace(scaler=None)
    module._trainer = SimpleNamespace(
        global_step=2, global_rank=0, world_size=1, accumulate_grad_batches=1, precision_plugin=plugin
    )
    module._device = CARD
    module.log = module.log_dict = lambda *_, **__: None
    module.watch.every = EVERY


def fed(count: int) -> dict[str, Tensor]:
    """What a step of a denoiser is fed with, once it has come to the card."""
    shape, texts = (count, 4, 8, 8), (2, LENGTH, WIDTH)
    batch = {name: torch.randn(shape, device=CARD) for name in ("latents", "noise")}
    batch |= {name: torch.zeros(count, dtype=torch.int64, device=CARD) for name in ("timesteps", "row", "text_index")}
    return batch | {"text_features": torch.randn(texts, device=CARD)}


def steps(module: Task | ClassifierTraining, batch: Any, precision: Precision, copies: Copies) -> torch.optim.Optimizer:
    """Take two optimiser steps, of which the second one must not wait; the first one moves tables there.

    The backward pass is left out: autograd's engine wants a driver. Gradients are there as if it had made them.
    """
    attend(module)
    optimizer = module.configure_optimizers()["optimizer"]
    for _ in range(2):
        copies.waited.clear()
        optimizer.zero_grad()
        with precision.autocast(CARD):
            loss = module.training_step(batch, 0)
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        if isinstance(module, Denoiser):
            module.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()
    assert loss.device == CARD
    assert copies.waited == []
    return optimizer


def in_float32(optimizer: torch.optim.Optimizer) -> None:
    """What learns, its gradients and the optimiser's memory are in float32 on the card; AdamW counts where it likes."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            memory = [tensor for name, tensor in optimizer.state[parameter].items() if name != "step"]
            for tensor in (parameter, parameter.grad, *memory):
                assert (tensor.device, tensor.dtype) == (CARD, torch.float32)


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_a_step_of_adapters(tiny: Base, precision: Precision):
    """Two in one pass, in linear layers and in convolutions."""
    with elsewhere() as copies:
        tiny.place(CARD, precision)
        begun = [adapters.fresh(tiny.unet, SPEC, seed) for seed in range(2)]
        with routed(tiny.unet, begun) as routing:
            groups = [TrainableGroup(str(index), routing.parameters(index), 1e-3, 0, 9, 0.01) for index in range(2)]
            module = Denoiser(tiny.unet, tiny.noise_scheduler, groups, route=routing.route)
            in_float32(steps(module, fed(4), precision, copies))
            frozen = {parameter.dtype for parameter in tiny.unet.parameters() if not parameter.requires_grad}
            assert frozen == {precision.compute}


def test_a_step_of_a_controlnet(tiny: Base):
    controlnet = new_controlnet(tiny, seed=0)
    with elsewhere() as copies:
        tiny.place(CARD, HALF)
        controlnet.to(CARD)
        group = TrainableGroup("controlnet", list(controlnet.parameters()), 1e-3, 0, 9, 0.01)
        no_text = tiny.encode_text([""])[0]
        steering = ContourConditioning(controlnet)
        module = Denoiser(tiny.unet, tiny.noise_scheduler, [group], conditioning=steering, no_text=no_text)
        shown = {"contour": torch.zeros(2, 16, 16, dtype=torch.uint8, device=CARD)}
        shown |= {"dropped": torch.zeros(2, dtype=torch.bool, device=CARD)}
        in_float32(steps(module, fed(2) | shown, HALF, copies))


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_a_step_of_adapters_under_a_frozen_controlnet(tiny: Base, precision: Precision):
    controlnet = new_controlnet(tiny, seed=0).requires_grad_(False)
    with elsewhere() as copies:
        tiny.place(CARD, precision)
        place_network(controlnet, CARD, precision.compute)
        with routed(tiny.unet, [adapters.fresh(tiny.unet, SPEC, 0)]) as routing:
            group = TrainableGroup("sar", routing.parameters(0), 1e-3, 0, 9, 0.01)
            steering = ContourConditioning(controlnet)
            module = Denoiser(tiny.unet, tiny.noise_scheduler, [group], route=routing.route, conditioning=steering)
            shown = {"contour": torch.zeros(2, 16, 16, dtype=torch.uint8, device=CARD)}
            in_float32(steps(module, fed(2) | shown, precision, copies))
            assert {parameter.dtype for parameter in controlnet.parameters()} == {precision.compute}


def test_a_step_of_a_whole_unet(tiny: Base):
    """Which is not cast: all of it learns."""
    with elsewhere() as copies:
        tiny.unet.requires_grad_(True).to(CARD)
        group = TrainableGroup("finetune", list(tiny.unet.parameters()), 1e-3, 0, 9, 0.01)
        in_float32(steps(Denoiser(tiny.unet, tiny.noise_scheduler, [group]), fed(2), HALF, copies))


def test_a_step_of_a_classifier():
    images = LabelledImages(GREY, torch.zeros(len(GREY), dtype=torch.int64))
    training = ClassifierTraining(Classifier(RECIPE, ["a", "b"], [100.0], [50.0], 0, HALF), images, len(images))
    with elsewhere() as copies:
        training.to(CARD)
        labels = torch.zeros(3, dtype=torch.int64, device=CARD)
        batch = (GREY.to(CARD), labels, torch.arange(3, device=CARD))
        in_float32(steps(training, batch, HALF, copies))


def test_what_a_step_needs_is_counted_for_the_card(tiny: Base):
    """A base that is not there yet counts, one sample more counts once more."""
    with routed(tiny.place(torch.device("cpu"), HALF).unet, [adapters.fresh(tiny.unet, SPEC, 0)]) as routing:
        module = Denoiser(
            tiny.unet, tiny.noise_scheduler, [TrainableGroup("sar", routing.parameters(0), 1e-3, 0, 9, 0.01)]
        )

        def inputs(count: int) -> tuple[Tensor, dict[str, Tensor]]:
            whole = torch.zeros(count, dtype=torch.int64)
            text = {"text_features": torch.zeros(1, LENGTH, WIDTH), "text_index": whole}
            return torch.zeros(count, 4, 8, 8), text | {"timesteps": whole}

        with autocasting():
            needed = demand(module, inputs, device=CARD, autocast=HALF.compute)
    assert needed.fixed > sum(parameter.nbytes for parameter in module.parameters())
    assert needed.total(3) - needed.total(2) == needed.per_sample > 0
