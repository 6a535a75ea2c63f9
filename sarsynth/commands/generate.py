"""The synthetic set of a method: `python generate.py method=2lora`; its pictures lie in the run's folder."""

from collections.abc import Sequence
from pathlib import Path

from sarsynth.commands.session import session, show_pictures
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.diffusion.adapter_files import save, save_kohya
from sarsynth.errors import UserError
from sarsynth.evidence.results import write_result
from sarsynth.files import staged
from sarsynth.stages.describe_images import class_captions
from sarsynth.stages.draw_images import draw_added, draw_stack, drawn
from sarsynth.stages.generate_images import exported, exported_adapter, negative_prompts, stems
from sarsynth.stages.match_speckle import synthetic
from sarsynth.stages.study import Study
from sarsynth.stages.sum_up import about
from sarsynth.store.artifacts import Artifact


def run(settings: Settings, folder: Path, overrides: Sequence[str]) -> None:
    """Make the set, say where it lies, and show it; or write a LoRA file of one class."""
    check(settings)
    with session(settings, folder, overrides, "generate") as study:
        if settings.export is not None:
            console.print(f"  {export(study, Path(settings.export))}", markup=False)
            console.print(f"  {how_to_use(study)}", markup=False)
            return
        images = synthetic(study)
        console.print(f"  {images.path}", markup=False)
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
    if study.settings.export is not None:
        return list(exported(study).inputs.values())
    return [synthetic(study), *drawn(study)]


def export(study: Study, target: Path) -> Path:
    """Write what a method does for a class as one LoRA file."""
    settings = study.settings
    assert settings.class_name is not None
    adapter = exported_adapter(study, settings.class_name)
    name = f"{settings.method.name}-{stems(study)[settings.class_name]}.safetensors"
    file = target if target.suffix == ".safetensors" else target / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with staged(file) as draft:
            (save_kohya if settings.export_format == "kohya" else save)(adapter, draft)
    except OSError as error:
        raise UserError(f"export={target}: cannot be written ({error.strerror}); choose another") from error
    return file


def how_to_use(study: Study) -> str:
    """Say what another program needs beside a LoRA file to make the images of its class."""
    name, guidance = study.settings.class_name, study.settings.generate.guidance_scale
    assert name is not None
    negative = negative_prompts(study)[name]
    away = f', negative prompt "{negative}"' if negative else ""
    return f'strength 1, prompt "{class_captions(study)[name]}"{away}, guidance {guidance:g}'
