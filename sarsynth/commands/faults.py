"""What a run cannot help, told in one line: full disks, stores that are closed, gone or damaged."""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sarsynth.config.schema import Paths
from sarsynth.errors import UserError
from sarsynth.report.terminal import size
from sarsynth.store.building import Store
from sarsynth.store.damage import what_is_damaged

LOG = logging.getLogger(__name__)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries say the same that write files by themselves: safetensors' Rust, torch's C++.
FULL_IN_WORDS = (*(f"(os error {number})" for number in FULL), "PytorchStreamWriter failed", "unexpected pos")


@contextmanager
def told(paths: Paths, store: Store | None = None) -> Iterator[None]:
    """Turn what goes wrong inside the block, and is no defect, into one line that names the key and a remedy.

    Args:
        paths: Where the run writes.
        store: What it reads from: where reading fails, a damaged file there is looked for.

    Raises:
        UserError: In place of the error, whose traceback the log has.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = _full(error, paths) or _closed_or_gone(error, paths) or (store and what_is_damaged(store.whole))
        if not message:
            raise
        LOG.exception("told as: %s", message)
        raise UserError(message) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it followed from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _full(error: Exception, paths: Paths) -> str | None:
    """Say that there is no room, if that is why; None if it is not."""
    for cause in _chain(error):
        words = str(cause)
        if getattr(cause, "errno", None) in FULL or any(told in words for told in FULL_IN_WORDS):
            why = getattr(cause, "strerror", None) or "no space left"
            places = [("paths.store", paths.store), ("paths.logs", paths.logs)]
            free = " and ".join(f"{key}={path} has {_free(Path(path))} free" for key, path in places)
            return f"{free}, and a file cannot be written ({why}); make room or choose another, and run again to go on"
    return None


def _free(folder: Path) -> str:
    while not folder.exists():
        folder = folder.absolute().parent
    return size(shutil.disk_usage(folder).free)


def _closed_or_gone(error: Exception, paths: Paths) -> str | None:
    """Say that a file of the run cannot be read or written, if that is why; None if it is not."""
    for cause in _chain(error):
        if not isinstance(cause, OSError) or not isinstance(cause.filename, str | Path):
            continue
        file = Path(cause.filename).absolute()
        for key, path in (("paths.store", paths.store), ("paths.logs", paths.logs)):
            if file.is_relative_to(Path(path).absolute()):
                gone = isinstance(cause, FileNotFoundError)
                remedy = "was it removed meanwhile? run again" if gone else "choose another, or have it opened to you"
                return f"{key}={path}: {cause.strerror}: {cause.filename}; {remedy}"
    return None
