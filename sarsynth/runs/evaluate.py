"""One row of the results: `python evaluate.py method=2lora`; result.json and its pictures lie in the run's folder."""

import json
from pathlib import Path

from sarsynth.console import console
from sarsynth.runs.evaluation import draw, result
from sarsynth.runs.results import RESULT
from sarsynth.runs.session import session
from sarsynth.runs.sweep import row
from sarsynth.runs.tables import results_table
from sarsynth.settings import Settings


def run(settings: Settings, folder: Path) -> None:
    """Evaluate one method and print its row."""
    console.rule(f"[bold]{settings.method.name}", align="left")
    with session(settings, folder) as study:
        figures = result(study)
        (folder / RESULT).write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for file in draw(study, folder):
            study.tracker.picture(file.stem, file)
            console.print(f"  {file}")
        flat = row(figures)
        study.tracker.table("results", list(flat), [list(flat.values())])
        study.tracker.scalars({key: value for key, value in flat.items() if isinstance(value, float)})
    console.print(results_table([figures]))
