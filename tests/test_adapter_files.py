"""Adapters from elsewhere: as strong as diffusers or PEFT have them, or refused by name; equal ones in equal bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from test_adapters import pipeline, trained, with_stack
from test_conf import settings
from tiny import predict, tiny_base
from torch import Tensor

from sarsynth.diffusion import adapter_files
from sarsynth.diffusion.adapter_forms import BadAdapter
from sarsynth.diffusion.adapters import AdapterSpec, LowRank
from sarsynth.diffusion.base import Base
from sarsynth.errors import UserError
from sarsynth.stages.adapt_to_sar import imported
from sarsynth.stages.load_base import read_adapter
from sarsynth.store.artifacts import Artifact

CASES = Path(__file__).parents[1] / ".." / "shared" / "cases"
save_kohya = partial(adapter_files.export, form="kohya")
LAYERS = r".*\.(to_q|to_k|to_v|to_out\.0|conv1)"
CONFIGS = {
    "plain": {"lora_alpha": 4},
    "stronger": {"lora_alpha": 16},
    "rslora": {"lora_alpha": 8, "use_rslora": True},
    "alpha by suffix": {"lora_alpha": 8, "alpha_pattern": {"to_q": 32, "to_out.0": 1}},
    "alpha by expression": {"lora_alpha": 8, "alpha_pattern": {r"down_blocks.*attn2\.to_[kv]": 2, "^mid_block.*": 20}},
    "rank by suffix": {"lora_alpha": 8, "rank_pattern": {"to_k": 2, "conv1": 3}},
    "all of it": {
        "lora_alpha": 6,
        "use_rslora": True,
        "rank_pattern": {r".*\.to_v": 2, "conv1": 7},
        "alpha_pattern": {"conv1": 1.5, r"up_blocks\..*": 12},
    },
}


def adapted(config: Mapping[str, Any]) -> tuple[Base, LoraConfig]:
    """A base with an adapter of PEFT's that is not zero, and its configuration."""
    base, config = tiny_base(), LoraConfig(r=4, target_modules=LAYERS, **config)
    base.unet.add_adapter(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in base.unet.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return base, config


def by_diffusers(config: Mapping[str, Any], folder: Path) -> tuple[Path, Tensor]:
    base, made = adapted(config)
    pipe, file = pipeline(base), folder / "pytorch_lora_weights.safetensors"
    state = get_peft_model_state_dict(base.unet)
    pipe.save_lora_weights(folder, unet_lora_layers=state, unet_lora_adapter_metadata=made.to_dict())
    plain = pipeline(tiny_base())
    plain.load_lora_weights(folder, weight_name=file.name)
    return file, predict(plain)


def by_its_unet(config: Mapping[str, Any], folder: Path) -> tuple[Path, Tensor]:
    """`save_lora_adapter`, which puts no prefix before keys and configuration."""
    base, _ = adapted(config)
    base.unet.save_lora_adapter(folder, adapter_name="default")
    (file,) = folder.iterdir()
    plain = tiny_base()
    plain.unet.load_lora_adapter(folder, prefix=None, weight_name=file.name)
    return file, predict(plain)


def by_peft(config: Mapping[str, Any], folder: Path) -> tuple[Path, Tensor]:
    base, made = adapted(config)
    state, theirs = get_peft_model_state_dict(base.unet), tiny_base()
    peft = get_peft_model(theirs.unet, made)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                weight.copy_(state[name.removeprefix("base_model.model.").replace(".default", "")])
    peft.save_pretrained(folder)
    plain = tiny_base()
    plain.unet = PeftModel.from_pretrained(plain.unet, folder)
    return folder, predict(plain)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("write", [by_diffusers, by_its_unet, by_peft])
def test_a_file_is_as_strong_as_where_it_was_made(write: Callable, config: Mapping[str, Any], tmp_path: Path):
    named, theirs = write(config, tmp_path)
    with torch.no_grad():
        made = predict(adapted(config)[0])
    torch.testing.assert_close(theirs, made, rtol=1e-4, atol=1e-5)
    ours = tiny_base()
    adapter = adapter_files.load(ours.unet, adapter_files.find(named))
    torch.testing.assert_close(with_stack(ours, (adapter, 1.0)), theirs, rtol=1e-4, atol=1e-5)
    assert (theirs - predict(ours)).abs().max() > 1e-3


def test_mixed_ranks_without_any_alpha_are_of_strength_one(tmp_path: Path):
    """As in diffusers since its pull request 14409; before, the first key of a file decided for all."""
    state = get_peft_model_state_dict(adapted(CONFIGS["all of it"])[0].unet)
    save_file({f"unet.{key}": weight.contiguous() for key, weight in state.items()}, tmp_path / "mixed.safetensors")
    plain, ours = pipeline(tiny_base()), tiny_base()
    plain.load_lora_weights(tmp_path, weight_name="mixed.safetensors")
    adapter = adapter_files.load(ours.unet, tmp_path / "mixed.safetensors")
    torch.testing.assert_close(with_stack(ours, (adapter, 1.0)), predict(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("write", [adapter_files.save, save_kohya])
def test_every_layer_may_be_adapted_and_by_more_rank_than_it_is_wide(write: Callable, tmp_path: Path):
    """Convolutions at both ends and feed-forward layers too, as LoCon has them."""
    ours, plain = tiny_base(), pipeline(tiny_base())
    write(trained(ours, 3, AdapterSpec(40, ".*")), tmp_path / "all.safetensors")
    plain.load_lora_weights(tmp_path, weight_name="all.safetensors")
    adapter = adapter_files.load(ours.unet, tmp_path / "all.safetensors")
    assert {"conv_in", "conv_out", "time_embedding.linear_1"} < set(adapter)
    torch.testing.assert_close(with_stack(ours, (adapter, 1.0)), predict(plain), rtol=1e-4, atol=1e-5)


def kohya(folder: Path, *, alpha: float | None = 1.0, text: bool = True) -> Path:
    """A file of kohya's trainers: half precision, an alpha a layer, and the text encoder, as they train by default."""
    state = get_peft_model_state_dict(adapted({"lora_alpha": 4})[0].unet)
    state = convert_state_dict_to_kohya({f"unet.{key}": weight for key, weight in state.items()})
    state = {key: torch.tensor(alpha or 0.0) if key.endswith(".alpha") else weight for key, weight in state.items()}
    state = {key: weight for key, weight in state.items() if alpha is not None or not key.endswith(".alpha")}
    if text:
        name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
        state |= {f"{name}.lora_down.weight": torch.ones(4, 16), f"{name}.lora_up.weight": torch.ones(16, 4)}
        state |= {f"{name}.alpha": torch.tensor(1.0)}
    save_file({key: weight.half().contiguous() for key, weight in state.items()}, folder / "ship.safetensors")
    return folder / "ship.safetensors"


@pytest.mark.parametrize("alpha", [None, 1.0, 8.0])
def test_kohyas_file_is_as_strong_as_in_diffusers(alpha: float | None, tmp_path: Path):
    file = kohya(tmp_path, alpha=alpha, text=False)
    plain, ours = pipeline(tiny_base()), tiny_base()
    plain.load_lora_weights(tmp_path, weight_name=file.name)
    adapter = adapter_files.load(ours.unet, file)
    torch.testing.assert_close(with_stack(ours, (adapter, 1.0)), predict(plain), rtol=1e-4, atol=1e-5)


def test_what_adapts_the_text_encoder_is_refused_or_left_out_with_a_word(tmp_path: Path, capsys):
    file, base = kohya(tmp_path), tiny_base()
    with pytest.raises(BadAdapter, match=r"text encoder too \(lora_te_.*adapter.text_encoder=ignore.*unet_only"):
        adapter_files.load(base.unet, file)
    adapter = adapter_files.load(base.unet, file, of_text="ignore")
    assert "ship.safetensors: 3 of " in (said := capsys.readouterr().out)
    assert "are left out" in said
    alone = adapter_files.load(base.unet, kohya(tmp_path, text=False))
    assert all(torch.equal(adapter[name].b, alone[name].b) for name in alone)
    text = {key: weight for key, weight in load_file(kohya(tmp_path)).items() if key.startswith("lora_te")}
    save_file(text, file)
    with pytest.raises(BadAdapter, match="the text encoder alone"):
        adapter_files.load(base.unet, file, of_text="ignore")


# --- Refused by name --------------------------------------------------------------------------------------------------


def refused(file: Path, *said: str, base: Base | None = None) -> None:
    with pytest.raises(BadAdapter) as error:
        adapter_files.load((base or tiny_base()).unet, adapter_files.find(file))
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in said), message


Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"], "LoHa"),
        (["lokr_w1", "lokr_w2", "alpha"], "LoKr"),
        (["lora_down.weight", "lora_up.weight", "dora_scale", "alpha"], "DoRA"),
        (["lora_down.weight", "lora_mid.weight", "lora_up.weight", "alpha"], "lora_mid"),
        (["diff"], "whole layers"),
        (["oft_blocks"], "OFT"),
        (["weight", "on_input"], "(IA)³"),
        (["w_norm", "b_norm"], "whole layers"),
    ],
)
def test_other_kinds_of_kohya_and_lycoris_are_refused_by_name(keys: list[str], kind: str, tmp_path: Path):
    file = tmp_path / "other.safetensors"
    save_file({f"{Q}.{key}": torch.ones(2, 2) for key in keys}, file)
    refused(file, kind, "not read", "base.path")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LoHaConfig(r=2, target_modules=["to_q"]), "LoHa"),
        (LoKrConfig(r=2, target_modules=["to_q"]), "LoKr"),
        (LoraConfig(r=2, target_modules=["to_q"], use_dora=True), "DoRA"),
        (LoraConfig(r=2, target_modules=["to_q"], modules_to_save=["conv_in"]), "no part of a LoRA"),
        (LoraConfig(r=2, target_modules=["to_q"], init_lora_weights="pissa"), "init_lora_weights=pissa"),
    ],
    ids=["loha", "lokr", "dora", "whole layers", "pissa"],
)
def test_other_kinds_of_peft_are_refused_by_name(config: Any, kind: str, tmp_path: Path):
    get_peft_model(tiny_base().unet, config).save_pretrained(tmp_path)
    refused(tmp_path, kind)


