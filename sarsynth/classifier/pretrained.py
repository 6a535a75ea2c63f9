"""Weights that a classifier starts from: found before anything is trained, known by content, fitted to its images.

Files are safetensors, or `.pth` files as torch writes them. Of these torch's restricted unpickler reads tensors and
plain containers and refuses everything else, so that no file can run code (`weights_only=True`, of torch >= 2.6).
Layers are named as timm or torchvision name them; what comes before these names in files of data-parallel trainings
(`module.`) and of mmpretrain and mmclassification (`backbone.`) is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import timm.models
import torch
from filelock import FileLock
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from torch import Tensor, nn

from sarsynth import hashes
from sarsynth.console import console
from sarsynth.errors import NotFetchedError, UserError, one_line

KEY = "classifier.pretrained"
BACKBONE = "backbone."
SAFE = "model.safetensors"  # what a file of weights is called on the hub
NAMED = 3  # layers in a message


@dataclass(frozen=True)
class Pretrained:
    """A file of weights.

    Attributes:
        sha256: Of the file; it alone tells weights apart.
        name: What people call them.
        file: Where they lie; None of weights that are known from a card alone.
    """

    sha256: str
    name: str = field(default="", compare=False)
    file: Path | None = field(default=None, compare=False)


def find(network: str, pretrained: bool | str, *, fetch: bool = True) -> Pretrained | None:
    """Find the weights that a network starts from, fetching them if need be.

    Args:
        network: Name of a timm model.
        pretrained: True for those that timm has for it on the hub; or a file, a folder with one safetensors file, or
            the address of a file. False is none.
        fetch: Whether a network may be asked.

    Returns:
        None where the network starts from random weights.

    Raises:
        NotFetchedError: They are not here, and no network may be asked.
        UserError: There are none, or they cannot be fetched.
    """
    if not pretrained:
        return None
    if pretrained is True:
        name, file = _of_timm(network, fetch)
    elif urlsplit(str(pretrained)).scheme in ("http", "https"):
        file = _fetched(str(pretrained), fetch)
        name = file.name
    else:
        file = _local(Path(str(pretrained)))
        name = file.name
    return Pretrained(hashes.of_file(file), name, file)


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


def _of_timm(network: str, fetch: bool) -> tuple[str, Path]:
    """Weights that timm publishes, by the name of the repository."""
    source, name = timm.models.parse_model_name(network)
    published = timm.models.get_pretrained_cfg(name) if source is None else None
    repository = name if source == "hf-hub" else published and published.hf_hub_id
    if not repository:
        raise UserError(
            f"{KEY}=true: timm has no weights of classifier.network={network} on the hub; name a file, or say "
            f"{KEY}=false to start from random ones"
        )
    if not fetch and not isinstance(try_to_load_from_cache(repository, SAFE), str):
        raise NotFetchedError(KEY, repository)
    return repository, _attempt(f"true ({repository})", lambda: Path(hf_hub_download(repository, SAFE)))


def _fetched(url: str, fetch: bool) -> Path:
    """A file of the web, in the cache of torch.hub; a sha256 whose beginning its name ends in is checked."""
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
                    console.print(f"fetching {url} to {file.parent}")
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


def load_weights(network: nn.Module, pretrained: Pretrained, channels: int) -> None:
    """Give a timm network these weights; its last layer keeps its own.

    The first layer is fitted to the channels of the images as timm does: of one channel it is the sum over RGB.

    Args:
        network: As `timm.create_model` makes it.
        pretrained: Of the same architecture, for any number of classes.
        channels: Of the images.

    Raises:
        UserError: The file cannot be read, or holds no weights of this network.
    """
    state, published = _read(pretrained), _published(network)
    heads = published.get("classifier") or ()
    head = tuple(f"{layer}." for layer in ([heads] if isinstance(heads, str) else heads))
    ours = {name for name in network.state_dict() if not name.startswith(head)}
    theirs = {name for name in state if not name.startswith(head)}
    # Files from before torch 0.4.1 do not count batches, and nothing asks for it.
    if differ := sorted(name for name in ours ^ theirs if not name.endswith("num_batches_tracked")):
        more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
        raise UserError(_unfit(network, pretrained, f"only one of the two has {', '.join(differ[:NAMED])}{more}"))
    try:
        timm.models.load_pretrained(
            network,
            # No number of classes is this one, so that the head is left out.
            published | {"source": "", "state_dict": state, "num_classes": -1},
            in_chans=channels,
        )
    except RuntimeError as error:
        raise UserError(_unfit(network, pretrained, one_line(error))) from error


def _unfit(network: nn.Module, pretrained: Pretrained, why: str) -> str:
    return (
        f"{KEY}: {pretrained.name} holds no weights of this {_published(network)['architecture']} ({why}); name those "
        f"of this network, or say {KEY}=false"
    )


def _published(network: nn.Module) -> dict[str, Any]:
    """What timm knows of the published weights of a network: among others the names of its first and last layer."""
    return cast(dict[str, Any], network.pretrained_cfg)


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
