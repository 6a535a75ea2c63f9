"""The command line: compose the configuration, refuse what is wrong before anything heavy is imported, run.

`train.py`, `generate.py` and `evaluate.py` are this module with three names. A sweep (`-m`) is checked job by job
before its first job starts; where only a plan is wanted, it is made of all jobs here, and none starts. What a user can
mend is one line on stderr and exit code 1; a defect keeps its traceback. A job of a sweep that fails leaves its reason
in its folder, and the others go on (`sarsynth.commands.summary` sums them up).
"""

import importlib
import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, cast

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from sarsynth.config.checks import check
from sarsynth.config.schema import Settings
from sarsynth.console import tag_lines
from sarsynth.errors import ERROR_FILE, UserError, nearest, one_line
from sarsynth.processes import rank

CONF = Path(__file__).parents[1] / "conf"
LOG = logging.getLogger(__name__)


def main(script: str) -> None:
    """Run `train`, `generate` or `evaluate` with the overrides of the command line, and exit."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises errors instead of printing them
    try:
        parser = get_args_parser()
        parser.error = _refuse  # type: ignore[method-assign]  # where argparse would print its usage and exit with 2
        jobs = check_jobs(script, parser.parse_args())
        if any(settings.build == "plan" and settings.report is None for settings, _ in jobs):
            importlib.import_module("sarsynth.commands.planning").run(script, jobs)
            return
        if len(jobs) > 1 and all(settings.pack for settings, _ in jobs):
            importlib.import_module("sarsynth.commands.packing").run(jobs)
        with TemporaryDirectory() as scratch:
            if rank():  # of processes that torchrun or srun started, one keeps the record
                sys.argv += [f"hydra.run.dir={scratch}", f"hydra.sweep.dir={scratch}", "hydra.output_subdir=null"]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=script)(job)()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def job(config: DictConfig) -> None:
    """Run one composed configuration; Hydra calls this, in a sweep once a job."""
    record = HydraConfig.get()
    folder, script = Path(record.runtime.output_dir), str(record.job.config_name)
    if record.mode != RunMode.MULTIRUN:
        try:
            _run(script, config, folder)
        except UserError as error:
            LOG.error("%s", error)
            _fail(str(error))  # here, because Hydra would put a line of its own before an exception
        return
    if record.runtime.choices["hydra/launcher"] != "basic":
        tag_lines(f"#{record.job.num} ")
    (folder / ERROR_FILE).unlink(missing_ok=True)
    try:
        _run(script, config, folder)
    except UserError as error:
        message = one_line(error)
        LOG.error("%s", message)
    except Exception as error:
        LOG.exception("a defect")
        message = f"{type(error).__name__}: {one_line(error)}; traceback in {record.job.name}.log"
    else:
        return
    (folder / ERROR_FILE).write_text(f"{message}\n", encoding="utf-8", errors="backslashreplace")
    _print_error(f"#{record.job.num}: {message}")


def _run(script: str, config: DictConfig, folder: Path) -> None:
    settings = check(config)
    if settings.report:
        importlib.import_module("sarsynth.report.page").run(settings, folder)
        return
    record = HydraConfig.get()
    log = cast(dict[str, Any], OmegaConf.to_container(record.job_logging, resolve=True))
    launch = importlib.import_module("sarsynth.commands.launch")
    launch.run(script, settings, folder, list(record.overrides.task), log)


def check_jobs(script: str, arguments: Namespace) -> list[tuple[Settings, list[str]]]:
    """Compose and check every job that a command line asks for.

    Returns:
        The settings and overrides of each; none if it asks for no job.

    Raises:
        UserError: One of them has an unknown key, option or value.
    """
    if any(getattr(arguments, flag) for flag in ("help", "hydra_help", "cfg", "info", "shell_completion")):
        return []
    if not CONF.is_dir():
        raise UserError(f"{CONF} is missing; run the scripts of a checkout, installed with `pip install -e .`")
    if arguments.config_dir and not Path(arguments.config_dir).is_dir():
        raise UserError(f"--config-dir {arguments.config_dir}: no such folder; name the one with your own options")
    search = [f"hydra.searchpath=[file://{Path(arguments.config_dir).absolute()}]"] if arguments.config_dir else []
    with hydra.initialize_config_dir(str(CONF), job_name=script, version_base="1.3"):
        jobs = _jobs(script, arguments, search)
        return [(check(_compose(script, [*overrides, *search])), overrides) for overrides in jobs]


def _jobs(script: str, arguments: Namespace, search: list[str]) -> list[list[str]]:
    """The overrides of each job: those of the command line, or what its sweep makes of them."""
    swept = [line for line in arguments.overrides if _parse(line).is_sweep_override()]
    single = [line for line in arguments.overrides if line not in swept]
    record = _compose(script, [*single, *search], hydra_record=True).hydra
    if not arguments.multirun and record.mode != RunMode.MULTIRUN:
        if swept:
            raise UserError(f"{swept[0]} is a sweep: add -m for one job each, or write key=[a,b] for a list")
        return [arguments.overrides]
    preset = [f"{key}={value}" for key, value in (record.sweeper.get("params") or {}).items()]
    everything = [_parse(line) for line in [*preset, *arguments.overrides]]
    return BasicSweeper.split_arguments(everything, max_batch_size=None)[0]


def _parse(line: str) -> Override:
    try:
        return OverridesParser.create().parse_override(line)
    except HydraException as error:
        raise UserError(f"{line} cannot be read as key=value: {str(error).splitlines()[0]}") from error


def _compose(script: str, overrides: list[str], hydra_record: bool = False) -> DictConfig:
    try:
        return hydra.compose(script, overrides, return_hydra_config=hydra_record)
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        if not error.options:
            raise UserError(one_line(error)) from error
        extra = "; more come with pip install -e '.[sweeps]'" if group == "hydra/launcher" else ""
        near = nearest(option, error.options)
        raise UserError(f"{group}={option} is not an option of {group}; {near}{extra}") from error
    except ConfigCompositionException as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        if not unknown or not overrides:
            raise UserError(one_line(error)) from error
        # Of a section that is said as a whole, the cause names the key inside it.
        inner = str(getattr(error.__cause__, "full_key", None))
        key = inner if inner.startswith(f"{unknown[1]}.") else unknown[1]
        said = [override for override in overrides if override.lstrip("+~").split("=")[0] == unknown[1]]
        rest = [override for override in overrides if override not in said]
        ours = not key.startswith("hydra.")
        if said and ours and "." in key and _fits(script, [*rest, *(f"+{override}" for override in said)]):
            raise UserError(f"{key} has no value yet that could be overridden; add it with +{said[0]}") from error
        keys = _keys(_compose(script, rest if said else [], hydra_record=not ours))
        raise UserError(f"unknown key {key}; {nearest(key, keys)}") from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(one_line(error)) from error


def _of_baseline(key: str, *, _root_: DictConfig) -> Any:
    """Resolve `${baseline:KEY}`: what the row that evaluate.baseline names says of a key.

    Raises:
        UserError: It names none, none that there is, or one that itself asks what the baseline says.
    """
    name = OmegaConf.select(_root_, "evaluate.baseline")  # a row on its own has no such key
    if name is None:
        raise UserError("a control repeats the row that evaluate.baseline names: name one there, not a control or null")
    rows = GlobalHydra.instance().config_loader().get_group_options("method")
    if name not in rows:
        raise UserError(f"evaluate.baseline={name} is not an option of method; {nearest(str(name), rows)}")
    return OmegaConf.select(hydra.compose(f"method/{name}"), f"method.{key}")


OmegaConf.register_new_resolver("baseline", _of_baseline, replace=True)


def _fits(script: str, overrides: list[str]) -> bool:
    """Whether these overrides make a valid configuration."""
    try:
        check(_compose(script, overrides))
    except UserError:
        return False
    return True


def _keys(config: DictConfig) -> list[str]:
    """Every dotted key of a configuration, sections included."""

    def walk(section: dict[Any, Any], above: str) -> Iterator[str]:
        for key, value in section.items():
            yield f"{above}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{above}{key}.")

    return list(walk(cast(dict[Any, Any], OmegaConf.to_container(config)), ""))


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; write -m first if it is a sweep, and settings as key=value")


def _fail(message: str) -> NoReturn:
    _print_error(message)
    sys.exit(1)


def _print_error(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), message))
