"""How many images each class has in the end, and how many of those that join are synthetic."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sarsynth.errors import UserError


@dataclass(frozen=True)
class Added:
    """Images that join the real ones of a class, beside a generator: without one, all of them repeat real ones."""

    synthetic: int
    repeated: int

    @property
    def total(self) -> int:
        """All that join: equally many with every method that adds images."""
        return self.synthetic + self.repeated


def added_per_class(
    plan: Literal["double", "balance"] | Mapping[str, int],
    counts: Mapping[str, int],
    minor: Sequence[str],
    share: float,
    classes: Literal["minor", "all"],
) -> dict[str, Added]:
    """Count the images to add, class by class, in the order of `counts`.

    Every real image stays; what joins fills a class up to its number in the end.

    Args:
        plan: Images in the end: `double` the real ones, `balance` as many as the largest class, or the numbers
            themselves by class. The first two are for minor classes, or for all; then all balance at twice the largest.
        counts: Real training images of each class.
        minor: Names of the minor classes.
        share: Of the images of a class in the end that are synthetic, 0 to 1; halves of images are rounded up.
        classes: `minor`: the share is as large as the real images of a class leave room for, and 0 where nothing joins.
            `all`: it is the same in all classes.

    Raises:
        UserError: The plan names a class that the data set does not have, or gives one fewer images than it has; or
            the same share of all classes would leave out real images of one.
    """
    in_the_end = _numbers(plan, counts, minor if classes == "minor" else list(counts), classes)
    added = {}
    for name, real in counts.items():
        joining, synthetic = in_the_end[name] - real, math.floor(share * in_the_end[name] + 0.5)
        if classes == "all" and synthetic > joining:
            raise UserError(
                f"augment.share={share:g} of the {in_the_end[name]} images of class {name} leaves no room for its "
                f"{real} real ones; lower it to {math.floor(100 * joining / in_the_end[name]) / 100:g}, or give the "
                "class more images by augment.plan"
            )
        synthetic = min(synthetic, joining)
        added[name] = Added(synthetic, joining - synthetic)
    return added


def check_plan(plan: str | Mapping[str, int], classes: Iterable[str]) -> None:
    """Refuse a plan for a class that the data set does not have.

    Raises:
        UserError: It names one.
    """
    known = list(classes)
    for name in plan if isinstance(plan, Mapping) else []:
        if name not in known:
            raise UserError(f"augment.plan: `{name}` is not a class of this data set; classes: {', '.join(known)}")


def _numbers(
    plan: Literal["double", "balance"] | Mapping[str, int],
    counts: Mapping[str, int],
    grown: Sequence[str],
    classes: Literal["minor", "all"],
) -> dict[str, int]:
    """Images of each class in the end, of which the named plans grow some."""
    check_plan(plan, counts)
    if isinstance(plan, Mapping):
        for name, number in plan.items():
            if number < counts[name]:
                raise UserError(
                    f"augment.plan.{name}={number}: the class has {counts[name]} real images, and all of them stay; "
                    "raise it, or leave the class out"
                )
        return {name: plan.get(name, real) for name, real in counts.items()}
    largest = max(counts.values(), default=0) * (2 if classes == "all" else 1)
    return {name: (2 * n if plan == "double" else largest) if name in grown else n for name, n in counts.items()}
