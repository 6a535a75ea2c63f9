"""How fast images come into memory: 256 px chips read, mapped and resized, beside a loop that uses Pillow alone.

    python benchmarks/reading.py [images]

Makes that many chips (default: 600) of each form in a temporary folder, and reads them to 128 px. Says nothing about
cold disks: the files have just been written. Each figure is the best of three rounds, in which both sides take turns.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sarsynth.console import console
from sarsynth.data.radiometry import EightBit, MeanSigma, Radiometry, Training
from sarsynth.data.readers.imagefolder import ImageFolder
from sarsynth.data.transforms import load_images

import numpy as np
from PIL import Image
from rich.table import Table

SIDE, SIZE, ROUNDS = 256, 128, 3


def main(count: int) -> None:
    """Print the table."""
    table = Table(title=f"{SIDE} px chips to {SIZE} px, on {len(os.sched_getaffinity(0))} cores")
    for column in ("files", "images", "sarsynth, images/s", "Pillow alone, images/s", "ratio"):
        table.add_column(column, justify="right")
    for suffix, bits in (("png", 8), ("jpg", 8), ("tif", 16)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            files = write_chips(root / "images" / "ship", suffix, bits, count)
            source = ImageFolder(root, train="images", val=None, test=None, unnamed=None, crop=None, channels=1)
            records = source.records("train")
            radiometry: Radiometry = EightBit() if bits == 8 else MeanSigma(3).fit(Training(source, records))
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(seconds(lambda: load_images(source, records, SIZE, radiometry)))  # noqa: B023
                theirs.append(seconds(lambda: load_with_pillow(files)))  # noqa: B023
        ours_rate, theirs_rate = count / min(ours), count / min(theirs)
        ratio = f"{ours_rate / theirs_rate:.2f}"
        table.add_row(f"{suffix}, {bits} bits", str(count), f"{ours_rate:.0f}", f"{theirs_rate:.0f}", ratio)
    console.print(table)


def write_chips(folder: Path, suffix: str, bits: int, count: int) -> list[Path]:
    """Write chips of speckle, four looks."""
    folder.mkdir(parents=True)
    rng, files = np.random.default_rng(0), [folder / f"{index:05d}.{suffix}" for index in range(count)]
    for file in files:
        amplitude = np.sqrt(rng.gamma(4, 1 / 4, (SIDE, SIDE))) * 2.0 ** (bits - 3)
        Image.fromarray(amplitude.clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)).save(file)
    return files


def load_with_pillow(files: list[Path]) -> np.ndarray:
    """Open, resize, stack: no mapping, no checks."""
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    return np.stack(images)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
