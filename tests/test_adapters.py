"""Adapters: nothing at first, sums of low-rank updates when stacked, frozen when below, the same from a file."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_conf import settings
from tiny import predict, tiny_base
from torch import Tensor
from torch.nn.functional import conv2d

from sarsynth import adapters
from sarsynth.adapters import AdapterSpec
from sarsynth.base import NANO, Base
from sarsynth.errors import UserError

RELEASE, PAPER, CONVOLUTIONAL = (
    settings(f"adapter.targets={name}").adapter.target_modules for name in ("release", "paper", "convolutional")
)
SPEC = AdapterSpec(4, CONVOLUTIONAL)


def trained(base: Base, name: str, seed: int, spec: AdapterSpec = SPEC) -> None:
    """Attach an adapter whose B is not zero, as training leaves it."""
    adapters.attach(base.unet, name, spec, seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in adapters.adapted_layers(base.unet, name):
        weight = layer.lora_B[name].weight
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2


def trainable(unet: UNet2DConditionModel) -> set[str]:
    """Names of the adapters that have parameters which require gradients; `base` for the base's own."""
    names = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    return {m[1] if (m := re.search(r"\.lora_[AB]\.(\w+)\.weight$", name)) else "base" for name in names}


# --- One adapter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [RELEASE, PAPER, CONVOLUTIONAL], ids=["release", "paper", "convolutional"])
def test_a_fresh_adapter_changes_nothing(tiny: Base, pattern: str):
    before = predict(tiny)
    count = adapters.attach(tiny.unet, "sar", AdapterSpec(4, pattern), seed=0)
    assert torch.equal(predict(tiny), before)
    layers = adapters.adapted_layers(tiny.unet, "sar")
    assert len(layers) == count > 0
    adapters.activate(tiny.unet, {"sar": 1.0}, trainable="sar")
    assert torch.equal(predict(tiny), before)
    assert trainable(tiny.unet) == {"sar"}
    assert adapters.parameters(tiny.unet, "sar") == sum(p.numel() for p in tiny.unet.parameters() if p.requires_grad)


def test_a_fresh_adapter_changes_nothing_of_the_shipped_base(nano: Base):
    before = predict(nano)
    adapters.attach(nano.unet, "sar", SPEC, seed=0)
    assert torch.equal(predict(nano), before)
    adapters.detach_all(nano.unet)


def test_a_fresh_adapter_is_gaussian_and_follows_from_its_seed(tiny: Base):
    def first(seed: int) -> Tensor:
        adapters.attach(tiny.unet, "sar", AdapterSpec(16, RELEASE), seed)
        weights = torch.cat([a.lora_A["sar"].weight.flatten() for a in adapters.adapted_layers(tiny.unet, "sar")])
        adapters.detach_all(tiny.unet)
        return weights.detach()

    torch.manual_seed(5)
    state = torch.get_rng_state()
    known = first(0)
    assert torch.equal(torch.get_rng_state(), state), "others' random numbers are left alone"
    assert torch.equal(first(0), known)
    assert not torch.equal(first(1), known)
    assert known.std().item() == pytest.approx(1 / 16, rel=0.05)


def test_a_pattern_that_matches_nothing_is_refused(tiny: Base):
    with pytest.raises(UserError, match="adapter.targets: no layer of this base matches 'no_such_layer'"):
        adapters.attach(tiny.unet, "sar", AdapterSpec(4, "no_such_layer"), seed=0)


# --- Stacks -----------------------------------------------------------------------------------------------------------


def update(layer: BaseTunerLayer, name: str) -> Tensor:
    """B A of an adapter in float64, in the shape of the layer's weight."""
    a, b = layer.lora_A[name].weight.double(), layer.lora_B[name].weight.double()
    return (b.flatten(1) @ a.flatten(1)).view(layer.get_base_layer().weight.shape)


@torch.no_grad()
def test_a_stack_is_the_weighted_sum_of_updates(tiny: Base):
    """Each layer computes W + sum_j s_j B_j A_j: in float64 it agrees with that weight to rounding, of any kind."""
    scales = {"ors": 0.6, "prototype_0": 0.7, "prototype_1": 0.3, "prototype_2": -0.2}
    for seed, name in enumerate(scales):
        trained(tiny, name, seed, AdapterSpec(4 if seed else 16, CONVOLUTIONAL))
    adapters.activate(tiny.unet, scales)
    kinds = set()
    generator = torch.Generator().manual_seed(0)
    for layer in adapters.adapted_layers(tiny.unet, "ors"):
        layer.double()
        plain = layer.get_base_layer()
        kinds.add((type(plain).__name__, plain.weight.shape[2:], getattr(plain, "stride", None)))
        whole = plain.weight + sum(scale * update(layer, name) for name, scale in scales.items())
        if isinstance(plain, torch.nn.Linear):
            inputs = torch.randn(3, 5, plain.in_features, dtype=torch.float64, generator=generator)
            expected = torch.nn.functional.linear(inputs, whole, plain.bias)
        else:
            inputs = torch.randn(3, plain.in_channels, 8, 8, dtype=torch.float64, generator=generator)
            expected = conv2d(inputs, whole, plain.bias, plain.stride, plain.padding)
        torch.testing.assert_close(layer(inputs), expected, rtol=0, atol=1e-12)
    assert {kind for kind, *_ in kinds} == {"Linear", "Conv2d"}
    assert {("Conv2d", (3, 3), (2, 2)), ("Conv2d", (1, 1), (1, 1))} < kinds, "downsamplers and shortcuts among them"


