"""A sweep of which nothing is missing runs in the process that would start its jobs.

New processes would import for longer than there is to do. Torch-free, unless the store looks as if it had everything.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict

from sarsynth.config.hydra_internals import side_by_side
from sarsynth.config.schema import Settings


def stay_if_whole(config: DictConfig, jobs: Sequence[tuple[Settings, Sequence[str]]]) -> None:
    """Have the launcher run an evaluation's jobs here, one after the other, if the store has all that they ask for.

    What is found out lies in the sweep's folder, so that the first job need not find it out again.

    Args:
        config: The configuration of the sweep, with Hydra's section, which is changed.
        jobs: Settings and overrides of each.
    """
    record = config.hydra
    beside = record.launcher.get("_target_", "").endswith(".JoblibLauncher") and side_by_side(record) > 1
    if record.job.config_name != "evaluate" or not beside or config.build != "auto" or config.get("report"):
        return
    if not all(has_classifiers(settings) for settings, _ in jobs):
        return
    if importlib.import_module("sarsynth.commands.planning").foresee("evaluate", jobs, Path(record.sweep.dir)):
        with open_dict(record.launcher):
            record.launcher.n_jobs = 1


def has_classifiers(settings: Settings) -> bool:
    """Whether a store has classifiers of a method and its seeds, which are the last that a job makes; of any study."""
    method, folder = settings.method, Path(settings.paths.store) / "evaluation"
    return all(any(folder.glob(f"{method.name}-seed-{seed + method.seed_offset}-*")) for seed in settings.seeds)
