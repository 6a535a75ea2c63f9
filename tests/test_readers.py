"""Readers: each on a tree of its true layout, in miniature, and on real files where they are to hand."""

import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from sarsynth.config import composition
from sarsynth.config.image_sections import Data, Encoded
from sarsynth.data.chips import Window
from sarsynth.data.entries import Entry, split_off
from sarsynth.data.file_source import FileSource
from sarsynth.data.records import SPLITS, Instance, Split, class_counts
from sarsynth.errors import UserError

REAL = Path(os.environ.get("SARSYNTH_FORMATS", Path(__file__).parents[2] / "shared/data/formats"))
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no sample files of true layouts in {REAL}; set SARSYNTH_FORMATS")


def read(group: str, name: str, root: Path, *overrides: str) -> FileSource:
    """Build the reader as a study does, from its YAML and `root` alone."""
    changes = OmegaConf.from_dotlist([override.removeprefix(f"{group}.") for override in overrides])
    study = OmegaConf.load(composition.CONF / "study.yaml")
    keys = OmegaConf.merge(OmegaConf.load(composition.CONF / group / f"{name}.yaml"), {"root": str(root)}, changes)
    whole = OmegaConf.create({"seed": study.seed, "data": study.data, group: {**study[group], **keys}})
    plain = OmegaConf.to_container(whole, resolve=True)
    return {"data": Data, "ors": Encoded}[group].model_validate(plain[group]).reader.build()


