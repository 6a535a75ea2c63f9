"""How many images join each class, and how many of them are synthetic."""

import pytest

from sarsynth.classifier.added_images import Added, added_per_class
from sarsynth.errors import UserError

COUNTS = {"cargo": 40, "tanker": 5, "dredger": 3}
MINOR = ["tanker", "dredger"]


def added(plan, share: float, classes: str = "minor") -> dict[str, Added]:
    return added_per_class(plan, COUNTS, MINOR, share, classes)


@pytest.mark.parametrize(
    ("plan", "classes", "joining"),
    [
        ("double", "minor", [0, 5, 3]),
        ("double", "all", [40, 5, 3]),
        ("balance", "minor", [0, 35, 37]),
        ("balance", "all", [40, 75, 77]),  # all have twice as many as the largest class has
        ({"tanker": 20}, "minor", [0, 15, 0]),
        ({"cargo": 47, "dredger": 3}, "minor", [7, 0, 0]),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_as_many_join_whatever_the_share(plan, classes: str, joining: list[int], share: float):
    if classes == "all" or share == 0:
        assert [of_class.synthetic for of_class in added(plan, 0.0, classes).values()] == [0, 0, 0]
    assert [of_class.total for of_class in added(plan, share, classes).values()] == joining


def test_the_share_is_of_the_images_in_the_end():
    assert added("balance", 0.5)["tanker"] == Added(20, 15)
    assert added("balance", 0.25)["dredger"] == Added(10, 27)
    assert added("double", 0.25)["dredger"] == Added(2, 1)  # halves are rounded up
    assert added("balance", 0.5)["cargo"] == Added(0, 0)


def test_the_papers_doubling_is_half_of_twice_as_many():
    assert {name: of_class.synthetic for name, of_class in added("double", 0.5).items()} == {
        "cargo": 0, "tanker": 5, "dredger": 3,
    }  # fmt: skip


def test_real_images_stay_whatever_the_share():
    assert added("double", 1.0)["tanker"] == Added(5, 0)
    assert added("balance", 1.0)["dredger"] == Added(37, 0)


@pytest.mark.parametrize("plan", ["double", "balance"])
def test_the_same_share_of_all_classes(plan):
    of_all = added(plan, 0.5, "all")
    assert {of_class.synthetic / (COUNTS[name] + of_class.total) for name, of_class in of_all.items()} == {0.5}
    with pytest.raises(UserError, match=r"augment.share=0.75 of the 80 images of class cargo .* lower it to 0.5"):
        added(plan, 0.75, "all")


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(UserError, match="`tankr` is not a class"):
        added({"tankr": 1}, 0.5)


def test_a_plan_takes_no_real_image_away():
    with pytest.raises(UserError, match=r"augment.plan.tanker=4: the class has 5 real images"):
        added({"tanker": 4}, 0.5)
