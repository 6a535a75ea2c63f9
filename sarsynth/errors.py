"""The one exception that a person at the command line is meant to read, and how its message is worded."""

from collections.abc import Iterable
from difflib import get_close_matches

ERROR_FILE = "error.txt"  # one line in the folder of a sweep's job that failed


class UserError(Exception):
    """Something the user can mend.

    The message is one line: it names the file or key at fault and says what to change. The command line prints it as
    `error: ...` without a traceback and exits with code 1; a library caller may catch it like any other exception.
    """


class NotFetchedError(UserError):
    """Something that a run fetches from a network, and a plan leaves there.

    Attributes:
        source: Where it is: a repository of the hub, or an address.
        size_bytes: What fetching it takes of network and disk; None if that is not known.
    """

    def __init__(self, key: str, source: str, size_bytes: int | None = None) -> None:
        super().__init__(f"{key}={source}: not on this machine yet")
        self.source, self.size_bytes = source, size_bytes


class LeakError(UserError):
    """Something learns from held-out images, which stops all jobs that have these data."""


class BadImage(UserError):
    """An image that cannot be used, whatever is done with it: a run leaves it out and says why.

    Attributes:
        reason: Why, in a few words.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}; repair or remove it")
        self.reason = reason


def one_line(error: BaseException) -> str:
    """Shorten a library's message to its first paragraph, on one line."""
    return " ".join(str(error).strip().split("\n\n")[0].split())


def nearest(word: str, valid: Iterable[str], section: str = "") -> str:
    """Name the valid word nearest to a wrong one, and all of them if they are few.

    Args:
        word: The wrong one.
        valid: What could have been said.
        section: Dotted key of the section whose keys these are, if they are keys.
    """
    words = sorted(valid)
    closest = ".".join(filter(None, [section, *get_close_matches(word, words, n=1, cutoff=0.0)]))
    return f"the nearest is {closest}" + (f" (of {', '.join(words)})" if 1 < len(words) <= 12 else "")
