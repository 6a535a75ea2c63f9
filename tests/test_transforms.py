"""Images between disk, memory and models."""

import numpy as np
import pytest
import torch

from sarsynth.data.radiometry import EightBit
from sarsynth.data.records import ImageRecord
from sarsynth.data.transforms import load_images, resize, to_channels, to_float, to_uint8

NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [32, 90, 200])
def test_resize_gives_the_asked_square(channels: int, image_size: int) -> None:
    resized = resize(NOISE[..., :channels], image_size)
    assert resized.shape == (image_size, image_size, channels)
    assert resized.dtype == np.uint8


def test_resize_leaves_the_right_size_alone_and_cuts_the_centre() -> None:
    square = NOISE[:, :90]
    np.testing.assert_array_equal(resize(square, 90), square)
    np.testing.assert_array_equal(resize(NOISE, 90), NOISE[:, 15:105])


def test_shrinking_averages() -> None:
    # Without antialiasing the deviation of white noise would survive; the triangle filter over 10 px leaves about 1/8.
    shrunk = resize(NOISE[:, 15:105, :1], 9).astype(float)
    assert abs(shrunk.mean() - NOISE[..., 0].mean()) < 3
    assert shrunk.std() < NOISE[..., 0].std() / 5


def test_float_round_trip_is_exact() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(levels)
    assert floats.dtype == torch.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(to_uint8(floats), levels)
    assert to_uint8(torch.tensor([-3.0, 1.5])).tolist() == [0, 255]


def test_channels() -> None:
    grey = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    assert torch.equal(to_channels(to_channels(grey, 3), 1), grey)
    colour = torch.tensor([10, 20, 31], dtype=torch.uint8).view(1, 3, 1, 1)
    assert to_channels(colour, 1).item() == 20
    assert to_channels(colour.float(), 1).item() == pytest.approx(61 / 3)
    assert to_channels(colour, 3) is colour


class Gradient:
    """A source that paints its images: label times ten, of different sizes."""

    def __init__(self) -> None:
        self.classes, self.channels = ["a", "b"], 1

    def records(self, split: str) -> list[ImageRecord]:
        return [ImageRecord(f"{index}", index % 2, "train") for index in range(20)]

    def read(self, record: ImageRecord) -> np.ndarray:
        return np.full((8 + int(record.path), 11, 1), 10 * int(record.path), np.uint8)

    def fingerprint(self) -> str:
        return "gradient"


def test_load_images_keeps_order() -> None:
    source = Gradient()
    images = load_images(source, source.records("train"), 8, EightBit())
    assert images.shape == (20, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert images[:, 0, 3, 3].tolist() == list(range(0, 200, 10))
