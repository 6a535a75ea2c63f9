"""Sweeps on other machines: a job whose node dies is told of like one that fails, and the others go on.

The plugins of Hydra ask one job after the other for its outcome and stop at the first one that has none, as after a
node failure, although the rest still runs. Here a lost job has an outcome too, and leaves its reason in its folder.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from sarsynth.config.hydra_internals import jobs_of_sweep
from sarsynth.errors import ERROR_FILE, one_line

Ask = Callable[..., Any]
TOLD = 200  # characters of why; plugins add their whole log


def outlive_lost_jobs(record: DictConfig) -> None:
    """Let the launcher of a sweep go on without jobs that were lost.

    Args:
        record: The section `hydra` of its configuration.
    """
    name, folder = record.launcher.get("_target_", "").rpartition(".")[2], Path(record.sweep.dir)
    if name not in ("SlurmLauncher", "LocalLauncher", "RayLauncher"):
        return
    jobs = jobs_of_sweep(record, record.overrides.task)
    if name != "RayLauncher":
        import submitit

        submitit.Job.results = _spared(submitit.Job.results, folder, jobs, lambda done: [done])
    else:
        from hydra_plugins.hydra_ray_launcher import _core

        _core.ray = _Asking(_spared(_core.ray.get, folder, jobs, lambda done: done))  # it asks Ray for outcomes alone


class _Asking:
    def __init__(self, get: Ask) -> None:
        self.get = get


def _spared(ask: Ask, folder: Path, jobs: Sequence[list[str]], wrap: Callable[[JobReturn], Any]) -> Ask:
    """Ask for the outcome of a job, which is called once for each in their order, and answer for one that was lost."""
    numbers = itertools.count()

    def outcome(job: Any) -> Any:
        number = next(numbers)
        try:
            return ask(job)
        except Exception as error:  # each plugin has its own; what a job raises is told in the job itself
            place = folder / str(number)
            record = place / ".hydra/overrides.yaml"  # by which the report knows it, if it had no time to begin
            record.parent.mkdir(parents=True, exist_ok=True)
            if not record.exists():
                record.write_text(yaml.safe_dump(jobs[number]), encoding="utf-8")
            message = f"lost: {type(error).__name__}: {one_line(error)[:TOLD]}; run the sweep again to make it"
            (place / ERROR_FILE).write_text(f"{message}\n", encoding="utf-8", errors="backslashreplace")
            return wrap(JobReturn(status=JobStatus.COMPLETED, _return_value=None))

    return outcome
