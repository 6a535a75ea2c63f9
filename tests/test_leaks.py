"""Nothing learns from held-out images: every stage refuses, unless that is allowed, and then every result says so."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_conf import compose
from test_imagefolder import write

from sarsynth.commands.train import STAGES
from sarsynth.config.checks import check
from sarsynth.data.transforms import resize
from sarsynth.diffusion.contours import canny
from sarsynth.errors import UserError
from sarsynth.evidence.results import RESULT, write_result
from sarsynth.stages import curate_images, train_adapters
from sarsynth.stages.curate_images import counts, records, source, training
from sarsynth.stages.describe_images import captions
from sarsynth.stages.find_contours import contours
from sarsynth.stages.fit_radiometry import radiometry
from sarsynth.stages.follow_contours import guides
from sarsynth.stages.inspect_images import inspect
from sarsynth.stages.resize_images import images
from sarsynth.stages.study import Study
from sarsynth.stages.sum_up import about
from sarsynth.tracking import Tracker

COUNTS = {"cargo": 8, "tanker": 4}


def picture(seed: int) -> np.ndarray:
    """Speckle of its own."""
    return (40 * np.random.default_rng(seed).gamma(2, 0.5, (40, 40))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A SAR, an ORS and a regular set with nothing in common: tmp_path/<set>/{train,test}/<class>/<n>.png."""
    seed = 0
    for name in ["sar", "ors", "regular"]:
        for split in ["train", "test"]:
            for class_name, count in COUNTS.items():
                for index in range(count):
                    seed += 1
                    write(tmp_path / name / split / class_name / f"{index}.png", picture(seed))
    return tmp_path


def study(root: Path, *overrides: str, script: str = "evaluate") -> Study:
    keys = [f"{slot}={key}" for slot in ("data", "ors", "regular") for key in ("imagefolder",)]
    keys += [f"data.root={root}/sar", f"ors.root={root}/ors", f"regular.root={root}/regular", "base.image_size=32"]
    keys += ["prototypes.k=2", f"paths.store={root}/store"]
    return Study(check(compose(script, *keys, *overrides)), Tracker(None))


@pytest.fixture
def said(monkeypatch) -> Any:
    """What is printed, without colours."""
    console = Console(width=400, record=True, color_system=None, file=open("/dev/null", "w"))  # noqa: SIM115
    for module in ("stages.curate_images", "stages.follow_contours", "console"):
        monkeypatch.setattr(f"sarsynth.{module}.console", console)
    return lambda: console.export_text(clear=False)


def plant(root: Path, source: str, target: str) -> None:
    """Save an image once more under another name, as RGB in another format: another file, the same pixels."""
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    Image.open(root / source).convert("RGB").save(root / target)


LEAKS = {  # which stage learns from which set, and so which copy of a held-out image it must find
    "classifier": ("sar/test/cargo/3.png", "sar/train/tanker/copy.bmp", "data"),
    "prototypes": ("sar/test/cargo/3.png", "sar/train/cargo/copy.bmp", "data"),
    "sar": ("sar/test/tanker/1.png", "sar/train/tanker/copy.bmp", "data"),
    "ors": ("sar/test/cargo/3.png", "ors/train/cargo/copy.bmp", "ors"),
    "base": ("sar/test/cargo/3.png", "regular/train/cargo/copy.bmp", "regular"),
    "controlnet": ("sar/test/cargo/3.png", "ors/train/cargo/copy.bmp", "ors"),
}


def test_every_stage_that_learns_is_tried() -> None:
    assert set(LEAKS) == set(STAGES) - {"data"}


@pytest.mark.parametrize("stage", LEAKS)
def test_a_stage_refuses_held_out_images(root: Path, stage: str) -> None:
    source, target, slot = LEAKS[stage]
    plant(root, source, target)
    with pytest.raises(UserError, match=rf"^{slot}: 1 of what is learnt from .*copy\.bmp is test image .*allow_leak"):
        STAGES[stage](study(root, f"stage={stage}", "method=lora", script="train"))
    made = {card.parent.parent.name for card in (root / "store").glob("*/*/card.json")}
    assert made == {"cache"}, "nothing is trained"
    assert not list((root / "store").glob("cache/*latents*"))


@pytest.mark.parametrize("role", ["sar", "ors"])
def test_contours_for_generation_come_from_training_images_alone(root: Path, role: str) -> None:
    slot = "data" if role == "sar" else "ors"
    plant(root, "sar/test/cargo/3.png", f"{role}/train/cargo/copy.bmp")
    made = study(root, "method=lora", "contours=real+ors", script="generate")
    with pytest.raises(UserError, match=rf"^{slot}: 1 of what is learnt from"):
        contours(made, role, "generate.py")


