"""What adapters in training make, for a tracker that shows pictures: fixed prompts and seeds, a grid every N steps."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback
from PIL import Image

from sarsynth.captions.templates import captions
from sarsynth.data.transforms import to_channels, to_uint8
from sarsynth.diffusion.sampling import SampleRequest, sample
from sarsynth.report import pictures
from sarsynth.tracking import Previews

if TYPE_CHECKING:
    from sarsynth.stages.study import Role, Study


def previews(
    study: "Study", role: "Role", names: Sequence[str], choose: Callable[[Sequence[int]], None]
) -> list[Callback]:
    """Make the callback of a training of adapters; none where the logger asks for no pictures.

    Args:
        study: Whose base, sampler and prompts are used.
        role: Which images it trains on: their captions are the prompts.
        names: The adapters that train together, a row of the grid each.
        choose: Makes the base see some of them.
    """
    settings, asked = study.settings, study.settings.preview
    if asked is None:
        return []
    spec, source = study.images_of(role), study.sources[role]
    texts = list(dict.fromkeys(captions(spec.prompt, study.training_records(role), source.classes)))[: asked.prompts]
    requests = [SampleRequest(text, (settings.seed, index)) for index, text in enumerate(texts)]

    def draw() -> tuple[Image.Image, str]:
        rows = []
        for index in range(len(names)):
            choose([index])
            batches = sample(
                study.base,
                settings.sampler.from_config(study.base.noise_scheduler.config),
                requests,
                image_size=settings.base.image_size,
                guidance_scale=settings.generate.guidance_scale,
                num_inference_steps=settings.generate.num_inference_steps,
                batch_size=settings.generate.batch_size,
            )
            with study.precision.autocast(study.device):  # adapters in training are float32, the base may be less
                made = torch.cat(list(batches))
            rows.append(list(to_uint8(to_channels(made, source.channels)).cpu().numpy()))
        choose(range(len(names)))
        return pictures.compose([("", rows)], names, f"{spec.name} adapters in training"), " | ".join(texts)

    return [Previews(asked.every, lambda step: study.tracker.drawn(f"{role}/samples", draw, step))]
