"""What adapters in training make of the captions that they learn from, every N steps: a picture each, fixed seeds."""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import Callback
from PIL import Image

from sarsynth.data.transforms import to_channels, to_uint8
from sarsynth.diffusion.controlnet import ContourConditioning
from sarsynth.diffusion.samples import Contours
from sarsynth.diffusion.sampling import SampleRequest
from sarsynth.report import pictures
from sarsynth.stages.curate_images import source
from sarsynth.stages.describe_images import captions
from sarsynth.stages.load_base import adapter_precision, learning_base, sample_batches
from sarsynth.stages.open_images import Role, image_settings
from sarsynth.stages.study import Study
from sarsynth.tracking import Previews


def previews(
    study: Study,
    role: Role,
    names: Sequence[str],
    choose: Callable[[Sequence[int]], None],
    conditioning: ContourConditioning | None,
    maps: Contours | None,
) -> list[Callback]:
    """Make the callback of a training of adapters; none where no pictures are asked for.

    Args:
        study: Whose base and sampler are used.
        role: Which images it trains on; their captions are the prompts.
        names: The adapters that train together, a row of each picture.
        choose: Makes the base see some of them.
        conditioning: What steers the U-Net by contours as they learn; None if nothing does.
        maps: Contours of the images; a prompt goes with that of the first image that has it as its caption.
    """
    settings, asked = study.settings, study.settings.preview
    if asked is None:
        return []
    precision = adapter_precision(study, role)
    requests = _requests(captions(study, role), asked.prompts, settings.seed, maps)

    def draw() -> dict[str, Image.Image]:
        rows = []
        for index in range(len(names)):
            choose([index])
            batches = sample_batches(study, learning_base(study, role), requests, conditioning)
            with precision.autocast(study.device):  # adapters in training are float32, the base may be less
                made = torch.cat(list(batches))
            rows.append(to_uint8(to_channels(made, source(study, role).channels)).cpu().numpy())
        choose(range(len(names)))
        title = f"{image_settings(study, role).name} adapters in training"
        return {
            request.prompt: pictures.compose([("", [[row[column]] for row in rows])], names, title)
            for column, request in enumerate(requests)
        }

    return [Previews(asked.every, lambda step: study.tracker.drawn(role, draw, step))]


def _requests(described: Sequence[str], prompts: int, seed: int, maps: Contours | None) -> list[SampleRequest]:
    """The first captions that differ, each with the contour of the first image that has it."""
    texts = list(dict.fromkeys(described))[:prompts]
    rows = torch.tensor([described.index(text) for text in texts])
    followed = maps.read(rows, torch.zeros_like(rows)) if maps else [None] * len(texts)
    return [
        SampleRequest(text, (seed, index), contour)
        for index, (text, contour) in enumerate(zip(texts, followed, strict=True))
    ]
