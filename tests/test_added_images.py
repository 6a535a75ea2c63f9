"""How many images join each class."""

import pytest

from sarsynth.classifier.added_images import added_per_class
from sarsynth.errors import UserError

COUNTS = {"cargo": 40, "tanker": 5, "dredger": 3}
MINOR = ["tanker", "dredger"]


@pytest.mark.parametrize(
    ("plan", "ratio", "expected"),
    [
        ("double", 1.0, [0, 5, 3]),
        ("double", 0.5, [0, 3, 2]),  # halves are rounded up
        ("double", 4.0, [0, 20, 12]),
        ("double", 0.0, [0, 0, 0]),
        ("balance", 1.0, [0, 35, 37]),
        ("balance", 2.0, [0, 70, 74]),
        ({"cargo": 7}, 1.0, [7, 0, 0]),
        ({"cargo": 7}, 3.0, [21, 0, 0]),
    ],
)
def test_the_plan_times_its_ratio(plan, ratio: float, expected: list[int]):
    assert added_per_class(plan, COUNTS, MINOR, ratio) == dict(zip(COUNTS, expected, strict=True))


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(UserError, match="`tankr` is not a class"):
        added_per_class({"tankr": 1}, COUNTS, MINOR, 1.0)