def changed_config(**more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | more))

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "stands in adapter_config.json, which cannot be"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json beside it is no JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("[1]"), "adapter_config.json is none of a LoRA"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json is none of a LoRA"),
        (changed_config(r=9), "is of rank 4, and of rank 9 by its configuration"),
        (changed_config(lora_alpha="much"), "adapter_config.json is none of a LoRA"),
        (changed_config(lora_alpha=float("nan")), "not finite"),
        (changed_config(alpha_pattern={"(": 2}), "no regular expression"),
        (changed_config(peft_type="VERA"), "says VERA"),
    ],
)
def test_a_configuration_that_is_lost_or_broken_is_said(damage: Callable, said: str, tmp_path: Path):
    by_peft({"lora_alpha": 8}, tmp_path)
    damage(tmp_path)
    refused(tmp_path, "adapter_model.safetensors: ", said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", ["Git LFS", "git lfs pull"]),
        (b"\x80\x02}q\x00.", ["a pickle", "convert it"]),
        (b"<!DOCTYPE html><html>", ["a page of the web", "download"]),
        (b"", ["empty", "once more"]),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", ["no whole safetensors file", "once more"]),
    ],
)
def test_the_remedy_fits_what_the_file_is(content: bytes, said: list[str], tmp_path: Path):
    file = tmp_path / "adapter.bin"
    file.write_bytes(content)
    refused(file, "adapter.bin: ", *said)


