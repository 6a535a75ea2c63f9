"""Which files of a model in diffusers' layout are loaded: these are fetched, hashed and opened, and no other.

A folder, or a repository of the hub, often holds a model several times: in half and full precision, as pickles, for
other libraries. Of each network one safetensors file is chosen, or one set of shards with its index: in half
precision (`fp16`) where there is one.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Self

from safetensors import SafetensorError, safe_open

from sarsynth import hashes

VARIANT = "fp16"
PRECISIONS = {"F16": b"float16", "BF16": b"bfloat16", "F32": b"float32"}  # as transformers spells safetensors' words
NAMED = re.compile(rb'("dtype": ")(\w+)"')
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
PICKLED = "only pickles, which can run code and are never opened: convert it or choose a model with safetensors files"


@dataclass(frozen=True)
class Layout:
    """The files of a kind of model, as names with slashes below its folder."""

    required: tuple[str, ...]  # must be there
    optional: tuple[str, ...] = ()  # loaded if they are there
    weights: tuple[str, ...] = ()  # of each network, the name of its weights without variant, shard and format
    # sets of files, of which at least one must be complete; all files that are there are loaded
    tokenizers: tuple[tuple[str, ...], ...] = ()

    def without_weights(self) -> Self:
        """The configurations and the tokenizer alone."""
        return replace(self, weights=())

    def choose(self, names: Collection[str]) -> list[str]:
        """Choose the files that are loaded, sorted.

        Raises:
            ValueError: Something is missing; says what, in a few words.
        """
        for name in self.required:
            if name not in names:
                raise ValueError(f"no {name}")
        if self.tokenizers and not any(set(files).issubset(names) for files in self.tokenizers):
            raise ValueError(f"no {' or '.join(' with '.join(files) for files in self.tokenizers)}")
        return sorted(self._small.intersection(names).union(*(_weights(stem, names) for stem in self.weights)))

    @property
    def _small(self) -> set[str]:
        """All but weights."""
        return {*self.required, *self.optional, *(name for files in self.tokenizers for name in files)}

    def files(self, folder: Path) -> list[Path]:
        """Choose the files of a folder on disk; raises what `choose` raises."""
        folders = {PurePosixPath(name).parent for name in (*self._small, *self.weights)}
        names = {
            (part / file.name).as_posix()
            for part in folders
            if (folder / part).is_dir()
            for file in (folder / part).iterdir()
            if file.is_file()
        }
        return [folder / name for name in self.choose(names)]

    @contextmanager
    def opened(self, folder: Path) -> Iterator[tuple[Path, str | None]]:
        """Show a loader the chosen files of a folder alone, whatever else lies there.

        Yields:
            A folder that lasts as long as the context, and the `variant` that the loader must ask for.

        Raises:
            ValueError: Something is missing.
        """
        files = self.files(folder)
        with TemporaryDirectory() as links:
            for file in files:
                link = Path(links) / file.relative_to(folder)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(file.resolve())
            yield Path(links), VARIANT if any(f".{VARIANT}" in file.name for file in files) else None


def _weights(stem: str, names: Collection[str]) -> list[str]:
    """Choose one file of weights, or the index of one whole set of shards and these."""
    for variant in (f".{VARIANT}", ""):
        if (whole := f"{stem}{variant}.safetensors") in names:
            return [whole]
        if (index := f"{stem}.safetensors.index{variant}.json") in names:
            shard = re.compile(rf"{re.escape(stem + variant)}-\d{{5}}-of-(\d{{5}})\.safetensors")
            shards = [(name, int(match[1])) for name in names if (match := shard.fullmatch(name))]
            if shards and all(len(shards) == count for _, count in shards):
                return [index, *(name for name, _ in shards)]
    beside = (name for name in names if PurePosixPath(name).parent == PurePosixPath(stem).parent)
    if pickle := min((name for name in beside if name.endswith(PICKLES)), default=None):
        raise ValueError(f"no {stem}.safetensors, {PICKLED} ({pickle})")
    raise ValueError(f"no {stem}.safetensors")


def digest(files: Sequence[Path]) -> str:
    """Hex sha256 over the names and contents of files.

    The precision that a configuration names is no part of it: loaders that are told none keep weights in it, and ours
    are told one. It counts as that of the weights beside it.
    """
    content = hashlib.sha256()
    weights = {file.parent: file for file in files if file.suffix == ".safetensors"}
    for file in files:
        beside = weights.get(file.parent) if file.name == "config.json" else None
        own = _with_precision_of(beside, file) if beside else bytes.fromhex(hashes.of_file(file))
        content.update(file.name.encode() + own)
    return content.hexdigest()


def _with_precision_of(weights: Path, config: Path) -> bytes:
    """Sha256 of a configuration, as if it named the precision of some weights; as it is, where these are damaged."""
    text = config.read_bytes()
    with suppress(SafetensorError), safe_open(weights, "np") as tensors:
        for first in islice(tensors.keys(), 1):
            stored = PRECISIONS.get(tensors.get_slice(first).get_dtype(), rb"\g<2>")
            text = NAMED.sub(rb"\g<1>" + stored + rb'"', text)
    return hashlib.sha256(text).digest()


BASE = Layout(
    required=(
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
    ),
    # gates.json: what a base of our own reached when it was made, a part of it ever since
    optional=(
        "gates.json",
        "tokenizer/added_tokens.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
    ),
    weights=("text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"),
    tokenizers=(("tokenizer/tokenizer.json",), ("tokenizer/vocab.json", "tokenizer/merges.txt")),
)
CONTROLNET = Layout(required=("config.json",), weights=("diffusion_pytorch_model",))