def laid(instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """Objects without what tells how they lie and what they are."""
    return tuple(replace(one, corners=(), name=None) for one in instances)


def write(path: Path, size: tuple[int, int] = (16, 12), mode: str = "L") -> Path:
    """Write a picture of (width, height), different for each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(sum(str(path.name).encode())).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def square(x: float, y: float, name: str, side: float = 10, difficulty: int = 0) -> str:
    """A line of DOTA's form."""
    corners = f"{x} {y} {x + side} {y} {x + side} {y + side} {x} {y + side}"
    return f"{corners} {name} {difficulty}\n"


def counts(source: FileSource) -> dict[Split, dict[str, int]]:
    return {split: class_counts(source.records(split), source.classes) for split in SPLITS if source.records(split)}


def groups_apart(source: FileSource) -> bool:
    splits = [{record.group for record in source.records(split) if record.group} for split in SPLITS]
    return len(set().union(*splits)) == sum(map(len, splits))


# --- SAR --------------------------------------------------------------------------------------------------------------

FUSAR = {"Cargo": 120, "Dredger": 40, "Fishing": 110, "Other": 130, "Tanker": 105, "Tug": 8, "Passenger": 9}
NUMBERS = {"Cargo": 1, "Dredger": 3, "Fishing": 4, "Other": 7, "Passenger": 8, "Tanker": 12, "Tug": 13}


def fusar(root: Path) -> Path:
    """Every ship of category Cargo is there twice."""
    rows = ["id,mmsi,length,width,polarMode,centerLookAngle,heightspace,widthspace,path"]
    for category, count in FUSAR.items():
        for index in range(count):
            name = f"Ship_C{NUMBERS[category]:02d}S01N{index + 1:04d}"
            folder = f"{category}\\{category}Kind"
            write(root / "FUSAR_Ship1.0" / category / f"{category}Kind" / f"{name}.tiff", (32, 32))
            mmsi = 477939300 + index // 2 if category == "Cargo" else 0
            rows.append(f"{name},{mmsi},138,26,DH,42.51,1.702183,1.124222,{folder}")
    write(root / "FUSAR_Ship1.0" / "Clutter" / "Sea" / "Sea0001.tiff")
    text(root / "FUSAR_Ship1.0" / "meta.csv", "\n".join(rows) + "\n")
    return root


SCENES = {"train": 9, "test": 3}
SRSDD = ["ore-oil", "bulk-cargo", "Cell-Container", "Container", "Fishing", "Dredger", "Dredger"]


def srsdd(root: Path) -> Path:
    number = 0
    for split, scenes in SCENES.items():
        for _ in range(scenes):
            write(root / "SRSDD-V1.0" / split / "images" / f"{number}.png", (300, 200), "RGB")
            ships = [square(20 + 40 * i, 50, name, side=20) for i, name in enumerate(SRSDD)]
            if split == "test":
                ships.append(square(20, 150, "LawEnforce"))
            lines = "".join(["imagesource:GF-3\n", "gsd:1\n", *ships])
            text(root / "SRSDD-V1.0" / split / "labels" / f"{number}.txt", lines)
            number += 1
    return root


def test_fusar_ship(tmp_path: Path) -> None:
    source = read("data", "fusar", fusar(tmp_path))
    assert source.classes == ["cargo", "fishing", "other", "tanker"], "small categories join `other`"
    assert counts(source)["test"] == {"cargo": 12, "fishing": 11, "other": 19, "tanker": 11}
    assert counts(source)["val"] == counts(source)["test"]
    assert sum(sum(by_class.values()) for by_class in counts(source).values()) == sum(FUSAR.values())
    assert groups_apart(source), "two images of one ship are never on both sides"
    record = source.records("test")[0]
    assert record.path.startswith("Cargo/CargoKind/Ship_C01S01N")
    assert source.read(record).shape == (32, 32, 1)
    assert len(read("data", "fusar", tmp_path, "data.other_below=1").classes) == len(FUSAR)


def test_fusar_ships_are_known_by_their_paths_where_ids_are_numbers(tmp_path: Path) -> None:
    root = fusar(tmp_path) / "FUSAR_Ship1.0"
    (root / "Dredger").rename(root / "dredger")
    header, *rows = (root / "meta.csv").read_text().splitlines()
    parted = [row.split(",") for row in rows]
    numbered = [",".join([str(n), *row[1:-1], f"{row[-1]}\\{row[0]}.tiff"]) for n, row in enumerate(parted)]
    text(root / "meta.csv", "\n".join([header, *numbered]) + "\n")
    source = read("data", "fusar", tmp_path, "data.other_below=1")
    assert sum(record.group is not None for split in SPLITS for record in source.records(split)) == FUSAR["Cargo"]
    assert groups_apart(source)
    assert len(source.classes) == len(FUSAR), "dredgers among them"
    text(root / "meta.csv", "\n".join([header, *(",".join(["7", *row[1:]]) for row in parted)]) + "\n")
    with pytest.raises(UserError, match=r"meta\.csv: of none of the images: expected names such as Ship_C01S01N0001"):
        read("data", "fusar", tmp_path)


def test_srsdd(tmp_path: Path) -> None:
    source = read("data", "srsdd", srsdd(tmp_path))
    by_class = {"bulk_cargo": 2, "container": 1, "dredger": 2, "fishing": 1, "law_enforce": 0, "ore_oil": 1}
    assert counts(source) == {
        "train": {name: 9 * count for name, count in by_class.items()},
        "test": {name: 3 * count for name, count in (by_class | {"law_enforce": 1}).items()},
    }
    record = source.records("train")[1]
    assert (record.path, record.group) == ("train/images/0.png#0001", "train/0")
    assert source.read(record).shape == (64, 64, 1), "20 px of ship, a quarter of that on each side, a multiple of 64"
    assert laid(record.instances)[0] == Instance((22, 22, 42, 42))
    assert len(record.instances) == 3, "its neighbours, 40 px away, show too"
    apart = read("data", "srsdd", tmp_path, "data.val=0.3", "data.size=40", "data.rotate=true")
    assert counts(apart)["val"] == {name: 3 * count for name, count in by_class.items()}
    assert groups_apart(apart)
    assert apart.read(record).shape == (40, 40, 1)
    assert apart.fingerprint() != source.fingerprint()


def test_fu_srs_is_built_from_both(tmp_path: Path) -> None:
    source = read("data", "fu_srs", srsdd(fusar(tmp_path)))
    assert source.classes == ["cargo", "other", "fishing", "tanker", "dredger"]
    # Of FUSAR a tenth, 4 dredgers among them; of SRSDD its 3 test scenes, with 3 cargo ships (two spellings) each.
    test = {"cargo": 12 + 9, "other": 15 + 3, "fishing": 11 + 3, "tanker": 11 + 3, "dredger": 4 + 6}
    assert counts(source)["test"] == test
    assert "dredger" not in read("data", "fu_srs", tmp_path, "data.other_below=11").classes
    assert groups_apart(source)
    assert counts(source)["val"]["cargo"] == 12 + 3, "a tenth of FUSAR, and of 9 training scenes one"
    more = read("data", "fu_srs", tmp_path, "data.test=0.4")
    assert counts(more)["val"]["cargo"] == 12 + 6, "a sixth of what is not for testing: of 9 scenes two"
    paths = {record.path.partition("/")[0] for record in source.records("train")}
    assert paths == {"FUSAR_Ship1.0", "SRSDD-V1.0"}


def test_fusars_half_of_fu_srs_has_the_papers_counts() -> None:
    sizes = {"cargo": 2114, "other": 3004, "fishing": 789, "tanker": 248, "dredger": 61}
    ships = [
        Entry(f"{name}/{index}.tiff", name, "train", group=f"mmsi {name} {index // 3}" if index % 2 else None)
        for name, count in sizes.items()
        for index in range(count)
    ]
    parts = Counter((one.split, one.class_name) for one in split_off(ships, {"val": 0.1, "test": 0.1}, 0))
    assert {name: parts["test", name] for name in sizes} == {
        "cargo": 211,
        "other": 300,
        "fishing": 79,
        "tanker": 25,
        "dredger": 6,
    }
    assert all(parts["val", name] == parts["test", name] for name in sizes)


def test_the_releases_labels_of_fu_srs_are_swapped_in_fusars_half(tmp_path: Path) -> None:
    srsdd(fusar(tmp_path))
    true, release = (
        {
            record.path: (record.split, source.classes[record.label])
            for split in SPLITS
            for record in source.records(split)
        }
        for source in (
            read("data", "fu_srs", tmp_path, f"data.labels={labels}") for labels in ("categories", "release")
        )
    )
    assert true.keys() == release.keys()
    for path, (split, name) in true.items():
        swapped = {"cargo": "other", "other": "cargo"}.get(name, name) if path.startswith("FUSAR") else name
        assert release[path] == (split, swapped)


FUSRS_FILES = {
    "Ship_C01S02N0001.png": ("other", "cargo"),  # the release's label, and that of the file's name
    "Ship_C07S01N0007.png": ("cargo", "other"),
    "Ship_C13S01N0003.png": ("cargo", "other"),
    "Ship_C12S01N0002.png": ("tanker", "tanker"),
    "Ship_C04S01N0002.png": ("fishing", "fishing"),
    "Ship_C03S01N0002.png": ("dredger", "dredger"),
    "L17_2.png": ("cargo", "cargo"),
    "L17_3.png": ("dredger", "dredger"),
}
FUSRS_ORDER = ["cargo", "other", "fishing", "tanker", "dredger"]


def fusrs_lists(root: Path) -> None:
    for split in ("train", "val", "test"):
        lines = []
        for name, (label, _) in FUSRS_FILES.items():
            write(root / "images" / split / name)
            lines.append(f"{split}/{name} {FUSRS_ORDER.index(label)}")
        text(root / "meta" / f"{split}.txt", "\n".join(lines))


def fusrs_captions(root: Path) -> None:
    rows = [{"file_name": name, "text": f"SAR image of {label} ship"} for name, (label, _) in FUSRS_FILES.items()]
    for name in FUSRS_FILES:
        write(root / "train" / name, mode="RGB")
    text(root / "train/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def fusrs_folders(root: Path) -> None:
    for name, (label, _) in FUSRS_FILES.items():
        write(root / label / name, mode="RGB")


@pytest.mark.parametrize("form", [fusrs_lists, fusrs_captions, fusrs_folders])
@pytest.mark.parametrize("labels", ["release", "categories"])
def test_fusrs_as_released(tmp_path: Path, form: Callable[[Path], None], labels: str) -> None:
    form(tmp_path / "fusrs_v2" / "copy")
    source = read("data", "fusrs", tmp_path, f"data.labels={labels}", "data.val=null", "data.test=null")
    assert source.classes == FUSRS_ORDER
    found = {Path(r.path).name: (source.classes[r.label], r.group) for r in source.records("train")}
    which = labels == "categories"
    assert found == {
        name: (both[which], name.partition("_")[0] if name[0] == "L" else None) for name, both in FUSRS_FILES.items()
    }
    assert len(source.records("test")) == (8 if form is fusrs_lists else 0)
    assert source.read(source.records("train")[0]).shape == (12, 16, 1)


def opensarship(root: Path) -> Path:
    kinds = {"Cargo": ("Container Ship", 30), "Tanker": ("Crude Oil Tanker", 20), "Other Type": ("NA", 10)}
    ships, number = [], 0
    scene = root / "OpenSARShip_1" / "S1A_IW_GRDH_1SDV_20150902T102505_20150902T102534_007535_00A699_2D00"
    for kind, (elaborated, count) in kinds.items():
        for _ in range(count):
            number += 1
            ships.append(
                "<ship><SARShipInformation>"
                f"<Center_x>{number}</Center_x><Center_y>7</Center_y></SARShipInformation><AISShipInformation>"
                f"<MMSI>{413000000 + number // 2}</MMSI><Name>HAI & CO</Name></AISShipInformation>"
                f"<MarineTrafficInformation><Elaborated_type>{elaborated}</Elaborated_type></MarineTrafficInformation></ship>"
            )
            for polarisation in ("vh", "vv"):
                write(scene / "Patch_Uint8" / f"Visual_{kind}_x{number}_y7_{polarisation}.tif", (40 + number, 50))
    text(scene / "Ship.xml", f'<?xml version="1.0" encoding="UTF-8"?>\n<ShipList>{"".join(ships)}<\\ShipList>')
    return root


def test_opensarship(tmp_path: Path) -> None:
    source = read("data", "opensarship", opensarship(tmp_path))
    assert source.classes == ["cargo", "other", "tanker"]
    for name, count in counts(source)["test"].items():
        assert count == pytest.approx({"cargo": 12, "other": 4, "tanker": 8}[name], abs=2), "as near as ships allow"
    assert groups_apart(source), "both polarisations and all passages of a ship stay together"
    assert {source.read(record).shape for record in source.records("test")} == {(64, 64, 1)}
    elaborated = read("data", "opensarship", tmp_path, "data.types=elaborated", "data.polarisations=[vv]")
    assert elaborated.classes == ["container_ship", "crude_oil_tanker", "other"]
    assert sum(len(elaborated.records(split)) for split in SPLITS) == 60


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("TARGETS/TRAIN/17_DEG", "TARGETS/TEST/15_DEG"),
        ("MIXED_TARGETS/17_DEG/COL2/SCENE1", "MIXED_TARGETS/15_DEG/COL2/SCENE1"),
    ],
)
@pytest.mark.parametrize("serial", ["", "/SN_9563"])
def test_mstar(tmp_path: Path, train: str, test: str, serial: str) -> None:
    for name, size in [("BMP2", (128, 128)), ("ZIL131", (192, 193))]:
        for folder in (train, test):
            write(tmp_path / "MSTAR" / f"{folder}/{name}{serial}" / "HB03333.JPG", size)
    write(tmp_path / "MSTAR" / "MIXED_TARGETS/30_DEG/COL2/SCENE1/BMP2" / "HB1.JPG", (128, 128))
    source = read("data", "mstar", tmp_path)
    assert source.classes == ["BMP2", "ZIL131"]
    assert counts(source) == {split: {"BMP2": 1, "ZIL131": 1} for split in ("train", "test")}
    assert {source.read(record).shape for record in source.records("train")} == {(128, 128, 1)}


