"""Push files to a repository of the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from sarsynth.errors import UserError, one_line

Kind = Literal["model", "dataset"]  # of repository
TOKEN = "make one that may write at https://huggingface.co/settings/tokens, then `hf auth login` or set HF_TOKEN"


def check_push(repo: str) -> None:
    """Refuse a push that could not work, before anything is made for it.

    Raises:
        UserError: The name is none, or nobody is logged in, or the hub does not answer.
    """
    key = f"push={repo}"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{key}: {one_line(error)}") from error
    if constants.is_offline_mode():
        raise UserError(f"{key}: HF_HUB_OFFLINE is set; unset it, or leave push out")
    if not get_token():
        raise UserError(f"{key}: no token of the hub; {TOKEN}")
    try:
        HfApi().whoami()
    except HfHubHTTPError as error:
        raise _refused(key, error) from error
    except Exception as error:  # of the client's own libraries, which change
        raise UserError(f"{key}: {constants.ENDPOINT} cannot be reached ({one_line(error)[:200]})") from error


def push(repo: str, kind: Kind, files: Mapping[str, Path], *, private: bool = True) -> str:
    """Put files into a repository, in one commit; it is made if it is not there.

    Args:
        repo: Its name, USER/NAME.
        kind: Of repository.
        files: By their names in it; what else lies there stays.
        private: If it is made: whether others may not see it.

    Returns:
        Its address.

    Raises:
        UserError: The hub refuses it, or cannot be reached.
    """
    key, api = f"push={repo}", HfApi()
    operations = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
    try:
        made = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message="Push from sarsynth", repo_type=kind)
    except HfHubHTTPError as error:
        raise _refused(key, error) from error
    except Exception as error:
        raise UserError(f"{key}: the hub took nothing ({one_line(error)[:200]}); run again") from error
    return str(made)


def _refused(key: str, error: HfHubHTTPError) -> UserError:
    """Say why the hub refuses something."""
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return UserError(f"{key}: the hub refuses this token ({one_line(error)[:120]}); {TOKEN}")
    return UserError(f"{key}: the hub says: {one_line(error)[:300]}")
