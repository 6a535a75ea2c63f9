"""The command line as Hydra reads it: all that sarsynth needs of Hydra's private modules is here."""

import os
import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

from sarsynth.errors import UserError, one_line

MANY = 1000  # jobs at once, where nobody says how many


def parse_arguments(arguments: Sequence[str] | None = None) -> Namespace:
    """Parse a command line, that of this process by default.

    Raises:
        UserError: Hydra knows no such argument.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # argparse would print its usage and exit with code 2
    return parser.parse_args(arguments)


def parse_override(line: str) -> Override:
    """Parse one override, `key=value`; inside of Hydra's initialisation `glob` finds the options of a group.

    Raises:
        UserError: It is none.
    """
    running = GlobalHydra.instance()
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException as error:
        hint = f"; a text with signs of Hydra's grammar is quoted: {quoted(line)}" if "=" in line else ""
        raise UserError(f"{line} cannot be read as key=value: {_told(error)}{hint}") from error
    override.config_loader = running.config_loader() if running.is_initialized() else None
    return override


def _told(error: Exception) -> str:
    """What is wrong, without the list of all that the grammar would take."""
    return one_line(error).partition(" expecting ")[0]


def quoted(line: str) -> str:
    """How an override is typed in a shell so that Hydra takes its value as text, whatever signs are in it."""
    key, _, value = line.partition("=")
    return shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")


def as_override(key: str, value: Any) -> str:
    """An override that gives a key a value of Python's: texts, numbers, None, lists and mappings, at any depth."""

    def written(part: Any) -> str:
        if part is None or isinstance(part, bool):
            return {None: "null", True: "true", False: "false"}[part]
        if isinstance(part, Mapping):
            return "{" + ", ".join(f"{name}: {written(inner)}" for name, inner in part.items()) + "}"
        if isinstance(part, list | tuple):
            return "[" + ", ".join(map(written, part)) + "]"
        return repr(part) if isinstance(part, int | float) else QuotedString(str(part), Quote.double).with_quotes()

    return f"{key}={written(value)}"


def split_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Split the overrides of a sweep into those of its jobs, in the order of its jobs.

    Raises:
        UserError: One of them gives no values.
    """
    parsed = [parse_override(line) for line in overrides]
    for override in parsed:
        try:
            if override.is_sweep_override() and not list(override.sweep_iterator()):
                raise HydraException("there is no such value")
        except (HydraException, ValueError) as error:
            raise UserError(f"{override.input_line} gives no values to sweep over: {_told(error)}") from error
    jobs: list[list[str]] = BasicSweeper.split_arguments(parsed, None)[0]
    return jobs


def jobs_of_sweep(record: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: those that a command line gives, and what its sweep makes of them.

    Args:
        record: The section `hydra` of the configuration.
        overrides: Those of the command line.
    """
    preset = [f"{key}={value}" for key, value in (record.sweeper.get("params") or {}).items()]
    return split_sweep([*preset, *overrides])


def without_hydra(overrides: Sequence[str]) -> list[str]:
    """Those overrides of a job that are not Hydra's own: what a job is, and not how it is run."""
    return [line for line in overrides if not line.lstrip("+~").startswith("hydra")]


def trust_checked_jobs(record: DictConfig) -> None:
    """Have Hydra's own sweeper not compose each job once more, to see whether that works: `check_jobs` has seen to it.

    Args:
        record: The section `hydra` of the configuration of the sweep.
    """
    if record.sweeper.get("_target_", "").endswith(".BasicSweeper"):  # others find their jobs as they go
        # The class's own, of which that sweeper has no copy.
        Sweeper.validate_batch_is_legal = lambda self, batch: None  # type: ignore[method-assign]


def side_by_side(record: DictConfig) -> int:
    """How many jobs of a sweep run at once, at most, in processes of their own here or elsewhere; 1 if none does."""
    launcher = record.launcher
    match launcher.get("_target_", "").rpartition(".")[2]:
        case "JoblibLauncher":
            from joblib import effective_n_jobs

            return effective_n_jobs(launcher.n_jobs)
        case "RayLauncher" if not launcher.ray.init.get("address"):
            return max(1, int((os.cpu_count() or 1) / launcher.ray.remote.get("num_cpus", 1)))
        case "SlurmLauncher" | "LocalLauncher" | "RayLauncher":  # only the cluster knows
            return int(launcher.get("array_parallelism", MANY))
    return 1


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; write -m first if it is a sweep, and settings as key=value")
