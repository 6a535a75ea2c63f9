"""Draw docs/architecture.svg from the code: rooms from the import rule, files from the tree, arrows from imports.

    python benchmarks/architecture.py

Run it after files or imports have moved; tests/test_architecture.py says when it is out of date.
"""

import hashlib
import json
import re
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grimp
import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH, ROW, LINE = 100.0, 3.4, 1.55  # of the page, of a box, of a line of text
FLOW_ROW, FLOW_WIDTH = 3.1, 15.4  # of a stage
INK, MUTED, PAPER, BAND, STAGE = "#1d232b", "#66707c", "#ffffff", "#eef2f6", "#d9e6f2"


@dataclass(frozen=True)
class Room:
    """A folder or file that lies directly in the package: its opening line, and the files in it."""

    name: str
    about: str
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Structure:
    """What is drawn.

    Attributes:
        layers: Rooms from the top down; a room may import those of the layers below.
        reads: Of each stage the stages that it reads from, without those that one of these reads from.
    """

    layers: list[list[Room]]
    reads: dict[str, list[str]]

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def levels(self) -> list[list[str]]:
        """The stages in columns: each stands behind all that it reads from."""
        depth: dict[str, int] = {}

        def of(stage: str) -> int:
            if stage not in depth:
                depth[stage] = 1 + max((of(below) for below in self.reads[stage]), default=-1)
            return depth[stage]

        for stage in self.reads:
            of(stage)
        return [sorted(s for s in depth if depth[s] == level) for level in range(max(depth.values()) + 1)]


def structure() -> Structure:
    """Read rooms, files and imports."""
    package = ROOT / "sarsynth"
    rule = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [[_room(package / name) for name in re.split(r" [|:] ", layer)] for layer in rule["layers"]]
    graph = grimp.build_graph("sarsynth", cache_dir=None)
    prefix = "sarsynth.stages."
    stages = sorted(name.removeprefix(prefix) for name in graph.modules if name.startswith(prefix))
    reads = {
        stage: {
            name.removeprefix(prefix)
            for name in graph.find_modules_directly_imported_by(prefix + stage)
            if name.startswith(prefix)
        }
        - {"study"}
        for stage in stages
        if stage != "study"
    }

    def below(stage: str) -> set[str]:
        return reads[stage].union(*map(below, reads[stage]))

    direct = {stage: sorted(reads[stage] - set().union(*map(below, reads[stage]))) for stage in reads}
    return Structure(layers, direct)


def _room(path: Path) -> Room:
    if path.is_dir():
        files = sorted(file.stem for file in path.glob("[!_]*.py"))
        files += sorted(f"{folder.name}/" for folder in path.iterdir() if (folder / "__init__.py").exists())
        return Room(path.name, _opening(path / "__init__.py"), files)
    return Room(path.name, _opening(path.with_suffix(".py")))


def _opening(file: Path) -> str:
    """The first sentence of a file's docstring."""
    return re.split(r"[.:;]\s", file.read_text(encoding="utf-8").split('"""')[1].split("\n")[0] + " ")[0].rstrip(".")


def draw(drawn: Structure) -> Figure:
    """Lay the rooms out as bands, the stages in theirs as columns that arrows of data join."""
    height = sum(_height(drawn, layer) for layer in drawn.layers) + 4
    figure = Figure(figsize=(13, 13 * height / WIDTH))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    about = (
        "Imports point down. In the stages, arrows are data, from who leaves an artifact to who reads it: an archive "
        "comes in on the left, result.json goes out on the right, for report/ to read."
    )
    axes.text(1, 1.6, about, color=MUTED, fontsize=9)
    top = 3.0
    for layer in drawn.layers:
        share = WIDTH / len(layer)
        for column, room in enumerate(layer):
            _draw_room(axes, room, column * share + 0.6, top, share - 1.2, _height(drawn, layer) - 0.8)
            if room.name == "stages":
                _draw_stages(axes, drawn, top + 2.8)
        top += _height(drawn, layer)
    return figure


def _height(drawn: Structure, layer: list[Room]) -> float:
    if any(room.name == "stages" for room in layer):
        return 4.2 + FLOW_ROW * max(map(len, drawn.levels))
    lines = max(len(_lines(room, WIDTH / len(layer) - 2.4)) for room in layer)
    return 3.6 + LINE * lines


def _lines(room: Room, width: float) -> list[str]:
    """Its files, as many in a line as fit."""
    lines = [""]
    for name in room.files:
        longer = f"{lines[-1]}  {name}".strip()
        lines = [*lines[:-1], longer] if len(longer) * 0.78 < width else [*lines, name]
    return [line for line in lines if line]


def _draw_room(axes: matplotlib.axes.Axes, room: Room, left: float, top: float, width: float, height: float) -> None:
    axes.add_patch(FancyBboxPatch((left, top), width, height, "round,pad=0,rounding_size=0.5", fc=BAND, ec="#c5ced8"))
    axes.text(left + 0.8, top + 1.7, room.name, color=INK, fontsize=10.5, fontweight="bold")
    about = room.about if len(room.about) * 0.62 + len(room.name) + 3 < width else ""
    axes.text(left + 2.4 + 0.98 * len(room.name), top + 1.7, about, color=MUTED, fontsize=8)
    if room.name != "stages":
        for row, line in enumerate(_lines(room, width - 1.2)):
            axes.text(left + 0.8, top + 3.4 + row * LINE, line, color=INK, fontsize=8, family="monospace")


def _draw_stages(axes: matplotlib.axes.Axes, drawn: Structure, top: float) -> None:
    rows, columns = max(map(len, drawn.levels)), len(drawn.levels)
    step = (WIDTH - 3.0) / columns
    width = min(FLOW_WIDTH, step - 1.3)
    places = {
        stage: (1.5 + column * step, top + FLOW_ROW * (row + (rows - len(level)) / 2))
        for column, level in enumerate(drawn.levels)
        for row, stage in enumerate(level)
    }
    for stage, sources in drawn.reads.items():
        for source in sources:
            (x, y), (left, above) = places[stage], places[source]
            arrow = FancyArrowPatch(
                (left + width, above + 1.1), (x, y + 1.1), arrowstyle="-|>", mutation_scale=7, color=MUTED, lw=0.6
            )
            axes.add_patch(arrow)
    for stage, (x, y) in places.items():
        box = FancyBboxPatch((x, y), width, 2.2, "round,pad=0,rounding_size=0.4", fc=STAGE, ec="#9db4ca", zorder=3)
        axes.add_patch(box)
        axes.text(
            x + width / 2, y + 1.15, stage.replace("_", "\n", 1), ha="center", va="center", fontsize=6.8, zorder=4
        )


if __name__ == "__main__":
    shown = structure()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sarsynth"}):
        draw(shown).savefig(PICTURE, metadata={"Date": None, "Description": f"structure {shown.digest}"})
