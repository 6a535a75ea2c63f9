"""What every run has around it: a study, its tracker, its warnings, its end."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import transformers
from hydra.core.hydra_config import HydraConfig

from sarsynth.console import console
from sarsynth.runs.rehearsal import rehearse
from sarsynth.runs.study import Study
from sarsynth.settings import Settings, scale_warning
from sarsynth.store import CARD
from sarsynth.tracking import Tracker

TRACKED = ("base", "adapter", "controlnet", "classifier", "partition", "synthetic", "evaluation")


@contextmanager
def session(settings: Settings, folder: Path) -> Iterator[Study]:
    """Open a study whose scalars go to the logger of this run; close the logger whatever happens.

    Args:
        settings: The composed configuration.
        folder: Hydra's folder of this run.
    """
    quieten()
    rehearse(settings)
    if warning := scale_warning(settings):
        console.print(f"[yellow]warning:[/] {warning}")
    logger = settings.logger
    # A sweep's jobs lie beside each other in one folder, whose name is their group.
    where = {"save_dir": str(folder)}
    if logger is not None and logger.target.endswith("WandbLogger"):
        where |= {"group": folder.parent.name, "name": f"{settings.method.name}-{settings.data.name}"}
        where |= {"job_type": settings.stage or str(HydraConfig.get().job.config_name)}
    tracker = Tracker(None if logger is None else lambda: logger.build(**where))
    tracker.config(settings.model_dump(mode="json", by_alias=True))
    study = Study(settings, tracker, HydraConfig.get().overrides.task if HydraConfig.initialized() else ())
    try:
        yield study
        for artifact, made in study.store.met.items():
            if artifact.kind in TRACKED:
                name = f"{artifact.label}-{artifact.fingerprint}"
                tracker.artifact(name, artifact.card, artifact.path / CARD, made=made)
    finally:
        tracker.finish()


def quieten() -> None:
    """Keep the libraries' notes about themselves off the screen; errors and our own lines stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(lightning|torch|diffusers|transformers|peft|torchmetrics|timm).*")
