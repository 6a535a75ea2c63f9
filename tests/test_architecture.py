"""The picture of docs/architecture.md shows the tree as it is; what may import what is checked by `make lint`."""

import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE = PAGE.split("```mermaid\n")[1].split("```")[0]
IMPORTS = set(re.findall(r"^\s*(\w+) --> (\w+)$", PICTURE, re.MULTILINE))
DATA = set(re.findall(r"^\s*(\w+) ==> (\w+)$", PICTURE, re.MULTILINE))
STAGES = {file.stem for file in (ROOT / "sarsynth" / "stages").glob("[!_]*.py")}


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str]]:
    """Which room imports which: a folder or file that lies directly in the package."""
    graph = grimp.build_graph("sarsynth", cache_dir=None)
    rooms = {module: module.split(".")[1] for module in graph.modules if "." in module}
    return {
        (rooms[importer], rooms[imported])
        for importer in rooms
        for imported in graph.find_modules_directly_imported_by(importer)
        if imported in rooms and rooms[imported] != rooms[importer]
    }


def reachable(start: str) -> set[str]:
    below = {to for at, to in IMPORTS if at == start}
    return below.union(*map(reachable, below))


def test_every_room_stands_in_the_picture():
    rooms = {file.stem for file in (ROOT / "sarsynth").glob("[!_]*") if (file / "__init__.py").exists() or file.suffix}
    assert {room for arrow in IMPORTS for room in arrow} == rooms


def test_each_arrow_is_an_import_and_each_import_follows_arrows(imports: set[tuple[str, str]]):
    assert imports >= IMPORTS, "a drawn arrow that no import follows"
    assert {(at, to) for at, to in imports if to not in reachable(at)} == set(), "imports that nobody drew"


def test_every_stage_stands_in_the_picture_and_in_the_table():
    assert {stage for arrow in DATA for stage in arrow if stage != "archive" and stage != "figure"} == STAGES
    assert set(re.findall(r"^\| `stages/(\w+)\.py`", PAGE, re.MULTILINE)) == STAGES


def test_every_file_that_the_page_names_exists():
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|yaml|toml))`", PAGE):
        assert (ROOT / "sarsynth" / name).exists() or (ROOT / name).exists(), name
