"""Pictures that a person looks at: samples beside real images, and a class over the adapters' scale.

All are one layout: rows of equally large image tiles with a name to the left of each row, groups of columns with a
heading over each, and a title. Small images are enlarged by whole factors without smoothing, so that every pixel stays
what it is.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = 6  # images of a class on each side of a comparison
TILE = 160  # px: images are enlarged by the largest whole factor that keeps them within, larger ones stay as they are
GAP, GROUP_GAP, MARGIN = 3, 21, 24  # px between tiles, between groups of columns, around the picture
PAPER, INK, MUTED, RULE, EMPTY = "#ffffff", "#1d232b", "#69727d", "#d5dae0", "#f1f3f5"


def real_vs_synthetic_grid(
    real: Tensor,
    real_labels: Tensor,
    synthetic: Tensor,
    synthetic_labels: Tensor,
    classes: Sequence[str],
    *,
    title: str,
    columns: int = COLUMNS,
) -> Image.Image:
    """Show, class by class, real images on the left and synthetic ones on the right.

    Args:
        real: uint8, shape (N, 1 or 3, H, W).
        real_labels: Their labels, (N,).
        synthetic: uint8, same H and W.
        synthetic_labels: The classes they were made for.
        classes: Names of the labels 0, 1, …; each is a row.
        title: Heading of the picture.
        columns: At most this many images on each side, evenly spread over those of a class.
    """
    real_rows, synthetic_rows = (
        [_spread(images[labels == label], columns) for label in range(len(classes))]
        for images, labels in ((real, real_labels), (synthetic, synthetic_labels))
    )
    return _compose([("real", real_rows), ("synthetic", synthetic_rows)], classes, title)


def strip(images: Tensor, scales: Sequence[float], *, title: str, seeds: Sequence[int] | None = None) -> Image.Image:
    """Show what the adapters' scale does to one class (the paper's Figure 1b): scales across, seeds down.

    Args:
        images: uint8, shape (number of seeds, number of scales, 1 or 3, H, W); each row starts from one noise.
        scales: Scale of each column.
        title: Heading of the picture.
        seeds: Seed of each row, to name it by; None leaves rows without names.
    """
    groups = [(f"scale {scale:g}", [[row[column]] for row in images]) for column, scale in enumerate(scales)]
    return _compose(groups, [f"seed {seed}" for seed in seeds] if seeds is not None else [""] * len(images), title)


def sample_grid(images: Tensor, labels: Tensor, classes: Sequence[str], *, title: str, columns: int = 8) -> Image.Image:
    """Show some images of each class, a class a row.

    Args:
        images: uint8, shape (N, 1 or 3, H, W).
        labels: Shape (N,).
        classes: Names of the labels 0, 1, …
        title: Heading of the picture.
        columns: At most this many images a row, evenly spread over those of a class.
    """
    rows = [_spread(images[labels == label], columns) for label in range(len(classes))]
    return _compose([("", rows)], classes, title)


def _spread(images: Tensor, most: int) -> list[Tensor]:
    """Choose up to `most` images, evenly spread: neighbours in a data set are often views of one object."""
    chosen = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return [images[index] for index in chosen]


def _compose(groups: Sequence[tuple[str, list[list[Tensor]]]], row_names: Sequence[str], title: str) -> Image.Image:
    """Lay out groups of columns side by side: (heading, rows of images) each; rows may be short and are filled up."""
    tile_width, tile_height = _tile_size([image for _, rows in groups for row in rows for image in row])
    widths = [max([1, *(len(row) for row in rows)]) for _, rows in groups]  # in tiles
    small, large = _font("DejaVuSans.ttf", 15), _font("DejaVuSans-Bold.ttf", 20)

    def group_width(tiles: int) -> int:
        return tiles * (tile_width + GAP) - GAP

    named = max(small.getlength(name) for name in row_names)
    left = MARGIN + (round(named) + 14 if named else 0)
    headed = any(heading for heading, _ in groups)
    top = MARGIN + 40 + (26 if headed else 0)
    right = left + sum(map(group_width, widths)) + GROUP_GAP * (len(groups) - 1)
    width = max(right, MARGIN + round(large.getlength(title))) + MARGIN
    bottom = top + len(row_names) * (tile_height + GAP) - GAP
    picture = Image.new("RGB", (width, bottom + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN + 10), title, fill=INK, font=large, anchor="lm")

    for index, name in enumerate(row_names):
        middle = top + index * (tile_height + GAP) + tile_height / 2
        draw.text((left - 14, middle), name, fill=INK, font=small, anchor="rm")
    x = left
    for tiles, (heading, rows) in zip(widths, groups, strict=True):
        centre = x + group_width(tiles) / 2
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
        x += group_width(tiles) + GROUP_GAP
    return picture


def _tile_size(images: Sequence[Tensor]) -> tuple[int, int]:
    """Width and height of all tiles: those of the images, times the largest whole factor that fits."""
    if not images:
        return TILE, TILE
    height, width = images[0].shape[-2:]
    factor = max(1, TILE // max(height, width))
    return width * factor, height * factor


def _tile(image: Tensor, width: int, height: int) -> Image.Image:
    pixels = image.detach().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(np.repeat(pixels, 3 // pixels.shape[2], axis=2)).resize(
        (width, height), Image.Resampling.NEAREST
    )


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font that comes with matplotlib: on every machine the same, and with more than Latin letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
