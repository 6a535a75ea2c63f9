"""The radiometry of a study: what it chooses, fitted once to its SAR training images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sarsynth.console import console
from sarsynth.data.radiometry import EightBit, Levels, Radiometry, Rule, Training
from sarsynth.data.records import digest
from sarsynth.stages import work

if TYPE_CHECKING:
    from sarsynth.stages.study import Study

LEVELS = "radiometry.json"
WORTH_SAYING = 0.01  # share of the training images' pixels that are clipped


def fitted(study: "Study", chosen: EightBit | Rule) -> Radiometry:
    """Fit a rule to the SAR training images; a line says so if it clips much.

    Args:
        study: Whose images.
        chosen: The rule; images of 8 bits need no fitting.
    """
    if isinstance(chosen, EightBit):
        return chosen
    training = Training(study.sources["sar"], study.training)

    def build(folder: Path) -> None:
        (folder / LEVELS).write_text(json.dumps(chosen.fit(training).plain, indent=2) + "\n")

    made = study.store.make(
        "cache",
        f"{study.settings.data.name}-radiometry",
        {
            "source": study.contents["sar"],
            "records": digest(study.training),
            "rule": study.settings.radiometry.model_dump(mode="json", by_alias=True),
        },
        {},
        build,
        version=1,
        command=study.command("train.py", "stage=classifier"),
        samples=study.samples("sar", study.training),
        work=work.looks(study, "sar", "radiometry", len(study.training)),
        survey=True,
    )
    levels = Levels(**json.loads((made.path / LEVELS).read_text()))
    if levels.below + levels.above > WORTH_SAYING:
        console.print(
            f"[yellow]warning:[/] radiometry={levels.rule['name']} clips {levels.below + levels.above:.1%} of the "
            f"training pixels: {levels.below:.1%} below {levels.low:g}, {levels.above:.1%} above {levels.high:g}"
        )
    return levels