MANIFEST: list[dict[str, Any]] = [
    {"path": "a b/1.PNG", "class": "cargo", "split": "train", "group": "s1", "text": "a ship, grey"},
    {"path": "ü/2.png", "class": "tanker", "split": "test", "group": "s2"},
    {"path": "scene.png", "class": "tanker", "box": [10, 20, 30, 30]},
    {"path": "scene.png", "class": "cargo", "box": [50, 20, 70, 20, 70, 30, 50, 30], "text": "beside it"},
]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("group", ["data", "ors"])
def test_manifest(tmp_path: Path, form: str, group: str) -> None:
    write(tmp_path / "a b/1.PNG"), write(tmp_path / "ü/2.png"), write(tmp_path / "scene.png", (100, 80))
    if form == "jsonl":
        text(tmp_path / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in MANIFEST))
    else:
        columns = ["path", "class", "split", "group", "text", "box"]
        cells = [[row.get(column, "") for column in columns] for row in MANIFEST]
        lines = [",".join(columns)] + [
            ",".join(f'"{" ".join(map(str, cell)) if isinstance(cell, list) else cell}"' for cell in row)
            for row in cells
        ]
        text(tmp_path / "manifest.csv", "\ufeff" + "\n".join(lines) + "\n")
    source = read(group, "manifest", tmp_path)
    assert source.classes == ["cargo", "tanker"]
    assert [(r.path, r.label, r.group, r.text) for r in source.records("train")] == [
        ("a b/1.PNG", 0, "s1", "a ship, grey"),
        ("scene.png#0000", 1, "scene.png", None),
        ("scene.png#0001", 0, "scene.png", "beside it"),
    ]
    assert [record.path for record in source.records("test")] == ["ü/2.png"]
    channels = {"data": 1, "ors": 3}[group]
    assert [source.read(r).shape for r in source.records("train")] == [(12, 16, channels), *[(64, 64, channels)] * 2]
    assert laid(source.records("train")[1].instances) == (Instance((10, 20, 30, 30)), Instance((50, 20, 70, 30)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "none.png", "class": "a"}', r"line 1: no file none\.png"),
        ('{"path": "/etc/hosts", "class": "a"}', r"line 1: /etc/hosts may lie outside"),
        ('{"path": "1.png"}', r"line 1: expected a path and a class"),
        ('{"path": "1.png", "class": "a", "split": "valid"}', r"line 1: split=valid: use train, val, test"),
        ('{"path": "1.png", "class": "a", "box": "1 2 3"}', r"line 1: expected a box .* found `1 2 3`"),
        ('{"path": "1.png", "class": "a", "box": [100, 100, 110, 110]}', r"line 1: a box of 1\.png lies outside"),
        ("[", r"line 1: expected a JSON object"),
        ('{"path": "1.png", "class": "a"}\n{"path": "1.png", "class": "b"}', r"line 2: 1\.png is listed twice"),
    ],
)
def test_bad_manifests(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path / "1.png")
    text(tmp_path / "manifest.jsonl", line)
    with pytest.raises(UserError, match=message):
        read("data", "manifest", tmp_path)


