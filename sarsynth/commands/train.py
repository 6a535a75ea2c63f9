"""One stage of a study: `python train.py stage=sar method=plora` makes that, and what it lacks below it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sarsynth.commands.session import session
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.stages import image_sets, inspect_images
from sarsynth.stages.find_contours import trained_controlnet
from sarsynth.stages.make_base import make_base
from sarsynth.stages.score_classifiers import draw_prototypes
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import Artifact


def run(settings: Settings, folder: Path, overrides: Sequence[str]) -> None:
    """Make one stage's artifacts and say where they lie."""
    with session(settings, folder, overrides, "train") as study:
        for path in made(study, folder):
            console.print(f"  {path}")


def made(study: Study, folder: Path) -> Iterator[Path]:
    """Make a stage's artifacts; yield where they lie, or where what there is to see of them does."""
    stage = study.settings.stage or ""
    if stage == "data":
        yield from report(study, folder)
        return
    yield from (artifact.path for artifact in STAGES[stage](study))
    if stage == "prototypes":
        yield draw_prototypes(study, folder)


def artifacts(study: Study) -> list[Artifact]:
    """Ask for all that a stage and its pictures are read from, and read nothing."""
    found = STAGES[study.settings.stage or ""](study)
    return [*found, study.images("train")] if study.settings.stage == "prototypes" else found


def report(study: Study, folder: Path) -> Iterator[Path]:
    """Write what the images are; then stop, as any other stage would, if too many are bad."""
    yield from inspect_images.write(study, folder)
    for role in inspect_images.ROLES:
        image_sets.say_across(study, role)
        image_sets.check_bad(study, role)


STAGES: dict[str, Callable[[Study], list[Artifact]]] = {
    "data": inspect_images.artifacts,
    "base": lambda study: [make_base(study)],
    "ors": lambda study: [study.ors_adapter()],
    "classifier": lambda study: [study.classifier()],
    "prototypes": lambda study: [study.prototypes()],
    "sar": lambda study: study.tuned(),
    "controlnet": lambda study: [trained_controlnet(study)],
}
