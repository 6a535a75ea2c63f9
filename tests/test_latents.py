"""Latents and texts in shards: what is read is what the encoders gave, however it was written."""

import os
from pathlib import Path

import pytest
import torch
from processes import run, run_on_two
from safetensors.torch import load_file, save_file
from tiny import tiny_base
from torch import Tensor

from sarsynth import processes
from sarsynth.data import shards
from sarsynth.data.shards import Shards, write_shards
from sarsynth.data.transforms import to_channels, to_float
from sarsynth.diffusion.base import Base
from sarsynth.diffusion.latents import FLIPS, Latents, Texts, encode_images, open_encoded, write_latents, write_texts
from sarsynth.errors import UserError
from sarsynth.files import STAGING, clear_staging

COUNT, SHARD, BATCH = 11, 4, 2
IMAGES = torch.randint(0, 256, (COUNT, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CAPTIONS = [f"{name} ship" for name in "cabacadebfg"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROWS", SHARD)


def write(base: Base, folder: Path, kill_at: int | None = None) -> None:
    """Encode the images and captions; `kill_at` is the image at which the process dies."""

    def read(rows: range) -> Tensor:
        assert len(rows) <= BATCH, "never more in memory than a batch"
        if kill_at in rows:
            os._exit(9)
        return IMAGES[rows.start : rows.stop]

    write_latents(base, read, COUNT, folder, flip="horizontal", batch_size=BATCH)
    write_texts(base, CAPTIONS, folder, batch_size=BATCH)


def write_in_process(base: Path, folder: Path, kill_at: int | None = None) -> None:
    shards.ROWS = SHARD
    processes.join("gloo")
    write(Base.load(base), folder, kill_at)
    processes.leave()


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base on disk, for other processes: one that they made themselves would have another tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tiny_base().save(folder)
    return folder


@pytest.fixture(scope="module")
def base(saved: Path) -> Base:
    return Base.load(saved)


@pytest.fixture(scope="module")
def written(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS", SHARD)
        write(base, folder)
    return folder


def reference(base: Base, flip: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation (V, N, C, h, w) of the whole set at once, view by view."""
    axis = FLIPS[flip]
    found = []
    for images in [IMAGES] if axis is None else [IMAGES, IMAGES.flip(axis)]:
        parts = [base.encode(to_float(to_channels(batch, 3))) for batch in images.split(BATCH)]
        found.append([torch.cat(moments).half() for moments in zip(*parts, strict=True)])
    mean, deviation = zip(*found, strict=True)
    return torch.stack(mean), torch.stack(deviation)


def test_shards_are_files_that_others_can_read(base: Base, written: Path):
    names = [f"moments-{index:05d}-of-00003.safetensors" for index in range(3)]
    assert [name for name in content(written) if name.startswith("moments")] == names
    parts = [load_file(written / name)["moments"] for name in names]
    assert [tuple(part.shape) for part in parts] == [(n, 2, 2, 4, 8, 8) for n in (4, 4, 3)]
    mean, deviation = reference(base, "horizontal")
    assert torch.equal(torch.cat(parts), torch.stack([mean, deviation], dim=2).transpose(0, 1))


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_images_in_memory_are_encoded_alike(base: Base, flip: str):
    moments = encode_images(base, IMAGES, flip=flip, batch_size=BATCH)
    mean, deviation = reference(base, flip)
    assert torch.equal(moments, torch.stack([mean, deviation], dim=2).transpose(0, 1))
    assert moments.dtype == torch.float16


def test_rows_read_are_those_written_in_any_order_and_repeated(base: Base, written: Path):
    latents, in_memory = Latents.open(written), encode_images(base, IMAGES, flip="horizontal", batch_size=BATCH)
    assert (len(latents), latents.views, latents.shape) == (COUNT, 2, (4, 8, 8))
    rows, view = torch.tensor([10, 0, 3, 3, 7, 4, 3, 10]), torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])
    mean, deviation = reference(base, "horizontal")
    for opened in (latents, Latents(in_memory)):
        read = opened.read(rows, view)
        assert [part.dtype for part in read] == [torch.float32] * 2
        assert torch.equal(read[0], mean[view, rows].float())
        assert torch.equal(read[1], deviation[view, rows].float())
    assert torch.equal(latents.means(), mean[0].flatten(1).float())


def test_a_batch_has_each_text_once_as_they_first_appear(base: Base, written: Path):
    texts, rows = Texts.open(written), torch.tensor([6, 1, 3, 0, 6, 10])
    features, index = texts.read(rows)
    assert features.dtype == torch.float32
    assert index.tolist() == [0, 1, 1, 2, 0, 3], "d, a, a, c, d, g"
    unique = sorted(set(CAPTIONS))
    encoded = torch.cat([base.encode_text(unique[i : i + BATCH]) for i in range(0, len(unique), BATCH)])
    assert torch.equal(features[index], torch.stack([encoded[unique.index(CAPTIONS[row])] for row in rows]))
    in_memory = Texts(encoded, torch.tensor([unique.index(text) for text in CAPTIONS]))
    assert all(torch.equal(a, b) for a, b in zip(in_memory.read(rows), (features, index), strict=True))


def test_a_reader_reads_rows_and_keeps_none(written: Path, monkeypatch: pytest.MonkeyPatch):
    latents, texts = open_encoded(written, written)
    asked, preadv = [], os.preadv

    def counted(descriptor, buffers, offset):
        asked.append(sum(buffer.nbytes for buffer in buffers))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    rows = torch.tensor([2, 9, 2])
    latents.read(rows, torch.tensor([0, 1, 1]))
    assert asked == [2 * 4 * 8 * 8 * 2] * 3, "mean and deviation of one view each"
    asked.clear()
    texts.read(rows)
    assert len(asked) == 2, "two texts"
    kept = [value for reader in (latents._moments, texts._features) for value in vars(reader).values()]
    assert not any(isinstance(value, Tensor) for value in kept)


@pytest.mark.parametrize("kill_at", [0, 5, 10])
def test_a_killed_encoding_goes_on_and_ends_with_the_same_bytes(
    base: Base, written: Path, saved: Path, tmp_path: Path, kill_at: int
):
    assert run(write_in_process, saved, tmp_path, kill_at) == 9
    left = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    assert len(left) == kill_at // SHARD, "whole shards alone"
    (tmp_path / f"{STAGING}half").mkdir(exist_ok=True)
    (tmp_path / f"{STAGING}half/moments-00002-of-00003.safetensors").write_bytes(b"half a shard")
    write(base, tmp_path)
    clear_staging(tmp_path)  # as the store does before an artifact is complete
    assert content(tmp_path) == content(written)
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in left.items()), "none is made twice"


def test_two_processes_share_the_shards_of_one(written: Path, saved: Path, tmp_path: Path):
    assert run_on_two(write_in_process, saved, tmp_path) == [0, 0]
    assert content(tmp_path) == content(written)


@pytest.mark.parametrize(("rank", "own"), [(0, [0, 2]), (1, [1])])
def test_a_process_makes_its_own_shards_alone(rank: int, own: list[int], tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    write_shards(tmp_path, "moments", COUNT, lambda rows: torch.tensor(rows, dtype=torch.float32))
    assert list(content(tmp_path)) == [f"moments-{index:05d}-of-00003.safetensors" for index in own]


def test_a_card_with_too_little_memory_is_one_line(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    for name in ("encode", "encode_text"):
        monkeypatch.setattr(base, name, fail, raising=False)
    told = r"encode\.batch_size=2: .*lower it"
    with pytest.raises(UserError, match=told):
        write_latents(base, lambda rows: IMAGES[rows.start : rows.stop], COUNT, tmp_path, flip="none", batch_size=2)
    with pytest.raises(UserError, match=told):
        write_texts(base, CAPTIONS, tmp_path, batch_size=2)
    with pytest.raises(UserError, match=told):
        encode_images(base, IMAGES, batch_size=2)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path):
    values = torch.arange(11.0)[:, None]
    write_shards(tmp_path, "x", 11, lambda rows: values[rows.start : rows.stop])
    assert torch.equal(Shards(tmp_path, "x")[torch.arange(11)], values)
    with pytest.raises(ValueError, match="invalid entry"):
        Shards(tmp_path, "x")[torch.tensor([11])]
    opened, last = Shards(tmp_path, "x"), tmp_path / "x-00002-of-00003.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[:-2])
    with pytest.raises(UserError, match=r"x-00002-of-00003\.safetensors: cut short; remove its folder"):
        opened[torch.tensor([10])]
    with pytest.raises(UserError, match=r"x-00002-of-00003\.safetensors: damaged .*remove its folder"):
        Shards(tmp_path, "x")
    last.unlink()
    with pytest.raises(UserError, match="not all shards of x are there"):
        Shards(tmp_path, "x")
    save_file({"y": values}, last)
    with pytest.raises(UserError, match=r"x-00002-of-00003\.safetensors: damaged"):
        Shards(tmp_path, "x")
