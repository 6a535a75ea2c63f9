"""The file that a run leaves its figures in, as others read it. Torch-free."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sarsynth.errors import UserError

RESULT = "result.json"
REASONS = "filter.jsonl"  # of a filter's artifact: a line an image
RESULT_VERSION = 2  # 1 had no protocol and no confusion matrix, and its predictions no names
PARTS = (  # of what evaluate.py finds
    *("method", "base", "data", "split", "minor", "classes", "seeds", "protocol", "classifier"),
    *("fidelity", "realism", "memorisation", "filter", "inputs"),
)
LEAKS = {  # what is wrong with a way to choose checkpoints
    "release_vote": "checkpoints chosen on the test set, as the authors' release does: these scores are too good",
}


def leaks(result: Mapping[str, Any]) -> list[str]:
    """Say what makes the scores of a result too good: how checkpoints are chosen, what is learnt from."""
    data = result.get("leaks", {})
    learnt = [f"{slot}: {found['count']} held-out images are learnt from" for slot, found in data.items()]
    return [one for one in (result["protocol"]["leaks"], *learnt) if one]


def write_result(result: Mapping[str, Any], folder: Path) -> None:
    """Write a run's result.json; what is no text in the name of a file becomes an escape of JSON's."""
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    (folder / RESULT).write_text(text, encoding="utf-8", errors="backslashreplace")


def read_result(file: Path) -> dict[str, Any] | None:
    """Read a result.json; None if there is none.

    Raises:
        UserError: It is damaged, of another version, or lacks a part.
    """
    if not file.exists():
        return None
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        version = result.get("version", 1)
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); run its command again") from error
    if version != RESULT_VERSION:
        raise UserError(
            f"{file} is of version {version}, and this sarsynth reads {RESULT_VERSION}; run its command again, "
            "which makes only what is missing"
        )
    if "classifier" in result and (lacking := [part for part in PARTS if part not in result]):
        raise UserError(f"{file} lacks {', '.join(lacking)}; run its command again, which makes only what is missing")
    return result
