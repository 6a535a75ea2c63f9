"""What every run has around it: a study, its tracker, its warnings, its end."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import diffusers
import transformers
from lightning.pytorch.loggers import Logger

from sarsynth import processes
from sarsynth.commands.faults import told
from sarsynth.commands.preflight import rehearse
from sarsynth.commands.runs import about_job, logger_of
from sarsynth.config.checks import scale_warning
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.files import shown
from sarsynth.stages.study import Study
from sarsynth.store.artifacts import CARD
from sarsynth.tracking import Tracker

TRACKED = ("base", "adapter", "controlnet", "classifier", "partition", "synthetic", "evaluation")
WITH_FILES = ("adapter", "synthetic")  # what `logger.artifacts=files` keeps as a whole: small, and of use elsewhere
ORDER = ("real_vs", "strip", "prototypes", "nearest")  # of pictures, by how the names of their files begin


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
    tracker = Tracker(_logger(settings, folder, overrides, script), folder)
    study = Study(settings, tracker, overrides)
    study.compute.enter()
    study.store.before_making = partial(rehearse, settings, script)  # what is there needs no rehearsal
    if warning := scale_warning(settings):
        console.print(f"[yellow]warning:[/] {warning}")
    tracker.config(settings.model_dump(mode="json", by_alias=True))
    try:
        with told(settings.paths, study.store):
            yield study
            track_artifacts(study)
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish("success")


def _logger(settings: Settings, folder: Path, overrides: Sequence[str], script: str) -> Callable[[], Logger] | None:
    """How this run's logger is built; None for none, and in all processes of a job but one."""
    if settings.logger is None or processes.rank() != 0:
        return None
    about = about_job(settings, folder, overrides, script) if settings.logger.is_wandb else {}
    return logger_of(settings.logger, folder, about)


def track_artifacts(study: Study) -> None:
    """Record what the run of a study made and used: the frozen base, and what of the store is worth to know of."""
    settings = study.settings
    sources = {"base": settings.base.path, "controlnet": settings.base.controlnet}
    for artifact in study.fetched:
        about = {"kind": artifact.kind, "fingerprint": artifact.fingerprint, "inputs": {}}
        source = sources.get(artifact.kind) or "inside the package"
        name = f"{artifact.label}-{artifact.fingerprint}"
        study.tracker.artifact(name, artifact.kind, about | {"source": source}, [], made=False)
    whole = WITH_FILES if settings.logger and settings.logger.artifacts == "files" else ()
    for artifact, made in study.store.met.items():
        if artifact.kind in TRACKED:
            files = [artifact.path if artifact.kind in whole else artifact.path / CARD]
            name = f"{artifact.label}-{artifact.fingerprint}"
            study.tracker.artifact(name, artifact.kind, artifact.card, files, made=made)


def show_pictures(study: Study, files: Sequence[Path]) -> None:
    """Hand pictures, all of one folder, to the tracker, and name them in a line."""
    for file in files:
        place = next((place for place, begin in enumerate(ORDER) if file.stem.startswith(begin)), len(ORDER))
        study.tracker.picture(f"images/{place + 1}_{file.stem}", file)
    if files:
        console.print(f"  {shown(files[0])} {' '.join(file.name for file in files[1:])}".rstrip(), markup=False)


def quieten() -> None:
    """Keep the libraries' notes about themselves off the screen; errors and our own lines stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(lightning|torch|diffusers|transformers|peft|torchmetrics|timm).*")
