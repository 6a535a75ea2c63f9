"""What is fetched from the hub, from a stand-in of it, and what is said when it cannot be had."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stand_in import COMMIT, Hub
from tiny import predict, tiny_base

from sarsynth.diffusion.base import Base
from sarsynth.diffusion.hub import CANNY, PUBLISHED, SD15
from sarsynth.diffusion.layouts import BASE, CONTROLNET

# The published lists of files, with sizes in bytes: approximate for small files and for those that are not loaded.
LISTS = {
    SD15: {
        ".gitattributes": 1_500,
        "README.md": 14_500,
        "feature_extractor/preprocessor_config.json": 342,
        "model_index.json": 541,
        "safety_checker/config.json": 4_720,
        "safety_checker/model.fp16.safetensors": 608_000_000,
        "safety_checker/model.safetensors": 1_216_000_000,
        "safety_checker/pytorch_model.bin": 1_216_000_000,
        "safety_checker/pytorch_model.fp16.bin": 608_000_000,
        "scheduler/scheduler_config.json": 308,
        "text_encoder/config.json": 617,
        "text_encoder/model.fp16.safetensors": 246_144_864,
        "text_encoder/model.safetensors": 492_000_000,
        "text_encoder/pytorch_model.bin": 492_000_000,
        "text_encoder/pytorch_model.fp16.bin": 246_000_000,
        "tokenizer/merges.txt": 524_619,
        "tokenizer/special_tokens_map.json": 472,
        "tokenizer/tokenizer_config.json": 806,
        "tokenizer/vocab.json": 1_059_962,
        "unet/config.json": 743,
        "unet/diffusion_pytorch_model.bin": 3_438_000_000,
        "unet/diffusion_pytorch_model.fp16.bin": 1_719_000_000,
        "unet/diffusion_pytorch_model.fp16.safetensors": 1_719_125_304,
        "unet/diffusion_pytorch_model.non_ema.bin": 3_438_000_000,
        "unet/diffusion_pytorch_model.non_ema.safetensors": 3_438_000_000,
        "unet/diffusion_pytorch_model.safetensors": 3_438_000_000,
        "v1-5-pruned-emaonly.ckpt": 4_265_000_000,
        "v1-5-pruned-emaonly.safetensors": 4_265_000_000,
        "v1-5-pruned.ckpt": 7_703_000_000,
        "v1-5-pruned.safetensors": 7_703_000_000,
        "v1-inference.yaml": 1_870,
        "vae/config.json": 547,
        "vae/diffusion_pytorch_model.bin": 335_000_000,
        "vae/diffusion_pytorch_model.fp16.bin": 167_000_000,
        "vae/diffusion_pytorch_model.fp16.safetensors": 167_335_342,
        "vae/diffusion_pytorch_model.safetensors": 335_000_000,
    },
    CANNY: {
        ".gitattributes": 1_500,
        "README.md": 15_000,
        "config.json": 999,
        "control_net_canny.py": 1_400,
        "diffusion_pytorch_model.bin": 1_445_000_000,
        "diffusion_pytorch_model.fp16.bin": 723_000_000,
        "diffusion_pytorch_model.fp16.safetensors": 722_598_642,
        "diffusion_pytorch_model.safetensors": 1_445_000_000,
        "images/bird.png": 500_000,
        "images/bird_canny.png": 20_000,
        "images/bird_canny_out.png": 500_000,
        "sd.png": 400_000,
    },
}
LAYOUTS = {SD15: "BASE", CANNY: "CONTROLNET"}
UNET = "unet/diffusion_pytorch_model"


# --- Which files are loaded -------------------------------------------------------------------------------------------


def test_of_the_published_lists_exactly_these_files_are_loaded():
    assert BASE.choose(LISTS[SD15]) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert CONTROLNET.choose(LISTS[CANNY]) == ["config.json", "diffusion_pytorch_model.fp16.safetensors"]


@pytest.mark.parametrize(("repo", "layout"), [(SD15, BASE), (CANNY, CONTROLNET)])
def test_what_is_known_without_network_is_what_the_lists_say(repo: str, layout):
    assert PUBLISHED[repo] == {name: LISTS[repo][name] for name in layout.choose(LISTS[repo])}


def weights(*names: str) -> list[str]:
    """What is chosen of a U-Net's weights, where these are there beside all else."""
    others = [name for name in LISTS[SD15] if not name.startswith(UNET)]
    return [name.removeprefix(UNET) for name in BASE.choose([*others, *(UNET + n for n in names)]) if UNET in name]