@torch.no_grad()
def test_a_stack_folded_into_the_base_predicts_the_same(tiny: Base):
    """The whole network: adapters at their scales, against plain weights that the float64 sum was written into."""
    scales = {"ors": 0.6, "sar": 1.3}
    folded = tiny_base()
    for seed, name in enumerate(scales):
        trained(tiny, name, seed)
    adapters.activate(tiny.unet, scales)
    plain = dict(folded.unet.named_modules())
    for name, layer in tiny.unet.named_modules():
        if isinstance(layer, BaseTunerLayer):
            total = sum(scale * update(layer, adapter) for adapter, scale in scales.items())
            plain[name].weight += total.float()
    stacked = predict(tiny)
    torch.testing.assert_close(stacked, predict(folded), rtol=1e-4, atol=1e-5)
    assert (stacked - predict(tiny_base())).abs().max() > 0.01, "and that is something else than the base"


def test_scale_zero_is_the_base(tiny: Base):
    before = predict(tiny)
    trained(tiny, "ors", 0)
    trained(tiny, "sar", 1)
    adapters.activate(tiny.unet, {"ors": 1.0, "sar": 1.0})
    assert not torch.allclose(predict(tiny), before)
    adapters.activate(tiny.unet, {"ors": 0.0, "sar": 0.0})
    assert torch.equal(predict(tiny), before)
    adapters.activate(tiny.unet, {})
    assert torch.equal(predict(tiny), before)
    adapters.activate(tiny.unet, {"ors": 1.0})
    assert not torch.allclose(predict(tiny), before), "and active again"


def test_the_order_of_a_stack_and_what_was_active_before_do_not_matter(tiny: Base):
    for seed, name in enumerate(["ors", "sar", "other"]):
        trained(tiny, name, seed)
    adapters.activate(tiny.unet, {"ors": 0.6, "sar": 1.0})
    known = predict(tiny)
    adapters.activate(tiny.unet, {"other": 2.0, "ors": 0.1})
    adapters.activate(tiny.unet, {"sar": 1.0, "ors": 0.6})
    torch.testing.assert_close(predict(tiny), known)


def test_only_what_trains_requires_gradients(tiny: Base):
    adapters.attach(tiny.unet, "ors", SPEC, seed=0)
    adapters.attach(tiny.unet, "sar", SPEC, seed=1)
    adapters.activate(tiny.unet, {"ors": 0.6, "sar": 1.0}, trainable="sar")
    assert trainable(tiny.unet) == {"sar"}
    tiny.unet.train()
    assert trainable(tiny.unet) == {"sar"}
    adapters.activate(tiny.unet, {"ors": 0.6, "sar": 1.0})
    assert trainable(tiny.unet) == set()
    adapters.activate(tiny.unet, {"ors": 1.0}, trainable="ors")
    assert trainable(tiny.unet) == {"ors"}


def test_detaching_gives_the_base_back(tiny: Base):
    before, weights = predict(tiny), {k: w.clone() for k, w in tiny.unet.state_dict().items()}
    adapters.detach_all(tiny.unet)  # of none, which is no error
    trained(tiny, "ors", 0)
    trained(tiny, "sar", 1)
    adapters.detach_all(tiny.unet)
    assert torch.equal(predict(tiny), before)
    after = tiny.unet.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[k], w) for k, w in weights.items())
    trained(tiny, "ors", 0)
    adapters.activate(tiny.unet, {})
    assert torch.equal(predict(tiny), before)


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [RELEASE, CONVOLUTIONAL], ids=["release", "convolutional"])
def test_save_and_load(tiny: Base, tmp_path: Path, pattern: str):
    for seed, name in enumerate(("ors", "sar")):
        trained(tiny, name, seed, AdapterSpec(3, pattern))
        adapters.save(tiny.unet, name, tmp_path / name)
    adapters.activate(tiny.unet, {"ors": 0.5, "sar": 1.0})
    known = predict(tiny)

    again = tiny_base()
    for name in ("sar", "ors"):
        adapters.load(again.unet, name, tmp_path / name)
    assert trainable(again.unet) <= {"sar", "ors"}
    adapters.activate(again.unet, {"ors": 0.5, "sar": 1.0})
    assert trainable(again.unet) == set()
    torch.testing.assert_close(predict(again), known, rtol=0, atol=1e-6)
    assert [file.name for file in (tmp_path / "sar").iterdir()] == [adapters.WEIGHTS]


