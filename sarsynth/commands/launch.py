"""Run a job in as many processes as its trainer asks for; rank 0 alone speaks and writes what people look at."""

import importlib
import logging.config
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sarsynth import processes
from sarsynth.config.schema import Settings
from sarsynth.config.training_sections import Trainer
from sarsynth.console import console


def run(script: str, settings: Settings, folder: Path, overrides: Sequence[str], log: Mapping[str, Any]) -> None:
    """Run one job of a script.

    Args:
        script: `train`, `generate` or `evaluate`.
        settings: The composed configuration.
        folder: Hydra's folder of this job.
        overrides: What was said on the command line.
        log: How its log is kept, as `logging.config.dictConfig` takes it.
    """
    in_processes(settings.trainer, _job, script, settings, folder, list(overrides), dict(log))


def in_processes(trainer: Trainer, target: Callable[..., None], *args: Any) -> None:
    """Call a function here, or where `trainer` asks for several processes that nobody started yet, in each of these."""
    alone = processes.count() > 1 or (trainer.devices == 1 and trainer.num_nodes == 1)
    if not alone:
        from sarsynth.commands.session import quieten
        from sarsynth.training.compute import Compute  # seconds of imports, which a refusal need not wait for

        quieten()
        if (asked := Compute.of(trainer.model_dump()).processes) > 1:
            processes.launch(target, args, asked)
            return
    target(*args)


def _job(script: str, settings: Settings, folder: Path, overrides: Sequence[str], log: Mapping[str, Any]) -> None:
    job = importlib.import_module(f"sarsynth.commands.{script}")
    if processes.rank():
        console.quiet = True
        with TemporaryDirectory() as scratch:  # the result and its pictures have one writer
            job.run(settings, Path(scratch), overrides)
        return
    if processes.count() > 1:
        logging.config.dictConfig(dict(log))  # a new process, which Hydra has not set up
    job.run(settings, folder, overrides)
