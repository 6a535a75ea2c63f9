"""Contours in a study: found once, shared out to the images to be made, and the ControlNet that makes these follow."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsynth.console import console, progress
from sarsynth.data.datamodules import SeededDataModule
from sarsynth.data.records import ImageRecord, digest
from sarsynth.data.transforms import central_square, resize
from sarsynth.diffusion.base import place_network
from sarsynth.diffusion.contours import Maps, assign, canny, check_reuse, pack, read_maps, unpack, usable
from sarsynth.diffusion.controlnet import (
    ContourConditioning,
    check_controlnet,
    load_controlnet,
    new_controlnet,
    resolve_controlnet,
    save_controlnet,
)
from sarsynth.diffusion.denoising import Denoiser, TrainableGroup
from sarsynth.diffusion.latents import open_encoded
from sarsynth.diffusion.samples import Contours, DenoisingSamples
from sarsynth.report.tables import contours_table
from sarsynth.stages import image_sets, work
from sarsynth.store.artifacts import Artifact

if TYPE_CHECKING:
    from sarsynth.stages.study import Role, Study

CONTOURS, REPORT = "contours.safetensors", "contours.json"
ROLES: dict[str, "Role"] = {"data": "sar", "ors": "ors"}  # which images a source of contours stands for


@dataclass(frozen=True)
class Guides:
    """The contours that each class's images follow, those of the SAR training images first.

    Attributes:
        classes: Names of the labels.
        names: Of each class's contours, `<source>:<path>`.
        packed: Those contours, uint8 (K, H, W / 8).
        paired: How many of each class are of its SAR training images.
        kept: By class and source, how many images gave a contour, of how many.
        seed: Of the sharing out.
        inputs: The artifacts that they come from, and the ControlNet.
        recipe: The settings that decide what they do to an image; None if images follow nothing.
    """

    classes: list[str]
    names: Mapping[str, list[str]]
    packed: Mapping[str, np.ndarray]
    paired: Mapping[str, int]
    kept: Mapping[str, Mapping[str, tuple[int, int]]]
    seed: int
    inputs: Mapping[str, Artifact]
    recipe: Mapping[str, Any] | None

    def name(self, label: int, index: int) -> str | None:
        """Name the contour of one image of a class."""
        return self.names[self.classes[label]][self._chosen(label, index)] if self.recipe else None

    def contour(self, label: int, index: int) -> Tensor | None:
        """Give the contour of one image of a class, uint8 (H, W)."""
        if not self.recipe:
            return None
        return torch.from_numpy(unpack(self.packed[self.classes[label]][self._chosen(label, index)]))

    def _chosen(self, label: int, index: int) -> int:
        name = self.classes[label]
        return assign(index, len(self.names[name]), self.paired[name], (self.seed, label))

    def report(self, folder: Path) -> None:
        """Write how many images gave a contour."""
        if self.recipe:
            report = {
                name: {source: {"kept": kept, "of": total} for source, (kept, total) in sources.items()}
                for name, sources in self.kept.items()
            }
            (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def guides(study: "Study") -> Guides:
    """Gather the contours of every class; a table says how many images gave one.

    Raises:
        UserError: Some class has too few, or contour maps or ControlNet are not what they should be.
    """
    chosen, classes, seed = study.settings.contours, study.classes, study.settings.seed
    if not chosen.wanted:
        return Guides(classes, {}, {}, {}, {}, seed, {}, None)
    names: dict[str, list[str]] = {name: [] for name in classes}
    packed: dict[str, list[np.ndarray]] = {name: [] for name in classes}
    kept: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in classes}
    own = None
    if chosen.root:
        own = read_maps(Path(chosen.root).expanduser(), classes, study.settings.base.image_size)
        guard(study, own)
    recipe = chosen.model_dump(
        include={"sources", "max_instances", "max_overlap", "conditioning_scale", "guidance_interval"}
    ) | {"own": own.fingerprint() if own else None}
    command = study.command("generate.py", f"method={study.settings.method.name}")
    inputs = {f"contours_{source}": contours(study, ROLES[source], command) for source in chosen.sources}
    if not all(artifact.complete for artifact in inputs.values()):  # which only a plan lets pass
        return Guides(classes, {}, {}, {}, {}, seed, inputs | {"controlnet": controlnet(study)}, recipe)
    for source in chosen.sources:
        role = ROLES[source]
        found = load_file(inputs[f"contours_{source}"].path / CONTOURS)
        records, labels = study.training_records(role), study.sources[role].classes
        frames = found["frames"].tolist()
        for name in classes:
            members = [row for row, record in enumerate(records) if labels[record.label] == name]
            rows = [row for row in members if source == "data" or _usable(study, records[row], frames[row])]
            names[name] += [f"{source}:{records[row].path}" for row in rows]
            packed[name].append(found["packed"].numpy()[rows])
            kept[name][source] = (len(rows), len(members))
    paired = {name: kept[name].get("data", (0, 0))[0] for name in classes}
    if own:
        for name in classes:
            names[name] += [f"root:{path}" for path in own.paths[name]]
            packed[name].append(pack(own.contours[name]))
            kept[name]["root"] = (len(own.paths[name]), len(own.paths[name]))
    if not study.planning:
        console.print(contours_table(kept))
    check_reuse(study.synthetic_sizes, {name: len(names[name]) for name in classes}, chosen.reuse_cap)
    inputs["controlnet"] = controlnet(study)
    joined = {name: np.concatenate(parts) for name, parts in packed.items()}
    return Guides(classes, names, joined, paired, kept, seed, inputs, recipe)


def guard(study: "Study", maps: Maps) -> None:
    """Let contour maps of one's own pass, if none of them is the contour of a validation or test image.

    Raises:
        UserError: Some are, and `data.allow_leak` is false.
    """
    held = {}
    for _, record in image_sets.held_out(study, "sar"):
        _, drawn, _ = outlined(study, "sar", record)
        if drawn.any():
            held[drawn.tobytes()] = f"the contour of {record.split} image {record.path} of data"
    found = [
        (path, held[drawn.tobytes()])
        for name, paths in maps.paths.items()
        for path, drawn in zip(paths, maps.contours[name], strict=True)
        if drawn.tobytes() in held
    ]
    image_sets.leak(study, "contours.root", found)


def _usable(study: "Study", record: ImageRecord, frame: tuple[float, float, float, float]) -> bool:
    chosen = study.settings.contours
    return usable(record.instances, frame, max_instances=chosen.max_instances, max_overlap=chosen.max_overlap)


def outlined(
    study: "Study", role: "Role", record: ImageRecord
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """Give an image at the base's size (H, W, C), its contour (H, W), and what is seen of it in its own px."""
    chosen = study.settings.contours
    pixels = study.radiometry[role].levels(study.sources[role].read(record), record.path)
    image = resize(pixels, study.settings.base.image_size)
    return image, canny(image, chosen.thresholds, chosen.blur), central_square(*pixels.shape[:2])


