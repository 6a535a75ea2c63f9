"""The synthetic set of a method: `python generate.py method=2lora`; its pictures lie in the run's folder."""

from collections.abc import Sequence
from pathlib import Path

from sarsynth.commands import exporting
from sarsynth.commands.pushing import check_push
from sarsynth.commands.session import session, show_pictures
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.errors import UserError
from sarsynth.evidence.results import write_result
from sarsynth.stages.draw_images import draw_added, draw_stack, drawn
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.study import Study
from sarsynth.stages.sum_up import about
from sarsynth.store.artifacts import Artifact


def run(settings: Settings, folder: Path, overrides: Sequence[str]) -> None:
    """Make the set, say where it lies, and show it; or export it, or a LoRA file of one class."""
    check(settings)
    if settings.push:
        check_push(settings.push)
    with session(settings, folder, overrides, "generate") as study:
        if settings.exports:
            exporting.run(study, folder)
            return
        sets = [synthetic(cell) for cell in study.cells]
        for images in sets:
            console.print(f"  {images.path}", markup=False)
        images = sets[0]
        write_result(about(study) | {"inputs": {"synthetic": images.fingerprint}}, folder)
        show_pictures(study, [*draw_added(study, folder), *draw_stack(study, folder)])


def check(settings: Settings) -> None:
    """Refuse a method that makes no images.

    Raises:
        UserError: It is one.
    """
    if settings.method.adds != "synthetic":
        raise UserError(f"method={settings.method.name} makes no synthetic images; choose another method")


def artifacts(study: Study) -> list[Artifact]:
    """Ask for all that a set and its pictures are read from, or a LoRA file, and read nothing."""
    check(study.settings)
    if study.settings.exports:
        return exporting.artifacts(study)
    return [*(synthetic(cell) for cell in study.cells), *drawn(study)]