# --- Optical ----------------------------------------------------------------------------------------------------------

DOTA = "".join(
    [
        square(100, 100, "ship"),
        square(130, 100, "ship", difficulty=1),
        square(300, 290, "harbor"),
        square(9, 9, "plane"),
    ]
)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labelTxt"),
        ("images/part4", "labelTxt-v2.0/DOTA-v2.0_train"),
        ("images/images", "labelTxt-v1.5/DOTA-v1.5_train"),
    ],
)
def test_dota(tmp_path: Path, images: str, labels: str) -> None:
    for split in ("train", "val"):
        write(tmp_path / f"DOTA/{split}/{images}/P0001.png", (400, 300), "RGBA")
        write(tmp_path / f"DOTA/{split}/{images}/P0003.png", (40, 30))
        text(tmp_path / f"DOTA/{split}/{labels}/P0001.txt", "imagesource:GoogleEarth\ngsd:null\n" + DOTA)
        text(tmp_path / f"DOTA/{split}/{labels}/P0002.txt", DOTA)
        text(tmp_path / f"DOTA/{split}/{labels}/P0003.txt", "")
        text(tmp_path / f"DOTA/{split}/{labels}_hbb/P0001.txt", DOTA)
    source = read("ors", "dota", tmp_path, "ors.size=64")
    assert counts(source) == {split: {"harbor": 1, "ship": 2} for split in ("train", "val")}
    first, second, third = source.records("train")
    assert (first.group, source.classes[first.label], source.classes[third.label]) == ("P0001", "ship", "harbor")
    assert laid(first.instances) == (Instance((27, 27, 37, 37)), Instance((57, 27, 67, 37), difficult=True))
    assert second.instances[0].difficult
    assert laid(third.instances) == (Instance((0, 54, 10, 64)),) or third.instances[0].box[3] == 64, (
        "at the scene's border"
    )
    assert source.read(first).shape == (64, 64, 3)


