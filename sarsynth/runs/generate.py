"""The synthetic set of a method: `python generate.py method=2lora`."""

from pathlib import Path

from sarsynth.console import console
from sarsynth.errors import UserError
from sarsynth.runs.session import session
from sarsynth.settings import Settings


def run(settings: Settings, folder: Path) -> None:
    """Make the set and say where it lies."""
    if settings.method.adds != "synthetic":
        raise UserError(f"method={settings.method.name} makes no synthetic images; choose another method")
    with session(settings, folder) as study:
        console.print(f"  {study.synthetic().path}")
