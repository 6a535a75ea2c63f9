"""Pictures: pixels stay what they are, everything asked for is there."""

import numpy as np
import pytest
import torch
from PIL import Image

from sarsynth.report.pictures import class_grid, compose, strip


def flat(count: int, channels: int = 1, size: int = 64) -> torch.Tensor:
    """Images of one value each: 1, 2, …"""
    values = torch.arange(1, count + 1, dtype=torch.uint8).view(-1, 1, 1, 1)
    return values.expand(count, channels, size, size)


def flat_tiles(picture: Image.Image, side: int, count: int) -> set[int]:
    """Values 1..count that fill exactly side² pixels times a whole number."""
    pixels = np.asarray(picture)
    return {v for v in range(1, count + 1) if (area := (pixels == v).all(axis=2).sum()) and area % side**2 == 0}


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_shows_every_class_from_both_sides(channels: int) -> None:
    real, synthetic = flat(6, channels), flat(12, channels)[6:]
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    sides = {"real": (real, labels), "synthetic": (synthetic, labels)}
    picture = class_grid(sides, ["cargo", "Schlepper größer", "c"], title="t", columns=3)
    assert flat_tiles(picture, 128, 12) == set(range(1, 13))


def test_grid_spreads_over_a_class_and_survives_an_empty_one() -> None:
    sides = {"": (flat(9), torch.zeros(9, dtype=torch.long))}
    picture = class_grid(sides, ["a", "none"], title="t", columns=3)
    assert flat_tiles(picture, 128, 9) == {1, 5, 9}


def test_strip_has_scales_across_and_seeds_down() -> None:
    images = flat(6).unflatten(0, (2, 3))
    pixels = np.asarray(strip(images, [0, 0.5, 1], title="tanker", seeds=[3, 4]))[..., 0]
    where = {value: np.argwhere(pixels == value).mean(axis=0) for value in range(1, 7)}
    assert where[1][0] == where[2][0] == where[3][0] < where[4][0]
    assert where[1][1] == where[4][1] < where[2][1] < where[3][1]


def test_large_images_keep_their_size_and_long_titles_fit() -> None:
    images, labels = flat(1, size=256), torch.tensor([0])
    picture = class_grid({"": (images, labels)}, ["a"], title="a very long title " * 5)
    assert picture.width > 900
    assert flat_tiles(picture, 256, 1) == {1}


def test_headings_wider_than_their_images_and_names_of_many_lines_fit() -> None:
    one, two = flat(2, size=16).numpy()
    heading = "plora_uniform scales=[0.65,0.75]"
    short = compose([("a", [[one]]), ("b", [[two]])], ["row"], "t")
    long = compose([(heading, [[one]]), ("b", [[two]])], ["row"], "t")
    named = compose([("a", [[one]]), ("b", [[two]])], ["row\ncargo 3\ntanker 4"], "t")
    assert flat_tiles(long, 160, 2) == flat_tiles(named, 160, 2) == {1, 2}
    assert long.width > short.width and named.width > short.width
    assert named.height == short.height
