"""result.json, the file in which a run leaves its figures: its version, its parts, how it is read. Torch-free."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sarsynth.errors import UserError
from sarsynth.files import write_text

RESULT = "result.json"
REASONS = "filter.jsonl"  # in a filter's artifact: a line an image
FIGURES = ("precision", "recall", "f1", "support")  # of a class; support is its number of test images
MEANS = ("minor_f1", "macro_f1", "accuracy")  # figures over several classes
# The same that need more than F1 at one threshold: mean recall; area under the precision-recall curve, mean over
# classes; expected calibration error, of which less is better.
BEYOND_F1 = ("balanced_accuracy", "pr_auc", "ece")
AREA = "pr_auc"  # of a class, where a name of the class goes with it
RESULT_VERSION = 2  # 1 had no protocol and no confusion matrix, and its predictions no names
PARTS = (  # of a result of evaluate.py
    *("method", "base", "data", "split", "minor", "classes", "seeds", "protocol", "classifier"),
    *("fidelity", "realism", "memorisation", "filter", "inputs"),
)
SECTIONS = ("protocol", "classifier", "fidelity", "inputs")  # parts that have parts of their own, whatever the method
LEAKS = {  # what is wrong with a way to choose checkpoints
    "release_vote": "checkpoints chosen on the test set, as the authors' release does: these scores are too good"
}


def figure_names(classes: Sequence[str]) -> list[tuple[str, str | None]]:
    """Name every figure of a method in its order: the figure, and the class that it is of, None if of several."""
    balanced, *of_shares = BEYOND_F1
    by_class = {figure: [(figure, name) for name in classes] for figure in ("f1", AREA)}
    over_classes = [(name, None) for name in (*MEANS, balanced)]
    return [*by_class["f1"], *over_classes, *by_class[AREA], *((name, None) for name in of_shares)]


def alike_in(classes: Sequence[str]) -> list[slice]:
    """Find figures of one kind, each of a class, in the order of `figure_names`."""
    names, count = figure_names(classes), len(classes)
    starts = [names.index((figure, classes[0])) for figure in ("f1", AREA)]
    return [slice(start, start + count) for start in starts]


def leaks(result: Mapping[str, Any]) -> list[str]:
    """Say what makes the scores of a result too good: how checkpoints are chosen, or which images are learnt from."""
    slots = result.get("leaks", {})
    learnt = [f"{slot}: {leak['count']} held-out images are learnt from" for slot, leak in slots.items()]
    return [leak for leak in (result["protocol"]["leaks"], *learnt) if leak]


def dropped(result: Mapping[str, Any]) -> list[str]:
    """Say which images a result did without, since they are held out."""
    slots = result.get("dropped", {})
    return [f"{slot}: {left['count']} held-out images are left out of training" for slot, left in slots.items()]


def not_scored(name: str, without_images: Sequence[str], unknown: Mapping[str, int]) -> list[str]:
    """Say which classes only one of two knows: the classifiers, or the second test set of this name.

    Args:
        name: Of the second test set.
        without_images: Classes that only the classifiers know.
        unknown: Classes that only the second set has, and of how many test images.
    """
    sizes = ", ".join(f"{other} ({size:,} images)" for other, size in unknown.items())
    lines = []
    if without_images:
        lines.append(f"only the classifiers know {', '.join(without_images)}: {name} has no test image")
    if unknown:
        lines.append(f"only {name} has {sizes}: not scored, since the classifiers know no such class")
    return lines


def write_result(result: Mapping[str, Any], folder: Path) -> None:
    """Write a run's result.json; bytes of a file name that are no text are written as JSON escapes."""
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    write_text(folder / RESULT, text.encode("utf-8", "backslashreplace").decode())


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
    broken = {part for part in SECTIONS if not isinstance(result.get(part), dict)}
    if "classifier" in result and (lacking := [part for part in PARTS if part not in result or part in broken]):
        raise UserError(f"{file} lacks {', '.join(lacking)}; run its command again, which makes only what is missing")
    return result
