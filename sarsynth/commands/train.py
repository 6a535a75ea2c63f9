"""One stage of a study: `python train.py stage=sar method=plora` makes that, and what it lacks below it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sarsynth.commands.session import session, show_pictures
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.stages import inspect_images
from sarsynth.stages.adapt_to_sar import tuned
from sarsynth.stages.find_prototypes import draw_prototypes, prototypes
from sarsynth.stages.make_base import made_base
from sarsynth.stages.resize_images import images
from sarsynth.stages.study import Study
from sarsynth.stages.train_adapters import ors_adapters
from sarsynth.stages.train_classifier import classifier
from sarsynth.stages.train_controlnet import trained_controlnet
from sarsynth.store.artifacts import Artifact

STAGES: dict[str, Callable[[Study], list[Artifact]]] = {
    "data": inspect_images.artifacts,
    "base": lambda study: [made_base(study)],
    "ors": lambda study: [*ors_adapters(study).values()],
    "classifier": lambda study: [classifier(study)],
    "prototypes": lambda study: [prototypes(cell) for cell in study.generators],
    "sar": tuned,
    "controlnet": lambda study: [trained_controlnet(study)],
}


def run(settings: Settings, folder: Path, overrides: Sequence[str]) -> None:
    """Make one stage's artifacts, and say where they lie or where what there is to see of them does."""
    with session(settings, folder, overrides, "train") as study:
        stage = settings.stage or ""
        if stage == "data":
            for file in inspect_images.inspect(study, folder):
                console.print(f"  {file}", markup=False)
            return
        for artifact in STAGES[stage](study):
            console.print(f"  {artifact.path}", markup=False)
        if stage == "prototypes":
            show_pictures(study, [draw_prototypes(study, folder)])


def artifacts(study: Study) -> list[Artifact]:
    """Ask for all that a stage and its pictures are read from, and read nothing."""
    made = STAGES[study.settings.stage or ""](study)
    return [*made, images(study, "train")] if study.settings.stage == "prototypes" else made