def test_maps_of_held_out_contours_are_refused(root: Path, said) -> None:
    made = study(
        root,
        "contours=real",
        f"contours.root={root}/maps",
        "contours.thresholds=[20,40]",
        "contours.blur=0",
        script="generate",
    )
    for split in ["train", "test"]:
        pixels = np.asarray(Image.open(root / f"sar/{split}/cargo/0.png"))[..., None]
        chosen = made.settings.contours
        image = resize(pixels, 32)
        drawn = canny(image, chosen.thresholds, chosen.blur)
        assert drawn.any()
        write(root / f"maps/cargo/{split}.png", drawn)
    with pytest.raises(
        UserError, match=r"^contours\.root: 1 of .*cargo/test\.png is the contour of test image test/car"
    ):
        guides(made)
    allowed = study(
        root,
        "contours=real",
        f"contours.root={root}/maps",
        "contours.thresholds=[20,40]",
        "contours.blur=0",
        "data.allow_leak=true",
        script="generate",
    )
    with pytest.raises(UserError, match="reuse_cap"):  # the next question
        guides(allowed)
    assert allowed.leaks["contours.root"]["count"] == 1


def test_a_leak_that_is_allowed_is_told_everywhere(root: Path, said) -> None:
    plant(root, "sar/test/cargo/3.png", "sar/train/tanker/[copy].bmp")
    made = study(root, "data.allow_leak=true")
    pair = ["train/tanker/[copy].bmp", "test image test/cargo/3.png of data"]
    assert about(made)["leaks"] == {"data": {"count": 1, "samples": [pair]}}
    assert "LEAK" in said() and "train/tanker/[copy].bmp is test image test/cargo/3.png" in said()
    (root / "sar/train/tanker/[copy].bmp").unlink()
    assert about(study(root))["leaks"] == {}


def test_near_duplicates_across_given_splits_are_told_not_refused(root: Path, said) -> None:
    noisier = picture(1) * np.random.default_rng(0).normal(1, 0.25, (40, 40))
    write(root / "sar/test/tanker/again.png", noisier.clip(0, 255).astype(np.uint8))
    made = study(root)
    assert len(training(made, "sar")) == 12
    assert 0.9 < curate_images.pairs(made, "sar")[0].agreement < curate_images.COPY
    pair = "train/cargo/0.png (train) and test/tanker/again.png (test)"
    assert f"data: 1 pairs of near-duplicates across its splits: {pair}" in said()
    assert about(made)["near_duplicates_across_splits"] == {"data": 1}
    assert about(made)["leaks"] == {}


