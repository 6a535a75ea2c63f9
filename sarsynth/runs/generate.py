"""The synthetic set of a method: `python generate.py method=2lora`."""

from pathlib import Path

from sarsynth.adapters import save, save_kohya
from sarsynth.console import console
from sarsynth.errors import UserError
from sarsynth.runs.session import session
from sarsynth.runs.study import Study
from sarsynth.settings import Settings


def run(settings: Settings, folder: Path) -> None:
    """Make the set, or a LoRA file of one class, and say where it lies."""
    if settings.method.adds != "synthetic":
        raise UserError(f"method={settings.method.name} makes no synthetic images; choose another method")
    with session(settings, folder) as study:
        console.print(
            f"  {study.synthetic().path if settings.export is None else export(study, Path(settings.export))}"
        )


def export(study: Study, target: Path) -> Path:
    """Write what a method does for a class as one LoRA file."""
    settings = study.settings
    assert settings.class_name is not None
    file = (
        target
        if target.suffix == ".safetensors"
        else target / f"{settings.method.name}-{settings.class_name}.safetensors"
    )
    adapter = study.export(settings.class_name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged = file.with_suffix(".part.safetensors")
        (save_kohya if settings.export_format == "kohya" else save)(adapter, staged)
        staged.replace(file)
    except OSError as error:
        raise UserError(f"export={target}: cannot be written ({error.strerror}); choose another") from error
    return file
