"""Images between disk, memory and models.

They have four forms:
  * read from disk: numpy uint8, uint16 or float32 (H, W, C), any size, any range;
  * mapped to grey levels by the study's radiometry: numpy uint8 or float32 (H, W, C), 0..255;
  * in memory: torch uint8 or float32 (N, C, H, W), square, 0..255;
  * for the diffusion model: torch float (N, 3, H, W), [-1, 1].
C is 1 (grey) or 3 (RGB), as the data set says; the base always sees three channels.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sarsynth.data.radiometry import Radiometry
from sarsynth.data.records import ImageRecord, Source


def resize(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """Scale an image's central square, bilinearly; shrinking averages speckle (it is not aliased).

    From uint8 or float32 (H, W, C), C = 1 or 3, to the same type, (image_size, image_size, C); an image that has this
    size already is returned itself.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (image_size, image_size):
        return pixels
    box = central_square(height, width)
    # Pillow has no colours of more than 8 bits: such channels are resized one by one.
    planes = [pixels] if pixels.dtype == np.uint8 else np.split(pixels, pixels.shape[2], axis=2)
    images = [Image.fromarray(plane[..., 0] if plane.shape[2] == 1 else plane) for plane in planes]
    scaled = [image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box) for image in images]
    return np.dstack([np.asarray(image) for image in scaled])


def central_square(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the box (x0, y0, x1, y1) of an image's largest central square, px."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return left, top, left + side, top + side


def read_image(source: Source, record: ImageRecord, image_size: int, radiometry: Radiometry) -> np.ndarray:
    """Read an image in grey levels 0..255, uint8 or float32 (image_size, image_size, C).

    It is mapped to grey levels first, so that resizing averages these.
    """
    return resize(radiometry.levels(source.read(record), record.path), image_size)


def load_images(source: Source, records: Sequence[ImageRecord], image_size: int, radiometry: Radiometry) -> Tensor:
    """Read images into memory, several at a time: grey levels 0..255, uint8 or float32, in the order of `records`.

    Their shape is (N, C, image_size, image_size).
    """
    images = np.empty((len(records), source.channels, image_size, image_size), radiometry.dtype)

    def load(index: int) -> None:
        images[index] = read_image(source, records[index], image_size, radiometry).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(load, range(len(records))):  # iterating re-raises what a reader raised
            pass
    return torch.from_numpy(images)


def to_float(images: Tensor) -> Tensor:
    """Map grey levels 0..255, uint8 or floating, to float32 [-1, 1]; any shape."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8 0..255, rounding to the nearest and clipping what lies outside; any shape."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Give images, (N, 1 or 3, H, W), 1 or 3 channels: grey to RGB by repeating, RGB to grey by the mean of the three.

    The mean, not luminance, because to a SAR data set the base's three channels are three equal readings of one value.
    Type, uint8 or floating, and range stay.
    """
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    mean = images.float().mean(dim=1, keepdim=True)
    return mean.to(images.dtype) if images.is_floating_point() else mean.round().to(images.dtype)
