"""One stage of a study: `python train.py stage=sar method=plora` makes that, and what it lacks below it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from sarsynth.console import console
from sarsynth.runs import health, hygiene
from sarsynth.runs.contours import trained_controlnet
from sarsynth.runs.evaluation import draw_prototypes
from sarsynth.runs.pretraining import make_base
from sarsynth.runs.session import session
from sarsynth.runs.study import Study
from sarsynth.settings import Settings


def run(settings: Settings, folder: Path, overrides: Sequence[str]) -> None:
    """Make one stage's artifacts and say where they lie."""
    with session(settings, folder, overrides, "train") as study:
        for path in STAGES[settings.stage or ""](study, folder):
            console.print(f"  {path}")


def report(study: Study, folder: Path) -> Iterator[Path]:
    """Write what the images are; then stop, as any other stage would, if too many are bad."""
    yield from health.write(study, folder)
    for role in health.ROLES:
        hygiene.say_across(study, role)
        hygiene.check_bad(study, role)


STAGES: dict[str, Callable[[Study, Path], Iterable[Path]]] = {
    "data": report,
    "base": lambda study, _: [make_base(study).path],
    "ors": lambda study, _: [study.ors_adapter().path],
    "classifier": lambda study, _: [study.classifier().path],
    "prototypes": lambda study, folder: [study.prototypes().path, draw_prototypes(study, folder)],
    "sar": lambda study, _: [made.path for made in study.tuned()],
    "controlnet": lambda study, _: [trained_controlnet(study).path],
}
