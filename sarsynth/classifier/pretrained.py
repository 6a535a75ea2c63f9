"""Weights that a classifier starts from: found before anything is trained, told apart by content, fitted to its images.

Files are safetensors, or `.pth` files as torch writes them. Of these torch's restricted unpickler (`weights_only=True`)
reads tensors and plain containers alone, so that no file can run code. Layers are named as timm or torchvision name
them; the prefixes of data-parallel trainings (`module.`) and of mmpretrain and mmclassification (`backbone.`) are
dropped. timm reads the file and fits the first layer; hub and torch keep the caches.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm.models
import torch
from filelock import FileLock
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from torch import Tensor

from sarsynth import hashes
from sarsynth.console import console
from sarsynth.errors import NotFetchedError, UserError, one_line

KEY = "classifier.pretrained"
BACKBONE = "backbone."
SAFE = "model.safetensors"  # what a file of weights is called on the hub
NAMED = 3  # layers in a message


@dataclass(frozen=True)
class Pretrained:
    """A file of weights."""

    sha256: str  # it alone tells weights apart
    name: str = field(default="", compare=False)  # for people: a repository, or the name of the file
    file: Path | None = field(default=None, compare=False)  # None where only the sha256 is known


def find(network: str, pretrained: bool | str, *, fetch: bool = True) -> Pretrained | None:
    """Find the weights that a network starts from, fetching them if need be.

    Args:
        network: Name of a timm model.
        pretrained: True for those that timm has for it on the hub; or a file, a folder with one safetensors file, or
            the address of a file. False is none.
        fetch: Whether they may be downloaded.

    Returns:
        None where the network starts from random weights.

    Raises:
        NotFetchedError: They are not here, and may not be downloaded.
        UserError: There are none, or the download fails.
    """
    if not pretrained:
        return None
    if pretrained is True:
        repository = _repository(network)
        file = _from_hub(repository, fetch)
        return Pretrained(hashes.of_file(file), repository, file)
    is_address = urlsplit(str(pretrained)).scheme in ("http", "https")
    file = _from_web(str(pretrained), fetch) if is_address else _local(Path(str(pretrained)))
    return Pretrained(hashes.of_file(file), file.name, file)


def _local(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise UserError(f"{KEY}={path}: {len(files) or 'no'} safetensors files in this folder; name one file")
        return files[0]
    if not path.is_file():
        raise UserError(
            f"{KEY}={path}: no such file; name one with weights, or say {KEY}=false to start from random ones"
        )
    return path


def _repository(network: str) -> str:
    """Where on the hub timm has weights for a network."""
    source, name = timm.models.parse_model_name(network)
    published = timm.models.get_pretrained_cfg(name) if source is None else None
    repository = name if source == "hf-hub" else published and published.hf_hub_id
    if not repository:
        raise UserError(
            f"{KEY}=true: timm has no weights of classifier.network={network} on the hub; name a file, or say "
            f"{KEY}=false to start from random ones"
        )
    return repository


def _from_hub(repository: str, fetch: bool) -> Path:
    if not fetch and not isinstance(try_to_load_from_cache(repository, SAFE), str):
        raise NotFetchedError(KEY, repository)
    return _attempt(f"true ({repository})", lambda: Path(hf_hub_download(repository, SAFE)))


def _from_web(url: str, fetch: bool) -> Path:
    """A file in the cache of torch.hub; where its name ends in the beginning of its sha256, that is checked."""
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not fetch and not file.is_file():
        raise NotFetchedError(KEY, url)

    def download() -> Path:
        if not file.is_file():
            if constants.HF_HUB_OFFLINE:
                raise ConnectionError("HF_HUB_OFFLINE is set")
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):  # the processes of a job fetch it once
                if not file.is_file():
                    console.print(f"fetching {url} to {file.parent}", markup=False)
                    digest = torch.hub.HASH_REGEX.search(file.name)
                    torch.hub.download_url_to_file(url, str(file), digest[1] if digest else None, progress=False)
        return file

    return _attempt(f"{url}, not in {file.parent},", download)


def _attempt(what: str, fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except Exception as error:  # of the network, the hub, the disk, or of a file that is not what its name says
        raise UserError(
            f"{KEY}={what} cannot be fetched ({type(error).__name__}: {one_line(error)}); say {KEY}=false to start "
            f"from random weights, or {KEY}=FILE with a copy that was fetched elsewhere"
        ) from error


def load_weights(network: Any, pretrained: Pretrained, channels: int) -> None:
    """Give a timm network these weights, in all layers but the last, which keeps its own.

    timm fits the first layer to the channels of the images: for one channel it is the sum over RGB.

    Args:
        network: As `timm.create_model` makes it.
        pretrained: Of the same architecture, for any number of classes.
        channels: Of the images.

    Raises:
        UserError: The file cannot be read, or holds no weights of this network.
    """
    state, published = _read(pretrained), network.pretrained_cfg  # which names the first and last layer
    last = published.get("classifier") or ()
    prefixes = tuple(f"{layer}." for layer in ([last] if isinstance(last, str) else last))
    expected, given = (
        {name for name in names if not name.startswith(prefixes)} for names in (network.state_dict(), state)
    )
    # Files from before torch 0.4.1 do not count batches, and nothing needs the count.
    if differ := sorted(name for name in expected ^ given if not name.endswith("num_batches_tracked")):
        more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
        raise UserError(_unfit(network, pretrained, f"only one of the two has {', '.join(differ[:NAMED])}{more}"))
    # timm leaves out the last layer of another number of classes; no network has -1.
    weights = published | {"source": "", "state_dict": state, "num_classes": -1}
    try:
        timm.models.load_pretrained(network, weights, in_chans=channels)
    except RuntimeError as error:
        raise UserError(_unfit(network, pretrained, one_line(error))) from error


def _unfit(network: Any, pretrained: Pretrained, why: str) -> str:
    architecture = network.pretrained_cfg["architecture"]
    return (
        f"{KEY}: {pretrained.name} holds no weights of this {architecture} ({why}); name those of this network, or say "
        f"{KEY}=false"
    )


def _read(pretrained: Pretrained) -> dict[str, Tensor]:
    """Read weights under timm's names."""
    try:
        state = timm.models.load_state_dict(str(pretrained.file), use_ema=False)
    except Exception as error:  # of safetensors, torch, or a file that is neither
        raise UserError(
            f"{KEY}: {pretrained.file} cannot be read ({one_line(error)}); name a safetensors file, or a .pth of "
            "tensors alone; of one that you trust, save them so: torch.save(torch.load(FILE, weights_only=False)"
            '["state_dict"], "weights.pth")'
        ) from error
    inner = {name.removeprefix(BACKBONE): value for name, value in state.items() if name.startswith(BACKBONE)}
    return inner or state