def test_copies_of_held_out_images_are_refused_however_they_are_encoded(root: Path, said) -> None:
    Image.fromarray(picture(1) // 2 + 60).save(root / "sar/test/tanker/again.jpg", quality=90)
    with pytest.raises(UserError, match=r"^data: 1 of .*train/cargo/0\.png is as good as test image test/tanker/again"):
        training(study(root), "sar")
    allowed = study(root, "data.allow_leak=true")
    assert len(training(allowed, "sar")) == 12
    assert about(allowed)["leaks"]["data"]["count"] == 1
    assert about(allowed)["near_duplicates_across_splits"] == {"data": 1}


def test_splits_of_ours_do_not_part_near_duplicates(root: Path) -> None:
    for index in range(4):
        write(root / f"sar/train/cargo/{index}b.png", np.clip(picture(index + 1) + 15.0, 0, 255).astype(np.uint8))
    images = source(study(root, "data.test=0.34"), "sar")
    splits = {Path(r.path).name: s for s in ("train", "test") for r in images.records(s) if "cargo" in r.path}
    assert {splits[f"{index}.png"] == splits[f"{index}b.png"] for index in range(4)} == {True}
    assert set(splits.values()) == {"train", "test"}


def test_a_test_image_is_held_out_whoever_asks(root: Path) -> None:
    made = study(root)
    for leaking in (records(made, "sar", "test"), records(made, "sar", "train") + records(made, "sar", "test")[:1]):
        with pytest.raises(UserError, match="held out"):
            curate_images.guard(made, "sar", leaking)
    assert curate_images.guard(made, "sar", records(made, "sar", "train")) == records(made, "sar", "train")


# --- Bad images in a run ----------------------------------------------------------------------------------------------


def test_bad_images_are_left_out_up_to_a_limit(root: Path, said) -> None:
    for index in range(12):
        (root / f"sar/train/cargo/broken {index}.png").write_bytes(b"")
    stopped = study(root)
    with pytest.raises(UserError, match=r"^data\.max_bad=0\.01: 12 of 36 images are bad \(train/cargo/broken 0\.png: "):
        training(stopped, "sar")
    going = study(root, "data.max_bad=0.4")
    assert len(training(going, "sar")) == 12 and counts(going) == COUNTS
    assert "data: left out, 12 bad images" in said() and "and 2 more, all in" in said()


def test_bad_optical_images_stop_at_a_limit_of_their_own(root: Path) -> None:
    (root / "ors/train/cargo/broken.png").write_bytes(b"no image")
    assert len(training(study(root), "sar")) == 12
    with pytest.raises(UserError, match=r"^ors\.max_bad=0\.01"):
        training(study(root), "ors")
    assert len(training(study(root, "ors.max_bad=0.1"), "ors")) == 12


# --- Cards and report -------------------------------------------------------------------------------------------------


def test_cards_say_which_samples_were_seen(root: Path) -> None:
    made = study(root)
    (train,), (test,) = (images(made, split).card["samples"].items() for split in ("train", "test"))
    assert train[1] | {"scan": ""} == {"set": "data", "data": "imagefolder", "split": "train", "count": 12, "scan": ""}
    assert test[1]["split"] == "test" and train[0] != test[0]
    (root / "sar/train/cargo/0.png").rename(root / "sar/train/cargo/renamed.png")
    assert set(images(study(root), "train").card["samples"]) == {train[0]}, "it is what they show"


def test_cards_of_mappings_and_keywords_say_it_too(root: Path) -> None:
    made = study(root, "radiometry=linear", "prompt=keywords", "ors.flip=none")
    _ = radiometry(made, "sar"), captions(made, "ors")
    for name, slot in {"radiometry": "data", "keywords": "ors"}.items():
        (card,) = (root / "store/cache").glob(f"*-{name}-*/card.json")
        (seen,) = json.loads(card.read_text())["samples"].values()
        assert (seen["set"], seen["split"], seen["count"]) == (slot, "train", 12)


def test_a_card_of_an_adapter_tells_its_own_images_from_those_of_its_inputs(root: Path) -> None:
    made = study(root, "method=clora", "stage2_on=base", "data.minor=[tanker]")
    cards = {
        adapter.part.name: adapter.request.card()["samples"].values() for adapter in train_adapters.sar_trainings(made)
    }
    own = {name: [one["count"] for one in seen if "through" not in one] for name, seen in cards.items()}
    assert sorted(own.values()) == [[4], [8]]
    for seen in cards.values():
        assert [(one["count"], one["through"]) for one in seen if "through" in one] == [(12, "latents")]


def test_the_report_names_everything(root: Path, said) -> None:
    plant(root, "sar/test/cargo/3.png", "sar/train/tanker/copy.bmp")
    (root / "sar/train/cargo/<b>broken&.png").write_bytes(b"")
    (root / "out").mkdir()
    made = study(root, "stage=data", script="train")
    files = []
    with pytest.raises(UserError, match=r"data\.max_bad"):
        files += inspect(made, root / "out")
    content = json.loads((root / "out/health.json").read_text())
    assert content["data"]["counts"] == {"train": {"cargo": 8, "tanker": 5}, "test": COUNTS}
    assert list(content["data"]["bad"]) == ["train/cargo/<b>broken&.png"]
    (pair,) = content["data"]["near_duplicates"]
    assert pair == {
        "images": ["train/tanker/copy.bmp", "test/cargo/3.png"],
        "splits": ["train", "test"],
        "classes": ["tanker", "cargo"],
        "agreement": 1.0,
    }
    assert content["data"]["captions"]["cargo"] == {"a SAR image of cargo": 8}
    assert sum(content["data"]["classes"]["cargo"]["histograms"]["uint8"]["pixels"]) == 16 * 40 * 40
    assert content["ors"]["bad"] == {} and content["ors"]["counts"]["train"] == COUNTS
    assert "Images of data=imagefolder" in said() and "Images of ors=imagefolder" in said()
    assert ["train", "8", "5", "13"] in [line.split() for line in said().splitlines()]
    page = (root / "out/report.html").read_text()
    for text in ("&lt;b&gt;broken&amp;.png", "0 bytes", "train/tanker/copy.bmp", "Contours", "contact sheets", "<svg"):
        assert text.lower() in page.lower()
    assert "<b>broken" not in page


def test_a_result_names_files_whose_names_are_no_text(root: Path, said) -> None:
    name = os.fsdecode(b"na\xefve.bmp")
    plant(root, "sar/test/cargo/3.png", f"sar/train/tanker/{name}")
    write_result(about(study(root, "data.allow_leak=true")), root)
    leaks = json.loads((root / RESULT).read_text(encoding="utf-8"))["leaks"]
    assert leaks["data"]["samples"][0][0] == f"train/tanker/{name}"
