"""Find the model that a setting names: a folder, a file, or a repository, fetched once into the hub's cache."""

import errno
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
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
# Bytes, as published, of the files that are loaded of the two that the settings name: known without a network.
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
_ELSEWHERE = "make room there, or set the environment variable HF_HOME to a folder elsewhere, and run again"


@dataclass(frozen=True)
class ModelSetting:
    """A setting that names a model."""

    key: str  # of the setting
    layout: Layout  # which files of the model are loaded
    remedy: str  # for messages: what to do where the setting names no such model
    alternative: str  # for messages: what to do instead where the hub does not give it
    embedded: Path | None = None  # the model inside the package that null stands for, if there is one

    def find(self, name: str | None, *, ask: bool = True) -> Path:
        """Find the folder or the file that the setting names; fetch it where it is a repository of the hub.

        Args:
            name: The setting's value.
            ask: Whether the hub may be asked.

        Raises:
            NotFetchedError: It is on the hub alone, and that may not be asked.
            UserError: There is none.
        """
        where = self.embedded if name is None and self.embedded else Path(str(name)).expanduser()
        if not where.exists():
            if not is_name(str(name)):
                raise UserError(f"{self.key}={name or 'null'}: no such folder or file; {self.remedy}")
            return self.fetch(str(name), ask=ask)
        if where.is_dir():
            try:
                self.layout.files(where)
            except ValueError as error:
                raise UserError(f"{self.key}={where}: {error} in this folder; {self.remedy}") from error
        return where

    def fetch(self, repo: str, *, ask: bool = True) -> Path:
        """Find a repository's files in the hub's cache; fetch those that are missing.

        Where the cache holds a whole model, no network is needed and nothing is asked: the model stays the one it was,
        whatever has been published since.

        Args:
            repo: The repository, `owner/name`.
            ask: Whether the hub may be asked.

        Returns:
            Its folder in the cache.

        Raises:
            NotFetchedError: It is not in the cache, and the hub may not be asked.
            UserError: The hub does not give it, or the disk has no room.
        """
        if folder := cached(repo, self.layout):
            return folder
        if not ask:
            raise NotFetchedError(self.key, repo, published_size(repo, self.layout))
        if constants.is_offline_mode():
            raise UserError(f"{self.key}={repo}: {self._unreachable('HF_HUB_OFFLINE is set', repo)}")
        try:
            revision = HfApi().resolve_revision(repo)
            listed = HfApi().model_info(repo, revision=revision.resolved, files_metadata=True).siblings or []
        except Exception as error:  # no network, no such repository, no permission: all end here
            message = self._refusal(error, repo) or self._unreachable(_root_cause(error), repo)
            raise UserError(f"{self.key}={repo}: {message}") from error
        sizes = {file.rfilename: file.size or 0 for file in listed}
        try:
            names = self.layout.choose(sizes)
        except ValueError as error:
            raise UserError(f"{self.key}={repo}: {error}; {self.alternative}") from error
        here = {
            name for name in names if isinstance(try_to_load_from_cache(repo, name, revision=revision.resolved), str)
        }
        self._check_disk(repo, missing := {name: sizes[name] for name in names if name not in here})
        if processes.rank() == 0:
            size = _size(sum(missing.values()))
            console.print(f"fetching {repo} from the hub: {len(missing)} files, {size}, into {_cache()}", markup=False)
        try:
            return Path(snapshot_download(repo, revision=revision, allow_patterns=names))
        except Exception as error:  # the same, half-way, and a full disk
            message = self._refusal(error, repo) or (
                f"the download broke off ({_root_cause(error)}); run the same command again: files that came whole are "
                "kept"
            )
            raise UserError(f"{self.key}={repo}: {message}") from error

    def _check_disk(self, repo: str, sizes: Mapping[str, int]) -> None:
        """Refuse to fetch files that the disk has no room for."""
        size, folder = sum(sizes.values()), next(folder for folder in (_cache(), *_cache().parents) if folder.exists())
        if (free := shutil.disk_usage(folder).free) < size:
            raise UserError(
                f"{self.key}={repo}: needs {_size(size)}, but {_cache()} has {_size(free)} left; {_ELSEWHERE}"
            )

    def _unreachable(self, why: str, repo: str) -> str:
        """Say what to do where the hub cannot be reached."""
        known = published_size(repo, self.layout)
        size = f" ({_size(known)})" if known else ""
        return (
            f"not on this machine, and the hub cannot be reached ({why}); where it can, download it{size} with "
            f"`{command(repo, self.layout)}` and set {self.key} to that FOLDER, or {self.alternative}"
        )

    def _refusal(self, error: BaseException, repo: str) -> str | None:
        """Say what to do about an error that trying again does not mend; None for those of the network."""
        for cause in _causes(error):
            if isinstance(cause, GatedRepoError):
                return (
                    "the hub gives it only to those who accepted its terms: do so at "
                    f"{constants.ENDPOINT}/{repo}, log in with `hf auth login` and run again, or {self.alternative}"
                )
            if isinstance(cause, RepositoryNotFoundError):
                return (
                    "no such folder or file, and no such repository on the hub: check its spelling, log in with "
                    f"`hf auth login` if it is private, or {self.alternative}"
                )
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
                return f"the hub refuses this login: log in anew with `hf auth login`, or {self.alternative}"
            number = getattr(cause, "errno", None)
            # Some libraries tell that the disk is full by the text alone.
            if number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(cause):
                return f"the disk of {_cache()} is full; {_ELSEWHERE}"
            if number in (errno.EACCES, errno.EPERM, errno.EROFS):
                return f"{_cache()} cannot be written; {_ELSEWHERE}"
        return None


def is_name(name: str) -> bool:
    """Whether a repository of the hub can have this name, `owner/name`."""
    with suppress(HFValidationError):
        validate_repo_id(name)
        return "/" in name
    return False


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
    """Bytes of the files that are loaded, of the repositories that the settings name; None for others."""
    published = PUBLISHED.get(repo)
    return sum(published[name] for name in layout.choose(published)) if published else None


def _listed_before(repo: str) -> list[str]:
    """The names of all files of a repository, as the hub's client keeps them when it fetches any."""
    return [file.path for file in get_cached_repo_tree(repo)]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _root_cause(error: BaseException) -> str:
    """The root cause of an error, in a few words."""
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
