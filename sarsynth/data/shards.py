"""A tensor on disk in files of about a thousand rows each: written piece by piece, indexed like one in memory.

A row is fetched by a positioned read of its own bytes, not through the memory map of safetensors' `safe_open`: pages
that are touched stay in memory, until a training in random order holds the whole file.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sarsynth import files, processes
from sarsynth.errors import UserError

ROWS = 1024  # of a shard; a multiple of usual batches, and the same however many processes write
LENGTH = 8  # bytes at the start of a safetensors file that give the length of its header
DTYPES = {"F16": torch.float16, "F32": torch.float32}


def write_shards(folder: Path, name: str, rows: int, make: Callable[[range], Tensor]) -> None:
    """Write this process's shards of a tensor, each whole or not at all; shards that are there already stay.

    The shards of all processes lie in one folder. The tensor has at least one row; `make` computes a range of them.
    """
    for file, members in missing(folder, name, rows):
        with files.staged(file) as draft:
            save_file({name: make(members).contiguous()}, draft)
            files.sync(draft)  # before it gets the name by which a next attempt takes it for whole


def missing(folder: Path, name: str, rows: int) -> list[tuple[Path, range]]:
    """List the shards that this process has yet to write, and their rows."""
    starts = range(0, rows, ROWS)
    shards = [
        (folder / f"{name}-{index:05d}-of-{len(starts):05d}.safetensors", range(start, min(start + ROWS, rows)))
        for index, start in enumerate(starts)
    ]
    return [(file, members) for file, members in processes.mine(shards) if not file.exists()]


class Shards:
    """A tensor in shards, read from disk row by row: `shards[rows]`, or `shards[rows, columns]` for parts of rows.

    Raises a `UserError` if a shard is missing or damaged.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._files = sorted(folder.glob(f"{name}-*-of-*.safetensors"))
        if not self._files or not self._files[-1].stem.endswith(f"-{len(self._files):05d}"):
            raise UserError(f"{folder}: not all shards of {name} are there; remove this folder, and it is made again")
        heads = [_head(file, name) for file in self._files]
        self._begins = [begin for begin, _, _ in heads]
        self._dtype = heads[0][1]
        self._rows, *rest = heads[0][2]
        self.shape = (sum(shape[0] for *_, shape in heads), *rest)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Read parts in the order of their indices, one int64 (B,) for each leading dimension."""
        places = index if isinstance(index, tuple) else (index,)
        leading, shape = self.shape[: len(places)], self.shape[len(places) :]
        flat = np.ravel_multi_index(tuple(place.numpy() for place in places), leading)
        tensor = torch.empty(len(flat), *shape, dtype=self._dtype)
        parts, length = tensor.numpy(), math.prod(shape) * tensor.element_size()  # of a part, bytes
        shards, within = np.divmod(flat, self._rows * math.prod(leading[1:]))
        for shard in np.unique(shards):
            with self._files[shard].open("rb", buffering=0) as file:
                for place in np.flatnonzero(shards == shard):
                    begin = self._begins[shard] + int(within[place]) * length
                    if os.preadv(file.fileno(), [parts[place].data], begin) < length:
                        raise UserError(f"{self._files[shard]}: cut short; remove its folder, and it is made again")
        return tensor


def _head(file: Path, name: str) -> tuple[int, torch.dtype, Sequence[int]]:
    """Where the only tensor of a file begins, its type and its shape."""
    try:
        with safe_open(file, "pt") as opened:  # checks that header and length agree
            tensor = opened.get_slice(name)
            shape, dtype = tensor.get_shape(), DTYPES[tensor.get_dtype()]
    except SafetensorError as error:
        raise UserError(f"{file}: damaged ({error}); remove its folder, and it is made again") from error
    with file.open("rb") as handle:
        return LENGTH + int.from_bytes(handle.read(LENGTH), "little"), dtype, shape
