"""What a training is fed with from disk: samples a second and peak memory, however large the set.

    python benchmarks/feeding.py [images] [steps]

Writes latents of so many images of 512 px in two views (131 kB each; random numbers) into a temporary
folder, then draws steps of 32 samples from them in random order, with all that a step draws. The paper's ORS set has
53,101 images.
"""

import re
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from sarsynth.console import console
from sarsynth.data.shards import write_shards
from sarsynth.data.streams import PackedSampler, Stream
from sarsynth.diffusion.latents import MOMENTS, Latents, Texts
from sarsynth.diffusion.samples import DenoisingSamples

import torch

SHAPE = (2, 2, 4, 64, 64)  # views, mean and standard deviation, channels, height and width of latents
BATCH = 32


def peak_memory() -> int:
    """Bytes that were resident in this process at most, mapped files included (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def main(images: int, steps: int) -> None:
    """Write, read and print."""
    size = images * 2 * torch.Size(SHAPE).numel()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if shutil.disk_usage(folder).free < 1.1 * size:
            sys.exit(f"error: {size / 1e9:.1f} GB are needed in {folder}; set TMPDIR to a folder with room")
        write_shards(folder, MOMENTS, images, lambda rows: torch.randn(len(rows), *SHAPE).half())
        before = peak_memory()
        texts = Texts(torch.randn(8, 77, 768), torch.arange(images) % 8)
        samples = DenoisingSamples(Latents.open(folder), texts, num_train_timesteps=1000)
        sampler = PackedSampler([Stream(torch.arange(images), steps, 0)], BATCH)
        began = time.perf_counter()
        for share in sampler:
            samples[share]
        seconds = time.perf_counter() - began
    console.print(
        f"{images:,} images, {size / 1e9:.2f} GB on disk: {steps * BATCH / seconds:.0f} samples a second; peak memory "
        f"{peak_memory() / 1e9:.2f} GB ({before / 1e9:.2f} GB when they were written)"
    )


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(int(given.get(1, 2000)), int(given.get(2, 200)))
