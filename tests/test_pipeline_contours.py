"""Images that follow contours, end to end, through the command line: tiny sets, two steps, 32 px."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import test_pipeline
from diffusers import ControlNetModel
from PIL import Image
from processes import run_script
from test_pipeline import COUNTS, TINY, Command, artifact, cards, inputs, refused
from tiny import tiny_base

from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.controlnet import new_controlnet, save_controlnet
from sarsynth.report.pictures import read_png, strip
from sarsynth.sim import CLASSES

command = test_pipeline.command  # the fixture

FEW = [*TINY, "method=lora", "seeds=[0]", "generate.per_class=6"]
SIZES = {"cargo": 6, "other": 6, "fishing": 6, "tanker": 6, "dredger": 6}
STEPS = ["train.controlnet.max_steps=2", "train.controlnet.warmup_steps=1", "train.controlnet.batch_size=4"]
TRAINED = ["controlnet.use=trained", "controlnet.init=unet", "controlnet.on=sar", *STEPS]


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> SimpleNamespace:
    """A study whose images follow the contours of SAR and ORS images, by a ControlNet of its own."""
    folder = tmp_path_factory.mktemp("followed")
    run = run_script("evaluate", folder, *FEW, "contours=real+ors", *TRAINED)
    assert run.returncode == 0, run.stderr + run.stdout
    (result,) = folder.rglob("result.json")
    return SimpleNamespace(folder=folder, run=run, store=folder / "logs/store", result=json.loads(result.read_text()))


def rows_of(store: Path) -> dict[str, list[dict]]:
    """The metadata of a synthetic set, by class."""
    lines = (artifact(store, "synthetic", "lora") / "metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {name: [row for row in rows if row["class_name"] == name] for name in CLASSES}


def test_the_metadata_names_the_contour_of_each_image(followed: SimpleNamespace):
    for name, rows in rows_of(followed.store).items():
        named = [row["contour"] for row in rows]
        real = [f"data:{name}/{index}" for index in range(COUNTS[name])]
        ors = [f"ors:{name}/{index}" for index in range(3)]
        assert named[: len(real)] == real[:6], "the first follow one real image each"
        assert set(named[len(real) :]) <= set(ors)
        assert len(set(named)) == 6, "each once before any serves twice"


def test_how_many_images_gave_a_contour_is_said_and_kept(followed: SimpleNamespace):
    report = json.loads((artifact(followed.store, "synthetic", "lora") / "contours.json").read_text())
    assert report == {
        name: {"data": {"kept": COUNTS[name], "of": COUNTS[name]}, "ors": {"kept": 3, "of": 3}} for name in CLASSES
    }
    assert followed.run.stdout.count("Images that give contours") == 1
    assert f"{COUNTS['tanker']} of {COUNTS['tanker']}" in followed.run.stdout


def test_strips_show_the_set_between_what_the_base_makes_and_what_the_whole_stack_does(followed: SimpleNamespace):
    """Only the middle of three columns is made for the strip."""
    made = [artifact(followed.store, *of) for of in (("cache", "sd-nano-unadapted"), ("synthetic", "lora"))]
    first, last = ([read_png(folder / f"images/cargo/{i:06d}.png") for i in range(4)] for folder in made)
    assert all((one != other).any() for one, other in zip(first, last, strict=True))
    drawn = strip(np.stack([first, np.zeros_like(first), last], axis=1), [0, 0.5, 1], title="lora: cargo")
    with Image.open(artifact(followed.store, "cache", "lora-strips") / "cargo.png") as stored:
        differs = (np.asarray(stored) != np.asarray(drawn)).reshape(drawn.height, drawn.width, -1).any(axis=(0, 2))
    columns = np.flatnonzero(differs)
    assert drawn.width / 3 < columns.min() < columns.max() < 2 * drawn.width / 3


def test_fidelity_compares_pairs(followed: SimpleNamespace):
    for name, figures in followed.result["fidelity"]["per_class"].items():
        n = min(SIZES[name], COUNTS[name])
        assert (figures["n_real"], figures["n_synthetic"]) == (n, n)


def test_the_controlnet_is_an_artifact_in_the_layout_of_diffusers(followed: SimpleNamespace):
    made = artifact(followed.store, "controlnet", "sd-nano-sar")
    assert {file.name for file in made.iterdir()} == {"card.json", "config.json", "diffusion_pytorch_model.safetensors"}
    network = ControlNetModel.from_pretrained(made)
    assert any(block.weight.any() for block in network.controlnet_down_blocks), "it has learnt something"
    assert set(inputs(made)) == {"base", "latents", "texts", "contours"}
    synthetic = inputs(artifact(followed.store, "synthetic", "lora"))
    assert synthetic["controlnet"] == made.name.rpartition("-")[2]
    assert {"contours_data", "contours_ors"} <= set(synthetic)


def test_what_changes_no_image_makes_nothing(followed: SimpleNamespace, command: Command):
    before = cards(followed.store)
    again = command("evaluate", *FEW, "contours=real+ors", *TRAINED, "contours.reuse_cap=7", folder=followed.folder)
    assert again.code == 0, again.err
    assert cards(followed.store) == before
    other = command(
        "generate", *FEW, "contours=real+ors", *TRAINED, "contours.conditioning_scale=0.5", folder=followed.folder
    )
    assert other.code == 0, other.err
    made = {name.split("/")[1].rpartition("-")[0] for name in set(cards(followed.store)) - set(before)}
    images = {"2lora", "2lora-strips", "lora", "lora-strips", "sd-nano-unadapted"}
    assert made <= images, "images and nothing else"


def test_adapters_learn_as_their_images_are_made(followed: SimpleNamespace):
    """Under the ControlNet that images are made with, whatever its scale then, and each class as often as any other."""
    shown = inputs(followed.store / "synthetic" / f"lora-{followed.result['inputs']['synthetic']}")
    card = json.loads((followed.store / "adapter" / f"sar-{shown['sar']}" / "card.json").read_text())
    assert (card["settings"]["contours"], card["settings"]["sampling"]) == ("frozen", "balanced")
    assert card["inputs"]["controlnet"] == shown["controlnet"]
    assert card["inputs"]["contours"] == shown["contours_data"]


@pytest.mark.parametrize("overrides", [["contours=none"], ["contours=real", "adapter.contours=none"]])
def test_or_without_it(command: Command, tmp_path: Path, overrides: list[str]):
    """Where their images follow no contours, and on request."""
    run = command("train", "stage=sar", *TINY, "method=lora", "adapter.sampling=uniform", *overrides)
    assert run.code == 0, run.err
    made = artifact(tmp_path / "logs/store", "adapter", "sar")
    card = json.loads((made / "card.json").read_text())
    assert (card["settings"]["contours"], card["settings"]["sampling"]) == ("none", "uniform")
    assert not {"contours", "controlnet"} & set(card["inputs"])


@pytest.mark.parametrize("on", ["ors", "regular"])
def test_a_controlnet_is_trained_on_other_images_and_goes_on_from_one(command: Command, tmp_path: Path, on: str):
    first = command("train", "stage=controlnet", *TINY, "regular.train=3", *TRAINED, f"controlnet.on={on}")
    assert first.code == 0, first.err
    made = artifact(tmp_path / "logs/store", "controlnet", f"sd-nano-{on}")
    assert str(made.relative_to(tmp_path)) in first.out
    more = command(
        "train", "stage=controlnet", *TINY, "regular.train=3", *STEPS,
        f"controlnet.on={on}", "controlnet.init=shipped", f"base.controlnet={made}",
    )  # fmt: skip
    assert more.code == 0, more.err
    both = list((tmp_path / "logs/store/controlnet").glob(f"sd-nano-{on}-*"))
    assert len(both) == 2
    assert sorted("init" in inputs(path) for path in both) == [False, True]


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A ControlNet for the embedded base that changes nothing."""
    save_controlnet(new_controlnet(Base.load(NANO), seed=0), tmp_path / "fresh")
    return tmp_path / "fresh"


