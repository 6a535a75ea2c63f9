"""Stable Diffusion v1.5 as it is, but for its weights, which are random: adapters attach, train and generate."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file
from sd15 import save_random, sd15_text_encoder, sd15_unet, sd15_vae
from test_conf import settings
from tiny import encoded, samples
from torch import nn

from sarsynth.data.datamodules import SeededDataModule
from sarsynth.diffusion import adapter_files, adapters
from sarsynth.diffusion.adapters import AdapterSpec
from sarsynth.diffusion.base import Base, resolve
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.routing import routed
from sarsynth.diffusion.sampling import Guidance, SampleRequest, sample
from sarsynth.training.fitting import Fitting

SIZE = 64  # px: what 512 px do to the adapters, a sixty-fourth of the pixels does too


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A folder as one downloads it, in half precision: 2 GB, gone after the tests."""
    root = tmp_path_factory.mktemp("sd15")
    yield save_random(root)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return Base.load(resolve(str(folder))[0])


def pattern(targets: str) -> str:
    return settings("base=sd15", f"adapter.targets={targets}").adapter.target_modules


def test_its_size_is_that_of_stable_diffusion():
    with torch.device("meta"):
        parts = sd15_unet(), sd15_vae(), sd15_text_encoder()
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [859_520_964, 83_653_863, 123_060_480]


@pytest.mark.parametrize(("targets", "layers", "each"), [("release", 128, 199_296), ("paper", 48, 74_496)])
@pytest.mark.parametrize("rank", [4, 16])
def test_adapters_sit_where_the_release_and_the_paper_say(targets: str, layers: int, each: int, rank: int):
    """On the meta device: no weights, exact counts."""
    with torch.device("meta"):
        unet = sd15_unet()
        adapter = adapters.fresh(unet, AdapterSpec(rank, pattern(targets)), seed=0)
    assert len(adapter) == layers
    assert adapters.parameters(adapter) == each * rank
    assert all(isinstance(unet.get_submodule(name), nn.Linear) for name in adapter)


def test_the_default_targets_are_the_releases():
    chosen = settings("base=sd15")
    assert chosen.adapter.target_modules == pattern("release")
    assert chosen.base.path == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert chosen.base.image_size == 256


@torch.no_grad()
def test_its_door(base: Base):
    assert base.latent_factor == 8
    assert base.noise_scheduler.config.prediction_type == "epsilon"
    assert base.noise_scheduler.config.beta_schedule == "scaled_linear"
    assert base.vae.config.scaling_factor == 0.18215
    assert all(parameter.dtype == torch.float32 for parameter in base.parameters())
    assert base.encode_text(["a SAR image"]).shape == (1, 77, 768)
    mean, deviation = base.encode(torch.zeros(1, 3, SIZE, SIZE))
    assert mean.shape == deviation.shape == (1, 4, SIZE // 8, SIZE // 8)


def test_weights_come_from_the_folder(base: Base, folder: Path):
    """Under the names of the published files, none left at its initial value."""
    text = load_file(folder / "text_encoder" / "model.safetensors")
    name = "encoder.layers.3.self_attn.q_proj.weight"
    held = {k.removeprefix("text_model."): w for k, w in base.text_encoder.state_dict().items()}
    assert torch.equal(held[name], text[f"text_model.{name}"].float())
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    name = "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_v.weight"
    assert torch.equal(base.unet.state_dict()[name], unet[name].float())


def test_one_training_step_and_a_short_generation(base: Base, tmp_path: Path):
    """The study's own path: encode, train an adapter, save, load, generate over the scale."""
    chips = torch.randint(0, 256, (2, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prompt = "a SAR image of cargo ship"

    data = SeededDataModule.whole(
        samples(encoded(base, chips, [prompt] * 2, "horizontal")), batch_size=1, max_steps=1, seed=0
    )
    fixed = base.unet.conv_in.weight.clone()
    with routed(base.unet, [adapters.fresh(base.unet, AdapterSpec(4, pattern("release")), seed=0)]) as routing:
        group = TrainableGroup("sar", routing.parameters(0), 1e-2, 0, 2, 0.01)
        module = Denoiser(base.unet, base.noise_scheduler, [group], route=routing.route)
        Fitting().fit(module, data, title="adapter", max_steps=1, max_grad_norm=1.0)
        made = routing.adapter(0)
    assert min(layer.b.abs().max() for layer in made.values()) > 0, "one step moves B of every layer"
    assert torch.equal(base.unet.conv_in.weight, fixed)

    adapter_files.save(made, tmp_path / adapter_files.WEIGHTS)
    adapter = adapter_files.load(base.unet, tmp_path / adapter_files.WEIGHTS)
    assert adapters.parameters(adapter) == 4 * 199_296
    noise_scheduler = DPMSolverMultistepScheduler.from_config(base.noise_scheduler.config)
    recipe = {"image_size": SIZE, "guidance": Guidance(7.5), "num_inference_steps": 2, "batch_size": 1}
    images = []
    for scale in (0.0, 1.0):
        with adapters.folded(base.unet, [(adapter, scale)]):
            images += list(sample(base, noise_scheduler, [SampleRequest(prompt, (0, 0, 0))], **recipe))
    assert images[0].shape == (1, 3, SIZE, SIZE)
    assert all(image.isfinite().all() for image in images)
    assert not torch.equal(*images)
