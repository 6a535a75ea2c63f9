"""What every run has around it: a study, its tracker, its warnings, its end."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import transformers
from lightning.pytorch.loggers import Logger

from sarsynth import processes
from sarsynth.commands.faults import told
from sarsynth.commands.preflight import rehearse
from sarsynth.config.checks import scale_warning
from sarsynth.config.schema import WANDB_NAME, Settings
from sarsynth.console import console
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import CARD
from sarsynth.tracking import Tracker, reach_wandb

TRACKED = ("base", "adapter", "controlnet", "classifier", "partition", "synthetic", "evaluation")


@contextmanager
def session(settings: Settings, folder: Path, overrides: Sequence[str], script: str) -> Iterator[Study]:
    """Open a study whose scalars go to the logger of this run; close the logger whatever happens.

    Args:
        settings: The composed configuration.
        folder: Hydra's folder of this run.
        overrides: What was said on the command line.
        script: To which of the scripts.
    """
    quieten()
    tracker = Tracker(_logger(settings, folder, script) if processes.rank() == 0 else None, folder)
    study = Study(settings, tracker, overrides)
    study.compute.enter()
    rehearse(settings, script)
    if warning := scale_warning(settings):
        console.print(f"[yellow]warning:[/] {warning}")
    tracker.config(settings.model_dump(mode="json", by_alias=True))
    try:
        with told(settings.paths, study.store):
            yield study
            for artifact, made in study.store.met.items():
                if artifact.kind in TRACKED:
                    name = f"{artifact.label}-{artifact.fingerprint}"
                    tracker.artifact(name, artifact.card, artifact.path / CARD, made=made)
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish("success")


def _logger(settings: Settings, folder: Path, script: str) -> Callable[[], Logger] | None:
    """How this run's logger is built, None for none. A sweep's jobs lie in one folder, whose name is their group.

    What the settings call a W&B run goes before our own words for it.
    """
    logger = settings.logger
    if logger is None:
        return None
    about: dict[str, Any] = {"save_dir": str(folder)}
    reach = False
    if logger.target.endswith("WandbLogger"):
        about |= {"group": folder.parent.name, "name": f"{settings.method.name}-{settings.data.name}"[:WANDB_NAME]}
        about |= {"job_type": settings.stage or script} | settings.said_of_run
        mode = logger.options.get("mode") or os.environ.get("WANDB_MODE", "online")
        reach = not logger.options.get("offline") and mode == "online"

    def build() -> Logger:
        if reach:
            reach_wandb()
        return logger.build(**about)

    return build


def quieten() -> None:
    """Keep the libraries' notes about themselves off the screen; errors and our own lines stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(lightning|torch|diffusers|transformers|peft|torchmetrics|timm).*")
