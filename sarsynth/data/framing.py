"""Which square of an image is seen, where it is not square itself. Torch-free."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from sarsynth.data.chips import crop_offset
from sarsynth.data.records import ImageRecord

Fit = Literal["crop", "pad", "stretch"]
Frame = tuple[int, int, int, int]  # x0, y0, x1, y1 in px of an image; may reach beyond it
SLIGHT = 0.02  # share of a length that nobody misses
MUCH = 0.5  # share of a picture that is padding, from which on what it shows is there more than once


class Shape(NamedTuple):
    """Size and scale of an image."""

    height: int  # px
    width: int  # px
    gsd: float | None = None  # metres a pixel, if that is known


@dataclass(frozen=True)
class Framing:
    """How images of all shapes become squares."""

    fit: Fit  # the central square; a square around all of it, mirrored outwards; or all of it, stretched to a square
    extent: float | None = None  # metres along a side of every square, where the scale of all images is known

    @property
    def plain(self) -> dict[str, Any]:
        """All of it for a fingerprint; nothing for central squares, which all images were before there was a choice."""
        return {} if self == CENTRAL else {"framing": asdict(self)}

    def frame(self, shape: Shape) -> Frame:
        """Place the frame in an image."""
        if self.fit == "stretch":
            return 0, 0, shape.width, shape.height
        side = max(shape[:2]) if self.fit == "pad" else min(shape[:2])
        if self.extent and shape.gsd:
            side = max(1, round(self.extent / shape.gsd))
        left, top = crop_offset(shape.width, side), crop_offset(shape.height, side)
        return left, top, left + side, top + side

    def cut(self, shape: Shape) -> float:
        """Give the share of an image's width or height, whichever loses more, that its frame leaves out: 0 to 1."""
        x0, y0, x1, y1 = inside(self.frame(shape), shape)
        return 1 - min((x1 - x0) / shape.width, (y1 - y0) / shape.height)

    def padded(self, shape: Shape) -> float:
        """Give the share of a frame's width or height, whichever has more, that is no image: 0 to 1."""
        frame = self.frame(shape)
        x0, y0, x1, y1 = inside(frame, shape)
        return 1 - min((x1 - x0) / (frame[2] - frame[0]), (y1 - y0) / (frame[3] - frame[1]))

    def stretched(self, shape: Shape) -> float:
        """Give by how much one direction is stretched more than the other, as a share: 0 for none."""
        longer, shorter = max(shape[:2]), min(shape[:2])
        return longer / shorter - 1 if self.fit == "stretch" else 0.0

    def warnings(self, shapes: Sequence[tuple[str, Shape]]) -> Iterator[str]:
        """Say what the images of a set, each with its name, lose by this."""
        known = sum(shape.gsd is not None for _, shape in shapes)
        if 0 < known < len(shapes):
            yield f"the scale (gsd) of {known:,} of {len(shapes):,} images is known: of all, or it is not made one"
        others = "fit=pad or stretch shows all of them" if self.fit == "crop" else "crop=PIXELS cuts all to one size"
        losses = (
            (self.cut, SLIGHT, f"fit={self.fit} cuts off", f"of their length; {others}"),
            (self.padded, MUCH, f"fit={self.fit} pads", f"of the picture, so that ships are mirrored; {others}"),
            (self.stretched, SLIGHT, "fit=stretch draws out one side by", "more than the other; fit=pad does not"),
        )
        for measure, least, does, of_what in losses:
            found = [(measure(shape), name, shape) for name, shape in shapes]
            worst, name, shape = max(found, default=(0.0, "", None))
            if shape and worst > least:
                concerned = sum(share > least for share, *_ in found)
                size = f"{shape.height} x {shape.width} px"
                yield (
                    f"{concerned:,} of {len(found):,} images are not square, or not of one scale: {does} up to "
                    f"{worst:.0%} {of_what} ({name}, {size})"
                )


CENTRAL = Framing("crop")


def framing_of(fit: Fit, shapes: Sequence[Shape]) -> Framing:
    """Choose the frames of a set. Where the scale of all images is known, they show the same extent of ground.

    That is as much of it as every image has, or with `pad` as much as the largest has.
    """
    extents = [(shape.height * shape.gsd, shape.width * shape.gsd) for shape in shapes if shape.gsd is not None]
    if fit == "stretch" or not extents or len(extents) < len(shapes):
        return Framing(fit)
    return Framing(fit, max(map(max, extents)) if fit == "pad" else min(map(min, extents)))


def shapes(records: Sequence[ImageRecord], rows: Mapping[str, int], sizes: np.ndarray) -> list[tuple[str, Shape]]:
    """Give the shapes of images by name.

    Args:
        records: The images.
        rows: The place of each among the sizes, by name.
        sizes: Height and width in px, int (N, 2).
    """
    places = ((record, sizes[rows[record.path]]) for record in records)
    return [(record.path, Shape(int(height), int(width), record.gsd)) for record, (height, width) in places]


def inside(frame: Frame, shape: Shape) -> Frame:
    """Give the part of a frame that lies in its image."""
    x0, y0, x1, y1 = frame
    return max(x0, 0), max(y0, 0), min(x1, shape.width), min(y1, shape.height)
