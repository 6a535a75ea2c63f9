"""How many images join each class of the training set."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from sarsynth.errors import UserError


def added_per_class(
    plan: Literal["double", "balance"] | Mapping[str, int],
    counts: Mapping[str, int],
    minor: Sequence[str],
    ratio: float,
) -> dict[str, int]:
    """Count the images to add, class by class, in the order of `counts`.

    Args:
        plan: `double` each minor class, `balance` the minor classes up to the largest class, or the numbers themselves.
        counts: Real training images of each class.
        minor: Names of the minor classes.
        ratio: Multiple of the plan, at least 0; halves of images are rounded up.

    Raises:
        UserError: The plan names a class that the data set does not have.
    """
    if isinstance(plan, Mapping):
        for name in plan:
            if name not in counts:
                raise UserError(f"augment.plan: `{name}` is not a class of this data set; classes: {', '.join(counts)}")
        planned = {name: plan.get(name, 0) for name in counts}
    else:
        largest = max(counts.values(), default=0)
        target = {name: 2 * n if plan == "double" else largest for name, n in counts.items()}
        planned = {name: target[name] - n if name in minor else 0 for name, n in counts.items()}
    return {name: math.floor(ratio * n + 0.5) for name, n in planned.items()}