SHARDS = ["-00001-of-00002.safetensors", "-00002-of-00002.safetensors"]
HALF_SHARDS = [f".fp16{shard}" for shard in SHARDS]
INDEX, HALF_INDEX = ".safetensors.index.json", ".safetensors.index.fp16.json"


def test_weights_come_whole_or_in_shards_and_in_half_precision_where_there_is_one():
    assert weights(".safetensors", ".bin", ".non_ema.safetensors", ".msgpack") == [".safetensors"]
    assert weights(".safetensors", ".fp16.bin") == [".safetensors"]
    assert weights(INDEX, *SHARDS, ".bin.index.json", "-00001-of-00001.bin") == [*SHARDS, INDEX]
    assert weights(INDEX, *SHARDS, HALF_INDEX, *HALF_SHARDS) == [*HALF_SHARDS, HALF_INDEX]
    assert weights(INDEX, *SHARDS, ".fp16.safetensors") == [".fp16.safetensors"]
    assert weights(INDEX, *SHARDS, HALF_INDEX, HALF_SHARDS[1]) == [*SHARDS, INDEX], "a shard is missing"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([".bin", ".fp16.bin"], rf"only pickles, .*\({UNET}\.bin\)"),
        ([".ckpt"], "only pickles"),
        ([INDEX, SHARDS[0]], f"no {UNET}.safetensors"),
        ([".non_ema.safetensors", ".msgpack"], f"no {UNET}.safetensors"),
    ],
)
def test_without_safetensors_there_are_no_weights(names: list[str], said: str):
    with pytest.raises(ValueError, match=said):
        weights(*names)


# --- Fetching ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with both repositories, of which every file holds its own name."""
    stand_in = Hub({repo: {name: name.encode() * 9 for name in files} for repo, files in LISTS.items()}, LISTS)
    with stand_in.serving():
        yield stand_in


class Client:
    """Fetches in a process of its own: the hub's client reads its environment once."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.environment = os.environ | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    def run(self, repo: str, layout: str = "BASE", *, offline: bool = False, before: str = "") -> list[str]:
        """Return what is printed: lines about the work, and the folder or the error."""
        code = f"""
import sys, time
time.sleep = lambda seconds: None
{before}
from sarsynth.diffusion import hub, layouts
from sarsynth.errors import UserError
try:
    print(hub.ModelSetting("base.path", layouts.{layout}, "", "do without").fetch({repo!r}))
except UserError as error:
    print("error:", error)