def test_labels_of_several_versions_ask_for_one(tmp_path: Path) -> None:
    write(tmp_path / "train/images/P1.png", (400, 300))
    for version in ("v1.0", "v1.5"):
        text(
            tmp_path / f"train/labelTxt-{version}/labelTxt/P1.txt", DOTA if version == "v1.0" else square(1, 1, "ship")
        )
    with pytest.raises(UserError, match=r"labels of several versions: .*v1\.0.*v1\.5.*; choose one"):
        read("ors", "dota", tmp_path)
    assert len(read("ors", "dota", tmp_path, "ors.version=v1.5").records("train")) == 1


def voc_object(name: str, tags: str = "", polygon: str = "") -> str:
    box = "<bndbox><xmin>20</xmin><ymin>10</ymin><xmax>60</xmax><ymax>30</ymax></bndbox>"
    return f"<object><name>{name}</name><truncated>1</truncated><difficult>0</difficult>{tags}{polygon or box}</object>"


def voc(path: Path, *objects: str) -> None:
    text(path, f"<annotation><filename>{path.stem}</filename>{''.join(objects)}</annotation>")


@pytest.mark.parametrize("oriented", [True, False])
def test_dior(tmp_path: Path, oriented: bool) -> None:
    corners = {"left_top": (20, 10), "right_top": (60, 10), "right_bottom": (60, 30), "left_bottom": (20, 30)}
    tags = "".join(f"<x_{name}>{x}</x_{name}><y_{name}>{y}</y_{name}>" for name, (x, y) in corners.items())
    turned = f"<robndbox>{tags}</robndbox>" if oriented else ""
    boxes = "Oriented Bounding Boxes" if oriented else "Horizontal Bounding Boxes"
    for number, (split, part) in enumerate([("train", "trainval"), ("val", "trainval"), ("test", "test")], start=1):
        write(tmp_path / f"DIOR/JPEGImages-{part}/{number:05d}.jpg", (80, 80), "RGB")
        voc(
            tmp_path / f"DIOR/Annotations/{boxes}/{number:05d}.xml",
            voc_object("ship", polygon=turned),
            voc_object("golffield"),
        )
        text(tmp_path / f"DIOR/ImageSets/Main/{split}.txt", f"{number:05d}\n")
    source = read("ors", "dior", tmp_path, "ors.size=64")
    assert counts(source) == {split: {"ship": 1} for split in SPLITS}
    (record,) = source.records("train")
    assert laid(record.instances) == (Instance((12, 10, 52, 30), truncated=True),)
    assert source.read(record).shape == (64, 64, 3)
    shutil.rmtree(tmp_path / "DIOR/ImageSets")
    assert {split: len(read("ors", "dior", tmp_path).records(split)) for split in SPLITS} == {
        "train": 2,
        "val": 0,
        "test": 1,
    }


HRSC = """<HRSC_Image><Img_Des>
</Img_Des><HRSC_Objects><HRSC_Object><Object_ID>100000006</Object_ID><truncated>0</truncated><difficult>0</difficult>
<mbox_cx>60</mbox_cx><mbox_cy>50</mbox_cy><mbox_w>40</mbox_w><mbox_h>10</mbox_h><mbox_ang>{}</mbox_ang>
</HRSC_Object></HRSC_Objects></HRSC_Image>"""


@pytest.mark.parametrize("parts", [("FullDataSet", "FullDataSet"), ("Train", "Test")])
def test_hrsc2016(tmp_path: Path, parts: tuple[str, str]) -> None:
    for name, split, part in [("100000006", "train", parts[0]), ("100000007", "test", parts[1])]:
        write(tmp_path / f"HRSC2016/{part}/AllImages/{name}.bmp", (120, 100), "RGB")
        text(tmp_path / f"HRSC2016/{part}/Annotations/{name}.xml", HRSC.format(-1.5707963))
        if part == "FullDataSet":
            text(tmp_path / f"HRSC2016/ImageSets/{split}.txt", name)
    source = read("ors", "hrsc2016", tmp_path, "ors.size=64")
    assert counts(source) == {"train": {"ship": 1}, "test": {"ship": 1}}
    (record,) = source.records("train")
    assert laid(record.instances) == (Instance((27, 12, 37, 52)),), "upright: a quarter of a turn from its width"


