"""Class names as people give them, and the names of files that are made of them: the only place for both. Torch-free.

A class keeps its own name in every table and caption. A file is called by it where any file system takes it as it is;
else by what of it any file system takes, and the beginning of its hash.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from sarsynth.errors import UserError

LONGEST = 60  # characters of a name that a file is called by as it is; UTF-8 has up to four bytes for one, a file 255
BARRED = frozenset('/\\:*?"<>|')  # by one file system or another
BREAKS = "\n\r\t"  # of lines: control characters that a table may hold


def check_name(name: str, where: str) -> None:
    """Refuse a class that is called by a path out of a folder, or by what no text holds.

    Args:
        name: Of the class.
        where: File and line that name it, or the image that is of it.

    Raises:
        UserError: Names both, and what is wrong.
    """
    wrong = None
    if not name.strip():
        wrong = "it is empty"
    elif name.startswith(("/", "\\")) or {".", ".."} & set(re.split(r"[/\\]", name)):
        wrong = "it is a path"
    elif barred := [sign for sign in name if unicodedata.category(sign) == "Cc" and sign not in BREAKS]:
        wrong = f"it holds the control character {barred[0]!a}"
    if wrong:
        raise UserError(f"{where}: {name!a} is no name of a class: {wrong}; give it another")


def file_names(classes: Iterable[str]) -> dict[str, str]:
    """Give each class the name of its files, without suffix; no two differ by no more than case."""
    classes = list(classes)
    alike = Counter(_folded(name) for name in classes)
    return {name: name if _is_plain(name) and alike[_folded(name)] == 1 else _safe(name) for name in classes}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_plain(name: str) -> bool:
    """Whether any file system takes a name, and gives it back as it is."""
    kept = name == unicodedata.normalize("NFC", name) == name.strip(" .")
    return kept and name.isprintable() and len(name) <= LONGEST and not BARRED & set(name)


def _safe(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_-")[:LONGEST]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain}-{digest}" if plain else digest
