"""The frozen base: its door, its files in both layouts, and what is said when there is none."""

import json
import pickle
import re
import shutil
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny import LENGTH, WIDTH, noisy, predict, tiny_base
from torch import Tensor

from sarsynth.data.transforms import to_float
from sarsynth.diffusion.base import NANO, Base, resolve
from sarsynth.diffusion.hub import SD15
from sarsynth.errors import UserError
from sarsynth.sim import CLASSES, render

# --- The shipped base -------------------------------------------------------------------------------------------------


def views(domain: str, each: int = 4) -> Tensor:
    """Pictures of the embedded world that the base has not been trained on, (N, 3, 64, 64) in [-1, 1]."""
    pixels = [render(0, 2_000_000 + i, name, domain).pixels for name in CLASSES for i in range(each)]
    return to_float(torch.stack([torch.from_numpy(p.copy()) for p in pixels]).permute(0, 3, 1, 2))


def test_the_shipped_weights_are_small_half_precision_safetensors():
    files = [file for file in NANO.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16e6
    weights = [file for file in files if file.suffix not in (".json", ".txt", ".md", ".png")]
    assert {file.suffix for file in weights} == {".safetensors"}
    for file in weights:
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_shapes_and_ranges_at_the_door(nano: Base):
    images = views("regular", each=1)
    mean, deviation = nano.encode(images)
    side = 64 // nano.latent_factor
    assert mean.shape == deviation.shape == (5, nano.unet.config.in_channels, side, side)
    assert (deviation > 0).all()
    decoded = nano.decode(mean)
    assert decoded.shape == images.shape
    assert decoded.dtype == torch.float32
    assert decoded.abs().max() <= 1
    features = nano.encode_text(["a photo", "a SAR image of tanker ship"])
    assert features.shape == (2, *nano.tokenize(["a photo"]).shape[1:], nano.unet.config.cross_attention_dim)
    assert nano.unet(mean, torch.tensor(3), features[:1].expand(5, -1, -1)).sample.shape == mean.shape


def test_scaled_latents_have_about_unit_variance(nano: Base):
    """The noise schedule supposes it."""
    mean, deviation = nano.encode(views("regular"))
    assert (mean.var() + deviation.square().mean()).sqrt().item() == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize(("domain", "least"), [("regular", 24.0), ("sar", 20.0)])
def test_decoding_undoes_encoding(nano: Base, domain: str, least: float):
    images = views(domain).expand(-1, 3, -1, -1)
    squared = (nano.decode(nano.encode(images)[0]) - images).square().mean(dim=(1, 2, 3))
    psnr = 10 * torch.log10(4 / squared)
    assert psnr.mean() >= least
    assert psnr.min() >= least - 6


def test_everything_is_frozen_and_in_evaluation_mode(nano: Base):
    assert not any(parameter.requires_grad for parameter in nano.parameters())
    assert not any(module.training for module in nano.modules())


def test_any_ascii_prompt_has_tokens(nano: Base):
    """End of text also stands for what the tokenizer does not know, so none may come before the end."""
    tokenizer = nano.tokenizer
    # Pairs: alone and inside a word characters have different tokens.
    for text in [*string.printable.strip(), *(f"{c}x{c}" for c in string.printable.strip()), "Ünïcode ist gefährlich"]:
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        if text.isascii():
            assert len(ids) > 2
            assert not {tokenizer.unk_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id} & {*ids[1:-1]}, text


def test_different_words_have_different_features_and_long_prompts_are_cut(nano: Base):
    texts = ["a photo of a cargo ship", "a photo of a tanker ship", ""]
    a, b, empty = nano.encode_text(texts)
    assert not torch.allclose(a, b)
    assert not torch.allclose(a, empty)
    one_by_one = torch.cat([nano.encode_text([text]) for text in texts])
    torch.testing.assert_close(one_by_one, torch.stack([a, b, empty]))
    length = nano.text_encoder.config.max_position_embeddings
    assert nano.tokenize(["word " * 500, ""]).shape == (2, length)


# --- Files ------------------------------------------------------------------------------------------------------------


def test_a_saved_base_is_loaded_again(tiny: Base, tmp_path: Path):
    tiny.save(tmp_path / "base")
    loaded = Base.load(tmp_path / "base")
    assert all(p.dtype == torch.float32 for p in (*tiny.parameters(), *loaded.parameters()))
    # Half precision on disk; saving rounds the base in memory too, so that both are the same from then on.
    torch.testing.assert_close(predict(loaded), predict(tiny), rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded.encode_text(["a photo"]), tiny.encode_text(["a photo"]))
    assert loaded.noise_scheduler.config.beta_schedule == "scaled_linear"
    assert loaded.noise_scheduler.config.prediction_type == "epsilon"
    files = {path.name for path in (tmp_path / "base").iterdir()}
    assert files == {"model_index.json", "vae", "unet", "text_encoder", "tokenizer", "scheduler"}


def original_names(base: Base) -> dict[str, Tensor]:
    """A base's weights under the names of the first release, as in `v1-5-pruned-emaonly.safetensors`.

    That file numbers blocks of the U-Net one by one from input to output, and those of the decoder from the output.
    """
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    edges = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }

    def unet(name: str) -> str:
        module, _, leaf = name.rpartition(".")
        if module in edges:
            return f"{edges[module]}.{leaf}"
        parts = name.split(".")
        inside = ".".join(parts[4:]) if parts[0] != "mid_block" else ".".join(parts[3:])
        if "resnets" in parts:
            inner, _, leaf = inside.rpartition(".")
            inside = f"{resnet[inner]}.{leaf}"
        if parts[0] == "mid_block":
            place = 1 if parts[1] == "attentions" else 2 * int(parts[2])
            return f"middle_block.{place}.{inside}"
        block, kind, layer = int(parts[1]), parts[2], int(parts[3])
        if parts[0] == "down_blocks":
            if kind == "downsamplers":
                return f"input_blocks.{3 * block + 3}.0.op.{leaf}"
            return f"input_blocks.{3 * block + layer + 1}.{int(kind == 'attentions')}.{inside}"
        if kind == "upsamplers":
            return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.{inside}"  # the coarsest has no attention
        return f"output_blocks.{3 * block + layer}.{int(kind == 'attentions')}.{inside}"

    def vae(name: str) -> str:
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        for ours, theirs in [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v")]:
            name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
        return name.replace("attn_1.to_out.0.", "attn_1.proj_out.").replace("conv_shortcut", "nin_shortcut")

    named = {f"model.diffusion_model.{unet(name)}": w for name, w in base.unet.state_dict().items()}
    for name, weight in base.vae.state_dict().items():
        # There, the attention of the autoencoder is made of convolutions of one pixel.
        pixel = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight", name)
        named[f"first_stage_model.{vae(name)}"] = weight[..., None, None] if pixel else weight
    for name, weight in base.text_encoder.state_dict().items():
        named[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = weight
    assert len(named) == sum(len(m.state_dict()) for m in (base.unet, base.vae, base.text_encoder))
    # What else lies in that file: a buffer that newer versions compute, and the noise schedule.
    named["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    named["alphas_cumprod"] = base.noise_scheduler.alphas_cumprod
    return named


def test_one_file_in_the_first_releases_layout_is_the_same_base(tmp_path: Path):
    tiny = tiny_base(levels=4, layers=2)
    tiny.save(tmp_path / "base")
    save_file({k: w.contiguous() for k, w in original_names(tiny).items()}, tmp_path / "one.safetensors")
    configs = tmp_path / "configs"  # only configurations and tokenizer lie here
    shutil.copytree(tmp_path / "base", configs, ignore=shutil.ignore_patterns("*.safetensors"))

    index = json.loads((configs / "model_index.json").read_text())  # as published: it names parts that are not loaded
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (configs / "model_index.json").write_text(json.dumps(index))

    where, content = resolve(str(tmp_path / "one.safetensors"), str(configs))
    assert where == tmp_path / "one.safetensors"
    loaded = Base.load(where, str(configs))
    torch.testing.assert_close(predict(loaded), predict(tiny), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        loaded.encode_text(["a SAR image"]), tiny.encode_text(["a SAR image"]), rtol=0, atol=1e-5
    )
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.encode(images)[0], tiny.encode(images)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(loaded.decode(noisy(tiny)[0]), tiny.decode(noisy(tiny)[0]), rtol=0, atol=1e-5)
    assert loaded.encode_text(["x"]).shape == (1, LENGTH, WIDTH)
    assert content != resolve(str(tmp_path / "base"))[1]


def test_the_hash_is_of_names_and_contents(tmp_path: Path):
    tiny_base().save(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    known = resolve(str(tmp_path / "a"))[1]
    assert resolve(str(tmp_path / "elsewhere" / "b"))[1] == known, "where it lies does not matter"
    config = tmp_path / "a" / "vae" / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 0.18215', '"scaling_factor": 0.2'))
    assert resolve(str(tmp_path / "a"))[1] != known
    assert resolve(None) == resolve(str(NANO))


def test_the_embedded_base_has_the_hash_it_always_had():
    """Everything that is made on it is named after it."""
    assert resolve(None)[1] == "20262e0ce32b6b37426213047e52058b1d23fced2c7cd8da5fe13f37e486bfc0"


def test_the_precision_that_a_configuration_names_is_no_part_of_the_hash(tmp_path: Path):
    """Our loader is told one; plain diffusers would load the text encoder alone in the one that is named."""
    tiny_base().save(tmp_path / "a")
    config = tmp_path / "a/text_encoder/config.json"
    assert json.loads(config.read_text())["dtype"] == "float32"
    known = resolve(str(tmp_path / "a"))[1]
    config.write_text(config.read_text().replace('"float32"', '"float16"'))
    assert resolve(str(tmp_path / "a"))[1] == known
    config.write_text(config.read_text().replace('"quick_gelu"', '"gelu"'))
    assert resolve(str(tmp_path / "a"))[1] != known


def test_the_model_cards_snippet_runs_as_it_stands():
    """Without a precision: all parts are loaded in one, and make an image that is none of the noise it began with."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (NANO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "dtype" not in snippet
    made: dict[str, Any] = {}
    exec(snippet, made)  # what a person copies from the card
    assert {part.dtype for part in (made["pipe"].unet, made["pipe"].vae, made["pipe"].text_encoder)} == {torch.float32}
    assert made["image"].size == (64, 64)


def test_a_base_that_we_save_loads_in_plain_diffusers_too(tmp_path: Path):
    base = tiny_base()
    base.save(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    torch.testing.assert_close(predict(pipe), predict(base), rtol=1e-2, atol=1e-2)


def test_the_hash_of_one_file_of_weights_is_also_of_its_configurations(tmp_path: Path):
    tiny_base().save(tmp_path / "configs")
    (tmp_path / "one.safetensors").write_bytes(b"weights")
    known = resolve(str(tmp_path / "one.safetensors"), str(tmp_path / "configs"))[1]
    scheduler = tmp_path / "configs/scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    assert resolve(str(tmp_path / "one.safetensors"), str(tmp_path / "configs"))[1] != known
    with pytest.raises(
        UserError, match=f"^base.config={SD15}: .*`hf download {SD15} model_index.json .*set base.config"
    ):
        resolve(str(tmp_path / "one.safetensors"))


class Poison:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def names(folder: Path, old: str, new: str) -> None:
    for file in [*folder.glob("*/*.safetensors")]:
        file.rename(file.with_name(file.name.replace(old, new)))


def test_half_precision_is_loaded_where_there_is_one_and_pickles_never(tmp_path: Path):
    """What lies beside the files that are loaded changes neither the base nor its hash."""
    half, full = tiny_base(seed=1), tiny_base(seed=2)
    half.save(tmp_path / "base")
    names(tmp_path / "base", ".safetensors", ".fp16.safetensors")
    alone = resolve(str(tmp_path / "base"))[1]
    assert torch.equal(predict(Base.load(tmp_path / "base")), predict(half))

    full.save(tmp_path / "base")  # beside it, in full names
    mark = tmp_path / "a pickle was opened"
    for stem in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/pytorch_model"):
        for end in (".bin", ".fp16.bin", ".non_ema.bin"):
            (tmp_path / "base" / f"{stem}{end}").write_bytes(pickle.dumps(Poison(mark)))
    (tmp_path / "base/unet/NOTES").write_text("a name without an ending")
    (tmp_path / "base/unet/diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not to be opened")
    assert resolve(str(tmp_path / "base"))[1] == alone
    loaded = Base.load(tmp_path / "base")
    assert torch.equal(predict(loaded), predict(half))
    assert torch.equal(loaded.encode_text(["a photo"]), half.encode_text(["a photo"]))

    for file in (tmp_path / "base").glob("*/*.fp16.safetensors"):
        file.unlink()
    assert resolve(str(tmp_path / "base"))[1] != alone
    assert torch.equal(predict(Base.load(tmp_path / "base")), predict(full)), "in half precision only pickles"

    for file in (tmp_path / "base").glob("unet/*.safetensors"):
        file.unlink()
    for use in (resolve, lambda path: Base.load(Path(path))):
        with pytest.raises(UserError, match=f"^base.path={tmp_path}.*: no unet/.*only pickles.*{REMEDY}") as refusal:
            use(str(tmp_path / "base"))
        assert "\n" not in str(refusal.value)
    assert not mark.exists()


def test_networks_in_shards_and_in_other_precisions_side_by_side_are_loaded(tmp_path: Path):
    tiny = tiny_base()
    tiny.save(tmp_path / "base")
    for file in (tmp_path / "base/unet").glob("*.safetensors"):
        file.unlink()
    tiny.unet.save_pretrained(tmp_path / "base/unet", max_shard_size="20KB", variant="fp16")
    assert len(list((tmp_path / "base/unet").glob("*.fp16-*-of-*.safetensors"))) > 1
    assert resolve(str(tmp_path / "base"))
    assert torch.equal(predict(Base.load(tmp_path / "base")), predict(tiny))


# --- No base ----------------------------------------------------------------------------------------------------------

REMEDY = "download stable-diffusion-v1-5/stable-diffusion-v1-5 .*set base.path .*base=sd-nano base.path=null"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/no/such/folder", "base.path=/no/such/folder: no such folder or file"),
        ("./nothing-here", "base.path=./nothing-here: no such folder or file"),
    ],
)
def test_a_base_that_is_not_there(path: str, what: str):
    with pytest.raises(UserError, match=f"^{what}.*{REMEDY}") as refusal:
        resolve(path)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_no_base(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(UserError, match=f"base.path={tmp_path}: no model_index.json.*{REMEDY}"):
        resolve(str(tmp_path))


def test_damaged_or_foreign_files_are_one_line(tmp_path: Path):
    tiny_base().save(tmp_path / "base")
    weights = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()

    def refused(where: Path, config: str | None = None) -> str:
        with pytest.raises(UserError, match=f"^base.path={where}: .*{REMEDY}") as refusal:
            Base.load(where, config)
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    weights.write_bytes(whole[:1000])
    refused(tmp_path / "base")
    weights.unlink()
    refused(tmp_path / "base")
    weights.write_bytes(whole)
    (tmp_path / "some.safetensors").write_bytes(whole[:1000])
    refused(tmp_path / "some.safetensors", str(tmp_path / "base"))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", str(tmp_path / "base"))
    index = tmp_path / "base" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"unet": ["diffusers", "NoSuchModel"]}))
    refused(tmp_path / "base")


def test_where_a_base_lay_is_no_part_of_what_is_saved(tmp_path: Path):
    """So that two runs that tune the same base leave the same bytes."""
    tiny_base().save(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("one", "two"):
        Base.load(tmp_path / name).save(tmp_path / "again" / name)
    one, two = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "again" / "one", tmp_path / "again" / "two")
    )
    assert one == two
