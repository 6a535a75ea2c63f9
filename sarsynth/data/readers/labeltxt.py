"""DOTA's form of annotations, which SRSDD uses too: a text file an image, a line an object."""

from pathlib import Path

from sarsynth.data.chips import Marked, check_box, quadrangle
from sarsynth.data.folders import lines
from sarsynth.errors import UserError

HEADERS = ("imagesource:", "gsd:")  # in some files only


def read_labels(file: Path) -> list[Marked]:
    """Read `x1 y1 x2 y2 x3 y3 x4 y4 category difficulty` lines, px; an empty file has no objects.

    A missing difficulty is 0; any other than 0 counts as difficult.

    Raises:
        UserError: A line is of another form; names it.
    """
    objects = []
    for number, line in lines(file):
        if line.lower().startswith(HEADERS):
            continue
        words = line.split()
        difficulty = words.pop() if len(words) > 9 else "0"
        try:
            numbers = [float(word) for word in words[:8]]
            name, difficult = words[8], int(difficulty) != 0
        except (ValueError, IndexError):
            raise UserError(
                f"{file}, line {number}: expected `x1 y1 x2 y2 x3 y3 x4 y4 category difficulty`, found `{line}`"
            ) from None
        corners = check_box(quadrangle(numbers), f"{file}, line {number}")
        objects.append(Marked(name, corners, difficult=difficult))
    return objects