LEVELS = "<level_0>1</level_0><level_1>3</level_1><level_2>22</level_2><level_3>47</level_3><Ship_area>9</Ship_area>"
POLYGON = "<polygon>" + "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(
    [(20, 10), (60, 10), (60, 30), (20, 30)], start=1)) + "</polygon>"  # fmt: skip
DOCK = "<level_0>2</level_0><level_1>4</level_1><level_2>25</level_2><level_3>50</level_3>"
NAMED = [("ship", "dock"), ("merchant", "dock"), ("tanker", "dock"), ("tanker", "dock")]


def shiprsimagenet(root: Path) -> Path:
    small = POLYGON.replace("60", "25")
    for split, number in [("train", 1), ("val", 2), ("test", 3)]:
        write(root / f"VOC_Format/JPEGImages/{number:06d}.bmp", (90, 80), "RGB")
        objects = (
            [voc_object("Oil Tanker", LEVELS, POLYGON), voc_object("Dock", DOCK, small)] if split != "test" else []
        )
        voc(root / f"VOC_Format/Annotations/{number:06d}.xml", *objects)
        text(root / f"VOC_Format/ImageSets/{split}.txt", f"{number:06d}.bmp\n")
        names = [
            ["Ship", "Dock"],
            ["Other Ship", "Warship", "Merchant", "Dock"],
            ["Oil Tanker", "Dock"],
            ["Oil Tanker", "Dock"],
        ]
        for level, several in enumerate(names):
            content: dict[str, Any] = {
                "categories": [{"id": i + 1, "name": name} for i, name in enumerate(several)],
                "images": [{"id": 1, "file_name": f"{number:06d}.bmp", "width": 90, "height": 80}],
            }
            if split != "test":
                tanker = {"image_id": 1, "category_id": 3 if level == 1 else 1, "bbox": [20, 10, 40, 20]}
                dock = {"image_id": 1, "category_id": len(several), "bbox": [20, 10, 5, 20]}
                tanker["segmentation"] = [20, 10, 60, 10, 60, 30, 20, 30]
                content["annotations"] = [tanker, dock]
            text(root / f"COCO_Format/ShipRSImageNet_bbox_{split}_level_{level}.json", json.dumps(content))
    return root


@pytest.mark.parametrize("form", ["voc", "coco"])
@pytest.mark.parametrize("level", range(4))
def test_shiprsimagenet(tmp_path: Path, form: str, level: int) -> None:
    shiprsimagenet(tmp_path / "ShipRSImageNet_V1")
    chosen = [f"ors.form={form}", f"ors.level={level}"]
    source = read("ors", "shiprsimagenet", tmp_path, *chosen)
    assert counts(source) == {split: dict.fromkeys(sorted(NAMED[level]), 1) for split in ("train", "val")}
    first, second = source.records("train")
    assert [source.classes[record.label] for record in (first, second)] == list(NAMED[level])
    truncated = form == "voc"
    assert source.read(first).shape == (64, 64, 3)
    assert laid(first.instances)[0] == Instance((12, 10, 52, 30), truncated=truncated)
    whole = read("ors", "shiprsimagenet", tmp_path, *chosen, "ors.cut=images")
    (record,) = whole.records("train")
    assert (record.path, whole.classes[record.label]) == ("VOC_Format/JPEGImages/000001.bmp", NAMED[level][0])
    assert laid(record.instances) == (Instance((20, 10, 60, 30), truncated), Instance((20, 10, 25, 30), truncated))
    assert whole.read(record).shape == (80, 90, 3)


def test_shiprsimagenet_refuses_numbers_out_of_its_tree(tmp_path: Path) -> None:
    shiprsimagenet(tmp_path)
    voc(tmp_path / "VOC_Format/Annotations/000001.xml", voc_object("x", LEVELS.replace(">22<", ">26<"), POLYGON))
    with pytest.raises(UserError, match=r"000001\.xml: level_2=26 is none of 1 to 25"):
        read("ors", "shiprsimagenet", tmp_path, "ors.level=2")
    with pytest.raises(UserError, match=r"level=4: use 0"):
        read("ors", "shiprsimagenet", tmp_path, "ors.level=4")


