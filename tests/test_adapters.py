"""Adapters: nothing at first, exact sums when folded, gone without a trace afterwards, the same from a file."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_conf import settings
from tiny import predict, tiny_base
from torch import Tensor, nn

from sarsynth.diffusion import adapter_files, adapters
from sarsynth.diffusion.adapters import Adapter, AdapterSpec, LowRank, concatenate, folded
from sarsynth.diffusion.base import NANO, Base
from sarsynth.errors import UserError

save_kohya = partial(adapter_files.export, form="kohya")
RELEASE, PAPER, CONVOLUTIONAL = (
    settings(f"adapter.targets={name}").adapter.target_modules for name in ("release", "paper", "convolutional")
)
SPEC = AdapterSpec(4, CONVOLUTIONAL)


def trained(base: Base, seed: int, spec: AdapterSpec = SPEC) -> dict[str, LowRank]:
    """An adapter whose B is not zero, as training leaves it."""
    generator = torch.Generator().manual_seed(seed)
    begun = adapters.fresh(base.unet, spec, seed)
    return {n: LowRank(a, torch.randn(b.shape, generator=generator) * 0.2) for n, (a, b) in begun.items()}


def with_stack(base: Base, *stack: tuple[Adapter, float]) -> Tensor:
    with folded(base.unet, stack):
        return predict(base)


def pipeline(base: Base) -> StableDiffusionPipeline:
    parts = base.vae, base.text_encoder, base.tokenizer, base.unet, base.noise_scheduler
    return StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)


# --- One adapter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [RELEASE, PAPER, CONVOLUTIONAL], ids=["release", "paper", "convolutional"])
def test_a_fresh_adapter_changes_nothing(tiny: Base, pattern: str):
    adapter = adapters.fresh(tiny.unet, AdapterSpec(4, pattern), seed=0)
    assert torch.equal(with_stack(tiny, (adapter, 1.0)), predict(tiny))
    named = {name for name, _ in tiny.unet.named_modules() if re.fullmatch(pattern, name)}
    assert set(adapter) == named != set()


@pytest.mark.parametrize("pattern", [RELEASE, PAPER, CONVOLUTIONAL], ids=["release", "paper", "convolutional"])
def test_a_fresh_adapter_sits_and_begins_where_pefts_does(tiny: Base, pattern: str):
    adapter = adapters.fresh(tiny.unet, AdapterSpec(4, pattern), seed=0)
    tiny.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=pattern))
    theirs = {name: p for name, p in tiny.unet.named_parameters() if ".lora_" in name}
    shapes = {re.sub(r"\.lora_(.)\.default.*", r" \1", name): tuple(p.shape) for name, p in theirs.items()}
    ours = {f"{n} {m}": tuple(w.shape) for n, layer in adapter.items() for m, w in zip("AB", layer, strict=True)}
    assert ours == shapes
    assert adapters.parameters(adapter) == sum(p.numel() for p in theirs.values())


def test_a_fresh_adapter_is_gaussian_and_follows_from_its_seed(tiny: Base):
    def first(seed: int) -> Tensor:
        begun = adapters.fresh(tiny.unet, AdapterSpec(16, RELEASE), seed)
        return torch.cat([layer.a.flatten() for layer in begun.values()])

    torch.manual_seed(5)
    state = torch.get_rng_state()
    known = first(0)
    assert torch.equal(torch.get_rng_state(), state), "others' random numbers are left alone"
    assert torch.equal(first(0), known)
    assert not torch.equal(first(1), known)
    assert known.std().item() == pytest.approx(1 / 16, rel=0.05)


def test_a_pattern_that_matches_nothing_is_refused(tiny: Base):
    with pytest.raises(UserError, match="adapter.targets: no layer of this base matches 'no_such_layer'"):
        adapters.fresh(tiny.unet, AdapterSpec(4, "no_such_layer"), seed=0)


# --- Stacks -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_stack_is_the_weighted_sum_of_updates(tiny: Base):
    """Folded weights against W + sum_j s_j B_j A_j in float64, for linear layers and convolutions of all kinds."""
    stack = [
        (trained(tiny, seed, AdapterSpec(4 if seed else 16, CONVOLUTIONAL if seed else RELEASE)), scale)
        for seed, scale in enumerate((0.6, 0.7, 0.3, -0.2))
    ]
    layers = dict(tiny.unet.named_modules())
    plain = {name: layers[name].weight.double() for name in stack[1][0]}
    kinds = set()
    with folded(tiny.unet, stack):
        for name, weight in plain.items():
            expected = weight.clone()
            for adapter, scale in stack:
                if name in adapter:
                    a, b = (part.double() for part in adapter[name])
                    expected += scale * (b.flatten(1) @ a.flatten(1)).view(weight.shape)
            torch.testing.assert_close(layers[name].weight.double(), expected, rtol=1e-5, atol=1e-6)
            kinds.add((type(layers[name]).__name__, weight.shape[2:], getattr(layers[name], "stride", None)))
    assert {("Conv2d", (3, 3), (2, 2)), ("Conv2d", (1, 1), (1, 1)), ("Linear", (), None)} < kinds


def test_a_folded_stack_predicts_what_pefts_active_adapters_do(tiny: Base, tmp_path: Path):
    stack = {"ors": (trained(tiny, 0), 0.6), "sar": (trained(tiny, 1, AdapterSpec(3, RELEASE)), 1.3)}
    ours = with_stack(tiny, *stack.values())
    pipe = pipeline(tiny_base())
    for name, (adapter, _) in stack.items():
        adapter_files.save(adapter, tmp_path / f"{name}.safetensors")
        pipe.load_lora_weights(tmp_path, weight_name=f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(list(stack), [scale for _, scale in stack.values()])
    torch.testing.assert_close(ours, predict(pipe), rtol=1e-4, atol=1e-5)
    assert (ours - predict(tiny)).abs().max() > 0.01, "and that is something else than the base"


def test_one_rank_concatenated_adapter_is_the_stack(tiny: Base):
    stack = [(trained(tiny, 0, AdapterSpec(5, RELEASE)), 0.6), (trained(tiny, 1), 1.3), (trained(tiny, 2), -0.4)]
    joined = concatenate(stack)
    name = next(iter(stack[0][0]))
    assert len(joined[name].a) == 5 + 4 + 4
    torch.testing.assert_close(with_stack(tiny, (joined, 1.0)), with_stack(tiny, *stack), rtol=0, atol=1e-5)


def test_scale_zero_is_the_base(tiny: Base):
    before = predict(tiny)
    ors, sar = trained(tiny, 0), trained(tiny, 1)
    assert not torch.allclose(with_stack(tiny, (ors, 1.0), (sar, 1.0)), before)
    assert torch.equal(with_stack(tiny, (ors, 0.0), (sar, 0.0)), before)
    assert torch.equal(with_stack(tiny), before)


def test_the_order_of_a_stack_and_what_was_folded_before_do_not_matter(tiny: Base):
    ors, sar = trained(tiny, 0), trained(tiny, 1)
    known = with_stack(tiny, (ors, 0.6), (sar, 1.0))
    with_stack(tiny, (trained(tiny, 2), 2.0), (ors, 0.1))
    torch.testing.assert_close(with_stack(tiny, (sar, 1.0), (ors, 0.6)), known, rtol=0, atol=1e-5)


def test_the_base_comes_back_bit_for_bit(tiny: Base):
    weights = {name: (w, w.clone()) for name, w in tiny.unet.state_dict().items()}
    huge = {
        name: LowRank(a * 1e8, b) for name, (a, b) in trained(tiny, 0).items()
    }  # beyond what subtracting could undo
    with pytest.raises(RuntimeError, match="half-way"), folded(tiny.unet, [(huge, 1.0)]):
        raise RuntimeError("half-way")
    after = tiny.unet.state_dict()
    assert after.keys() == weights.keys()
    for name, (same, copy) in weights.items():
        assert torch.equal(after[name], copy)
        assert after[name].data_ptr() == same.data_ptr()


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [adapter_files.save, save_kohya])
@pytest.mark.parametrize("pattern", [RELEASE, CONVOLUTIONAL], ids=["release", "convolutional"])
def test_files_come_back_as_they_were(tiny: Base, tmp_path: Path, pattern: str, write):
    file = tmp_path / "one.safetensors"
    adapter = trained(tiny, 0, AdapterSpec(3, pattern))
    write(adapter, file)
    again = adapter_files.load(tiny.unet, file)
    assert again.keys() == adapter.keys()
    for name, layer in adapter.items():
        assert all(torch.equal(got, known) for got, known in zip(again[name], layer, strict=True))
    assert adapter_files.count(file) - adapters.parameters(adapter) in (0, len(adapter)), "kohya adds an alpha a layer"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("write", [adapter_files.save, save_kohya])
def test_diffusers_reads_them_itself(tiny: Base, tmp_path: Path, write):
    """Also a stack joined from adapters of other layers, whose ranks differ from layer to layer."""
    stack = [(trained(tiny, 0, AdapterSpec(5, RELEASE)), 0.6), (trained(tiny, 1), 1.3)]
    known = with_stack(tiny, *stack)
    write(concatenate(stack), tmp_path / "stack.safetensors")
    pipe = pipeline(tiny_base())
    pipe.load_lora_weights(tmp_path, weight_name="stack.safetensors")
    torch.testing.assert_close(predict(pipe), known, rtol=0, atol=1e-5)


def test_kohyas_alpha_is_a_strength(tiny: Base, tmp_path: Path):
    """alpha / rank multiplies the update: with half the alpha it is half the update, here and in diffusers."""
    adapter, file = trained(tiny, 0), tmp_path / "half.safetensors"
    save_kohya(adapter, file)
    state = load_file(file)
    assert {float(value) for key, value in state.items() if key.endswith(".alpha")} == {4.0}
    assert all(key.startswith("lora_unet_") and key.count(".") <= 2 for key in state)
    save_file({k: v / 2 if k.endswith(".alpha") else v for k, v in state.items()}, file)
    known = with_stack(tiny, (adapter, 0.5))
    torch.testing.assert_close(with_stack(tiny, (adapter_files.load(tiny.unet, file), 1.0)), known, rtol=0, atol=1e-5)
    pipe = pipeline(tiny_base())
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    torch.testing.assert_close(predict(pipe), known, rtol=0, atol=1e-5)


def test_files_of_older_diffusers_are_read(tiny: Base, tmp_path: Path):
    adapter = trained(tiny, 0, AdapterSpec(2, RELEASE))
    old = {}
    for name, (a, b) in adapter.items():
        layer = re.sub(r"\.(to_[qkv]|to_out)(\.0)?$", r".processor.\1_lora", name)
        old |= {f"unet.{layer}.down.weight": a, f"unet.{layer}.up.weight": b}
    save_file(old, tmp_path / "old.safetensors")
    again = adapter_files.load(tiny.unet, tmp_path / "old.safetensors")
    torch.testing.assert_close(with_stack(tiny, (again, 1.0)), with_stack(tiny, (adapter, 1.0)), rtol=0, atol=1e-5)


def test_the_file_holds_its_configuration(tiny: Base, tmp_path: Path):
    adapter_files.save(trained(tiny, 1), tmp_path / adapter_files.WEIGHTS)
    weights = load_file(tmp_path / adapter_files.WEIGHTS)
    assert all(re.fullmatch(r"unet\..*\.lora_[AB]\.weight", name) for name in weights)
    with safe_open(tmp_path / adapter_files.WEIGHTS, "pt") as file:
        metadata = " ".join(file.metadata().values())
    assert re.search(r'"unet\.r": 4', metadata)
    assert re.search(r'"unet\.lora_alpha": 4', metadata)


@torch.no_grad()
def test_a_plain_pipeline_of_the_shipped_base_reads_the_file(nano: Base, tmp_path: Path):
    adapter = trained(nano, 0)
    adapter_files.save(adapter, tmp_path / adapter_files.WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, nano.unet.config.in_channels, 16, 16, generator=generator)
    text_features = nano.encode_text(["a SAR image of cargo ship"])
    with folded(nano.unet, [(adapter, 1.0)]):
        known = nano.unet(latents, 500, text_features).sample

    pipe = StableDiffusionPipeline.from_pretrained(NANO, safety_checker=None, torch_dtype=torch.float32)
    plain = pipe.unet(latents, 500, text_features).sample
    pipe.load_lora_weights(tmp_path, weight_name=adapter_files.WEIGHTS)
    torch.testing.assert_close(pipe.unet(latents, 500, text_features).sample, known, rtol=0, atol=1e-4)
    assert (plain - known).abs().max() > 1e-2


# --- Files that do not fit --------------------------------------------------------------------------------------------


def refusal(base: Base, file: Path) -> str:
    with pytest.raises(UserError, match=f"^{file}: .*(trained on|train|name|copy|convert)") as error:
        adapter_files.load(base.unet, file)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("write", [adapter_files.save, save_kohya])
@pytest.mark.parametrize("pattern", [RELEASE, CONVOLUTIONAL], ids=["release", "convolutional"])
def test_an_adapter_of_another_base_is_refused(nano: Base, tmp_path: Path, pattern: str, write):
    file = tmp_path / "other.safetensors"
    write(trained(tiny_base(), 0, AdapterSpec(4, pattern)), file)
    before = predict(nano)
    refusal(nano, file)
    assert torch.equal(predict(nano), before)


def damaged(base: Base, file: Path, change) -> str:
    adapter_files.save(trained(base, 0), file)
    with safe_open(file, "pt") as handle:
        metadata = handle.metadata()
    save_file(change(load_file(file)), file, metadata)
    return refusal(base, file)


def test_what_a_plain_adapter_has_not_is_refused(tiny: Base, tmp_path: Path):
    """Shapes may fit while layers are missing; half an adapter must not pass for one."""
    file = tmp_path / adapter_files.WEIGHTS
    key = "unet.down_blocks.0.resnets.0.conv1.lora_A.weight"
    said = damaged(tiny, file, lambda w: {k.replace("down_blocks.1.", "down_blocks.7."): v for k, v in w.items()})
    assert "has no layer down_blocks.7" in said
    assert "not finite" in damaged(tiny, file, lambda w: w | {key: w[key] * float("nan")})
    assert "no part of a LoRA" in damaged(tiny, file, lambda w: w | {"unet.a.lora_C.weight": torch.zeros(2)})
    assert "text encoder" in damaged(tiny, file, lambda w: w | {"text_encoder.a.lora_A.weight": torch.zeros(2, 2)})
    assert "lora_B" in damaged(tiny, file, lambda w: {k: v for k, v in w.items() if k != key.replace("_A", "_B")})


def test_a_missing_or_damaged_file_is_refused(tiny: Base, tmp_path: Path):
    file = tmp_path / adapter_files.WEIGHTS
    refusal(tiny, file)
    file.write_bytes(b"no safetensors")
    refusal(tiny, file)
    torch.save({"a": torch.zeros(2)}, file)
    refusal(tiny, file)
    save_file({}, file)
    assert "holds no layer" in refusal(tiny, file)


def test_layers_that_are_no_weights_are_left_alone(tiny: Base):
    everything = adapters.fresh(tiny.unet, AdapterSpec(2, ".*"), seed=0)
    kinds = {type(tiny.unet.get_submodule(name)) for name in everything}
    assert all(issubclass(kind, nn.Linear | nn.Conv2d) for kind in kinds)
