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

from sarsynth.data.chips import square
from sarsynth.data.framing import CENTRAL, Frame, Framing, Shape
from sarsynth.data.radiometry import Radiometry
from sarsynth.data.records import ImageRecord, Source


def resize(pixels: np.ndarray, image_size: int, frame: Frame | None = None) -> np.ndarray:
    """Scale what a frame shows of an image, bilinearly; shrinking averages speckle (it is not aliased).

    From uint8 or float32 (H, W, C), C = 1 or 3, to the same type, (image_size, image_size, C); what has this size
    already is taken as it is.

    Args:
        pixels: The image, mirrored outwards where the frame reaches beyond it.
        image_size: Side of the result in px.
        frame: In px of the image; None for its largest central square.
    """
    height, width = pixels.shape[:2]
    frame = frame or CENTRAL.frame(Shape(height, width))
    x0, y0, x1, y1 = frame
    if min(x0, y0) < 0 or x1 > width or y1 > height:
        return resize(square(pixels, x0, y0, x1 - x0), image_size)
    if (y1 - y0, x1 - x0) == (image_size, image_size):
        return pixels[y0:y1, x0:x1]
    # Pillow has no colours of more than 8 bits: such channels are resized one by one.
    planes = [pixels] if pixels.dtype == np.uint8 else np.split(pixels, pixels.shape[2], axis=2)
    images = [Image.fromarray(plane[..., 0] if plane.shape[2] == 1 else plane) for plane in planes]
    scaled = [image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=frame) for image in images]
    return np.dstack([np.asarray(image) for image in scaled])


def read_image(
    source: Source, record: ImageRecord, image_size: int, radiometry: Radiometry, framing: Framing = CENTRAL
) -> np.ndarray:
    """Read an image in grey levels 0..255, uint8 or float32 (image_size, image_size, C).

    It is mapped to grey levels first, so that resizing averages these.
    """
    levels = radiometry.levels(source.read(record), record.path)
    return resize(levels, image_size, framing.frame(shape_of(levels, record)))


def shape_of(pixels: np.ndarray, record: ImageRecord) -> Shape:
    """Give the shape of an image (H, W, C) that was read."""
    return Shape(pixels.shape[0], pixels.shape[1], record.gsd)


def load_images(
    source: Source, records: Sequence[ImageRecord], image_size: int, radiometry: Radiometry, framing: Framing = CENTRAL
) -> Tensor:
    """Read images into memory, several at a time: grey levels 0..255, uint8 or float32, in the order of `records`.

    Their shape is (N, C, image_size, image_size); `framing` says what is seen of those that are not square.
    """
    images = np.empty((len(records), source.channels, image_size, image_size), radiometry.dtype)

    def load(index: int) -> None:
        images[index] = read_image(source, records[index], image_size, radiometry, framing).transpose(2, 0, 1)

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
