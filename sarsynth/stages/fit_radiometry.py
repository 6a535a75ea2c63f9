"""Fit the rule that turns SAR pixels into grey levels, once, to the SAR training images of a study."""

import json
from pathlib import Path
from typing import Any

from sarsynth.console import console
from sarsynth.data.radiometry import EightBit, Levels, Radiometry, Rule, Training
from sarsynth.data.records import digest
from sarsynth.stages.curate_images import samples, source, training
from sarsynth.stages.frame_images import framing
from sarsynth.stages.open_images import Role, built, content
from sarsynth.stages.study import Study, once
from sarsynth.store.costs import Work

LEVELS = "radiometry.json"
WORTH_SAYING = 0.01  # share of the training images' pixels that are clipped


@once
def radiometry(study: Study, role: Role) -> Radiometry:
    """How the pixels of a set become grey levels; optical images have them already.

    All SAR images have the levels that were fitted to the study's training images, as classifiers know no others.
    """
    rule = built("radiometry", study.settings.radiometry) if role in ("sar", "also") else EightBit()
    return rule if isinstance(rule, EightBit) else _fitted(study, rule)


@once
def fingerprint(study: Study, role: Role) -> dict[str, Any]:
    """What decides the grey levels of a set's images, and what is seen of each: whatever is made from them names it."""
    levels = {"content": source(study, role).fingerprint(), "radiometry": radiometry(study, role).plain}
    return levels | framing(study, role).plain


def _fitted(study: Study, rule: Rule) -> Radiometry:
    """Fit a rule; a line says so if it clips much."""
    records, data = training(study, "sar"), study.settings.data.name

    def build(folder: Path) -> None:
        fitted = rule.fit(Training(source(study, "sar"), records))
        (folder / LEVELS).write_text(json.dumps(fitted.plain, indent=2) + "\n")

    artifact = study.make(
        "cache",
        f"{data}-radiometry",
        {
            "source": content(study, "sar"),
            "records": digest(records),
            "rule": study.settings.radiometry.model_dump(mode="json", by_alias=True),
        },
        {},
        build,
        command=("train", "stage=classifier"),
        samples=samples(study, "sar", records),
        work=Work("radiometry", "images", len(records), {"data": data}),
        survey=True,
    )
    levels = Levels(**json.loads((artifact.path / LEVELS).read_text()))
    if levels.below + levels.above > WORTH_SAYING:
        console.print(
            f"[yellow]warning:[/] radiometry={levels.rule['name']} clips {levels.below + levels.above:.1%} of the "
            f"training pixels: {levels.below:.1%} below {levels.low:g}, {levels.above:.1%} above {levels.high:g}"
        )
    return levels
