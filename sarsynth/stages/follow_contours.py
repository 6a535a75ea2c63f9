"""Share contours out to the images that are to be made, so that each follows one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sarsynth.console import console
from sarsynth.data.records import ImageRecord
from sarsynth.diffusion.contours import Maps, assign, check_reuse, pack, read_maps, unpack, usable
from sarsynth.report.terminal import contours_table
from sarsynth.stages.curate_images import classes, held_out, leak, say, some, source, synthetic_sizes, training
from sarsynth.stages.find_contours import contours, outlined, read_contours
from sarsynth.stages.open_images import Role
from sarsynth.stages.study import Study, first, once_a_cell
from sarsynth.stages.train_controlnet import controlnet
from sarsynth.store.artifacts import Artifact

ROLES: dict[str, Role] = {"data": "sar", "ors": "ors"}  # which images a source of contours stands for
REPORT = "contours.json"


@dataclass(frozen=True)
class ClassContours:
    """The contours that images of one class follow, those of its SAR training images first."""

    names: list[str] = field(default_factory=list)  # `<source>:<path>` of each
    packed: list[np.ndarray] = field(default_factory=list)  # they themselves, uint8 (K, H, W / 8) from each source
    # by source, how many images gave a contour, of how many
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, source: str, paths: Iterable[str], packed: np.ndarray, images: int) -> None:
        """Take in those of one source, which has so many images of the class."""
        self.names.extend(f"{source}:{path}" for path in paths)
        self.packed.append(packed)
        self.kept[source] = (len(packed), images)

    def row(self, index: int) -> np.ndarray:
        """One of them, uint8 (H, W / 8)."""
        for block in self.packed:
            if index < len(block):
                return block[index]
            index -= len(block)
        raise IndexError(index)

    @property
    def paired(self) -> int:
        """How many are of SAR training images."""
        return self.kept.get("data", (0, 0))[0]


@dataclass(frozen=True)
class Guides:
    """The contours that the images of a study follow."""

    by_class: Sequence[ClassContours]  # by label
    seed: int  # of the sharing out
    # the artifacts that they come from, and the ControlNet
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    # the settings that decide what they do to an image; None if images follow nothing
    recipe: Mapping[str, Any] | None = None

    def name(self, label: int, index: int) -> str | None:
        """Name the contour of one image of a class."""
        return self.by_class[label].names[self._row(label, index)] if self.recipe else None

    def contour(self, label: int, index: int) -> Tensor | None:
        """Give the contour of one image of a class, uint8 (H, W)."""
        if not self.recipe:
            return None
        return torch.from_numpy(unpack(self.by_class[label].row(self._row(label, index))))

    def _row(self, label: int, index: int) -> int:
        of_class = self.by_class[label]
        return assign(index, len(of_class.names), of_class.paired, (self.seed, label))


@once_a_cell
def guides(study: Study) -> Guides:
    """Gather the contours of every class; a table says how many images gave one.

    Raises:
        UserError: Some class has too few, or contour maps or ControlNet are not what they should be.
    """
    settings, names, seed = study.settings.contours, classes(study), study.sample_seed
    by_class = [ClassContours() for _ in names]
    if not settings.wanted:
        return Guides(by_class, seed)
    own = None
    if settings.root:
        own = read_maps(Path(settings.root).expanduser(), names, study.settings.base.image_size)
        if own.turned and not study.planning:
            say(f"contours.root: {len(own.turned)} maps are dark on white and were turned: {some(own.turned)}")
        own = guard_maps(study, own)
    recipe = settings.model_dump(
        include={"sources", "max_instances", "max_overlap", "conditioning_scale", "guidance_interval"}
    ) | {"own": own.fingerprint() if own else None}
    command = ("generate", f"method={study.settings.method.name}")
    inputs = {f"contours_{origin}": contours(study, ROLES[origin], *command) for origin in settings.sources}
    if not all(artifact.complete for artifact in inputs.values()):  # which only a plan lets pass
        return Guides(by_class, seed, inputs | {"controlnet": controlnet(study)}, recipe)
    for origin in settings.sources:
        _gather(study, origin, inputs[f"contours_{origin}"], by_class)
    if own:
        for of_class, name in zip(by_class, names, strict=True):
            of_class.add("root", own.paths[name], pack(own.contours[name]), len(own.paths[name]))
    if not study.planning and first(study, "contours"):
        console.print(contours_table({name: kept.kept for name, kept in zip(names, by_class, strict=True)}))
    given = {name: len(of_class.names) for name, of_class in zip(names, by_class, strict=True)}
    check_reuse(synthetic_sizes(study), given, settings.reuse_cap)
    return Guides(by_class, seed, inputs | {"controlnet": controlnet(study)}, recipe)


def _gather(study: Study, origin: str, artifact: Artifact, by_class: Sequence[ClassContours]) -> None:
    """Take in the contours of one image set; of aerial images, those that are whole and not crowded."""
    role, tensors = ROLES[origin], read_contours(artifact)
    records, labels, frames = training(study, role), source(study, role).classes, tensors["frames"].tolist()
    for of_class, name in zip(by_class, classes(study), strict=True):
        members = [row for row, record in enumerate(records) if labels[record.label] == name]
        rows = [row for row in members if origin == "data" or _usable(study, records[row], frames[row])]
        paths = [records[row].path for row in rows]
        of_class.add(origin, paths, tensors["packed"].numpy()[rows], len(members))


def _usable(study: Study, record: ImageRecord, frame: tuple[float, float, float, float]) -> bool:
    settings = study.settings.contours
    return usable(record.instances, frame, max_instances=settings.max_instances, max_overlap=settings.max_overlap)


def guard_maps(study: Study, maps: Maps) -> Maps:
    """Let contour maps of one's own pass, if they are not the contours of validation or test images.

    Raises:
        LeakError: Some are, and the settings neither leave them out nor allow them.
    """
    held = {}
    for _, record in held_out(study, "sar"):
        _, contour, _ = outlined(study, "sar", record)
        if contour.any():
            held[contour.tobytes()] = f"the contour of {record.split} image {record.path} of data"
    leaking = [
        (path, held[contour.tobytes()])
        for name, paths in maps.paths.items()
        for path, contour in zip(paths, maps.contours[name], strict=True)
        if contour.tobytes() in held
    ]
    return maps.without(leak(study, "contours.root", leaking))


def write_report(study: Study, folder: Path) -> None:
    """Write into a synthetic set how many images gave a contour."""
    if not guides(study).recipe:
        return
    report = {
        name: {origin: {"kept": kept, "of": total} for origin, (kept, total) in of_class.kept.items()}
        for name, of_class in zip(classes(study), guides(study).by_class, strict=True)
    }
    (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