@pytest.mark.parametrize("listing", ["meta/annotation.jsonl", "metadata.jsonl", "images/metadata.jsonl"])
def test_dosrs(tmp_path: Path, listing: str) -> None:
    rows = {
        "P0019_23.png": "ORS, optical remote sensing, ship",
        "P0019_24.png": "ORS, optical remote sensing, harbor",
        "000100.bmp": "two cargo ships, in harbor",
    }
    for name in rows:
        write(tmp_path / "dosrs_v1/images" / name, mode="RGB")
    content = "".join(json.dumps({"file_name": name, "text": said}) + "\n" for name, said in rows.items())
    text(tmp_path / "dosrs_v1" / listing, content)
    source = read("ors", "dosrs", tmp_path)
    found = {Path(r.path).name: (source.classes[r.label], r.text, r.group) for r in source.records("train")}
    assert found == {
        "P0019_23.png": ("ship", rows["P0019_23.png"], "P0019"),
        "P0019_24.png": ("harbor", rows["P0019_24.png"], "P0019"),
        "000100.bmp": ("ship", rows["000100.bmp"], "000100"),
    }


# --- What they share --------------------------------------------------------------------------------------------------

READERS = [
    (group, file.stem)
    for group in ("data", "ors")
    for file in sorted((composition.CONF / group).glob("*.yaml"))
    if file.stem not in ("sim", "sim_rare", "imagefolder")
]


@pytest.mark.parametrize(("group", "name"), READERS)
def test_a_folder_that_does_not_fit_says_what_was_expected_and_found(tmp_path: Path, group: str, name: str) -> None:
    text(tmp_path / "Download.zip", ""), text(tmp_path / "notes/readme.txt", "")
    with pytest.raises(UserError, match=r"^root=.*expected .*; found Download\.zip, notes/") as caught:
        read(group, name, tmp_path)
    assert "\n" not in str(caught.value)
    assert "unpack Download.zip" in str(caught.value)
    with pytest.raises(UserError, match=r"^root=.*no such folder|^root=.*expected one manifest"):
        read(group, name, tmp_path / "nowhere")


def test_a_folder_that_nearly_fits_says_what_is_missing(tmp_path: Path) -> None:
    srsdd(tmp_path)
    shutil.rmtree(tmp_path / "SRSDD-V1.0/test/labels")
    with pytest.raises(UserError, match=r"; no test/labels in .*SRSDD-V1\.0"):
        read("data", "srsdd", tmp_path)


def test_two_copies_ask_for_one(tmp_path: Path) -> None:
    srsdd(tmp_path / "a"), srsdd(tmp_path / "b")
    with pytest.raises(UserError, match=r"SRSDD lies there more than once; name one, e\.g\. .*a/SRSDD"):
        read("data", "srsdd", tmp_path)


def test_labels_without_their_image_and_unknown_categories_are_named(tmp_path: Path) -> None:
    srsdd(tmp_path)
    labels = tmp_path / "SRSDD-V1.0/train/labels/0.txt"
    labels.write_text(square(1, 1, "Yacht"))
    with pytest.raises(UserError, match=r"0\.txt: no category `Yacht` in SRSDD"):
        read("data", "srsdd", tmp_path)
    labels.write_text("1 2 3 ship")
    with pytest.raises(UserError, match=r"0\.txt, line 1: expected `x1 y1 .* found `1 2 3 ship`"):
        read("data", "srsdd", tmp_path)
    labels.write_text("")
    (tmp_path / "SRSDD-V1.0/train/images/3.png").unlink()
    with pytest.raises(UserError, match=r"3\.txt: no image of that name in train/images"):
        read("data", "srsdd", tmp_path)


def test_order_and_fingerprint_follow_from_content_alone(tmp_path: Path) -> None:
    shutil.copytree(srsdd(tmp_path / "one"), tmp_path / "two/elsewhere")
    one, two = (read("data", "srsdd", tmp_path / name) for name in ("one", "two"))
    assert one.records("train") == two.records("train")
    assert one.fingerprint() == two.fingerprint()
    write(tmp_path / "two/elsewhere/SRSDD-V1.0/train/images/0.png", (300, 200), "L")
    Image.fromarray(np.zeros((200, 300), np.uint8)).save(tmp_path / "two/elsewhere/SRSDD-V1.0/train/images/0.png")
    assert read("data", "srsdd", tmp_path / "two").fingerprint() != one.fingerprint()


def test_the_fingerprint_sees_windows_and_names_stay_apart(tmp_path: Path) -> None:
    write(tmp_path / "1.png", (90, 90))
    ship = Entry("1.png", "ship", "train", window=Window(40, 40, 32))
    prints = {
        FileSource(tmp_path, [replace(ship, window=window)], channels=1).fingerprint()
        for window in (Window(40, 40, 32), Window(41, 40, 32), Window(40, 40, 32, 5.0), None)
    }
    assert len(prints) == 4
    both = FileSource(tmp_path, [ship, replace(ship, number=1), replace(ship, window=None)], channels=1)
    assert [record.path for record in both.records("train")] == ["1.png", "1.png#0000", "1.png#0001"]
    with pytest.raises(UserError, match=r"1\.png#0000: listed twice"):
        FileSource(tmp_path, [ship, ship], channels=1)