assert "torch" not in sys.modules
"""
        environment = self.environment | {"HF_HUB_OFFLINE": str(int(offline))}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def error(self, repo: str, layout: str = "BASE", **how) -> str:
        """Return the one line about what went wrong."""
        *_, said = self.run(repo, layout, **how)
        assert said.startswith(f"error: base.path={repo}: ")
        return said


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")


def held(folder: str) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in Path(folder).rglob("*") if file.is_file())


@pytest.mark.parametrize(("repo", "size"), [(SD15, "12 files, 2.1 GB"), (CANNY, "2 files, 0.7 GB")])
def test_what_is_loaded_is_fetched_once_and_nothing_else(hub: Hub, client: Client, repo: str, size: str):
    said, folder = client.run(repo, LAYOUTS[repo])
    assert said.startswith(f"fetching {repo} from the hub: {size}, into ")
    assert held(folder) == sorted(PUBLISHED[repo])
    assert sorted(name for name, _ in hub.sent) == sorted(PUBLISHED[repo])
    assert {path for path in hub.asked if "/resolve/" in path} == {
        f"/{repo}/resolve/{COMMIT}/{name}" for name in PUBLISHED[repo]
    }
    for name in PUBLISHED[repo]:
        assert (Path(folder) / name).read_bytes() == hub.files[repo][name]
    hub.asked.clear()
    assert client.run(repo, LAYOUTS[repo]) == [folder], "again: not a word"
    assert client.run(repo, LAYOUTS[repo], offline=True) == [folder]
    assert hub.asked == []


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, client: Client):
    name = f"{UNET}.fp16.safetensors"
    hub.cut = {name}
    small_pieces = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1"
    _, folder = client.run(SD15, before=small_pieces)
    content = hub.files[SD15][name]
    assert [begin for file, begin in hub.sent if file == name] == [0, len(content) // 2]
    assert (Path(folder) / name).read_bytes() == content


def test_a_download_that_breaks_off_keeps_whole_files(hub: Hub, client: Client):
    name = "vae/diffusion_pytorch_model.fp16.safetensors"
    hub.broken = {name}
    assert "the download broke off (" in client.error(SD15)
    assert "and the hub cannot be reached (HF_HUB_OFFLINE is set)" in client.error(SD15, offline=True), "half a model"
    whole = {file for file, _ in hub.sent} - {name}
    hub.broken.clear()
    hub.sent.clear()
    said, folder = client.run(SD15)
    assert len(whole) + len(hub.sent) == len(PUBLISHED[SD15])
    assert whole.isdisjoint(file for file, _ in hub.sent)
    assert f" {len(hub.sent)} files, " in said
    assert held(folder) == sorted(PUBLISHED[SD15])


def test_a_cache_that_lacks_a_small_file_is_not_whole(hub: Hub, client: Client):
    """It is optional elsewhere, but this repository has it."""
    _, folder = client.run(SD15)
    (Path(folder) / "tokenizer/special_tokens_map.json").unlink()
    assert client.error(SD15, offline=True)
    said, _ = client.run(SD15)
    assert " 1 files, " in said


def test_a_repository_without_half_precision_or_in_shards_is_fetched(hub: Hub, client: Client):
    small = [name for name in LISTS[SD15] if name.endswith((".json", ".txt"))]
    stems = ["text_encoder/model", "vae/diffusion_pytorch_model"]
    names = [*small, *(f"{stem}{end}" for stem in stems for end in (".safetensors", ".bin"))]
    names += [UNET + end for end in (INDEX, *SHARDS, ".bin")]
    hub.files["someone/ships"] = {name: name.encode() for name in names}
    _, folder = client.run("someone/ships")
    assert held(folder) == BASE.choose(names)
    assert {name for name in held(folder) if "safetensors" in name} == {
        *(f"{stem}.safetensors" for stem in stems),
        *(UNET + end for end in (INDEX, *SHARDS)),
    }


def test_configurations_alone_are_fetched_for_one_file_of_weights(hub: Hub, client: Client):
    _, folder = client.run(SD15, "BASE.without_weights()")
    assert held(folder) == [name for name in sorted(PUBLISHED[SD15]) if not name.endswith(".safetensors")]


def test_what_was_fetched_is_loaded(hub: Hub, client: Client, tmp_path: Path):
    tiny = tiny_base()
    tiny.save(tmp_path / "saved")
    files = [file for file in (tmp_path / "saved").rglob("*") if file.is_file()]
    named = {file.relative_to(tmp_path / "saved").as_posix(): file.read_bytes() for file in files}
    halves = {name.replace(".safetensors", ".fp16.safetensors"): content for name, content in named.items()}
    full = {name: b"not to be opened" for name in named if name.endswith(".safetensors")}
    hub.files["someone/tiny"] = halves | full | {f"{UNET}.fp16.bin": b"not to be opened"}
    _, folder = client.run("someone/tiny")
    assert held(folder) == sorted(halves)
    assert torch.equal(predict(Base.load(Path(folder))), predict(tiny))


# --- What cannot be had -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("repo", "size"), [(SD15, "(2.1 GB)"), (CANNY, "(0.7 GB)")])
def test_without_network_the_command_is_said_that_fetches_it(client: Client, repo: str, size: str):
    said = client.error(repo, LAYOUTS[repo], offline=True)
    assert "HF_HUB_OFFLINE is set" in said
    assert f"download it {size} with `hf download {repo} {' '.join(PUBLISHED[repo])} --local-dir FOLDER`" in said
    assert said.endswith("set base.path to that FOLDER, or do without")
    client.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens
    assert re.sub(r"reached \(.*?\);", "", client.error(repo, LAYOUTS[repo])) == re.sub(r"reached \(.*?\);", "", said)


@pytest.mark.parametrize("repo", [CANNY, "someone/steers"])
def test_the_command_fetches_what_is_loaded(hub: Hub, client: Client, tmp_path: Path, repo: str):
    """The hub's own command understands it."""
    hub.files["someone/steers"] = dict.fromkeys(("config.json", "diffusion_pytorch_model.safetensors", "x.bin"), b"")
    (line,) = re.findall("`(hf .*)`", client.error(repo, "CONTROLNET", offline=True))
    environment = client.environment | {"HF_HUB_OFFLINE": "0", "FOLDER": str(tmp_path / "there")}
    hf = f"{sys.executable} -m huggingface_hub.cli.hf"
    subprocess.run(line.replace("hf", hf, 1).replace("FOLDER", '"$FOLDER"'), shell=True, env=environment, check=True)
    fetched = [name for name in held(str(tmp_path / "there")) if not name.startswith(".cache")]
    assert fetched == CONTROLNET.choose(hub.files[repo])


