"""Pictures that a person looks at: samples beside real images, and a class over the adapters' scale.

All are one layout: rows of equally large image tiles with a name to the left of each row, groups of columns with a
heading over each, and a title. Small images are enlarged by whole factors without smoothing, so that every pixel stays
what it is. Torch-free: images are arrays, or tensors on the CPU, which become arrays.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from sarsynth.files import staged

COLUMNS = 6  # images of a class and set beside each other
TILE = 160  # px: images are enlarged by the largest whole factor that keeps them within, larger ones stay as they are
GAP, GROUP_GAP, MARGIN = 3, 21, 24  # px between tiles, between groups of columns, around the picture
PAPER, INK, MUTED, RULE, EMPTY = "#ffffff", "#1d232b", "#69727d", "#d5dae0", "#f1f3f5"


def read_png(file: Path) -> np.ndarray:
    """Read an image of a synthetic set: uint8, shape (C, H, W), C being 1 or 3."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)


def save_png(image: np.ndarray, file: Path) -> None:
    """Write what `read_png` reads, whole or not at all."""
    pixels = image.transpose(1, 2, 0)
    with staged(file, durable=False) as draft:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(draft, format="png")


def class_grid(
    sides: Mapping[str, tuple[ArrayLike, ArrayLike]], classes: Sequence[str], *, title: str, columns: int = COLUMNS
) -> Image.Image:
    """Show images of each class, a class a row: those of one set, or of several beside each other.

    Args:
        sides: Images, in 0..255, uint8 or float32, shape (N, 1 or 3, H, W), and their labels, (N,), of each set, by its
            heading; H and W are the same in all.
        classes: Names of the labels 0, 1, …
        title: Heading of the picture.
        columns: At most this many images of a class and set, evenly spread over those that there are.
    """
    groups = []
    for heading, (images, labels) in sides.items():
        of_class = [np.asarray(images)[np.asarray(labels) == label] for label in range(len(classes))]
        groups.append((heading, [list(members[evenly(len(members), columns)]) for members in of_class]))
    return compose(groups, classes, title)


def strip(images: ArrayLike, scales: Sequence[float], *, title: str, seeds: Sequence[int] | None = None) -> Image.Image:
    """Show what the scale of all adapters together does to one class (paper's Figure 1b): scales across, seeds down.

    Args:
        images: In 0..255, uint8 or float32, shape (number of seeds, number of scales, 1 or 3, H, W); each row starts
            from one noise.
        scales: Scale of each column.
        title: Heading of the picture.
        seeds: Seed of each row, to name it by; None leaves rows without names.
    """
    rows = np.asarray(images)
    groups = [(f"all adapters x {scale:g}", [[row[column]] for row in rows]) for column, scale in enumerate(scales)]
    return compose(groups, [f"seed {seed}" for seed in seeds] if seeds is not None else [""] * len(rows), title)


def evenly(size: int, most: int) -> np.ndarray:
    """Choose up to `most` of `size` places, evenly spread: neighbours in a data set are often views of one object."""
    return np.linspace(0, size - 1, min(most, size)).round().astype(int)


def compose(
    groups: Sequence[tuple[str, Sequence[Sequence[np.ndarray]]]], row_names: Sequence[str], title: str
) -> Image.Image:
    """Lay out groups of columns side by side.

    Args:
        groups: Heading and rows of images of each, in 0..255, (1 or 3, H, W); rows may be short and are filled up.
        row_names: Name of each row, of one line or more.
        title: Heading of the picture.
    """
    # What draws text fails of a break where there is one line; a class may be called by one.
    title, row_names = " ".join(title.split()), [name.replace("\r", " ") for name in row_names]
    groups = [(" ".join(heading.split()), rows) for heading, rows in groups]
    tile_width, tile_height = _tile_size([image for _, rows in groups for row in rows for image in row])
    widths = [max([1, *(len(row) for row in rows)]) for _, rows in groups]  # in tiles
    small, large = _font("DejaVuSans.ttf", 15), _font("DejaVuSans-Bold.ttf", 20)
    across = [
        max(tiles * (tile_width + GAP) - GAP, round(small.getlength(heading)))
        for tiles, (heading, _) in zip(widths, groups, strict=True)
    ]
    named = max(small.getlength(line) for name in row_names for line in name.split("\n"))
    left = MARGIN + (round(named) + 14 if named else 0)
    headed = any(heading for heading, _ in groups)
    top = MARGIN + 40 + (26 if headed else 0)
    right = left + sum(across) + GROUP_GAP * (len(groups) - 1)
    width = max(right, MARGIN + round(large.getlength(title))) + MARGIN
    bottom = top + len(row_names) * (tile_height + GAP) - GAP
    picture = Image.new("RGB", (width, bottom + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN + 10), title, fill=INK, font=large, anchor="lm")

    for index, name in enumerate(row_names):
        middle = top + index * (tile_height + GAP) + tile_height / 2
        draw.text((left - 14, middle), name, fill=INK, font=small, anchor="rm", align="right")
    x = left
    for tiles, wide, (heading, rows) in zip(widths, across, groups, strict=True):
        centre = x + wide / 2
        draw.text((centre, top - 17), heading, fill=MUTED, font=small, anchor="mm")
        if x > left and headed:
            draw.line([(x - GROUP_GAP // 2 - 1, top - 26), (x - GROUP_GAP // 2 - 1, bottom)], fill=RULE)
        for index, row in enumerate(rows):
            y = top + index * (tile_height + GAP)
            for column in range(tiles):
                corner = (x + column * (tile_width + GAP), y)
                if column < len(row):
                    picture.paste(_tile(row[column], tile_width, tile_height), corner)
                else:
                    draw.rectangle([corner, (corner[0] + tile_width - 1, y + tile_height - 1)], fill=EMPTY)
        x += wide + GROUP_GAP
    return picture


def _tile_size(images: Sequence[np.ndarray]) -> tuple[int, int]:
    """Width and height of all tiles: those of the images, times the largest whole factor that fits."""
    if not images:
        return TILE, TILE
    height, width = images[0].shape[-2:]
    factor = max(1, TILE // max(height, width))
    return width * factor, height * factor


def _tile(image: np.ndarray, width: int, height: int) -> Image.Image:
    pixels = np.rint(image).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(np.repeat(pixels, 3 // pixels.shape[2], axis=2))
    return picture.resize((width, height), Image.Resampling.NEAREST)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font that comes with matplotlib: on every machine the same, and with more than Latin letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
