"""With `pack=true`, before a sweep's first job: train the SAR adapters of all its jobs in as few runs as possible.

Jobs that differ in rank, seed, learning rate or method, but not in images, base or batch size, then cost one pass over
the base together; each job finds its adapters in the store, equal to those that it would have trained alone.
"""

from collections.abc import Sequence
from contextlib import suppress

from sarsynth.commands.faults import told
from sarsynth.commands.launch import in_processes
from sarsynth.commands.session import quieten
from sarsynth.config.schema import Settings
from sarsynth.console import console
from sarsynth.errors import UserError
from sarsynth.stages.adapt_to_sar import check_method
from sarsynth.stages.study import Study
from sarsynth.stages.train_adapters import Training, sar_trainings, train
from sarsynth.tracking import Tracker


def run(jobs: Sequence[tuple[Settings, Sequence[str]]]) -> None:
    """Train what the jobs, each with its settings and overrides, will ask for."""
    in_processes(jobs[0][0].trainer, _pack, jobs)


def _pack(jobs: Sequence[tuple[Settings, Sequence[str]]]) -> None:
    quieten()
    console.rule("[bold]adapters of all jobs", align="left")
    trainings: dict[str, Training] = {}
    for settings, overrides in jobs:
        if settings.method.tunes == "adapter" and settings.adapter.path is None:
            with suppress(UserError):  # the job itself says what is wrong with it, and takes no other with it
                study = Study(settings, Tracker(None), overrides)
                study.compute.enter()
                check_method(study)
                for adapter in [training for cell in study.generators for training in sar_trainings(cell)]:
                    trainings.setdefault(adapter.request.fingerprint, adapter)
    with told(jobs[0][0].paths):
        train(trainings.values())