def test_a_pickle_of_torch_is_called_one(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_lora_weights.bin")
    refused(tmp_path / "pytorch_lora_weights.bin", "a pickle", "never opened", "convert it")


@pytest.mark.parametrize(
    ("state", "metadata", "family"),
    [
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 16)}, {}, "SDXL"),
        ({f"{Q.replace('attn1_to_q', 'attn2_to_k')}.lora_down.weight": (4, 2048)}, {}, "SDXL"),
        ({"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 1024)}, {}, "v2"),
        ({"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight": (4, 768)}, {}, "base=sd15"),
        ({f"{Q}.lora_down.weight": (4, 8)}, {"ss_base_model_version": "sdxl_base_v1-0"}, "SDXL"),
        ({"transformer.blocks.0.attn.to_q.lora_A.weight": (4, 8)}, {}, "SD3, Flux"),
    ],
)
def test_a_lora_of_another_family_is_named(state, metadata, family: str, tmp_path: Path):
    save_file({key: torch.ones(shape) for key, shape in state.items()}, tmp_path / "x.safetensors", metadata)
    refused(tmp_path / "x.safetensors", "no adapter for this base (made for", family)


def test_a_models_own_state_dict_does_not_say_how_strong_it_is(tmp_path: Path):
    base, _ = adapted({"lora_alpha": 8})
    save_file(
        {k: w.contiguous() for k, w in base.unet.state_dict().items() if "lora_" in k}, tmp_path / "s.safetensors"
    )
    refused(tmp_path / "s.safetensors", "a model's own state_dict", "save_pretrained")


def test_a_folder_without_an_adapter_and_a_name_of_the_hub(tmp_path: Path):
    (tmp_path / "unet").mkdir()
    refused(tmp_path, "say which one of unet")
    refused(Path("someone/a-lora"), "no such file", "hf download someone/a-lora")
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "no regular file")


# --- Equal bytes, equal fingerprints ----------------------------------------------------------------------------------

WRITES = """
import sys, torch
from pathlib import Path
from sarsynth.diffusion import adapter_files
from sarsynth.diffusion.adapters import AdapterSpec, LowRank
adapter = {f"layer.{n}": LowRank(torch.full((1 + n % 2, 3), n * 1.0), torch.ones(2, 1 + n % 2)) for n in range(40)}
adapter_files.save(adapter, Path(sys.argv[1]))
"""


