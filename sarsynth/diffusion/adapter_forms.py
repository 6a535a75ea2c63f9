"""What a file of an adapter is: its form, the models that it was made for, and how strong it says that its update is.

What a file adds to the weight of a layer is s B A. The factor s stands in no tensor of diffusers or PEFT but in a
configuration: inside the file, or in `adapter_config.json` beside it. kohya's files hold an alpha for each layer, and
s is alpha over rank. A form whose update is no such product, or whose factor is unknown, is refused by its name.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.utils import CONFIG_NAME
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sarsynth.console import console
from sarsynth.errors import UserError, one_line

UNET, PEFT, KOHYA = "unet.", "base_model.model.", "lora_unet_"  # begin the keys of diffusers, PEFT and kohya
OF_TEXT = ("lora_te", "text_encoder", f"{PEFT}text_model.", f"{PEFT}encoder.")  # begin the keys of text encoders

# What only keys of adapters of other kinds have; the first that is found names the file.
OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale|lora_magnitude_vector": "DoRA",
    "lora_mid": "LoCon in Tucker form (lora_mid)",
    r"\.lora_E": "AdaLoRA",
    r"\.boft_": "BOFT",
    r"\.oft_": "OFT",
    r"ia3_l|\.on_input$": "(IA)³",
    "vera_lambda": "VeRA",
    r"lora_(B|up)\.bias$": "LoRA with biases",
    r"modules_to_save|\.diff(_b)?$|\.[wb]_norm$": "LoRA with whole layers",
}
# Ways to begin with which the base's own weights are changed as well, so that a file alone is not the whole.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
MERGE = "merge it into its base where it was trained, and set base.path to that; or train a plain LoRA"
TRAINED_ON = "name a LoRA that was trained on this very base, or choose the base that it was trained on (base=sd15)"
TRANSFORMER = "a diffusion transformer (SD3, Flux)"
FROM_TEXT = {768: "Stable Diffusion v1", 1024: "Stable Diffusion v2", 2048: "SDXL"}  # by the width of text features
# What trainers write into a header: ss_base_model_version of kohya's, modelspec.architecture of others.
SAID = {"xl": "SDXL", "sd_v2|diffusion-v2": FROM_TEXT[1024], "sd3|diffusion-3|flux": TRANSFORMER}

OfText = Literal["refuse", "ignore"]


class BadAdapter(UserError):
    """A file that is no adapter for a base.

    Attributes:
        file: The file.
        reason: Why, in a few words.
    """

    def __init__(self, file: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{file}: {reason}; {remedy}")
        self.file, self.reason = file, reason


@dataclass(frozen=True)
class AdapterFile:
    """What a file says before its tensors are read."""

    file: Path
    shapes: Mapping[str, tuple[int, ...]]  # of its tensors, by key
    metadata: Mapping[str, str]  # of its header

    @classmethod
    def open(cls, file: Path) -> Self:
        """Read the header; a pickle from outside could run code and is never opened.

        Raises:
            BadAdapter: It is no safetensors file.
        """
        try:
            with safe_open(file, "pt") as handle:
                shapes = {key: tuple(handle.get_slice(key).get_shape()) for key in handle.keys()}  # noqa: SIM118
                return cls(file, shapes, handle.metadata() or {})
        except (OSError, SafetensorError) as error:
            raise BadAdapter(file, *_what_it_is(file, error)) from error

    @property
    def config_beside(self) -> Path | None:
        """Where PEFT's configuration belongs, which speaks of files without a prefix of diffusers' or kohya's."""
        bare = not any(key.startswith((UNET, KOHYA, *OF_TEXT[:2])) for key in self.shapes)
        needed = any(key.startswith(PEFT) for key in self.shapes)
        beside = self.file.with_name(CONFIG_NAME)
        return beside if needed or (bare and beside.is_file() and not self._inside) else None

    def refuse(self, reason: str, remedy: str) -> BadAdapter:
        """The error that says why this file is none."""
        return BadAdapter(self.file, reason, remedy)

    def check_kind(self, layers: Mapping[str, Tensor]) -> None:
        """Refuse by its name what is no LoRA, or one of another family of models.

        Raises:
            BadAdapter: It is such a file.
        """
        for mark, kind in OTHER_KINDS.items():
            if found := next((key for key in self.shapes if re.search(mark, key)), None):
                raise self.refuse(f"{kind} ({found}), which is not read: only plain LoRA and LoCon are", MERGE)
        if raw := next((key for key in self.shapes if re.search(r"\.lora_[AB]\.\w+\.weight$", key)), None):
            raise self.refuse(
                f"{raw} is of a model's own state_dict, which does not say how strong an adapter is",
                "write it with save_lora_weights of diffusers or save_pretrained of PEFT",
            )
        own = next((weight.shape[1] for name, weight in layers.items() if name.endswith(".attn2.to_k")), None)
        if (family := self.family) and family != FROM_TEXT.get(own or 0):
            other = "" if family == FROM_TEXT[768] else f"; no LoRA of {family} fits any base of this project"
            raise self.refuse(f"no adapter for this base (made for {family})", TRAINED_ON + other)
        if not self.shapes:
            raise self.refuse("no adapter for this base (it holds no layer)", "name another file, or train it again")

    @property
    def family(self) -> str | None:
        """The models that it was made for, by what only theirs have; None if nothing tells."""
        keys = list(self.shapes)
        if any(key.startswith(("lora_te2_", "text_encoder_2.")) or "add_embedding" in key for key in keys):
            return "SDXL"
        if any(re.match(r"(diffusion_model|transformer|lora_transformer|lora_unet_(double|single)_)", k) for k in keys):
            return TRANSFORMER
        said = self.metadata.get("ss_base_model_version") or self.metadata.get("modelspec.architecture") or ""
        if found := next((family for mark, family in SAID.items() if re.search(mark, said.lower())), None):
            return found
        down = re.compile(r"attn2[._](processor\.)?to_[kv].*(lora_down|lora_A|[._]down)\.weight$")
        return next((FROM_TEXT.get(self.shapes[key][1]) for key in keys if down.search(key)), None)

    def keys_of_unet(self, of_text: OfText) -> list[str]:
        """The keys of tensors that adapt the U-Net.

        Raises:
            BadAdapter: Others adapt the text encoder, and are not to be ignored, or there are no others.
        """
        text = sorted(key for key in self.shapes if key.startswith(OF_TEXT))
        if not text:
            return list(self.shapes)
        rest = [key for key in self.shapes if key not in text]
        if not rest:
            raise self.refuse(f"it adapts the text encoder alone ({text[0]})", "name a LoRA of the U-Net")
        if of_text == "refuse":
            raise self.refuse(
                f"it adapts the text encoder too ({text[0]}), which stays frozen here",
                "use the U-Net's part alone with adapter.text_encoder=ignore, which is another LoRA than was trained, "
                "or train it on the U-Net alone (kohya: --network_train_unet_only)",
            )
        console.print(
            f"  {self.file.name}: {len(text)} of {len(self.shapes)} tensors adapt the text encoder and are left out "
            "(adapter.text_encoder=ignore)",
            markup=False,
        )
        return rest

    @property
    def _inside(self) -> dict[str, Any]:
        """Its own configuration; diffusers puts the name of the network before each key."""
        prefix = UNET if any(key.startswith(UNET) for key in self.shapes) else ""
        try:
            content = json.loads(self.metadata.get(LORA_ADAPTER_METADATA_KEY) or "{}")
            return {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
        except (ValueError, AttributeError, RecursionError) as error:
            raise self.refuse(f"its configuration is no JSON ({one_line(error)[:100]})", "write it anew") from error

    @cached_property
    def config(self) -> LoraConfig | None:
        """The configuration, with PEFT's own defaults; None where strength 1 is meant.

        Raises:
            BadAdapter: It is missing, broken, or of another kind of adapter.
        """
        content, where = self._inside, "its configuration"
        if beside := self.config_beside:
            where = CONFIG_NAME
            try:
                content = json.loads(beside.read_bytes())
            except OSError as error:
                reason = f"its strength stands in {CONFIG_NAME}, which cannot be read ({error.strerror})"
                raise self.refuse(reason, f"put the {CONFIG_NAME} that PEFT wrote beside it") from error
            except (ValueError, RecursionError) as error:
                raise self.refuse(f"{CONFIG_NAME} beside it is no JSON", "copy it once more") from error
            if not isinstance(content, dict) or "peft_type" not in content:
                raise self.refuse(f"{CONFIG_NAME} is none of a LoRA (it names no peft_type)", "copy it once more")
        if not content:
            return None
        if (kind := str(content.get("peft_type") or "LORA").upper()) != "LORA":
            raise self.refuse(f"{where} says {kind}, which is not read: only plain LoRA is", MERGE)
        known = {field.name for field in fields(LoraConfig)} - {"runtime_config"}
        try:
            config = LoraConfig(**{key: value for key, value in content.items() if key in known})
            variants = [field.name for field in fields(LoraConfig) if field.metadata.get("is_lora_variant")]
            numbers = [config.r, config.lora_alpha, *config.rank_pattern.values(), *config.alpha_pattern.values()]
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError("a rank or alpha is not finite")
        except (TypeError, ValueError, AttributeError, ImportError) as error:
            raise self.refuse(f"{where} is none of a LoRA ({one_line(error)[:120]})", "write it anew") from error
        begun = str(config.init_lora_weights).lower()
        variant = next((name for name in variants if getattr(config, name)), "mica" if begun == "mica" else None)
        if variant:
            raise self.refuse(f"{where} says {variant}, which is not read: only plain LoRA is", MERGE)
        if begun.startswith(CHANGES_BASE):
            raise self.refuse(
                f"{where} says init_lora_weights={begun}, which changed the weights of its base too",
                "write it with save_pretrained(path_initial_model_for_weight_conversion=...) of PEFT, or " + MERGE,
            )
        return config

    def factor(self, name: str, rank: int, alphas: Mapping[str, float]) -> float:
        """What multiplies B A of a layer.

        Args:
            name: Of the layer.
            rank: Of its matrices.
            alphas: By layer, those that the file holds.

        Raises:
            ValueError: The file contradicts itself.
        """
        if rank < 1:
            raise ValueError(f"{name} is of rank 0")
        if name in alphas:
            return alphas[name] / rank
        config = self.config
        if config is None:
            return 1.0
        try:
            said = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
            alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.lora_alpha)
        except re.error as error:
            raise ValueError(f"a pattern of its configuration is no regular expression: {error}") from error
        if said != rank:
            raise ValueError(f"{name} is of rank {rank}, and of rank {said} by its configuration")
        return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)


def _what_it_is(file: Path, error: Exception) -> tuple[str, str]:
    """Say what a file is that is no safetensors file, and what to do."""
    try:
        with file.open("rb") as content:
            begin = content.read(64)
    except OSError as unreadable:
        return f"cannot be read ({unreadable.strerror})", "name one safetensors file"
    if begin.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself", "run `git lfs pull` in its folder, or download it"
    if begin.startswith((b"PK\x03\x04", b"\x80")):
        return (
            "a pickle, which can run code and is never opened",
            "convert it where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), ...)",
        )
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a page of the web, not the file itself", "download the file behind it"
    if not begin:
        return "empty", "copy or download it once more"
    return f"no adapter for this base (no whole safetensors file: {one_line(error)[:100]})", "copy it once more"