@pytest.mark.parametrize("form", ["24 bits", "32 bits", "32 bits, the fourth unused"])
def test_bitmaps(tmp_path: Path, form: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if form == "32 bits":
        image.putalpha(255)
    image.save(tmp_path / "1.bmp")
    if form.endswith("unused"):
        rows = np.concatenate([pixels[::-1, :, ::-1], np.zeros((5, 7, 1), np.uint8)], axis=2).tobytes()
        head = struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54)
        info = struct.pack("<IiiHHIIiiII", 40, 7, 5, 1, 32, 0, len(rows), 0, 0, 0, 0)
        (tmp_path / "1.bmp").write_bytes(head + info + rows)
    text(tmp_path / "manifest.jsonl", '{"path": "1.bmp", "class": "ship"}')
    source = read("ors", "manifest", tmp_path)
    np.testing.assert_array_equal(source.read(source.records("train")[0]), pixels)


def colours(tmp_path: Path, image: Image.Image) -> np.ndarray:
    image.save(tmp_path / "1.png")
    text(tmp_path / "manifest.jsonl", '{"path": "1.png", "class": "ship"}')
    source = read("ors", "manifest", tmp_path)
    return source.read(source.records("train")[0])


def test_palettes_and_transparency(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    palette = Image.fromarray(pixels).quantize(24)
    np.testing.assert_array_equal(colours(tmp_path, palette), np.asarray(palette.convert("RGB")))
    for opacity in (255, 0, 90):  # the same everywhere: it says nothing
        image = Image.fromarray(pixels)
        image.putalpha(opacity)
        np.testing.assert_array_equal(colours(tmp_path, image), pixels)
    mask = np.zeros((6, 4), np.uint8)
    mask[2:] = 255
    image.putalpha(Image.fromarray(mask))
    np.testing.assert_array_equal(colours(tmp_path, image), pixels * (mask[..., None] > 0))
    grey = Image.fromarray(pixels[..., 0]).convert("LA")
    np.testing.assert_array_equal(colours(tmp_path, grey), pixels[..., :1].repeat(3, axis=2))


# --- Real files -------------------------------------------------------------------------------------------------------


@real
def test_real_dota() -> None:
    source = read("ors", "dota", REAL / "dota")
    assert counts(source) == {"train": {"harbor": 5, "ship": 531}}
    assert {record.group for record in source.records("train")} == {"P0706"}
    first = source.records("train")[0]
    assert first.instances[0].difficult
    scene = np.asarray(Image.open(REAL / "dota/images/P0706.png").convert("RGB"))
    chip = source.read(first)
    assert chip.shape == (512, 512, 3)
    np.testing.assert_array_equal(chip, scene[670:1182, 599:1111])
    planes = read("ors", "dota", REAL / "dota", "ors.categories=[plane]", "ors.size=null")
    assert {record.group for record in planes.records("train")} == {"P0004"}, "P2805 ends before its labels"
    assert all(planes.read(record).shape[2] == 3 for record in planes.records("train"))
    with pytest.raises(UserError, match=r"categories=\['boat'\]: no such object .* found .*small-vehicle"):
        read("ors", "dota", REAL / "dota", "ors.categories=[boat]")


@real
def test_real_opensarship() -> None:
    source = read("data", "opensarship", REAL / "opensarship", "data.test=null", "data.other_below=0")
    assert counts(source)["train"] == {"cargo": 20, "other": 2, "passenger": 2, "tanker": 2}
    assert len({record.group for record in source.records("train")}) == 13
    assert {source.read(record).shape for record in source.records("train")} == {(64, 64, 1)}


@real
def test_real_dior_has_no_ships_but_a_golf_field() -> None:
    with pytest.raises(UserError, match=r"categories=\['ship', 'harbor'\]: no such object .*found golffield"):
        read("ors", "dior", REAL / "dior")
    source = read("ors", "dior", REAL / "dior", "ors.categories=[golffield]", "ors.size=null", "ors.margin=0")
    (record,) = source.records("train")
    assert source.read(record).shape == (576, 576, 3)


@real
def test_real_hrsc2016_without_its_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not HRSC2016: .*; no FullDataSet/AllImages in"):
        read("ors", "hrsc2016", REAL / "hrsc2016")
    (tmp_path / "FullDataSet").mkdir()
    (tmp_path / "FullDataSet/Annotations").symlink_to(REAL / "hrsc2016/FullDataSet/Annotations")
    write(tmp_path / "FullDataSet/AllImages/100000006.bmp", (1172, 816), "RGB")
    (record,) = read("ors", "hrsc2016", tmp_path, "ors.size=null").records("train")
    (ship,) = record.instances
    assert (ship.name, len(ship.corners)) == ("ship", 4)
    width, height = ship.box[2] - ship.box[0], ship.box[3] - ship.box[1]
    # The file's own upright box is 468 x 714 px; the turned one has no empty corners, so it is as large or larger.
    assert (width, height) == pytest.approx((468, 714), abs=70)


@real
def test_real_mstar() -> None:
    source = read("data", "mstar", REAL.parent / "mstar10")
    assert {split: len(source.records(split)) for split in SPLITS} == {"train": 2746, "val": 0, "test": 2425}