def test_equal_adapters_give_equal_bytes_in_every_process(tmp_path: Path):
    for seed in "123":
        run = [sys.executable, "-c", WRITES, str(tmp_path / f"{seed}.safetensors")]
        subprocess.run(run, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    assert len({(tmp_path / f"{seed}.safetensors").read_bytes() for seed in "123"}) == 1


def study_with(path: Path, **adapter: str) -> Any:
    of_text = {"text_encoder": "refuse"} | adapter
    chosen = SimpleNamespace(adapter=SimpleNamespace(path=str(path), **of_text), method=SimpleNamespace(below=None))
    return SimpleNamespace(settings=chosen)


def test_what_was_exported_and_given_back_is_the_same_each_time(tmp_path: Path):
    """A folder and the file in it are one adapter; its fingerprint changes with its strength."""
    base, seen = tiny_base(), set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / adapter_files.WEIGHTS
        adapter_files.save(trained(base, 0), file)
        again = adapter_files.load(base.unet, file)
        adapter_files.save(again, file)
        seen |= {imported(study_with(path), path).fingerprint for path in (file, file.parent)}
    assert len(seen) == 1
    folder, _ = by_peft({"lora_alpha": 8}, tmp_path / "peft")
    weak = imported(study_with(folder), folder)
    changed_config(lora_alpha=16)(folder)
    strong = imported(study_with(folder), folder)
    assert weak.path == strong.path == folder / "adapter_model.safetensors"
    assert weak.fingerprint != strong.fingerprint


# --- As the key of a study --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", [b"{", b"[]", b"{}", b'{"inputs": 3}', b"null", b"\xe4"])
def test_a_broken_card_beside_it_is_named(card: bytes, tmp_path: Path):
    file = tmp_path / adapter_files.WEIGHTS
    adapter_files.save(trained(tiny_base(), 0), file)
    (tmp_path / "card.json").write_bytes(card)
    with pytest.raises(UserError, match=rf"^adapter.path={file}: {tmp_path}/card.json beside it.*no card") as error:
        imported(study_with(file), file)
    assert "\n" not in str(error.value)


def test_messages_name_the_key_or_the_artifact_to_remove(tmp_path: Path):
    file, base = tmp_path / adapter_files.WEIGHTS, tiny_base()
    torch.save({}, file)
    with pytest.raises(UserError, match=rf"^adapter.path={file}: a pickle"):
        imported(study_with(file), file)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=rf"^adapter.path={file}: empty"):
        read_adapter(study_with(file), Artifact("adapter", "sar", "ab12", file), base.unet)
    with pytest.raises(UserError, match=rf"^{file}: empty; remove {tmp_path} to train it again"):
        read_adapter(study_with(file), Artifact("adapter", "sar", "ab12", tmp_path), base.unet)


def test_the_text_encoder_is_refused_unless_told_otherwise(tmp_path: Path):
    assert settings().adapter.text_encoder == "refuse"
    file, base = kohya(tmp_path), tiny_base()
    of_study = Artifact("adapter", "ship", "ab12", file)
    with pytest.raises(UserError, match="^adapter.path=.*text_encoder=ignore"):
        read_adapter(study_with(file), of_study, base.unet)
    assert read_adapter(study_with(file, text_encoder="ignore"), of_study, base.unet)


# --- Real ones --------------------------------------------------------------------------------------------------------


def times_ba(factor: float, adapter: Mapping[str, LowRank], file: Path) -> None:
    """The update of each layer is so many times B A of the file."""
    state = load_file(file)
    for name, layer in adapter.items():
        a, b = (next(w for k, w in state.items() if name in k and k.endswith(f"lora_{m}.weight")) for m in "AB")
        torch.testing.assert_close(layer.delta(), factor * (b @ a))


@pytest.mark.parametrize("case", ["lora-rslora", "lora-peft-folder"])
def test_real_files_are_as_strong_as_their_readme_says(case: str, nano: Base):
    if not (CASES / case).is_dir():
        pytest.skip(f"{case} is not beside this checkout")
    file = adapter_files.find(CASES / case)
    times_ba(4.0, adapter_files.load(nano.unet, file), file)


def test_a_real_file_of_kohya(nano: Base):
    file = CASES / "lora-kohya-te" / "ship.safetensors"
    if not file.is_file():
        pytest.skip("lora-kohya-te is not beside this checkout")
    refused(file, "text encoder", "adapter.text_encoder=ignore", base=nano)
    assert len(adapter_files.load(nano.unet, file, of_text="ignore")) == 2
