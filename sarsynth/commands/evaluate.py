"""One row of the results: `python evaluate.py method=2lora`; result.json and its pictures lie in the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from scipy.special import softmax

from sarsynth.commands.session import session, show_pictures
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.evidence.comparison import of_second_set
from sarsynth.evidence.results import FIGURES, RESULT, write_result
from sarsynth.report.closing import show_results, show_scores
from sarsynth.report.rows import Row
from sarsynth.stages.draw_images import draw_added, draw_quality, draw_stack, drawn
from sarsynth.stages.measure_images import measured
from sarsynth.stages.score_classifiers import check_tested, every_trained
from sarsynth.stages.study import Study
from sarsynth.stages.sum_up import result
from sarsynth.stages.transfer_classifiers import check_second_set, every_transferred
from sarsynth.store.artifacts import Artifact


def run(settings: Settings, folder: Path, overrides: Sequence[str]) -> None:
    """Evaluate one method and print its row."""
    console.rule(f"[bold]{settings.method.name}", align="left")
    with session(settings, folder, overrides, "evaluate") as study:
        check_tested(study)
        check_second_set(study)
        show_pictures(study, draw_added(study, folder))
        figures = result(study)
        write_result(figures, folder)
        show_pictures(study, [*draw_stack(study, folder), *draw_quality(study, folder)])
        show(study, figures)
        row = Row(settings.method.name, figures)
        flat = row.values
        study.tracker.table("scores/1_results", list(flat), [list(flat.values())])
        study.tracker.scalars({key: value for key, value in flat.items() if isinstance(value, float)})
        study.tracker.artifact(
            f"result-{settings.method.name}-{settings.data.name}",
            "result",
            {"inputs": figures["inputs"]},
            [folder / RESULT],
            made=True,
        )
    show_results([row])
    if second := of_second_set(figures):
        show_scores([Row(settings.method.name, second)], second["data"])


def artifacts(study: Study) -> list[Artifact]:
    """Ask for all that an evaluation reads, and read nothing."""
    check_tested(study)
    check_second_set(study)
    evaluations = every_trained(study)
    return [*evaluations, *every_transferred(study, evaluations), *measured(study).values(), *drawn(study)]


def show(study: Study, figures: Mapping[str, Any]) -> None:
    """Put scores by class, confusion matrix and curves over all classifiers where the tracker has a place for them."""
    ends = {"": "mean", "_std": "std"}
    lines = [
        {"class": name} | {f"{figure}{end}": scores[figure][key] for figure in FIGURES for end, key in ends.items()}
        for name, scores in figures["classifier"]["per_class"].items()
    ]
    study.tracker.table("scores/2_per_class", list(lines[0]), [list(line.values()) for line in lines])
    artifacts = [study.store.find("evaluation", one["fingerprint"]) for one in figures["evaluations"]]
    runs = [load_file(artifact.path / "logits.safetensors") for artifact in artifacts]
    labels = np.concatenate([run["labels"] for run in runs])
    shares = np.concatenate([softmax(run["logits"], axis=-1).mean(axis=0) for run in runs])
    study.tracker.predictions("scores", labels, shares.argmax(axis=-1), shares, figures["classes"])
