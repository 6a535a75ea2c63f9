"""Studies that know already what stages would find out: a stage is then tested alone."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def a_study_that_knows(*answers: tuple[Callable[..., Any], tuple[Any, ...], Any], **more: Any) -> Any:
    """As much of a study as a stage reads: what functions under `once` return for their arguments, and attributes."""
    if "settings" in more and hasattr(more["settings"], "generator_seeds"):
        more = {"generator_seed": more["settings"].seed, "sample_seed": more["settings"].seed} | more
    known = {(function.__wrapped__, arguments): value for function, arguments, value in answers}  # type: ignore[attr-defined]
    return SimpleNamespace(known=known, **more)
