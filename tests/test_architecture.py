"""docs/architecture.md shows the tree as it is; what may import what is checked by `make lint`."""

import re
from pathlib import Path

import architecture

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_the_picture_is_of_this_code():
    drawn = architecture.structure()
    assert f"structure {drawn.digest}" in architecture.PICTURE.read_text(), "run python benchmarks/architecture.py"
    rooms = {room.name: room.files for layer in drawn.layers for room in layer}
    assert rooms.keys() == {
        path.stem for path in (ROOT / "sarsynth").glob("[!_]*") if (path / "__init__.py").exists() or path.suffix
    }
    assert "prototypes" in rooms["diffusion"] and rooms["tracking"] == []
    assert drawn.reads["match_speckle"] == ["generate_images"] and drawn.reads["open_images"] == []


def test_every_stage_stands_in_the_table():
    stages = {file.stem for file in (ROOT / "sarsynth/stages").glob("[!_]*.py")}
    assert set(re.findall(r"^\| `stages/(\w+)\.py`", PAGE, re.MULTILINE)) == stages


def test_files_that_the_pages_name_exist():
    for page in (PAGE, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        for name in re.findall(r"`((?:[\w-]+/)*[a-z_]+\.(?:py|yaml|toml))`", page):
            assert (ROOT / "sarsynth" / name).exists() or (ROOT / name).exists(), name