def test_a_loaded_adapter_is_frozen(tiny: Base, tmp_path: Path):
    trained(tiny, "ors", 0)
    adapters.save(tiny.unet, "ors", tmp_path)
    again = tiny_base()
    adapters.load(again.unet, "ors", tmp_path)
    adapters.activate(again.unet, {"ors": 1.0})
    assert trainable(again.unet) == set()


def test_a_file_may_be_loaded_under_another_name(tiny: Base, tmp_path: Path):
    trained(tiny, "sar", 0)
    adapters.save(tiny.unet, "sar", tmp_path)
    adapters.activate(tiny.unet, {"sar": 0.8})
    known = predict(tiny)
    again = tiny_base()
    adapters.load(again.unet, "prototype_3", tmp_path)
    adapters.activate(again.unet, {"prototype_3": 0.8})
    torch.testing.assert_close(predict(again), known, rtol=0, atol=1e-6)


def test_the_file_holds_the_adapter_alone_and_its_configuration(tiny: Base, tmp_path: Path):
    trained(tiny, "ors", 0)
    trained(tiny, "sar", 1)
    adapters.save(tiny.unet, "sar", tmp_path)
    weights = load_file(tmp_path / adapters.WEIGHTS)
    assert all(re.fullmatch(r"unet\..*\.lora_[AB]\.weight", name) for name in weights)
    assert sum(w.numel() for w in weights.values()) == adapters.parameters(tiny.unet, "sar")
    with safe_open(tmp_path / adapters.WEIGHTS, "pt") as file:
        metadata = " ".join(file.metadata().values())
    assert re.search(r'"unet\.r": 4', metadata)
    assert re.search(r'"unet\.lora_alpha": 4', metadata)


@torch.no_grad()
def test_diffusers_and_peft_load_the_file_themselves(nano: Base, tmp_path: Path):
    trained(nano, "sar", 0)
    adapters.save(nano.unet, "sar", tmp_path)
    adapters.activate(nano.unet, {"sar": 1.0})
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, nano.unet.config.in_channels, 16, 16, generator=generator)
    text_features = nano.encode_text(["a SAR image of cargo ship"])
    known = nano.unet(latents, 500, text_features).sample
    adapters.detach_all(nano.unet)

    pipe = StableDiffusionPipeline.from_pretrained(NANO, safety_checker=None, torch_dtype=torch.float32)
    plain = pipe.unet(latents, 500, text_features).sample
    pipe.load_lora_weights(tmp_path, weight_name=adapters.WEIGHTS)
    torch.testing.assert_close(pipe.unet(latents, 500, text_features).sample, known, rtol=0, atol=1e-5)
    assert (plain - known).abs().max() > 1e-2


# --- Files that do not fit --------------------------------------------------------------------------------------------


def refusal(base: Base, folder: Path) -> str:
    with pytest.raises(UserError, match=f"^{folder / adapters.WEIGHTS}: no adapter for this base .*train it") as error:
        adapters.load(base.unet, "sar", folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("pattern", [RELEASE, CONVOLUTIONAL], ids=["release", "convolutional"])
def test_an_adapter_of_another_base_is_refused(nano: Base, tmp_path: Path, pattern: str):
    other = tiny_base()
    trained(other, "sar", 0, AdapterSpec(4, pattern))
    adapters.save(other.unet, "sar", tmp_path)
    before = predict(nano)
    refusal(nano, tmp_path)
    adapters.detach_all(nano.unet)
    assert torch.equal(predict(nano), before)


def test_an_adapter_for_layers_that_this_base_has_not_is_refused(tiny: Base, tmp_path: Path):
    """Shapes may fit while layers are missing; half an adapter must not pass for one."""
    trained(tiny, "sar", 0)
    adapters.save(tiny.unet, "sar", tmp_path)
    file = tmp_path / adapters.WEIGHTS
    with safe_open(file, "pt") as handle:
        metadata = handle.metadata()
    weights = load_file(file)
    moved = {name.replace("down_blocks.1.", "down_blocks.7."): weight for name, weight in weights.items()}
    assert moved.keys() != weights.keys()
    save_file(moved, file, metadata)
    refusal(tiny_base(), tmp_path)


def test_a_missing_or_damaged_file_is_refused(tiny: Base, tmp_path: Path):
    refusal(tiny, tmp_path)
    (tmp_path / adapters.WEIGHTS).write_bytes(b"no safetensors")
    refusal(tiny, tmp_path)
    save_file({"a": torch.zeros(2)}, tmp_path / adapters.WEIGHTS)
    refusal(tiny, tmp_path)