def contours(study: "Study", role: "Role", command: str) -> Artifact:
    """Find the contours of the training images of one set.

    The artifact holds `packed`, uint8 (N, H, W / 8), and `frames`, int64 (N, 4): what is seen of each image, in its px.
    """
    chosen, size = study.settings.contours, study.settings.base.image_size
    records = study.training_records(role)

    def find(record: ImageRecord) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        _, contour, frame = outlined(study, role, record)
        return pack(contour), frame  # a bit a pixel from the start: the whole set is held until it is written

    def build(folder: Path) -> None:
        found = []
        with progress(f"contours of {role.upper()} images", len(records)) as advance, ThreadPoolExecutor() as pool:
            for one in pool.map(find, records):
                found.append(one)
                advance()
        packed = torch.from_numpy(np.stack([packed for packed, _ in found]))
        save_file({"packed": packed, "frames": torch.tensor([frame for _, frame in found])}, folder / CONTOURS)

    return study.store.make(
        "cache",
        f"{study.images_of(role).name}-{role}-contours",
        {
            "source": study.fingerprints[role],
            "records": digest(records),
            "image_size": size,
            "thresholds": chosen.thresholds,
            "blur": chosen.blur,
        },
        {},
        build,
        version=1,
        command=command,
        samples=study.samples(role, records),
        work=work.looks(study, role, "contours", len(records), len(records) * (size**2 // 8 + 32), image_size=size),
    )


# --- ControlNet -------------------------------------------------------------------------------------------------------


def controlnet(study: "Study") -> Artifact:
    """The ControlNet that images are made with."""
    return USES[study.settings.controlnet.use](study)


def base_controlnet(study: "Study") -> Artifact:
    """The base's ControlNet: not of our making, so its fingerprint is a hash of its files."""
    path = study.settings.base.controlnet
    artifact = study.found("controlnet", lambda fetch: resolve_controlnet(path, fetch=fetch))
    check_controlnet(artifact.path, study.base_artifact.path)
    return artifact


def trained_controlnet(study: "Study") -> Artifact:
    """Train a ControlNet on contours, images and prompts of one set, on the plain base."""
    settings = study.settings
    role, recipe, seed = settings.controlnet.on, settings.train.controlnet, settings.seed
    command = study.command("train.py", "stage=controlnet")
    encoded, found = study.encoded(role), contours(study, role, command)
    begun = base_controlnet(study) if settings.controlnet.init == "shipped" else None

    def build(folder: Path) -> None:
        base = study.base
        trained = load_controlnet(begun.path, base) if begun else new_controlnet(base, seed)
        place_network(trained, study.device, torch.float32)
        packed = load_file(found.path / CONTOURS)["packed"]
        group = TrainableGroup(
            "controlnet",
            list(trained.requires_grad_(True).parameters()),
            recipe.learning_rate,
            recipe.warmup_steps,
            recipe.max_steps,
            recipe.weight_decay,
        )
        study.fitting("controlnet").fit(
            Denoiser(
                base.unet,
                base.noise_scheduler,
                [group],
                names=[record.path for record in study.training_records(role)],
                controlnet=trained,
                no_text=base.encode_text([""])[0],
            ),
            SeededDataModule.whole(
                DenoisingSamples(
                    *open_encoded(encoded["latents"].path, encoded["texts"].path),
                    num_train_timesteps=base.noise_scheduler.config.num_train_timesteps,
                    caption_dropout=recipe.caption_dropout,
                    contours=Contours(packed, study.flip(role)),
                ),
                batch_size=recipe.batch_size,
                max_steps=recipe.max_steps,
                seed=seed,
            ),
            title="ControlNet",
            max_steps=recipe.max_steps,
            checkpoints=folder / "checkpoints",
            checkpoint_every=recipe.checkpoint_every,
            max_grad_norm=recipe.max_grad_norm,
        )
        rank_zero_only(save_controlnet)(trained, folder)

    return study.store.make(
        "controlnet",
        f"{settings.base.name}-{role}",
        {"recipe": recipe.model_dump(exclude={"checkpoint_every"}), "init": settings.controlnet.init, "seed": seed},
        {"base": study.base_artifact, **encoded, "contours": found} | ({"init": begun} if begun else {}),
        build,
        version=1,
        command=command,
        precision=study.precision.name,
        work=work.training(study, "controlnet", recipe),
        collective=True,
    )


USES = {"base": base_controlnet, "trained": trained_controlnet}


def control(study: "Study") -> ContourConditioning | None:
    """The ControlNet in memory, with the settings of its use; None if images follow no contours."""
    chosen = study.settings.contours
    if not chosen.wanted:
        return None
    network = load_controlnet(controlnet(study).path, study.base)
    place_network(network, study.device, study.precision.compute)
    return ContourConditioning(network, chosen.conditioning_scale, chosen.guidance_interval)
