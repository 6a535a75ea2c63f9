"""One stage of a study: `python train.py stage=sar method=plora` makes that, and what it lacks below it."""

from collections.abc import Callable
from pathlib import Path

from sarsynth.console import console
from sarsynth.runs.contours import trained_controlnet
from sarsynth.runs.evaluation import draw_prototypes
from sarsynth.runs.pretraining import make_base
from sarsynth.runs.session import session
from sarsynth.runs.study import Study
from sarsynth.settings import Settings
from sarsynth.store import Artifact


def run(settings: Settings, folder: Path) -> None:
    """Make one stage's artifacts and say where they lie."""
    with session(settings, folder) as study:
        for artifact in STAGES[settings.stage or ""](study):
            console.print(f"  {artifact.path}")
        if settings.stage == "prototypes":
            console.print(f"  {draw_prototypes(study, folder)}")


STAGES: dict[str, Callable[[Study], list[Artifact]]] = {
    "base": lambda study: [make_base(study)],
    "ors": lambda study: [study.ors_adapter()],
    "classifier": lambda study: [study.classifier()],
    "prototypes": lambda study: [study.prototypes()],
    "sar": lambda study: study.tuned(),
    "controlnet": lambda study: [trained_controlnet(study)],
}
