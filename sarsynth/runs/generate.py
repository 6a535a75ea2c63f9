"""The synthetic set of a method: `python generate.py method=2lora`; its pictures lie in the run's folder."""

import json
from pathlib import Path

from sarsynth.console import console
from sarsynth.errors import UserError
from sarsynth.runs.evaluation import about, draw
from sarsynth.runs.session import session
from sarsynth.runs.sweep import RESULT
from sarsynth.settings import Settings


def run(settings: Settings, folder: Path) -> None:
    """Make the set, say where it lies, and show it."""
    if settings.method.adds != "synthetic":
        raise UserError(f"method={settings.method.name} makes no synthetic images; choose another method")
    with session(settings, folder) as study:
        made = study.synthetic()
        console.print(f"  {made.path}")
        record = about(study) | {"inputs": {"synthetic": made.fingerprint}}
        (folder / RESULT).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for file in draw(study, folder):
            console.print(f"  {file}")
