"""Everything is where it computes, and no step waits for it: shown on a card that is not here."""

from types import SimpleNamespace

import pytest
import torch
from elsewhere import CARD, elsewhere, left_behind
from test_classification import RECIPE
from torch import Tensor

from sarsynth.base import Base, new_controlnet, place_network
from sarsynth.classification import Classifier, extract_features, predict
from sarsynth.data.latents import encode_images
from sarsynth.precision import FULL, Precision
from sarsynth.sampling import Control, SampleRequest, sample

HALVES = [Precision("bf16-mixed"), Precision("16-mixed")]
EVERY = [FULL, *HALVES]
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


@pytest.mark.parametrize("precision", EVERY, ids=lambda precision: precision.name)
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


@pytest.mark.parametrize("precision", EVERY, ids=lambda precision: precision.name)
def test_encoding(tiny: Base, precision: Precision):
    with elsewhere():
        tiny.place(CARD, precision)
        moments = encode_images(tiny, GREY, flip="vertical", batch_size=2)
        assert (moments.device.type, moments.dtype) == ("cpu", torch.float16), "to be written"
        texts = tiny.encode_text(["a photo", "a SAR image"])
        assert (texts.device, texts.dtype) == (CARD, torch.float32)


@pytest.mark.parametrize("precision", EVERY, ids=lambda precision: precision.name)
def test_sampling_with_a_controlnet(tiny: Base, precision: Precision):
    controlnet = new_controlnet(tiny, seed=0).requires_grad_(False).eval()
    requests = [SampleRequest("a photo", (0, index), GREY[0, 0]) for index in range(2)]
    with elsewhere():
        tiny.place(CARD, precision)
        place_network(controlnet, CARD, precision.compute)
        control = Control(controlnet, 1.0, (0.0, 0.5))
        options = {"image_size": 16, "guidance_scale": 7.5, "num_inference_steps": 2, "batch_size": 1}
        for images in sample(tiny, Steps(), requests, control=control, **options):
            assert (images.device, images.dtype, images.shape[1:]) == (CARD, torch.float32, (3, 16, 16))


@pytest.mark.parametrize("precision", EVERY, ids=lambda precision: precision.name)
def test_predictions_and_features(precision: Precision):
    classifier = Classifier(RECIPE, ["a", "b"], [100.0], [50.0], 0, precision)
    with elsewhere():
        classifier.to(CARD)
        assert not left_behind(classifier)
        for describe in (predict, extract_features):
            told = describe(classifier, GREY)
            assert (told.device.type, told.dtype) == ("cpu", torch.float32)
