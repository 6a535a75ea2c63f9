"""Fetch a model from the hub: exactly the files that are loaded, once, into the hub's own cache."""

import errno
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from sarsynth import processes
from sarsynth.console import console
from sarsynth.diffusion.layouts import Layout
from sarsynth.errors import NotFetchedError, UserError, one_line

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CANNY = "lllyasviel/control_v11p_sd15_canny"
# What is loaded of the two that the settings name, and bytes as published: known where there is no network to ask.
PUBLISHED = {
    SD15: {
        "model_index.json": 541,
        "scheduler/scheduler_config.json": 308,
        "text_encoder/config.json": 617,
        "text_encoder/model.fp16.safetensors": 246_144_864,
        "tokenizer/merges.txt": 524_619,
        "tokenizer/special_tokens_map.json": 472,
        "tokenizer/tokenizer_config.json": 806,
        "tokenizer/vocab.json": 1_059_962,
        "unet/config.json": 743,
        "unet/diffusion_pytorch_model.fp16.safetensors": 1_719_125_304,
        "vae/config.json": 547,
        "vae/diffusion_pytorch_model.fp16.safetensors": 167_335_342,
    },
    CANNY: {"config.json": 999, "diffusion_pytorch_model.fp16.safetensors": 722_598_642},
}


def is_name(name: str) -> bool:
    """Whether a repository of the hub can have this name, `owner/name`."""
    with suppress(HFValidationError):
        validate_repo_id(name)
        return "/" in name
    return False


def fetch(repo: str, layout: Layout, key: str, otherwise: str, *, ask: bool = True) -> Path:
    """Find a repository's files in the hub's cache; fetch what is not there.

    No network is needed, and nothing asked, where the cache holds a whole model: then it stays the one it was, whatever
    has been published since.

    Args:
        repo: The repository, `owner/name`.
        layout: Which of its files are loaded.
        key: The setting that names it.
        otherwise: What else a person can do, for messages.
        ask: Whether the hub may be asked.

    Returns:
        Its folder in the cache.

    Raises:
        NotFetchedError: It is not in the cache, and the hub may not be asked.
        UserError: It cannot be had.
    """
    if folder := cached(repo, layout):
        return folder
    if not ask:
        raise NotFetchedError(key, repo, published_size(repo, layout))
    if constants.is_offline_mode():
        raise UserError(f"{key}={repo}: {_absent('HF_HUB_OFFLINE is set', repo, layout, key, otherwise)}")
    try:
        revision = HfApi().resolve_revision(repo)
        listed = HfApi().model_info(repo, revision=revision.resolved, files_metadata=True).siblings or []
    except Exception as error:  # no network, no such repository, no permission: all end here
        said = _refusal(error, repo, otherwise) or _absent(_told(error), repo, layout, key, otherwise)
        raise UserError(f"{key}={repo}: {said}") from error
    sizes = {file.rfilename: file.size or 0 for file in listed}
    try:
        names = layout.choose(sizes)
    except ValueError as error:
        raise UserError(f"{key}={repo}: {error}; {otherwise}") from error
    missing = {
        name: sizes[name]
        for name in names
        if not isinstance(try_to_load_from_cache(repo, name, revision=revision.resolved), str)
    }
    _check_disk(repo, key, sum(missing.values()))
    if processes.rank() == 0:
        size = _size(sum(missing.values()))
        console.print(f"fetching {repo} from the hub: {len(missing)} files, {size}, into {_cache()}", markup=False)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=names))
    except Exception as error:  # the same, half-way, and a full disk
        said = _refusal(error, repo, otherwise) or (
            f"the download broke off ({_told(error)}); run the same command again: files that came whole are kept"
        )
        raise UserError(f"{key}={repo}: {said}") from error


def cached(repo: str, layout: Layout) -> Path | None:
    """Find a repository in the hub's cache, without any network; None if it is not there in whole."""
    try:
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=[]))
        here = {file.relative_to(folder).as_posix() for file in layout.files(folder)}
    except (LocalEntryNotFoundError, ValueError):
        return None
    # A fetch that was cut short may lack a file that is optional elsewhere.
    wanted = layout.without_weights()
    with suppress(CachedRepoTreeNotFoundError, ValueError):
        if not here.issuperset(wanted.choose(_listed_before(repo))):
            return None
    return folder


def command(repo: str, layout: Layout) -> str:
    """Say what a person types, where there is a network, to put the files that are loaded into a folder."""
    with suppress(CachedRepoTreeNotFoundError, ValueError):
        names = layout.choose(PUBLISHED.get(repo) or _listed_before(repo))
        return f"{shlex.join(['hf', 'download', repo, *names])} --local-dir FOLDER"
    patterns = ["*.json", "*.txt", *(f"{stem}*.safetensors" for stem in layout.weights)]
    includes = [word for pattern in patterns for word in ("--include", pattern)]
    return f"{shlex.join(['hf', 'download', repo, *includes])} --local-dir FOLDER"


def published_size(repo: str, layout: Layout) -> int | None:
    """Bytes of the files that are loaded, of the repositories that the settings name; None of others."""
    published = PUBLISHED.get(repo)
    return sum(published[name] for name in layout.choose(published)) if published else None


def _listed_before(repo: str) -> list[str]:
    """The names of all files of a repository, as the hub's client keeps them when it fetches any."""
    return [file.path for file in get_cached_repo_tree(repo)]


def _absent(why: str, repo: str, layout: Layout, key: str, otherwise: str) -> str:
    """Say what to do where the hub cannot be reached."""
    known = published_size(repo, layout)
    size = f" ({_size(known)})" if known else ""
    return (
        f"not on this machine, and the hub cannot be reached ({why}); where it can, download it{size} with "
        f"`{command(repo, layout)}` and set {key} to that FOLDER, or {otherwise}"
    )


def _refusal(error: BaseException, repo: str, otherwise: str) -> str | None:
    """Say what to do about an error that trying again does not mend; None for those of the network."""
    for cause in _causes(error):
        if isinstance(cause, GatedRepoError):
            return (
                f"the hub gives it only to those who accepted its terms: do so at {constants.ENDPOINT}/{repo}, log in "
                f"with `hf auth login` and run again, or {otherwise}"
            )
        if isinstance(cause, RepositoryNotFoundError):
            return (
                "no such folder or file, and no such repository on the hub: check its spelling, log in with "
                f"`hf auth login` if it is private, or {otherwise}"
            )
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
            return f"the hub refuses this login: log in anew with `hf auth login`, or {otherwise}"
        number = getattr(cause, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(cause):  # some tell by text alone
            return f"the disk of {_cache()} is full; {_ELSEWHERE}"
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"{_cache()} cannot be written; {_ELSEWHERE}"
    return None


_ELSEWHERE = "make room there, or set the environment variable HF_HOME to a folder elsewhere, and run again"


def _check_disk(repo: str, key: str, size: int) -> None:
    """Refuse to begin what the disk has no room for."""
    there = next(folder for folder in (_cache(), *_cache().parents) if folder.exists())
    if (free := shutil.disk_usage(there).free) < size:
        raise UserError(f"{key}={repo}: needs {_size(size)}, but {_cache()} has {_size(free)} left; {_ELSEWHERE}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _told(error: BaseException) -> str:
    """The root of an error, short."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return f"it answered {cause.response.status_code} {cause.response.reason_phrase}"
    root = causes[-1]
    return f"{type(root).__name__}: {one_line(root)[:150]}"


def _cache() -> Path:
    return Path(constants.HF_HUB_CACHE).expanduser()


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
