"""Captions: wordings, keywords from known geometry and light, what of them the text encoder sees."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from test_conf import settings

from sarsynth.captions.keywords import (
    Rules,
    colour,
    colours,
    contrast,
    gap,
    haze,
    heading,
    keywords,
    length,
    relation,
    size,
    terciles,
    visibility,
)
from sarsynth.captions.templates import caption, captions, class_captions, names_keywords
from sarsynth.data.chips import Marked, Window, instances, rectangle
from sarsynth.data.records import ImageRecord, Instance
from sarsynth.diffusion.base import Base
from sarsynth.errors import UserError
from sarsynth.sim import CLASSES, render
from sarsynth.stages import generate_images
from sarsynth.stages.curate_images import source, training
from sarsynth.stages.describe_images import CAPTIONS, warn_of_cuts, write_captions
from sarsynth.stages.describe_images import captions as captions_of
from sarsynth.stages.describe_images import class_captions as captions_of_classes
from sarsynth.stages.encode_images import latents, texts
from sarsynth.stages.generate_images import negative_prompts
from sarsynth.stages.load_base import base
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.study import Study
from sarsynth.tracking import Tracker

RULES = Rules(**settings("prompt=keywords").prompt.facts.model_dump())
FRAME = (0.0, 0.0, 100.0, 100.0)


# --- Wordings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("data.prompt=paper", "a SAR image of oil tanker ship"),
        ("data.prompt=release", "SAR image of oil tanker ship"),
        ("data.prompt=release_2lora", "remote sensing, SAR image of a oil tanker ship"),
        ("data.prompt=release_figures", "ORS, SAR image of oil tanker ship"),
        ("data.prompt=release_keywords", "SAR image of oil tanker ship"),
        ('data.prompt="a SAR image of a {class_name} vehicle"', "a SAR image of a oil tanker vehicle"),
        ("data.prompt={oil_tanker: one of a kind, default: a ship}", "one of a kind"),
        ("data.prompt={cargo: one of a kind, default: a ship}", "a ship"),
    ],
)
def test_a_prompt_is_a_template_or_the_name_of_a_wording(override: str, text: str):
    assert caption(settings(override).wording("data"), "oil_tanker") == text


def test_the_release_has_keywords_for_every_class_of_the_papers():
    wording = settings("data.prompt=release_keywords").wording("data")
    texts = {name: caption(wording, name) for name in CLASSES}
    assert texts["dredger"].startswith("SAR image of dredger ship, suction pipes")
    assert all(text.startswith(f"SAR image of {name} ship, ") for name, text in texts.items())


def test_the_wordings_are_the_recipes_by_default():
    assert settings().wording("data") == "a SAR image of {class_name} ship"
    assert settings("ors=dota", "ors.root=x").wording("ors") == "ORS, optical remote sensing, {class_name}"
    added = settings("+prompt.wordings.data.mine='mine of {class_name}'", "data.prompt=mine")
    assert added.wording("data") == "mine of {class_name}"


@pytest.mark.parametrize(
    ("wording", "message"),
    [
        ("{text}", "images of class cargo have no text"),
        ("{keywords}", "can stand in prompt.captions alone"),
        ("{other}", "only {class_name} and {text} and {keywords}"),
        ("{class_name", "only {class_name} and {text} and {keywords}"),
        ({"tanker": "a"}, "no template for class cargo"),
    ],
)
def test_templates_that_cannot_be_filled(wording, message: str):
    with pytest.raises(UserError, match=message):
        caption(wording, "cargo")


def test_captions_with_keywords():
    assert caption("{class_name}, {keywords}", "a_b", keywords=("x", "y z")) == "a b, x, y z"
    assert caption("{class_name}, {keywords}", "a", keywords=()) == "a", "no comma is left over"
    assert names_keywords({"a": "b", "default": "{keywords}"})
    assert not names_keywords("{class_name}")


def test_images_to_be_made_have_the_caption_that_all_images_of_their_class_share():
    said = [(0, "a"), (0, "a"), (1, "b"), (1, "c")]
    records = [ImageRecord(str(row), label, "train", text) for row, (label, text) in enumerate(said)]
    classes = ["shared", "mixed", "absent"]
    texts = captions("{text}", records, classes)
    assert class_captions("a {class_name}", texts, records, classes) == {
        "shared": "a",
        "mixed": "a mixed",
        "absent": "a absent",
    }
    with pytest.raises(UserError, match="class mixed have no text"):
        class_captions("{text}", texts, records, classes)


# --- Keywords from annotations ----------------------------------------------------------------------------------------


def turned(x: float, y: float, along: float, across: float, degrees: float, name: str | None = "ship") -> Instance:
    """A box whose longer side points `degrees` from the rows, counter-clockwise as seen."""
    cos, sin = math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))
    sides = [(-along / 2, -across / 2), (along / 2, -across / 2), (along / 2, across / 2), (-along / 2, across / 2)]
    corners = tuple((x + u * cos - v * sin, y + u * sin + v * cos) for u, v in sides)
    xs, ys = zip(*corners, strict=True)
    return Instance((min(xs), min(ys), max(xs), max(ys)), corners=corners, name=name)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (0, "east or west"),
        (20, "east or west"),
        (45, "north-east or south-west"),
        (90, "north or south"),
        (130, "north-west or south-east"),
        (160, "east or west"),
        (225, "north-east or south-west"),
        (-90, "north or south"),
    ],
)
def test_headings_of_turned_boxes(degrees: float, expected: str):
    one = turned(50, 50, 40, 10, degrees)
    assert heading(one, 1.5) == expected
    assert length(one) == pytest.approx(40, abs=1e-3)
    assert heading(turned(50, 50, 12, 10, degrees), 1.5) is None, "too square to tell"
    assert heading(Instance(one.box), 1.5) is None, "an upright box does not say"


def test_gaps_between_boxes():
    left = Instance((0, 0, 10, 10))
    assert gap(left, Instance((13, 0, 20, 10))) == pytest.approx(3)
    assert gap(left, Instance((13, 14, 20, 20))) == pytest.approx(5), "corner to corner"
    assert gap(left, Instance((5, 5, 20, 20))) == gap(left, Instance((2, 2, 4, 4))) == 0
    assert gap(Instance((0, 4, 10, 6)), Instance((4, 0, 6, 10))) == 0, "crosswise: no corner lies in the other"
    side = turned(50, 50, 40, 10, 45), turned(50 + 8 * math.sqrt(2), 50 + 8 * math.sqrt(2), 40, 10, 45)
    assert gap(*side) == gap(*side[::-1]) == pytest.approx(6, abs=1e-3), "16 px apart, 10 px wide"
    assert gap(Instance(side[0].box), Instance(side[1].box)) == 0, "which upright boxes do not show"


OWN = Instance((40, 40, 60, 48), name="ship")
NEAR, FAR = Instance((40, 52, 60, 60), name="ship"), Instance((0, 90, 20, 98), name="ship")
PIER = Instance((0, 0, 30, 30), name="harbor")


@pytest.mark.parametrize(
    ("own", "shown", "expected"),
    [
        (OWN, [OWN], ["single ship", "alone"]),
        (OWN, [OWN, NEAR], ["two ships", "beside another ship"]),
        (OWN, [OWN, FAR], ["two ships"]),
        (OWN, [OWN, NEAR, FAR], ["three ships", "beside another ship"]),
        (OWN, [OWN, PIER], ["single ship", "in a harbour"]),
        (OWN, [OWN, *[FAR] * 6], ["many ships"]),
        (OWN, [OWN, *[FAR] * 5], ["six ships"]),
        (PIER, [PIER], []),
        (PIER, [PIER, OWN, NEAR], ["two ships"]),
    ],
)
def test_relations(own: Instance, shown: list[Instance], expected: list[str]):
    assert list(relation(own, shown, RULES)) == expected


def test_sizes_are_terciles_of_the_training_images():
    boxes = [Instance((0, 0, side, 5)) for side in (10, 20, 30, 40, 50, 60)]
    records = [ImageRecord(str(row), 3, "train", instances=(box,)) for row, box in enumerate(boxes)]
    limits = terciles(records)[3]
    assert [size(length(box), limits) for box in boxes] == [
        *["small size"] * 2,
        *["medium size"] * 2,
        *["large size"] * 2,
    ]
    assert size(7, (7, 7)) == "medium size", "of equals none is large"


def test_chips_keep_the_turn_and_the_name_of_their_objects():
    window = Window(100, 80, 64, 0)
    ship, pier = Marked("ship", turned(100, 80, 40, 10, 30).corners), Marked("harbor", rectangle(80, 60, 90, 70))
    ((first, second),) = instances([ship, pier], [(0, window)], 400, 300)
    assert (first.name, second.name) == ("ship", "harbor")
    assert heading(first, 1.5) == heading(turned(32, 32, 40, 10, 30), 1.5)
    assert length(first) == pytest.approx(40, abs=0.05)
    assert second.corners == ()
    assert ImageRecord("a", 0, "train", instances=(first,)).plain != ImageRecord("a", 0, "train").plain


# --- Keywords from pixels ---------------------------------------------------------------------------------------------


def test_fog_is_seen_where_the_simulated_world_has_some():
    """Its captions say which images have fog: a quarter to half of a bright veil."""
    found = []
    for index in range(150):
        picture = render(0, index, CLASSES[index % 5], "ors", 48)
        found.append((next(visibility(picture.pixels, RULES)), *picture.text.split(", ")))
    assert {"fog", "clear"} == {words[0] for words in found}
    assert all((words[0] == "fog") == ("fog" in words[1:]) for words in found)


def test_measures_of_light_on_known_images():
    flat = np.full((40, 40, 3), (0, 128, 255), np.uint8)
    assert haze(flat) == 0, "a veil would leave no colour dark"
    assert contrast(flat) == pytest.approx(0, abs=1e-6)
    veiled = (flat * 0.5 + 100).astype(np.uint8)
    assert haze(veiled) == pytest.approx(100 / 255)
    half = np.zeros((40, 40, 3), np.uint8)
    half[:, 20:] = 255
    assert contrast(half) == pytest.approx(0.5)
    assert list(visibility(np.full((40, 40, 3), 10, np.uint8), RULES)) == ["clear", "dark"]
    assert list(visibility(half, RULES)) == ["clear"]
    assert list(visibility(np.full((40, 40, 3), 220, np.uint8), RULES)) == ["fog", "bright"]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 30, 30), "red"),
        ((200, 30, 60), "red"),
        ((230, 130, 40), "orange"),
        ((120, 70, 30), "brown"),
        ((230, 220, 40), "yellow"),
        ((40, 150, 60), "green"),
        ((30, 60, 200), "blue"),
        ((150, 40, 200), "purple"),
        ((250, 250, 250), "white"),
        ((128, 130, 128), "grey"),
        ((20, 10, 10), "black"),
    ],
)
def test_names_of_colours(rgb: tuple[int, int, int], name: str):
    assert colour(*rgb) == name


def test_deck_and_hull_have_the_colours_that_were_painted():
    pixels = np.full((100, 100, 3), (20, 52, 78), np.uint8)
    hull, deck = turned(50, 50, 60, 24, 30), turned(50, 50, 40, 16, 30)
    for one, rgb in ((hull, (180, 30, 30)), (deck, (230, 220, 40))):
        cv2.fillPoly(pixels, [np.round(np.array(one.corners)).astype(np.int32)], rgb)
    assert list(colours(pixels, hull)) == ["yellow deck", "red hull"]
    assert list(colours(pixels, Instance(hull.box))) == ["yellow deck"], "around it there is water"
    assert list(colours(pixels, Instance((200, 200, 220, 220)))) == [], "outside"


# --- All together -----------------------------------------------------------------------------------------------------


def test_keywords_of_an_image():
    pixels = np.full((100, 200, 3), (20, 52, 78), np.uint8)
    inside, outside = turned(100, 50, 30, 10, 90), turned(20, 50, 30, 10, 0)
    records = [
        ImageRecord("a", 0, "train", instances=(inside, outside)),
        ImageRecord("b", 0, "train", text="a SAR image, red hull , Two cranes, hulls", instances=()),
    ]
    shown = (50.0, 0.0, 150.0, 100.0)
    first, second = keywords(records, lambda record: (pixels, shown), RULES)
    assert first == ("single ship", "alone", "clear", "heading north or south", "medium size", "blue deck", "blue hull")
    assert second == ("clear", "red hull", "Two cranes"), "nothing is said of what nobody marked"
    assert next(keywords(records[:1], lambda record: (pixels[..., :1], shown), RULES)) == (
        *("single ship", "alone", "heading north or south", "medium size"),
    ), "radar sees neither fog nor colour"


@pytest.fixture
def study(tmp_path: Path, request):
    def build(*overrides: str) -> Study:
        few = ["ors.train=2", "ors.image_size=32", "base.image_size=32", f"paths.store={tmp_path}/store"]
        return Study(settings(*few, *overrides), Tracker(None))

    return build


def test_captions_of_a_study(study, tmp_path: Path, monkeypatch):
    one = study("prompt=keywords")
    said = captions_of(one, "ors")
    assert len(said) == 10
    assert all(text.startswith("ORS, optical remote sensing, ") and "single ship, alone" in text for text in said)
    assert all("hull" in text for text in said), "which the simulated captions tell"
    assert captions_of_classes(one)["tanker"] == "a SAR image of tanker ship", "of images that nobody marked yet"
    again = study("prompt=keywords")
    monkeypatch.setattr(source(again, "ors"), "read", None)
    assert captions_of(again, "ors") == said, "found once"


def test_what_is_cut_off_is_told_and_kept(study, nano: Base, capsys):
    long = "ors.prompt='{text}, seen from above by a camera on an aircraft, suction arm and hopper'"
    one = study(long)
    one.known[base.__wrapped__, ()] = nano
    made = texts(one, "ors")
    assert texts(one, "ors") == made
    told = capsys.readouterr().out
    assert told.count("warning: 10 of 10 captions of ors=sim are cut off at 40 tokens") == 1
    rows = [json.loads(line) for line in (made.path / CAPTIONS).read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [record.path for record in training(one, "ors")]
    assert max(rows, key=lambda row: row["tokens"])["cut"][:60] in told
    for row in rows:
        seen = nano.tokenizer.decode(nano.tokenize([row["text"]])[0], skip_special_tokens=True)
        assert row["seen"] == 40 < row["tokens"]
        assert row["text"].endswith(row["cut"])
        assert row["cut"].split()[-1] == "hopper"
        kept = row["text"].removesuffix(row["cut"])
        tokens = [len(nano.tokenizer(text).input_ids) for text in (kept, kept + row["cut"].split()[0])]
        assert tokens[0] <= 40 < tokens[1]
        assert "".join(seen.split()).startswith("".join(kept.lower().split()).rstrip(","))
    other = study(long.replace("hopper", "hoppers"))
    other.known[base.__wrapped__, ()] = nano
    assert texts(other, "ors") != made, "another word, another artifact"
    assert latents(other, "ors") == latents(one, "ors"), "but the images are what they were"


def test_long_prompts_of_images_alone_are_told_too(study, nano: Base, capsys):
    few = ["data.train=2", "data.test=1", "generate.per_class=1", "generate.num_inference_steps=1", "augment.share=0"]
    one = study("method=frozen", *few, f"data.prompt='a {{class_name}} {'very ' * 60}large'")
    one.known[base.__wrapped__, ()] = nano
    synthetic(one)
    told = capsys.readouterr().out
    assert told.count("warning: 5 of 5 captions of method=frozen are cut off at 40 tokens") == 1
    assert "loses `very" in told


def test_short_texts_lose_nothing(nano: Base):
    assert nano.cut(["a ship", ""]) == [(4, ""), (2, "")]


def test_a_file_name_that_is_no_text_has_a_caption_too(nano: Base, tmp_path: Path):
    name = os.fsdecode(b"na\xefve.png")
    write_captions(tmp_path, nano, [ImageRecord(name, 0, "train")], ["a ship"])
    warn_of_cuts(tmp_path, "data")
    assert json.loads((tmp_path / CAPTIONS).read_text())["file_name"] == name


INTERVAL = "generate.guidance_interval=[0.2,0.8]"


@pytest.mark.parametrize(
    ("said", "kept"),
    [([], {}), ([INTERVAL], {"guidance_interval": [0.2, 0.8]}), ([INTERVAL, "generate.guidance_scale=1"], {})],
)
def test_an_interval_of_guidance_makes_another_set_where_there_is_guidance(said, kept, monkeypatch):
    monkeypatch.setattr("sarsynth.stages.generate_images.negative_prompts", lambda _: {})
    assert generate_images._led(SimpleNamespace(settings=settings(*said))) == kept


@pytest.mark.parametrize(
    ("said", "sizes", "away"),
    [
        ([], {"a": 1, "b": 9, "c": 2}, ["ship b", "", "ship b"]),
        ([], {"a": 4, "b": 4}, ["", "ship a"]),  # of two as large, the first
        ([], {"a": 4}, [""]),
        (["generate.guidance_scale=1"], {"a": 1, "b": 9}, ["", ""]),
        (["generate.negative_prompt=empty"], {"a": 1, "b": 9}, ["", ""]),
    ],
)
def test_guidance_leads_away_from_the_largest_class_all_but_itself(said, sizes, away, monkeypatch):
    known = {"counts": sizes, "classes": list(sizes), "class_captions": {name: f"ship {name}" for name in sizes}}
    for name, value in known.items():
        monkeypatch.setattr(f"sarsynth.stages.generate_images.{name}", lambda _, value=value: value)
    assert list(negative_prompts(SimpleNamespace(settings=settings(*said))).values()) == away