def test_a_controlnet_that_adds_nothing_leaves_the_images_as_they_are(command: Command, tmp_path: Path, fresh: Path):
    few = [*TINY, "method=lora", "augment.plan={}"]
    for contours in (["contours=none"], ["contours=real", "base.controlnet=fresh"]):
        run = command("generate", *few, *contours)
        assert run.code == 0, run.err
    one, other = (tmp_path / "logs/store/synthetic").glob("lora-*")
    for file in sorted(one.rglob("*.png")):
        with Image.open(file) as a, Image.open(other / file.relative_to(one)) as b:
            assert np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max() <= 1
    named = {
        folder: {json.loads(row)["contour"] for row in (folder / "metadata.jsonl").open()} for folder in (one, other)
    }
    assert {None} in named.values()
    assert sum(len(names) for names in named.values()) > 10


def write_maps(root: Path, size: int) -> None:
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        picture = np.zeros((size, size), np.uint8)
        picture[4, 4:-4] = 255
        Image.fromarray(picture).save(root / name / "line.png")


def test_crowded_and_cut_off_images_give_none_and_maps_of_ones_own_join(command: Command, tmp_path: Path, fresh: Path):
    write_maps(tmp_path / "maps", 32)
    test_pipeline.write_images(tmp_path / "ors/train", dict.fromkeys(CLASSES, 1) | {"tanker": 4}, "ors")
    boxes = {0: [[5, 5, 20, 20]], 1: [[30, 5, 10, 20]], 2: [[5, 5, 20, 20], [7, 7, 20, 20]]}  # the images are of 40 px
    objects = [{"file_name": f"tanker/{i}.png", "objects": {"bbox": box}} for i, box in boxes.items()]
    (tmp_path / "ors/train/metadata.jsonl").write_text("\n".join(map(json.dumps, objects)))
    run = command(
        "generate", *TINY[:-1], "method=lora", "contours=real+ors", "contours.root=maps", "base.controlnet=fresh",
        "ors=imagefolder", "ors.root=ors", "generate.per_class=7", "augment.plan={}",
    )  # fmt: skip
    assert run.code == 0, run.err
    named = [row["contour"] for row in rows_of(tmp_path / "logs/store")["tanker"]]
    assert named[:4] == [f"data:tanker/{index}" for index in range(4)]
    assert set(named[4:]) == {"ors:train/tanker/0.png", "ors:train/tanker/3.png", "root:tanker/line.png"}
    report = json.loads((artifact(tmp_path / "logs/store", "synthetic", "lora") / "contours.json").read_text())
    assert report["tanker"]["ors"] == {"kept": 2, "of": 4}
    assert report["cargo"] == {
        "data": {"kept": 16, "of": 16}, "ors": {"kept": 1, "of": 1}, "root": {"kept": 1, "of": 1}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["contours.root=maps"], ["maps/cargo/line.png: a contour map of 48 x 48 px", "base.image_size=32"]),
        (["contours.root=nowhere"], ["contours.root=nowhere: no such folder"]),
        (["contours.reuse_cap=1", "generate.per_class=9"], ["contours.reuse_cap=1: ", "class other", "raise it to 2"]),
        (["contours=none", "contours.root=one"], ["contours: none for class other"]),
        (["base.controlnet=no/such/thing"], ["base.controlnet=no/such/thing: no such", "set base.controlnet"]),
        (["base.controlnet=tiny"], ["base.controlnet=tiny: made for another architecture", "set base.controlnet"]),
        (["contours.guidance_interval=[0.8,0.2]"], [r"contours: guidance_interval=\[0.8, 0.2\]", "rising"]),
        (["generate.guidance_interval=[0.8,0.2]"], [r"generate: guidance_interval=\[0.8, 0.2\]", "rising"]),
        (
            ["generate.guidance_interval=[0.3,0.6]", "generate.num_inference_steps=2"],
            [r"generate.guidance_interval=\[0.3,0.6\] holds none of the generate.num_inference_steps=2 steps"],
        ),
        (
            ["contours.guidance_interval=[0.3,0.6]", "generate.num_inference_steps=2"],
            [r"contours.guidance_interval=\[0.3,0.6\] holds none of the generate.num_inference_steps=2 steps"],
        ),
        (["contours.thresholds=[200,100]"], [r"contours: thresholds=\[200, 100\]", "rising"]),
        (["controlnet.on=optical"], ["controlnet.on=optical is not a value", "ors, regular, sar"]),
    ],
    ids=lambda value: " ".join(value),
)  # fmt: skip
def test_bad_input_is_one_line(command: Command, tmp_path: Path, fresh: Path, overrides: list[str], said: list[str]):
    write_maps(tmp_path / "maps", 48)
    write_maps(tmp_path / "one", 32)
    for name in CLASSES[1:]:
        (tmp_path / "one" / name / "line.png").unlink()
    save_controlnet(new_controlnet(tiny_base(), seed=0), tmp_path / "tiny")
    chosen = {key.partition("=")[0]: key for key in ["contours=real", "base.controlnet=fresh", *overrides]}
    refused(command("generate", *TINY, "method=lora", *chosen.values()), *said, root=tmp_path)
