"""Find the contours of the training images of a set, as a ControlNet takes them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsynth.console import progress
from sarsynth.data.framing import Frame, inside
from sarsynth.data.records import ImageRecord, digest
from sarsynth.data.transforms import resize, shape_of
from sarsynth.diffusion.contours import canny, pack
from sarsynth.stages.curate_images import samples, source, training
from sarsynth.stages.fit_radiometry import fingerprint, radiometry
from sarsynth.stages.frame_images import framing
from sarsynth.stages.open_images import Role, image_settings
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact
from sarsynth.store.costs import Work

CONTOURS = "contours.safetensors"


def contours(study: Study, role: Role, *command: str) -> Artifact:
    """The contours of the training images of one set.

    The artifact holds `packed`, uint8 (N, H, W / 8), and `frames`, int64 (N, 4): what is seen of each image, in its px.

    Args:
        study: Whose set.
        role: Which set.
        command: Script and keys that make the artifact.
    """
    settings, size, records = study.settings.contours, study.settings.base.image_size, training(study, role)
    name = image_settings(study, role).name

    def find(record: ImageRecord) -> tuple[np.ndarray, Frame]:
        _, contour, frame = outlined(study, role, record)
        return pack(contour), frame  # a bit a pixel from the start: the whole set is held until it is written

    def build(folder: Path) -> None:
        found = []
        with progress(f"contours of {role.upper()} images", len(records)) as advance, ThreadPoolExecutor() as pool:
            for contour in pool.map(find, records):
                found.append(contour)
                advance()
        packed = torch.from_numpy(np.stack([packed for packed, _ in found]))
        save_file({"packed": packed, "frames": torch.tensor([frame for _, frame in found])}, folder / CONTOURS)

    return study.make(
        "cache",
        f"{name}-{role}-contours",
        {
            "source": fingerprint(study, role),
            "records": digest(records),
            "image_size": size,
            "thresholds": settings.thresholds,
            "blur": settings.blur,
        },
        {},
        build,
        command=command,
        samples=samples(study, role, records),
        work=Work(
            "contours",
            "images",
            len(records),
            {"data": name, "image_size": size},
            disk_bytes=len(records) * (size**2 // 8 + 32),
        ),
    )


def read_contours(artifact: Artifact) -> dict[str, Tensor]:
    """What `contours` wrote: `packed` and `frames`."""
    return load_file(artifact.path / CONTOURS)


def outlined(study: Study, role: Role, record: ImageRecord) -> tuple[np.ndarray, np.ndarray, Frame]:
    """Give an image at the base's size (H, W, C), its contour (H, W), and what is seen of it in its own px."""
    settings = study.settings.contours
    pixels = radiometry(study, role).levels(source(study, role).read(record), record.path)
    frame = framing(study, role).frame(shape := shape_of(pixels, record))
    image = resize(pixels, study.settings.base.image_size, frame)
    return image, canny(image, settings.thresholds, settings.blur), inside(frame, shape)
