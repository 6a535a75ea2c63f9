"""Whether a card computes what a CPU does: the embedded base, the same training, noise and images on both.

The CPU computes in float32. A card that computes in half precision rounds otherwise, and a training carries roundings
on; what is in question is that nothing is off by more than that.
"""

from dataclasses import dataclass
from pathlib import Path

from sarsynth.classifier.network import Classifier, predict
from sarsynth.data.transforms import to_uint8
from sarsynth.diffusion import adapter_files
from sarsynth.diffusion.sampling import SampleRequest, sample
from sarsynth.stages.adapt_to_sar import sar_adapters
from sarsynth.stages.load_base import base, guidance, scheduler
from sarsynth.stages.resize_images import labelled
from sarsynth.stages.study import Study
from sarsynth.stages.train_classifier import classifier

import torch
from measured import Bench
from measuring import Figure
from torch import Tensor

OVERRIDES = (
    *("base=sd-nano", "base.path=null", "classifier=small", "classifier.epochs=20", "base.image_size=64"),
    *("train.sar.max_steps=20", "train.sar.warmup_steps=0", "train.sar.batch_size=8", "generate.batch_size=8"),
)
MINIATURE = (
    *("base.image_size=32", "classifier.epochs=2", "classifier.batch_size=8"),
    *("train.sar.max_steps=2", "train.sar.warmup_steps=0", "train.sar.batch_size=2"),
    *("generate.batch_size=2", "generate.num_inference_steps=2"),
)
ON_CPU = ("trainer=cpu", "trainer.precision=32-true")


@dataclass(frozen=True)
class Computed:
    """What one device makes of the same seeds.

    Attributes:
        updates: Of each layer by a trained LoRA, B A.
        images: Uint8 (N, 3, H, W).
        logits: Of a classifier that the CPU trained, float32 (N, classes).
    """

    updates: dict[str, Tensor]
    images: Tensor
    logits: Tensor


def agreement(bench: Bench, overrides: tuple[str, ...]) -> list[Figure]:
    """Compare this device, in the precision that the overrides name, with the CPU in float32."""
    torch.set_float32_matmul_precision("highest")  # an earlier case may have lowered it; a study on a card will again
    on_cpu = _study(bench, *ON_CPU)
    # One classifier, that of the CPU: of two that were trained apart, the differences would say little.
    trained, shown = classifier(on_cpu).path, labelled(on_cpu, "train").images
    expected = _compute(on_cpu, trained, shown)
    return _differences(_compute(_study(bench, *overrides), trained, shown), expected)


def _study(bench: Bench, *overrides: str) -> Study:
    size = MINIATURE if bench.size == "sd-nano" else OVERRIDES
    return bench.study(bench.settings("train", ("stage=sar", "method=lora", *size, *overrides)))


def _compute(study: Study, classifier: Path, shown: Tensor) -> Computed:
    (made,) = sar_adapters(study).values()
    learnt = adapter_files.load(base(study).unet, made.path / adapter_files.WEIGHTS)
    chosen = study.settings.generate
    batches = sample(
        base(study),
        scheduler(study, base(study)),
        [SampleRequest("a photo of a cargo ship", (0, index)) for index in range(chosen.batch_size)],
        image_size=study.settings.base.image_size,
        guidance=guidance(study),
        num_inference_steps=chosen.num_inference_steps,
        batch_size=chosen.batch_size,
    )
    images = to_uint8(torch.cat(list(batches))).cpu()
    logits = predict(Classifier.load(classifier, study.device, study.precision), shown)
    return Computed({name: layer.delta().cpu() for name, layer in learnt.items()}, images, logits)


def _differences(ours: Computed, expected: Computed) -> list[Figure]:
    """How far they are apart: by layer in % of the update's norm, by image in grey levels, by image in logits."""
    weights = [
        100 * float((ours.updates[name] - update).norm() / update.norm()) for name, update in expected.updates.items()
    ]
    images = (ours.images.float() - expected.images.float()).abs().flatten(1).mean(dim=1)
    logits = (ours.logits - expected.logits).abs().amax(dim=1)
    return [
        Figure.of("updates of a LoRA", "%", weights),
        Figure.of("images", "grey levels", images.tolist()),
        Figure.of("largest logit", "", logits.tolist()),
    ]