def test_each_refusal_has_its_remedy(hub: Hub, client: Client):
    hub.files["someone/pickles"] = {name: b"" for name in LISTS[SD15] if not name.endswith(".safetensors")}
    hub.files["someone/words"] = {"README.md": b""}
    assert re.search("only pickles, .*convert it or choose .*; do without$", client.error("someone/pickles"))
    assert client.error("someone/words").endswith("no model_index.json; do without")
    assert "no such repository on the hub: check its spelling, log in with `hf auth login`" in client.error("some/typo")
    hub.gated = {SD15}
    assert f"accepted its terms: do so at {hub.endpoint}/{SD15}, log in with `hf auth login`" in client.error(SD15)
    hub.refuses = 401
    assert "the hub refuses this login: log in anew with `hf auth login`" in client.error(SD15)
    hub.refuses = 503
    assert "the hub cannot be reached (it answered 503 Service Unavailable); where it can, " in client.error(SD15)
    assert hub.sent == []


FULL = """
from errno import {error}
from huggingface_hub import file_download
def fail(*args, **kwargs): raise OSError({error}, "said by the system")
file_download.http_get = fail
"""
LITTLE = """
import shutil
from types import SimpleNamespace
shutil.disk_usage = lambda path: SimpleNamespace(free=7 * 10**8)
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (FULL.format(error="ENOSPC"), "the disk of .* is full"),
        (FULL.format(error="EACCES"), "cannot be written"),
        (LITTLE, r"needs 2\.1 GB, but .* has 0\.7 GB left"),
    ],
    ids=["full", "read-only", "little"],
)
def test_a_disk_without_room(client: Client, hub: Hub, before: str, said: str):
    assert re.search(
        f"{said}; make room there, or set the environment variable HF_HOME", client.error(SD15, before=before)
    )
    assert hub.sent == []
