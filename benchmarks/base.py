"""What the embedded base knows: the gates that its weights must pass before they ship.

    python benchmarks/base.py [folder of a base]

Prints and writes `gates.json` and `samples.png` beside the base's model card.
"""

import json
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from sarsynth.config.checks import check
from sarsynth.config.composition import CONF
from sarsynth.console import console, progress
from sarsynth.data.transforms import to_channels, to_float, to_uint8
from sarsynth.diffusion.base import NANO, Base
from sarsynth.diffusion.sampling import SampleRequest, sample
from sarsynth.report import pictures
from sarsynth.sim import CLASSES
from sarsynth.stages.load_base import guidance
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import recipe as classifier_recipe
from sarsynth.tracking import Tracker

import hydra
import torch
from diffusers import DPMSolverMultistepScheduler
from reference import macro_f1, recognised, reference

SAMPLES = 40  # a class
STEPS = 1000  # of the reference classifiers


def main(folder: Path) -> None:
    """Measure a base."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        study = Study(check(hydra.compose("evaluate")), Tracker(None))
    settings = study.settings
    recipe = replace(classifier_recipe(study), max_steps=STEPS)
    base = Base.load(folder)

    requests = [SampleRequest(f"a photo of a {name} ship", (1, index)) for name in CLASSES for index in range(SAMPLES)]
    made = []
    with progress("samples of the base", len(requests)) as advance:
        for images in sample(
            base,
            DPMSolverMultistepScheduler.from_config(base.noise_scheduler.config),
            requests,
            image_size=settings.base.image_size,
            guidance=guidance(study),
            num_inference_steps=settings.generate.num_inference_steps,
            batch_size=settings.generate.batch_size,
        ):
            made.append(to_uint8(images))
            advance(len(images))
    samples, labels = torch.cat(made), torch.arange(len(CLASSES)).repeat_interleave(SAMPLES)
    grid = pictures.class_grid({"": (samples, labels)}, CLASSES, title="sd-nano: a photo of a … ship", columns=8)
    grid.save(folder / "samples.png")

    by_class = to_float(samples).unflatten(0, (len(CLASSES), SAMPLES))
    between_classes = torch.stack([(a - b).abs().mean() for a, b in combinations(by_class, 2)]).mean().item()
    between_noises = (by_class[:, 1:] - by_class[:, :-1]).abs().mean().item()

    classifier, held_out = reference("regular", recipe)
    gates = {
        "regular views recognised, real": recognised(classifier, held_out.images, held_out.labels),
        "regular views recognised, samples": recognised(classifier, samples, labels),
        "pixel distance of classes from one noise / of noises within one class": between_classes / between_noises,
    }
    classifier, held_out = reference("sar", recipe)
    decoded = torch.cat(
        [
            to_uint8(to_channels(base.decode(base.encode(to_float(to_channels(chunk, 3)))[0]), 1))
            for chunk in held_out.images.split(50)
        ]
    )
    error = (decoded.float() - held_out.images.float()).square().mean()
    gates["macro-F1 of SAR chips, raw"] = macro_f1(classifier, held_out.images, held_out.labels)
    gates["macro-F1 of SAR chips, encoded and decoded"] = macro_f1(classifier, decoded, held_out.labels)
    gates["PSNR of SAR chips, dB"] = (20 * torch.log10(255 / error.sqrt())).item()
    (folder / "gates.json").write_text(json.dumps(rounded(gates), indent=2) + "\n")
    console.print_json(json.dumps(rounded(gates)))


def rounded(figures: dict) -> dict:
    """Keep four digits of each figure."""
    return {k: rounded(v) if isinstance(v, dict) else round(v, 4) for k, v in figures.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else NANO)
